"""The queue: one background thread that takes runs in order, each through an executor.

The order is kept in `queue.json` beside the runs, so it outlives the process. A run stays at its head
until it has ended; one whose trainer outlived an earlier dashboard is waited for, not started twice.
"""

import json
import threading
from pathlib import Path

from core.errors import UserError
from core.tracking.executors import Executor
from core.tracking.rundir import ENDED, RunDirectory, all_runs


class Queue:
    """Runs waiting and the thread that drives them.

    Args:
        runs_dir: where the runs and queue.json are.
        executor: takes one run to its end.
    """

    def __init__(self, runs_dir: Path, executor: Executor) -> None:
        self._runs_dir, self._executor = runs_dir, executor
        self._path = runs_dir / "queue.json"
        self._changed = threading.Condition()
        self._names = self._read()
        self._closing = False
        self._thread = threading.Thread(target=self._drive, name="queue", daemon=True)
        self._thread.start()

    def names(self) -> list[str]:
        """Runs in order, the one being trained first."""
        with self._changed:
            return list(self._names)

    def add(self, name: str) -> None:
        """Put a run at the end, unless it is already queued."""
        with self._changed:
            if name not in self._names:
                self._write([*self._names, name])

    def remove(self, name: str) -> None:
        """Take a run out that has not been started."""
        with self._changed:
            self._write([n for n in self._names if n != name])

    def close(self, timeout: float = 15.0) -> None:
        """Let the current run checkpoint and end as `interrupted`; what waits stays queued."""
        with self._changed:
            self._closing = True
            current = self._names[:1]
            self._changed.notify_all()
        for name in current:
            run = RunDirectory(self._runs_dir / name)
            if run.is_alive():
                run.request_stop("interrupted")
        self._thread.join(timeout)

    def _drive(self) -> None:
        while True:
            with self._changed:
                while not self._names and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                name = self._names[0]
            self._take(RunDirectory(self._runs_dir / name))
            if not self._closing:
                self.remove(name)

    def _take(self, run: RunDirectory) -> None:
        while run.path.exists() and run.is_alive():
            if self._waited(0.5):
                return
        if not run.config_path.exists():
            return
        if run.stop_request():
            run.settle("withdrawn before it started")
        elif run.status() not in ENDED:
            self._executor(run)

    def _waited(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, seconds)

    def _read(self) -> list[str]:
        try:
            names = json.loads(self._path.read_text(encoding="utf-8"))
            known = {run.name for run in all_runs(self._runs_dir)}
            return [name for name in names if name in known]
        except (OSError, ValueError, TypeError):
            return []

    def _write(self, names: list[str]) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(names), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            raise UserError(f"the queue cannot be written to {self._path} ({error})") from None
        self._names = names
        self._changed.notify_all()
