"""Trainer processes: identify them, detect when they have died, and kill them.

Process IDs are reused, so a process is identified by its ID and start time.
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
"""Tolerance when comparing process start times, in seconds."""


def identity() -> dict[str, Any]:
    """Return the fields of a `status` event that identify this process."""
    return {
        "pid": os.getpid(),
        "started": _start_time(psutil.Process()),
        "host": socket.gethostname(),
    }


def _start_time(process: psutil.Process) -> float:
    """Return a process's start time in seconds since boot, so that it is unaffected by changes to the system clock."""
    return round(process.create_time() - psutil.boot_time(), 2)


def kill_tree(pid: int) -> None:
    """Kill a process and its children. Processes that have already exited are ignored."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def mark_dead_runs(runs_dir: Path, running: Iterable[str]) -> bool:
    """Mark runs whose trainer died as interrupted. Returns whether there were any.

    Args:
        running: names of the runs whose last known status is `running`.
    """
    dead = [run for name in running if not (run := RunDirectory(runs_dir / name)).is_alive()]
    for run in dead:  # a run that has been re-queued since then stays queued
        run.mark_ended("the trainer died", from_statuses=("running",))
    return bool(dead)


def kill_trainer(run: RunDirectory) -> bool:
    """Kill a run's trainer process and its children. Returns whether the process was found.

    A trainer that runs in a thread or on another machine is not killed.
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
        is_same_process = abs(_start_time(process) - float(started)) < START_TIME_TOLERANCE_S
        if not is_same_process or str(run.path.resolve()) not in process.cmdline():
            return False
    except (psutil.Error, TypeError, ValueError):
        return False
    kill_tree(pid)
    return True
