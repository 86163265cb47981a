"""A trainer as the system sees it: which process it is, and how to end one that no longer listens.

A process id alone may by now be another process; with the time of its start it is not.
"""

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from core.run.directory import RunDirectory

START_TIME_TOLERANCE_S = 2.0
"""Seconds by which two readings of one start may differ."""


def identity() -> dict[str, Any]:
    """This process, as the fields of a `status` event."""
    return {"pid": os.getpid(), "started": _started(psutil.Process()), "host": socket.gethostname()}


def _started(process: psutil.Process) -> float:
    """Seconds from the start of the system to that of a process, which no setting of the clock changes."""
    return round(process.create_time() - psutil.boot_time(), 2)


def kill_tree(pid: int) -> None:
    """Kill a process and its children at once; one that is gone is no error."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def mark_dead_runs(runs_dir: Path, running: Iterable[str]) -> bool:
    """Mark runs as interrupted whose trainer died. Returns whether any were.

    Args:
        running: the runs whose last known status is `running`.
    """
    dead = [run for name in running if not (run := RunDirectory(runs_dir / name)).is_alive()]
    for run in dead:  # a run that was resumed since then is queued, and stays queued
        run.mark_ended("the trainer died", from_statuses=("running",))
    return bool(dead)


def kill_trainer(run: RunDirectory) -> bool:
    """Kill the trainer that holds a run, with its children. Whether there was one that could be found.

    One that trains in a thread of another process, or on another machine, is left alone.
    """
    running = [event for event in run.statuses() if event["status"] == "running"]
    if not running or not run.is_alive():
        return False
    last_event = running[-1]
    pid, started = last_event.get("pid"), last_event.get("started")
    if (
        last_event.get("host") != socket.gethostname()
        or not isinstance(pid, int)
        or started is None
    ):
        return False
    try:
        process = psutil.Process(pid)
        is_same_process = abs(_started(process) - float(started)) < START_TIME_TOLERANCE_S
        if not is_same_process or str(run.path.resolve()) not in process.cmdline():
            return False
    except (psutil.Error, TypeError, ValueError):
        return False
    kill_tree(pid)
    return True
