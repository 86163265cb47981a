"""Options shared by several commands."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from core import operations
from core.config import RunConfig
from core.errors import ConfigError, Problem, UserError
from core.operations import EXECUTOR_NAMES
from core.presets import preset
from core.views.tables import Format


def _validate_executor(name: str) -> str:
    if name not in EXECUTOR_NAMES:
        raise UserError(f"executor = {name!r}: must be {' or '.join(EXECUTOR_NAMES)}")
    return name


RunsDir = Annotated[
    Path,
    typer.Option(
        "--runs-dir", envvar="RUNS_DIR", file_okay=False, help="Directory that contains the runs."
    ),
]
AsFormat = Annotated[Format, typer.Option("--format", help="Output format.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="Preset to start from.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting, as field=value. Repeatable.")
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        callback=_validate_executor,
        help="Where to train: `process` (a separate process) or `thread` (a thread in this process).",
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]
DEFAULT_RUNS_DIR = Path("runs")
errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
"""Console on standard error. Only results go to standard output."""


def parse_config(name: str | None, sets: list[str] | None, runs_dir: Path) -> RunConfig:
    """Build the settings from a preset and `field=value` assignments. Raises ConfigError with all problems."""
    values: dict[str, Any] = preset(name).model_dump(exclude_defaults=True) if name else {}
    pairs = [assignment.partition("=") for assignment in sets or []]
    values |= {field.strip(): value for field, separator, value in pairs if separator}
    hint = "must be field=value, such as batch_size=2"
    problems = [Problem("--set", field, hint) for field, separator, _ in pairs if not separator]
    with contextlib.suppress(ConfigError):
        config = RunConfig.parse(values)
        if not problems:
            return config
    raise ConfigError(problems + operations.problems(values, runs_dir))
