"""The trash: deleted runs that can be restored until the trash is emptied.

Deleting a run moves its directory to `.trash/TIME-NAME` in the runs folder, which is hidden from the rest of the code.
"""

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError

TRASH_FOLDER = ".trash"
"""No run can have this name, because run names cannot start with a dot."""


@dataclass(frozen=True)
class TrashedRun:
    """A run in the trash."""

    id: str
    """Name of its directory in the trash."""
    name: str
    deleted_at: float
    """Unix timestamp in seconds."""


def add(run: Path) -> None:
    """Move a run directory to the trash. Raises UserError if it cannot be moved."""
    folder = run.parent / TRASH_FOLDER
    try:
        folder.mkdir(exist_ok=True)
        run.rename(folder / f"{time.time_ns() // 1_000_000}-{run.name}")
    except OSError as error:
        raise UserError(f"{run.name} cannot be moved to the trash ({error})") from None


def contents(runs_dir: Path) -> list[TrashedRun]:
    """Return the runs in the trash, most recently deleted first."""
    with contextlib.suppress(OSError):
        parts = [path.name.partition("-") for path in (runs_dir / TRASH_FOLDER).iterdir()]
        trashed = [
            TrashedRun(f"{time_ms}-{name}", name, int(time_ms) / 1000)
            for time_ms, _, name in parts
            if time_ms.isascii() and time_ms.isdigit() and name
        ]
        return sorted(trashed, key=lambda run: run.deleted_at, reverse=True)
    return []


def restore(runs_dir: Path, id: str) -> str:
    """Move a run back from the trash and return its name.

    Raises UserError if it is not in the trash, another run has its name, or it cannot be moved.
    """
    run = next((run for run in contents(runs_dir) if run.id == id), None)
    if run is None:
        raise UserError("This run is no longer in the trash.")
    destination = runs_dir / run.name
    if destination.exists():
        raise UserError(f"Cannot restore {run.name!r}: another run has this name. Delete it first.")
    try:
        (runs_dir / TRASH_FOLDER / run.id).rename(destination)
    except OSError as error:
        raise UserError(f"{run.name} cannot be restored ({error})") from None
    return run.name


def empty(runs_dir: Path) -> None:
    """Delete all runs in the trash permanently. Raises UserError if that fails."""
    try:
        for run in contents(runs_dir):
            shutil.rmtree(runs_dir / TRASH_FOLDER / run.id)
    except OSError as error:
        raise UserError(f"The trash cannot be emptied ({error})") from None
