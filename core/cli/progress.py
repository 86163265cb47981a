"""Trains a run while its progress is shown in the terminal."""

import threading
from collections.abc import Callable

from rich.console import Console

from core.run.directory import RunDirectory
from core.run.progress import follow


def drive(run: RunDirectory, train: Callable[[RunDirectory], None], console: Console) -> None:
    """Train a run in a thread while showing how it goes. Ctrl-C asks it to checkpoint and stop."""
    thread = threading.Thread(target=train, args=(run,), name="trainer")
    offset = run.events_path.stat().st_size
    console.print(f"{run.name}: {run.path}")
    thread.start()
    try:
        follow(run, offset, thread.is_alive, console)
    except KeyboardInterrupt:
        run.request_stop()
        console.print("stopping after this step ...")
    finally:
        thread.join()
