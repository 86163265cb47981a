"""The run queue: a background thread that trains runs one at a time with an executor.

The order is stored in `queue.json` in the runs directory, so it survives a restart. The current run stays at the head
until it has ended. If its trainer survived an earlier dashboard, the queue waits for it instead of starting another.
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
"""How long a trainer may take to write a checkpoint when its dashboard closes. The dashboard must exit within 15 s."""


class Queue:
    """The queued runs and the thread that trains them.

    Args:
        runs_dir: the folder that contains the run directories and `queue.json`.
        executor: trains one run and returns when it has ended.
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
        """Return the runs in order, starting with the current one."""
        with self._changed:
            return self._names()

    def add(self, *names: str) -> None:
        """Append runs to the queue unless they are already queued. Raises UserError if the queue cannot be saved.

        The current run can be added too, because a run may be resumed before its trainer has exited.
        """
        with self._changed:
            if new := [name for name in names if name not in self._waiting]:
                self._waiting += new
                self._changed.notify_all()
                self._write()

    def remove(self, name: str) -> None:
        """Remove a queued run. Does not affect the current run. Raises UserError if the queue cannot be saved."""
        with self._changed:
            if name in self._waiting:
                self._waiting.remove(name)
                self._write()

    def move(self, name: str, offset: int) -> None:
        """Move a queued run by `offset` positions. A negative offset makes it start earlier.

        Raises UserError if the queue cannot be saved.
        """
        with self._changed:
            if name in self._waiting:
                position = self._waiting.index(name)
                self._waiting.pop(position)
                self._waiting.insert(max(0, position + offset), name)
                self._write()

    def close(self, timeout: float = TRAINER_CLOSE_TIMEOUT_S) -> None:
        """Interrupt the current run once it has saved a checkpoint, and stop the thread. Queued runs stay queued.

        A trainer process that takes longer than `timeout` seconds is killed. Its run can be resumed from the
        previous checkpoint. Calling `close` again does nothing.
        """
        run: RunDirectory | None = None
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
            if self._current:
                run = self._run(self._current)
                if run.stop_request() is None:  # do not overwrite the user's own request
                    with contextlib.suppress(UserError):  # deleted, or the disk is full
                        run.request_stop("interrupted")
        deadline = time.monotonic() + timeout
        self._thread.join(timeout)
        if run is None:
            return
        # The trainer may belong to an earlier dashboard, so the end of the thread does not mean that it has exited.
        while run.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(UserError):  # the run's events cannot be read
            if kill_trainer(run):
                run.mark_ended(f"killed: it did not stop within {timeout:g} s")
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
                self._train(run)
            except Exception as error:  # an error in one run must not stop the queue
                traceback.print_exc()
                with contextlib.suppress(OSError, UserError):
                    run.mark_ended(f"could not be started ({error})", "failed")
            with self._changed:
                if self._closing:
                    return
                self._current = None
                with contextlib.suppress(UserError):  # saved with the next change
                    self._write()

    def _train(self, run: RunDirectory) -> None:
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
            # A trainer started by a killed dashboard may have locked the run first.
            self._wait_until_free(run)

    def _wait_until_free(self, run: RunDirectory) -> bool:
        """Wait until no trainer holds the run. Returns False if the queue is closed first."""
        while run.is_alive():
            if self._wait_for_close(0.5):
                return False
        return True

    def _wait_for_close(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, seconds)

    def _run(self, name: str) -> RunDirectory:
        return RunDirectory(self._runs_dir / name)

    def _names(self) -> list[str]:
        current = [self._current] if self._current else []
        return list(dict.fromkeys([*current, *self._waiting]))

    def _write(self) -> None:
        try:
            replace_text(self._path, json.dumps(self._names()))
        except OSError as error:
            raise UserError(f"The queue cannot be saved to {self._path}: {error}") from None


def read_order(runs_dir: Path) -> list[str]:
    """Return the stored queue order without deleted runs, or an empty list if the file is missing or invalid."""
    try:
        names = json.loads((runs_dir / QUEUE_FILE).read_text(encoding="utf-8"))
        existing_names = {run.name for run in list_runs(runs_dir)}
        return [name for name in dict.fromkeys(names) if name in existing_names]
    except (OSError, ValueError, TypeError, RecursionError):
        return []
