"""Options that commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from core.errors import UserError
from core.operations import EXECUTOR_NAMES
from core.views.tables import Format


def _known_executor(name: str) -> str:
    if name not in EXECUTOR_NAMES:
        raise UserError(f"executor = {name!r}: it should be one of: {', '.join(EXECUTOR_NAMES)}")
    return name


RunsDir = Annotated[
    Path,
    typer.Option(
        "--runs-dir", envvar="RUNS_DIR", file_okay=False, help="Where the run directories are."
    ),
]
AsFormat = Annotated[Format, typer.Option("--format", help="How to print the table.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="Settings to start from.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, as field=value; repeatable.")
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor", callback=_known_executor, help=f"One of: {', '.join(EXECUTOR_NAMES)}."
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The name of a run.")]
DEFAULT_RUNS_DIR = Path("runs")
errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
"""Standard error, for everything that is not a result."""
