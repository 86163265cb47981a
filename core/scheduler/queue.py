"""The queue: one background thread that takes runs in order, each through an executor.

The order is kept in `queue.json` beside the runs, so it outlives the process. A run stays at its head
until it has ended; one whose trainer outlived an earlier dashboard is waited for, not started twice.
"""

import contextlib
import json
import threading
import time
import traceback
from pathlib import Path

from core.errors import UserError
from core.run.directory import RunDirectory, list_runs
from core.run.files import replace_text
from core.scheduler.executors import Executor
from core.scheduler.processes import kill_trainer

QUEUE_FILE = "queue.json"
TRAINER_CLOSE_TIMEOUT_S = 11.0
"""Seconds that a trainer gets to checkpoint when its dashboard ends, which is to be gone in 15."""


class Queue:
    """Runs waiting and the thread that drives them.

    Args:
        runs_dir: where the runs and queue.json are.
        executor: takes one run to its end.
    """

    def __init__(self, runs_dir: Path, executor: Executor) -> None:
        self._runs_dir, self._executor = runs_dir, executor
        self._path = runs_dir / QUEUE_FILE
        self._changed = threading.Condition()
        self._current: str | None = None
        self._waiting = read_order(runs_dir)
        self._closing = False
        self._thread = threading.Thread(target=self._drive, name="queue", daemon=True)
        self._thread.start()

    def names(self) -> list[str]:
        """Runs in order, the one being trained first."""
        with self._changed:
            return self._listed()

    def add(self, name: str) -> None:
        """Put a run at the end, unless it waits already. Raises UserError where that cannot be stored.

        The current run may be added too: it has ended and was resumed before its trainer was gone.
        """
        with self._changed:
            if name not in self._waiting:
                self._waiting.append(name)
                self._changed.notify_all()
                self._write()

    def remove(self, name: str) -> None:
        """Take a run out that has not been started. Raises UserError where that cannot be stored."""
        with self._changed:
            if name in self._waiting:
                self._waiting.remove(name)
                self._write()

    def move(self, name: str, offset: int) -> None:
        """Move a waiting run so many places towards the end, or towards the head where negative.

        Raises UserError where that cannot be stored.
        """
        with self._changed:
            if name in self._waiting:
                position = self._waiting.index(name)
                self._waiting.pop(position)
                self._waiting.insert(max(0, position + offset), name)
                self._write()

    def close(self, timeout: float = TRAINER_CLOSE_TIMEOUT_S) -> None:
        """Let the current run checkpoint and end as `interrupted`; what waits stays queued.

        A trainer in a process of its own that needs longer than `timeout` seconds is killed: it goes on from the
        checkpoint before when it is resumed. Closing again does nothing.
        """
        run: RunDirectory | None = None
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
            if self._current:
                run = self._run(self._current)
                if run.stop_request() is None:  # a person's own request stands
                    with contextlib.suppress(UserError):  # deleted, or the disk is full
                        run.request_stop("interrupted")
        deadline = time.monotonic() + timeout
        self._thread.join(timeout)
        if run is None:
            return
        while (
            run.is_alive() and time.monotonic() < deadline
        ):  # one that outlived an earlier dashboard
            time.sleep(0.05)
        with contextlib.suppress(UserError):  # its events cannot be read
            if kill_trainer(run):
                run.mark_ended(f"killed: it did not end within {timeout:g} s")
                self._thread.join(1.0)

    def _drive(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                self._current = self._waiting.pop(0)
                run = self._run(self._current)
            try:
                self._take(run)
            except Exception as error:  # whatever an executor raises, the next run gets its turn
                traceback.print_exc()
                with contextlib.suppress(OSError, UserError):
                    run.mark_ended(f"it could not be started ({error})", "failed")
            with self._changed:
                if self._closing:
                    return
                self._current = None
                with contextlib.suppress(UserError):  # the next change stores it
                    self._write()

    def _take(self, run: RunDirectory) -> None:
        if not self._wait_until_free(run):
            return
        if not run.config_path.exists():
            return
        if run.status() != "queued":
            run.mark_ended("the trainer died")
        elif run.stop_request():
            run.mark_ended("withdrawn before it started")
        else:
            self._executor(run)
            # Perhaps another trainer was faster to take the run: one that a killed dashboard had just started.
            self._wait_until_free(run)

    def _wait_until_free(self, run: RunDirectory) -> bool:
        """Wait until nobody trains a run; False where the queue closes before."""
        while run.is_alive():
            if self._closes_within(0.5):
                return False
        return True

    def _closes_within(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, seconds)

    def _run(self, name: str) -> RunDirectory:
        return RunDirectory(self._runs_dir / name)

    def _listed(self) -> list[str]:
        current = [self._current] if self._current else []
        return list(dict.fromkeys([*current, *self._waiting]))

    def _write(self) -> None:
        try:
            replace_text(self._path, json.dumps(self._listed()))
        except OSError as error:
            raise UserError(f"the queue cannot be written to {self._path} ({error})") from None


def read_order(runs_dir: Path) -> list[str]:
    """The order as it is kept, without runs that are gone; empty where it cannot be read."""
    try:
        names = json.loads((runs_dir / QUEUE_FILE).read_text(encoding="utf-8"))
        existing_names = {run.name for run in list_runs(runs_dir)}
        return [name for name in dict.fromkeys(names) if name in existing_names]
    except (OSError, ValueError, TypeError, RecursionError):
        return []
