"""Options that commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from core.tables import Format
from core.tracking.executors import EXECUTORS

RunsDir = Annotated[
    Path, typer.Option("--runs-dir", file_okay=False, help="Where the run directories are.")
]
AsFormat = Annotated[Format, typer.Option("--format", help="How to print the table.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="Settings to start from.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, as field=value; repeatable.")
]
ExecutorName = Annotated[str, typer.Option("--executor", help=f"One of: {', '.join(EXECUTORS)}.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The name of a run.")]
RUNS = Path("runs")
errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
"""Standard error, for what is no result."""
