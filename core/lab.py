"""The laboratory: one object for everything that pages and commands do with runs.

A dashboard's lab holds the index, keeps it up with the run directories from one thread and drives the
queue from another. Commands that only read or signal need no lab of their own.
"""

import atexit
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import pandas as pd

from core import allowed_paths
from core.config import RunConfig
from core.errors import ConfigError, UserError
from core.run.directory import ENDED_STATUSES, RunDirectory, list_runs
from core.scheduler import preferences
from core.scheduler.executors import EXECUTORS
from core.scheduler.processes import kill_trainer
from core.scheduler.queue import CLOSE_TIMEOUT_S as QUEUE_CLOSE_TIMEOUT_S
from core.scheduler.queue import Queue, read_order
from core.tracking import queries
from core.tracking.index import INDEX_FILE, Index, IndexHeldError, is_held
from core.tracking.sync import Sync, is_broken, mark_dead_runs, read_index, sources
from core.training import resumption

if TYPE_CHECKING:  # these import SciPy, which only some pages need
    from core.judging.answers import JudgedAnswers
    from core.judging.order import Order
    from core.judging.scoring import Scoring

Result = TypeVar("Result")
Curves = dict[str, pd.DataFrame]

SYNC_INTERVAL_S = 1.0
"""Pages refresh once a second; syncing more often would not show anything new."""
ENQUEUE_GRACE_S = 10.0
"""Seconds for which a run may be `queued` without being in the queue."""
STOP_TIMEOUT_S = 30.0
"""Seconds after a request to stop from which on a second one kills."""
CLOSE_TIMEOUT_S = 2.0
"""Seconds to wait for a command that is just reading the index."""
SCORING_CLOSE_TIMEOUT_S = 5.0
"""Seconds to wait for replies of a judge when the Lab is closed."""


class Lab:
    """An open laboratory. Close it, or the next one can only read.

    Args:
        runs_dir: holds the run directories, the index and the queue.
        executor: `process` or `thread`.
    """

    def __init__(self, runs_dir: Path, executor: str = "process") -> None:
        self.runs_dir = runs_dir
        self.driver_pid: int | None = None
        """The process whose dashboard drives these runs, where that is another."""
        self.read_only: str | None = None
        """Why this one only reads, where it does."""
        self.index = self._open_index()
        self.fault: str | None = None
        """Why the index is behind the directories, if it is."""
        self.synced_at = 0
        """When it was last brought up with them, ns of the monotonic clock: until the next time, queries give the same."""
        self._closing = threading.Event()
        self._syncing, self._editing = threading.Lock(), threading.Lock()
        self._sync: Sync | None = None
        self._scoring: Scoring | None = None
        self._scoring_lock = threading.Lock()
        self.refresh()
        self.queue: Queue | None = None
        if self.read_only is None:
            self.queue = Queue(runs_dir, EXECUTORS[executor])
            self._queue_orphans()
            self._resume_interrupted()
        self._thread = threading.Thread(target=self._sync_loop, name="sync", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread that dies inside DuckDB aborts the process

    @property
    def db(self) -> duckdb.DuckDBPyConnection:
        """This thread's connection, for `core.tracking.queries`."""
        return self.index.cursor()

    def runs(self) -> pd.DataFrame:
        """Return all runs with their settings and results; see `queries.results`."""
        return self._read(queries.results)

    def states(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the status and progress of some runs; see `queries.states`."""
        return self._read(queries.states, names)

    def curves(self, names: Sequence[str], metrics: Sequence[str], **options: Any) -> Curves:
        """Return downsampled step metrics; see `queries.curves`."""
        return self._read(queries.curves, names, metrics, **options)

    def evaluations(self, names: Sequence[str], x: str = "step") -> pd.DataFrame:
        """Return the losses of each evaluation; see `queries.evaluations`."""
        return self._read(queries.evaluations, names, x)

    def samples(self, names: Sequence[str]) -> pd.DataFrame:
        """Return answers to the sample prompt, newest first: run, step, prompt, text."""
        return self._read(queries.samples, names)

    def warnings(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the trainers' warnings: run, step, about, message."""
        return self._read(queries.warnings, names)

    def answers(self, names: Sequence[str]) -> pd.DataFrame:
        """Return answers to the test examples; see `queries.answers`."""
        return self._read(queries.answers, names)

    def scores(self) -> pd.DataFrame:
        """Return mean scores by run, test example and judge; see `queries.scores`."""
        return self._read(queries.scores)

    # Scoring

    @property
    def scoring(self) -> "Scoring":
        """Judges, their verdicts, and the scoring in progress."""
        with self._scoring_lock:
            if self._scoring is None:
                from core.judging.scoring import Scoring  # imports SciPy

                self._scoring = Scoring(self.runs_dir, self._read)
            return self._scoring

    def start_scoring(self, order: "Order", judged: "JudgedAnswers") -> None:
        """Score in the background, one scoring at a time; follow it as `scoring.job`. Raises UserError."""
        self.require_queue()
        self.scoring.start(order, judged)

    def log(self, name: str) -> str:
        """Return the end of a run's log. Raises UserError if there is no such run."""
        return RunDirectory.find(self.runs_dir, name).log_tail()

    def require_queue(self) -> Queue:
        """The queue. Raises UserError where this one only reads."""
        if self.queue is None:
            raise UserError(f"read only: {self.read_only}")
        return self.queue

    def waiting(self) -> list[str]:
        """Runs in order, the one being trained first."""
        return read_order(self.runs_dir) if self.queue is None else self.queue.names()

    def driver_has_ended(self) -> bool:
        """Whether the dashboard that drove the runs has ended."""
        return self.driver_pid is not None and not is_held(self.runs_dir / INDEX_FILE)

    def launch(self, config: RunConfig) -> str:
        """Create a run and queue it; its name. Raises UserError, also for paths out of the allowed folders."""
        queue = self.require_queue()
        if outside := allowed_paths.problems(config.model_dump()):
            raise ConfigError(outside)
        run = RunDirectory.create(self.runs_dir, config)
        queue.add(run.name)
        self.refresh()
        return run.name

    def config(self, name: str) -> RunConfig:
        """The settings of a run. Raises UserError."""
        return RunDirectory.find(self.runs_dir, name).config()

    def refresh(self) -> None:
        """Sync the index with the run directories now."""
        with self._syncing:
            try:
                self._sync_now()
            except duckdb.Error as error:
                self._rebuild(error)
            except OSError as error:
                self.fault = f"The run directories cannot be read: {error}"
            self.synced_at = time.monotonic_ns()

    def _read(self, query: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Run a query. If the index is broken, rebuild it and retry once."""
        try:
            return query(self.index.cursor(), *args, **options)
        except duckdb.Error as error:
            with self._syncing:
                self._rebuild(error)
            return query(self.index.cursor(), *args, **options)

    def _rebuild(self, error: duckdb.Error) -> None:
        """Rebuild a broken index, at most once per Lab. Further errors set `fault`."""
        try:
            if not is_broken(error) or self.index.rebuilt:
                raise error
            self.index.rebuild(f"it could not be read ({type(error).__name__})")
            self._sync = None
            self._sync_now()
        except (OSError, UserError, duckdb.Error) as failure:
            self.fault = f"The index cannot be updated: {failure}"

    def _sync_now(self) -> None:
        self._sync = self._sync or Sync(self.index.new_cursor())
        self._sync.run(sources(self.runs_dir))
        self.fault = self._sync.fault

    def stop(self, name: str) -> None:
        """Ask a run to checkpoint and stop, or take it off the queue; asked again after a while, kill it."""
        queue = self.require_queue()
        stop(RunDirectory.find(self.runs_dir, name))
        queue.remove(name)

    def resume(self, name: str, restart: bool = False) -> None:
        """Re-queue an unfinished run, to resume from its newest checkpoint.

        Args:
            restart: train from step 0 with the current settings; see `requeue`.
        """
        queue = self.require_queue()
        requeue(RunDirectory.find(self.runs_dir, name), restart)
        queue.add(name)

    def delete(self, name: str) -> None:
        """Remove a run and everything it made."""
        queue = self.require_queue()
        RunDirectory.find(self.runs_dir, name).delete()
        queue.remove(name)

    def edit(self, name: str, **values: Any) -> None:
        """Change a run's notes or tags; nothing else of a run can change."""
        assert values.keys() <= {"notes", "tags"}
        self.require_queue()
        run = RunDirectory.find(self.runs_dir, name)
        with self._editing:
            run.write_config(run.config().changed(**values))

    def close(self, timeout: float = QUEUE_CLOSE_TIMEOUT_S) -> None:
        """End the current run as `interrupted`, write everything out and let go of the index.

        Args:
            timeout: seconds that its trainer gets to checkpoint; see `Queue.close`.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        deadline = time.monotonic() + SCORING_CLOSE_TIMEOUT_S
        job = self._scoring and self._scoring.job
        if job:
            job.stop()
        if self.queue:
            self.queue.close(timeout)
        if job:
            job.join(max(0.1, deadline - time.monotonic()))
        self._thread.join()
        self.refresh()
        self.index.close()
        atexit.unregister(self.close)

    def _open_index(self) -> Index:
        """The index, or one in memory where it is another's or the folder cannot be written to.

        Raises UserError where there is nothing to read either.
        """
        try:
            return Index(self.runs_dir / INDEX_FILE, CLOSE_TIMEOUT_S)
        except IndexHeldError as error:
            self.driver_pid = error.pid
            self.read_only = f"the dashboard of process {error.pid} drives these runs; do it there, or stop that one first"
        except UserError as error:
            if not self.runs_dir.is_dir():
                raise
            self.read_only = str(error)
        return Index(None)

    def _sync_loop(self) -> None:
        while not self._closing.wait(SYNC_INTERVAL_S):
            self.refresh()
            if self.queue:
                with contextlib.suppress(OSError, UserError, duckdb.Error):  # retried next time
                    mark_dead_runs(self.runs_dir, self.index)

    def _queue_orphans(self) -> None:
        """Queue runs that are `queued` and in no queue: their dashboard was killed between the two.

        A fresh one may be about to be trained by a command.
        """
        queue, cutoff = self.require_queue(), time.time() - ENQUEUE_GRACE_S
        untouched = [run.name for run in list_runs(self.runs_dir) if run.is_untouched()]
        for name in [*self._read(_latest, "queued", cutoff), *untouched]:
            if name not in queue.names():
                with contextlib.suppress(UserError):  # the disk is full
                    queue.add(name)

    def _resume_interrupted(self) -> None:
        """Queue again what an earlier end interrupted, where that is wished for."""
        if not preferences.load(self.runs_dir).resume_interrupted:
            return
        mark_dead_runs(self.runs_dir, self.index)
        self.refresh()
        queue = self.require_queue()
        for name in reversed(self._read(_latest, "interrupted")):
            with contextlib.suppress(UserError):  # deleted meanwhile, or the disk is full
                self.resume(name)
                queue.move(name, -len(queue.names()))


def stop(run: RunDirectory) -> None:
    """Ask a run to stop; one that nobody has started stops at once.

    One that was asked KILL_AFTER seconds ago and still trains is killed. Raises UserError if it has ended.
    """
    if (status := run.status()) in ENDED_STATUSES:
        raise UserError(f"{run.name} is not running: it is {status}")
    if (run.seconds_since_stop_request() or 0) > STOP_TIMEOUT_S and kill_trainer(run):
        run.mark_ended(f"killed: it had not stopped {STOP_TIMEOUT_S:g} s after it was asked to")
        return
    if run.seconds_since_stop_request() is None:
        run.request_stop()
    if status == "queued":
        run.mark_ended("withdrawn before it started")
    elif not run.is_alive():
        run.mark_ended("the trainer died")


def requeue(run: RunDirectory, restart: bool = False) -> None:
    """Mark an unfinished run as queued.

    Args:
        restart: delete its checkpoints and weights, so that it trains from step 0 with the current settings.
            Nothing is deleted if a launch with these settings would be refused. A rewind event supersedes its
            earlier events, which stay in the file.

    Raises:
        UserError: the run has finished or is running, its settings changed since the checkpoint, or a launch with
            the settings of a restart would be refused.
    """
    with run.lock():
        if (status := run.status()) == "finished":
            raise UserError(f"{run.name} is finished; there is nothing to resume")
        if restart:
            _check_launch(run.config())
            run.discard_training()
        elif run.checkpoint_step() is not None:
            resumption.check_newest(run.path, run.config())
        run.clear_stop_request()
        if restart:
            run.append("rewind", step=-1)
        if status != "queued":
            action = "restarted" if restart else "resumed"
            run.append("status", status="queued", reason=f"{action} after it was {status}")


def _check_launch(config: RunConfig) -> None:
    """Raise ConfigError with every problem for which a launch would be refused."""
    from core.planning import preflight  # imports PyTorch, which takes seconds

    if problems := preflight.check(config).problems:
        raise ConfigError(problems)


def _latest(db: duckdb.DuckDBPyConnection, status: str, cutoff: float = math.inf) -> list[str]:
    """Runs in that status since a time before, in the order in which they were queued first."""
    query = """
        select run from status group by run having arg_max(status, seq) = ? and max(time) < ? order by min(time), run
    """
    return [name for (name,) in db.execute(query, [status, cutoff]).fetchall()]


# Scoring without a Lab, for commands


@contextlib.contextmanager
def open_scoring(runs_dir: Path, runs: Sequence[str]) -> "Iterator[Scoring]":
    """Read verdicts on some runs without holding the index longer. Raises UserError if a run does not exist."""
    from core.judging.scoring import Scoring

    for name in runs:
        RunDirectory.find(runs_dir, name)
    with contextlib.closing(read_index(runs_dir, runs)) as index:
        yield Scoring(runs_dir, lambda query, *args: query(index.cursor(), *args))
