"""The laboratory: one object for everything that pages and commands do with runs.

A dashboard's lab holds the index, keeps it up with the run directories from one thread and drives the
queue from another. Commands that only read or signal need no lab of their own.
"""

import atexit
import contextlib
import math
import threading
import time
from pathlib import Path
from typing import Any

import duckdb

from core import folders
from core.config import RunConfig
from core.errors import ConfigError, UserError
from core.tracking import preferences
from core.tracking.executors import EXECUTORS
from core.tracking.index import INDEX, Index, IndexHeldError, is_held
from core.tracking.ingest import Ingester, Source
from core.tracking.processes import kill_trainer
from core.tracking.queue import PATIENCE as TRAINERS_PATIENCE
from core.tracking.queue import Queue, read_order
from core.tracking.reading import settle_dead, sources
from core.tracking.rundir import ENDED, RunDirectory, all_runs
from core.training import resumption

POLL = 1.0
"""Seconds between two looks. More often, those who watch each second would see no more, and draw more."""
SHARE = 25
"""Looking at all runs takes one part in so many of the time: where they are thousands, it is done less often.

In between only those are looked at that had something new the last time.
"""
FRESH = 10.0
"""Seconds for which a run may be `queued` without being in the queue."""
CHECK = 2.0
"""At most so many seconds lie between two looks at all runs."""
KILL_AFTER = 30.0
"""Seconds after a request to stop from which on a second one kills."""
PATIENCE = 2.0
"""Seconds to wait for a command that is just reading the index."""


class Lab:
    """An open laboratory. Close it, or the next one can only read.

    Args:
        runs_dir: holds the run directories, the index and the queue.
        executor: `process` or `thread`.
    """

    def __init__(self, runs_dir: Path, executor: str = "process") -> None:
        self.runs_dir = runs_dir
        self.driver: int | None = None
        """The process whose dashboard drives these runs, where that is another."""
        self.read_only: str | None = None
        """Why this one only reads, where it does."""
        self.index = self._open_index()
        self.fault: str | None = None
        """Why the index is behind the directories, if it is."""
        self.looked = 0
        """When it was last brought up with them, ns of the monotonic clock: until the next time, queries give the same."""
        self._closing = threading.Event()
        self._polling, self._editing = threading.Lock(), threading.Lock()
        self._ingester = Ingester(self.index.new_cursor())
        self.refresh()
        self.queue: Queue | None = None
        if self.read_only is None:
            self.queue = Queue(runs_dir, EXECUTORS[executor])
            self._queue_lost()
            self._resume_interrupted()
        self._thread = threading.Thread(target=self._follow, name="ingest", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread that dies inside DuckDB aborts the process

    @property
    def db(self) -> duckdb.DuckDBPyConnection:
        """This thread's connection, for `core.tracking.queries`."""
        return self.index.cursor()

    def driving(self) -> Queue:
        """The queue. Raises UserError where this one only reads."""
        if self.queue is None:
            raise UserError(f"read only: {self.read_only}")
        return self.queue

    def waiting(self) -> list[str]:
        """Runs in order, the one being trained first."""
        return read_order(self.runs_dir) if self.queue is None else self.queue.names()

    def superseded(self) -> bool:
        """Whether the dashboard that drove the runs has ended."""
        return self.driver is not None and not is_held(self.runs_dir / INDEX)

    def launch(self, config: RunConfig) -> str:
        """Create a run and queue it; its name. Raises UserError, also for paths out of the allowed folders."""
        queue = self.driving()
        if outside := folders.problems(config.model_dump()):
            raise ConfigError(outside)
        run = RunDirectory.create(self.runs_dir, config)
        queue.add(run.name)
        self.refresh()
        return run.name

    def config(self, name: str) -> RunConfig:
        """The settings of a run. Raises UserError."""
        return RunDirectory.find(self.runs_dir, name).config()

    def refresh(self, among: list[Source] | None = None) -> list[Source]:
        """Bring the index up with the directories now, rather than at the next turn of the thread.

        Args:
            among: look at these only.

        Returns:
            What had something new.
        """
        changed: list[Source] = []
        with self._polling:
            try:
                looked_at = sources(self.runs_dir) if among is None else among
                changed = self._ingester.poll(looked_at, these_are_all=among is None)
                self.fault = self._ingester.fault
            except (OSError, duckdb.Error) as error:
                self.fault = f"the index cannot be kept up: {error}"
            self.looked = time.monotonic_ns()
        return changed

    def stop(self, name: str) -> None:
        """Ask a run to checkpoint and stop, or take it off the queue; asked again after a while, kill it."""
        queue = self.driving()
        stop(RunDirectory.find(self.runs_dir, name))
        queue.remove(name)

    def resume(self, name: str, restart: bool = False) -> None:
        """Queue an unfinished run again, to resume from its newest checkpoint.

        Args:
            restart: train from step 0 with the current settings instead; see `requeue`.
        """
        queue = self.driving()
        requeue(RunDirectory.find(self.runs_dir, name), restart)
        queue.add(name)

    def delete(self, name: str) -> None:
        """Remove a run and everything it made."""
        queue = self.driving()
        RunDirectory.find(self.runs_dir, name).delete()
        queue.remove(name)

    def edit(self, name: str, **values: Any) -> None:
        """Change a run's notes or tags; nothing else of a run can change."""
        assert values.keys() <= {"notes", "tags"}
        self.driving()
        run = RunDirectory.find(self.runs_dir, name)
        with self._editing:
            run.write_config(run.config().changed(**values))

    def close(self, patience: float = TRAINERS_PATIENCE) -> None:
        """End the current run as `interrupted`, write everything out and let go of the index.

        Args:
            patience: seconds that its trainer gets to checkpoint; see `Queue.close`.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        if self.queue:
            self.queue.close(patience)
        self._thread.join()
        self.refresh()
        self.index.close()
        atexit.unregister(self.close)

    def _open_index(self) -> Index:
        """The index, or one in memory where it is another's or the folder cannot be written to.

        Raises UserError where there is nothing to read either.
        """
        try:
            return Index(self.runs_dir / INDEX, PATIENCE)
        except IndexHeldError as error:
            self.driver = error.pid
            self.read_only = f"the dashboard of process {error.pid} drives these runs; do it there, or stop that one first"
        except UserError as error:
            if not self.runs_dir.is_dir():
                raise
            self.read_only = str(error)
        return Index(None)

    def _follow(self) -> None:
        looked = took = 0.0
        moving: list[Source] = []
        while not self._closing.wait(POLL):
            start = time.monotonic()
            if start - looked < min(SHARE * took, CHECK):
                self.refresh(moving)
                continue
            moving, looked = self.refresh(), start
            took = time.monotonic() - start
            if self.queue:
                with contextlib.suppress(OSError, UserError, duckdb.Error):  # tried again next time
                    settle_dead(self.runs_dir, self.index)

    def _queue_lost(self) -> None:
        """Queue runs that are `queued` and in no queue: their dashboard was killed between the two.

        A fresh one may be about to be trained by a command.
        """
        queue, before = self.driving(), time.time() - FRESH
        untouched = [run.name for run in all_runs(self.runs_dir) if run.is_untouched()]
        for name in [*_latest(self.index, "queued", before), *untouched]:
            if name not in queue.names():
                with contextlib.suppress(UserError):  # the disk is full
                    queue.add(name)

    def _resume_interrupted(self) -> None:
        """Queue again what an earlier end interrupted, where that is wished for."""
        if not preferences.load(self.runs_dir).resume_interrupted:
            return
        settle_dead(self.runs_dir, self.index)
        self.refresh()
        queue = self.driving()
        for name in reversed(_latest(self.index, "interrupted")):
            with contextlib.suppress(UserError):  # deleted meanwhile, or the disk is full
                self.resume(name)
                queue.move(name, -len(queue.names()))


def stop(run: RunDirectory) -> None:
    """Ask a run to stop; one that nobody has started stops at once.

    One that was asked KILL_AFTER seconds ago and still trains is killed. Raises UserError if it has ended.
    """
    if (status := run.status()) in ENDED:
        raise UserError(f"{run.name} is not running: it is {status}")
    if (run.asked_to_stop() or 0) > KILL_AFTER and kill_trainer(run):
        run.settle(f"killed: it had not stopped {KILL_AFTER:g} s after it was asked to")
        return
    if run.asked_to_stop() is None:
        run.request_stop()
    if status == "queued":
        run.settle("withdrawn before it started")
    elif not run.is_alive():
        run.settle("the trainer died")


def requeue(run: RunDirectory, restart: bool = False) -> None:
    """Mark an unfinished run as queued.

    Args:
        restart: delete its checkpoints and weights, so that it trains from step 0 with its current settings.
            Its earlier events stay in the file, superseded by a rewind.

    Raises:
        UserError: the run is finished or being trained, or its settings have changed since its checkpoint.
    """
    with run.lock():
        if (status := run.status()) == "finished":
            raise UserError(f"{run.name} is finished; there is nothing to resume")
        if restart:
            run.discard_training()
        elif run.checkpoint_step() is not None:
            resumption.check_newest(run.path, run.config())
        run.withdraw_stop()
        if restart:
            run.append("rewind", step=-1)
        if status != "queued":
            how = "restarted" if restart else "resumed"
            run.append("status", status="queued", reason=f"{how} after it was {status}")


def _latest(index: Index, status: str, before: float = math.inf) -> list[str]:
    """Runs in that status since a time before, in the order in which they were queued first."""
    query = """
        select run from status group by run having arg_max(status, seq) = ? and max(time) < ? order by min(time), run
    """
    return [name for (name,) in index.cursor().execute(query, [status, before]).fetchall()]
