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
    """Name of the run's directory in the trash."""
    name: str
    deleted_at: float
    """Unix timestamp in seconds."""


def add(run: Path) -> str:
    """Move a run directory to the trash and return its ID there. Raises UserError if it cannot be moved."""
    folder = run.parent / TRASH_FOLDER
    id = f"{time.time_ns() // 1_000_000}-{run.name}"
    try:
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise UserError(f"{run.name} cannot be moved to the trash: {folder} is a link")
        run.rename(folder / id)
    except OSError as error:
        raise UserError(f"{run.name} cannot be moved to the trash ({error})") from None
    return id


def contents(runs_dir: Path) -> list[TrashedRun]:
    """Return the runs in the trash, most recently deleted first. Skips links."""
    folder = runs_dir / TRASH_FOLDER
    trashed = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir() if not folder.is_symlink() else ():
            time_ms, _, name = path.name.partition("-")
            is_trashed = time_ms.isascii() and time_ms.isdigit() and name
            if is_trashed and path.is_dir() and not path.is_symlink():
                trashed.append(TrashedRun(path.name, name, int(time_ms) / 1000))
    return sorted(trashed, key=lambda run: run.deleted_at, reverse=True)


def restore(runs_dir: Path, id: str) -> str:
    """Move a run out of the trash and return its name.

    Raises UserError if it is not in the trash, another run has its name, or it cannot be moved.
    """
    run = next((run for run in contents(runs_dir) if run.id == id), None)
    if run is None:
        raise UserError("This run is no longer in the trash.")
    destination = runs_dir / run.name
    try:
        destination.mkdir()  # reserves the name until the run replaces it
        (runs_dir / TRASH_FOLDER / run.id).rename(destination)
    except FileExistsError:
        message = f"Cannot restore {run.name!r}: another run has this name. Delete it first."
        raise UserError(message) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            destination.rmdir()
        raise UserError(f"{run.name} cannot be restored ({error})") from None
    return run.name


def empty(runs_dir: Path) -> None:
    """Delete all runs in the trash permanently. Raises UserError if that fails."""
    try:
        for run in contents(runs_dir):
            shutil.rmtree(runs_dir / TRASH_FOLDER / run.id)
    except OSError as error:
        raise UserError(f"The trash cannot be emptied ({error})") from None
