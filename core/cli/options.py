"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from core.errors import UserError
from core.operations import EXECUTOR_NAMES
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
