"""The Lab: the entry point for pages and notebooks.

Owns the index and two background threads: one syncs the index and advances studies, and the other drives the queue.
Read access is in `core.reading`. Commands do not open a Lab; see `core.operations`.
"""

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pandas as pd

from core import allowed_paths, operations
from core.config import EDITABLE_FIELDS, RunConfig
from core.data.files import COMPRESSED_SUFFIX, DATA_SUFFIXES
from core.errors import ConfigError, Problem, UserError
from core.machine import Machine, read_machine
from core.reading import Reader, Result
from core.run import trash, uploads
from core.run.directory import ENDED_STATUSES, RunDirectory, discard_leftovers, list_runs
from core.run.names import next_name
from core.run.trash import TrashedRun
from core.run.uploads import uploads_path
from core.scheduler import preferences
from core.scheduler.executors import EXECUTORS
from core.scheduler.preferences import Preferences
from core.scheduler.processes import mark_dead_runs
from core.scheduler.queue import TRAINER_CLOSE_TIMEOUT_S, Queue, read_order
from core.studies import study as studies_on_disk
from core.studies.adaptive import AdaptiveStudies
from core.studies.sweep import Sweep
from core.tracking import queries
from core.tracking.index import INDEX_FILE, Index, IndexHeldError, is_held
from core.tracking.synced_index import SyncedIndex

if TYPE_CHECKING:  # importing these at runtime takes seconds
    from core.data.inspection import InspectedDataset
    from core.inference import Answerer, StreamedAnswer
    from core.judging.answers import JudgedAnswers
    from core.judging.order import Order
    from core.judging.scoring import Scoring
    from core.planning.measurement import Cost
    from core.planning.preflight import Plan
    from core.training.lr_finder import LRCurve

SYNC_INTERVAL_S = 1.0
"""Pages refresh once a second; syncing more often would not show anything new."""
ENQUEUE_GRACE_S = 10.0
"""A run created by a command may be `queued` for this long before it appears in the queue."""
INDEX_OPEN_TIMEOUT_S = 2.0
"""How long to wait for a command that has the index open."""
SCORING_CLOSE_TIMEOUT_S = 5.0
"""How long to wait for pending judge requests when the Lab is closed."""


class Lab(Reader):
    """The runs in a folder. As a context manager, it stops the current trainer and releases the index on exit.

    Only one Lab at a time can change a folder. A second one, in another process, is read-only.

    Args:
        runs_dir: the folder with the run directories, the index and the queue. Created if missing.
        executor: `process` trains each run in a separate process, `thread` in a thread of this process.

    Raises:
        UserError: the folder does not exist and cannot be created, or the executor is unknown.
    """

    KILL_AFTER_S = operations.KILL_AFTER_S
    UPLOAD_TYPES = (*DATA_SUFFIXES, COMPRESSED_SUFFIX)
    """Suffixes of files that `upload` accepts."""
    MAX_UPLOAD_MB = uploads.MAX_UPLOAD_MB

    def __init__(self, runs_dir: Path | str, executor: str = "process") -> None:
        if executor not in EXECUTORS:
            raise UserError(f"executor = {executor!r}: must be {' or '.join(EXECUTORS)}")
        super().__init__(Path(runs_dir))
        self.driver_pid: int | None = None
        """Process ID of another Lab that drives the queue; None if there is none."""
        self.read_only: str | None = None
        """Why this Lab cannot change runs; None if it can."""
        self._index = SyncedIndex(self.runs_dir, self._open_index())
        self._closing = threading.Event()
        self._edit_lock = threading.Lock()
        self._answerer: Answerer | None = None
        self._answerer_lock = threading.Lock()
        self._measurements: dict[str, Future[Cost]] = {}
        self._lr_tests: dict[str, Future[LRCurve]] = {}
        self._scoring: Scoring | None = None
        self._scoring_lock = threading.Lock()
        self._adaptive = AdaptiveStudies(self.runs_dir)
        if self.read_only is None:
            discard_leftovers(self.runs_dir)
        self.refresh()
        self._queue: Queue | None = None
        if self.read_only is None:
            studies_on_disk.complete_all(self.runs_dir)
            self.refresh()
            self._queue = Queue(self.runs_dir, EXECUTORS[executor])
            self._queue_orphans()
            self._resume_interrupted()
        self._thread = threading.Thread(target=self._sync_loop, name="sync", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread killed inside DuckDB would abort the process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Lab({str(self.runs_dir)!r})"

    # Scoring

    @property
    def scoring(self) -> "Scoring":
        """The judges, their verdicts and the current scoring job."""
        with self._scoring_lock:
            if self._scoring is None:
                from core.judging.scoring import Scoring  # imports SciPy

                self._scoring = Scoring(self.runs_dir, self._read, self._open_answerer)
            return self._scoring

    def start_scoring(self, order: "Order", judged: "JudgedAnswers") -> None:
        """Start a scoring job in the background, available as `scoring.job`.

        Raises UserError if the Lab is read-only, the order is invalid or another job is running.
        """
        self._require_queue()
        scoring = self.scoring
        job = scoring.prepare(order, judged)
        with self._scoring_lock:
            if scoring.job and scoring.job.is_running:
                raise UserError(
                    "Another scoring job is running. Wait until it finishes, or stop it."
                )
            scoring.job = job
            job.start()

    # Planning

    def check(self, values: Mapping[str, Any]) -> "tuple[RunConfig | None, Plan]":
        """Parse unvalidated settings and plan the run.

        If the settings are invalid, the config is None and the plan contains only the problems.
        """
        from core.planning import preflight

        try:
            config = RunConfig.parse(values)
        except ConfigError:
            problems = allowed_paths.problems(
                values, uploads_path(self.runs_dir)
            ) or operations.problems(values, self.runs_dir)
            return None, preflight.Plan(problems)
        return config, self.plan(config)

    def plan(self, config: RunConfig) -> "Plan":
        """Return the plan for a run, including all problems that prevent its launch.

        Files outside the allowed folders are not read. If memory use has been measured, it overrides the estimate.
        """
        from core.planning import preflight

        if outside := self._outside_paths(config):
            return preflight.Plan(outside)
        plan, measured = operations.check(config, self.runs_dir), self.measurement(config)
        if not plan.problems and measured and measured.done() and not measured.exception():
            memory_mb = measured.result().memory_mb
            plan.problems.extend(preflight.memory_problems(config, memory_mb))
        return plan

    def next_name(self, config: RunConfig) -> str:
        """Return the name that a run with these settings would get if it were created now."""
        return next_name(self.runs_dir, config)

    def measure(self, config: RunConfig) -> "Future[Cost]":
        """Measure a run's time and memory use in a separate process, or return the measurement in progress."""
        from core.planning import measurement

        self._refuse_outside_paths(config)
        future = self.measurement(config)
        if future is None or future.done():
            future = self._measurements[measurement.key(config)] = measurement.start(config)
        return future

    def measurement(self, config: RunConfig) -> "Future[Cost] | None":
        """Return the newest measurement for settings with the same cost, or None."""
        from core.planning import measurement

        return self._measurements.get(measurement.key(config))

    def find_lr(self, config: RunConfig, steps: int = 100) -> "Future[LRCurve]":
        """Test increasing learning rates for a few steps in a separate process, or return the test in progress.

        The result holds the learning rate, loss and smoothed loss of each step, and a suggested learning rate; see
        `core.training.lr_finder`. Nothing is written to the runs folder.
        """
        from core.planning import lr_test

        self._refuse_outside_paths(config)
        future = self.lr_test(config)
        if future is None or future.done():
            future = self._lr_tests[lr_test.key(config)] = lr_test.start(config, steps)
        return future

    def lr_test(self, config: RunConfig) -> "Future[LRCurve] | None":
        """Return the newest test for these settings, ignoring their learning rate, or None."""
        from core.planning import lr_test

        return self._lr_tests.get(lr_test.key(config))

    # Data sets

    def dataset(self, config: RunConfig) -> "InspectedDataset | None":
        """Return a run's data set as training would use it, or None if it has not been downloaded yet.

        Raises UserError if it cannot be read or is outside the allowed folders.
        """
        from core.data import hub, inspection

        self._refuse_outside_paths(config)
        try:
            return inspection.inspect(config)
        except hub.NotDownloadedError:
            return None

    def context(self, config: RunConfig) -> int:
        """Return the maximum number of tokens in an example. Raises UserError if the base model is unknown."""
        from core.nn import pretrained

        self._refuse_outside_paths(config)
        return pretrained.max_length(config)

    def batch(self, name: str, step: int) -> pd.DataFrame:
        """Return a step's examples from the data set in its current state; see `inspection.batch`. Raises UserError."""
        from core.data import inspection

        config, recorded = self.config(name), self.step(name, step) or {}
        examples, tokens = recorded.get("batch"), recorded.get("batch_tokens")
        return inspection.batch(self.dataset(config), examples, self.context(config), tokens)

    def upload(self, filename: str, content: bytes) -> str:
        """Store a data set in the runs folder and return its path for use as `dataset`.

        Args:
            filename: name on the user's machine; the suffix determines the format.

        Raises:
            UserError: the file is too large, has an unsupported format or cannot be stored, or this Lab is read-only.
        """
        self._require_queue()
        return str(uploads.store(self.runs_dir, filename, content))

    def uploads(self) -> list[str]:
        """Return the paths of the uploaded data sets, newest first."""
        return [str(path) for path in uploads.stored(self.runs_dir)]

    # Inference

    def _open_answerer(self) -> "Answerer":
        """Return the answerer, which keeps models in memory between prompts."""
        from core.inference import Answerer

        with self._answerer_lock:
            self._answerer = self._answerer or Answerer(self.runs_dir)
            return self._answerer

    def generate(
        self, model: str, instruction: str, input: str = "", *, raw: bool = False, **sampling: Any
    ) -> "Iterator[StreamedAnswer]":
        """Stream the answer from a run or base model (`base:NAME`) as it is generated, token by token.

        Args:
            raw: use the instruction as the prompt, without the template.
            sampling: `max_new_tokens`, `temperature`, `top_k` and `seed`; see `core.nn.generation.Sampling`.

        Raises:
            UserError: the model does not exist or has no weights. Raised by the call itself, not during iteration.
        """
        from core.nn.generation import Sampling

        settings = Sampling(**{"max_new_tokens": 128, **sampling})
        return self._open_answerer().answer(model, instruction, input, settings, raw)

    def base_of(self, run: str) -> str:
        """Return a run's base model as `base:NAME`. Raises UserError if the run does not exist."""
        return self._open_answerer().base_of(run)

    def base_hash(self, model: str) -> str:
        """Return the SHA-256 of the base weights for a run or base model. Raises UserError; see `generate`."""
        return self._open_answerer().fingerprint(model)

    # Queue

    def _require_queue(self) -> Queue:
        """Return the queue. Raises UserError if this Lab is read-only."""
        if self._queue is None:
            raise UserError(f"Read-only: {self.read_only}.")
        return self._queue

    def waiting(self) -> list[str]:
        """Return the current run and the queued runs, in training order."""
        return read_order(self.runs_dir) if self._queue is None else self._queue.names()

    def move(self, name: str, offset: int) -> None:
        """Move a queued run by `offset` positions. A negative offset makes it start earlier."""
        self._require_queue().move(name, offset)

    def preferences(self) -> Preferences:
        """Return the user's preferences for this folder."""
        return preferences.load(self.runs_dir)

    def save_preferences(self, values: Preferences) -> None:
        """Save the user's preferences for this folder. Raises UserError if this Lab is read-only."""
        self._require_queue()
        preferences.save(self.runs_dir, values)

    def driver_has_ended(self) -> bool:
        """Whether the other process that drove the queue has exited."""
        return self.driver_pid is not None and not is_held(self.runs_dir / INDEX_FILE)

    # Runs

    def launch(self, config: RunConfig) -> str:
        """Create a run, queue it and return its name.

        Raises UserError if a path is outside the allowed folders or this Lab is read-only.
        """
        queue = self._require_queue()
        self._refuse_outside_paths(config)
        run = RunDirectory.create(self.runs_dir, config)
        queue.add(run.name)
        self.refresh()
        return run.name

    def wait(self, name: str, progress: bool = True) -> pd.Series:
        """Wait for a run to end and return its row from `runs()`. Ctrl-C interrupts the wait, not the run.

        Args:
            progress: show a progress bar on standard error.

        Raises:
            UserError: the run failed, was deleted or does not exist.
        """
        from rich.console import Console

        from core.run.progress import follow

        run = RunDirectory.find(self.runs_dir, name)
        self.refresh()
        follow(run, 0, lambda: self._is_active(name), Console(stderr=True, quiet=not progress))
        runs = self.runs().set_index("name", drop=False)
        if name not in runs.index:
            raise UserError(f"{name} was deleted")
        row = cast(pd.Series, runs.loc[name])
        if row["status"] == "failed":
            raise UserError(f"{name} failed: {row['reason']}")
        return row

    def stop(self, name: str) -> None:
        """Stop a run; see `operations.stop`. Raises UserError."""
        queue = self._require_queue()
        operations.stop(self.runs_dir, name)
        queue.remove(name)

    def resume(self, name: str, restart: bool = False) -> None:
        """Re-queue an unfinished run. It resumes from its newest checkpoint.

        Args:
            restart: train from step 0 with the current settings; see `operations.requeue`.
        """
        queue = self._require_queue()
        operations.requeue(self.runs_dir, name, restart)
        queue.add(name)

    def delete(self, name: str) -> str:
        """Move a run to the trash and return an ID for restoring it. Raises UserError if it is being trained."""
        queue = self._require_queue()
        id = RunDirectory.find(self.runs_dir, name).move_to_trash()
        queue.remove(name)
        return id

    def trash(self) -> list[TrashedRun]:
        """Return the deleted runs that can be restored, most recently deleted first."""
        return trash.contents(self.runs_dir)

    def restore(self, id: str) -> str:
        """Move a run back from the trash and return its name. It is queued again if it was queued when it was deleted.

        Raises UserError if another run has its name.
        """
        queue = self._require_queue()
        name = trash.restore(self.runs_dir, id)
        self._add_queued(queue, [name])
        return name

    def empty_trash(self) -> None:
        """Delete all runs in the trash permanently. Raises UserError if that fails."""
        self._require_queue()
        trash.empty(self.runs_dir)

    def edit(self, name: str, **values: Any) -> None:
        """Change a run's notes, tags or color, or archive it. Its other settings cannot be changed."""
        assert values.keys() <= {*EDITABLE_FIELDS}
        self._require_queue()
        run = RunDirectory.find(self.runs_dir, name)
        with self._edit_lock:
            run.write_config(run.config().changed(**values))

    # Studies

    def sweep(self, planned: Sweep, study: str = "", question: str = "", **more: Any) -> list[str]:
        """Create and queue the runs of a study, and return their names; see `operations.sweep`. Raises UserError.

        Args:
            study: name of the study; by default, an unused name made of the varied settings. If the study exists, only
                runs that are missing after a crash are created.
            question: the question that the study should answer.
            more: further arguments of `operations.sweep`.
        """
        queue = self._require_queue()
        self._refuse_outside_paths(planned.base)
        name = study or studies_on_disk.unused_name(self.runs_dir, planned)
        for axis in planned.axes:
            self._refuse_outside_values(axis.fields, axis.values)
        with self._edit_lock:  # reusing a run changes its settings
            names = operations.sweep(self.runs_dir, name, planned, question, **more)
        self._add_queued(queue, names)
        return names

    def extend_study(
        self, name: str, seeds: int = 0, axis: str = "", values: Sequence[Any] = (), runs: int = 0
    ) -> list[str]:
        """Extend a study and queue the new runs; see `operations.extend_study`. Returns their names. Raises UserError."""
        queue = self._require_queue()
        self._refuse_outside_values(axis.split("="), values)
        names = operations.extend_study(self.runs_dir, name, seeds, axis, values, runs)
        self._add_queued(queue, names)
        return names

    def pause_study(self, name: str) -> None:
        """Remove a study's runs from the queue. The current run continues. Raises UserError."""
        queue = self._require_queue()
        for run in operations.pause_study(self.runs_dir, name):
            queue.remove(run)
        self.refresh()

    def continue_study(self, name: str) -> None:
        """Re-queue the runs that `pause_study` removed. Raises UserError."""
        self._add_queued(self._require_queue(), operations.continue_study(self.runs_dir, name))

    def edit_study(self, name: str, **texts: str) -> None:
        """Change a study's `question`, `notes` or `summary`. Raises UserError."""
        self._require_queue()
        operations.edit_study(self.runs_dir, name, **texts)

    def _add_queued(self, queue: Queue, names: Sequence[str]) -> None:
        """Add the runs whose status is `queued` to the queue, and sync the index."""
        runs = [RunDirectory(self.runs_dir / name) for name in names]
        queue.add(*(r.name for r in runs if r.config_path.exists() and r.status() == "queued"))
        self.refresh()

    # The machine, the index and the threads

    def machine(self) -> Machine:
        """Return the processor, GPUs and memory of this machine."""
        return read_machine()

    @property
    def fault(self) -> str | None:
        """Why the index is out of date; None if it is current."""
        return self._index.fault

    @property
    def index_notice(self) -> str | None:
        """Why the index is out of date or was rebuilt; None if neither applies."""
        return self._index.notice

    @property
    def changed_at(self) -> int:
        """Monotonic time of the last sync that changed the index, in nanoseconds; used as a cache key."""
        return self._index.changed_at

    def refresh(self) -> None:
        """Sync the index with the run directories now. Raises UserError if this Lab is closed."""
        self._index.refresh()

    def _read(self, query: Callable[..., Result], *args: Any, **options: Any) -> Result:
        return self._index.read(query, *args, **options)

    def _read_cached(self, query: Callable[..., Result]) -> Result:
        return self._index.read_cached(query)

    def close(self, timeout: float = TRAINER_CLOSE_TIMEOUT_S) -> None:
        """Stop the current trainer and release the index. The trainer's run becomes `interrupted`.

        Args:
            timeout: how long the trainer may take to write a checkpoint, in seconds; see `Queue.close`.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        deadline = time.monotonic() + SCORING_CLOSE_TIMEOUT_S
        job = self._scoring and self._scoring.job
        if job:
            job.stop()
        if self._queue:
            self._queue.close(timeout)
        if job:
            job.join(max(0.1, deadline - time.monotonic()))
        self._thread.join()
        self.refresh()
        self._index.close()
        atexit.unregister(self.close)

    def _open_index(self) -> Index:
        """Open the index, or one in memory if another process holds it or the folder is not writable.

        Raises UserError if the folder does not exist and cannot be created.
        """
        try:
            return Index(self.runs_dir / INDEX_FILE, INDEX_OPEN_TIMEOUT_S)
        except IndexHeldError as error:
            self.driver_pid = error.pid
            self.read_only = (
                f"another dashboard (pid {error.pid}) is using this folder. "
                "Make changes there, or close it first"
            )
        except UserError as error:
            if not self.runs_dir.is_dir():
                raise
            self.read_only = str(error)
        return Index(None)

    def _sync_loop(self) -> None:
        while not self._closing.wait(SYNC_INTERVAL_S):
            self.refresh()
            if self._queue:
                with contextlib.suppress(OSError, UserError):  # retried after the next sync
                    self._mark_dead_runs()
                    self._adaptive.prune(self._read(queries.runs_with_status, "running"))
                    if names := self._adaptive.extend_searches(self._read):
                        self._add_queued(self._queue, names)

    def _mark_dead_runs(self) -> None:
        mark_dead_runs(self.runs_dir, self._read(queries.runs_with_status, "running"))

    def _is_active(self, name: str) -> bool:
        return any(run["status"] not in ENDED_STATUSES for run in self.states([name]))

    def _queue_orphans(self) -> None:
        """Re-queue runs whose dashboard died after creating them but before queueing them.

        Runs created a moment ago are skipped, because a command may be about to train them.
        """
        queue, cutoff = self._require_queue(), time.time() - ENQUEUE_GRACE_S
        untouched = [run.name for run in list_runs(self.runs_dir) if run.is_untouched()]
        for name in [*self._read(queries.runs_with_status, "queued", cutoff), *untouched]:
            if name not in queue.names():
                with contextlib.suppress(UserError):  # the disk is full
                    queue.add(name)

    def _resume_interrupted(self) -> None:
        """Re-queue interrupted runs at startup, if the user has enabled this."""
        if not preferences.load(self.runs_dir).resume_interrupted:
            return
        self._mark_dead_runs()
        self.refresh()
        queue = self._require_queue()
        for name in reversed(self._read(queries.runs_with_status, "interrupted")):
            with contextlib.suppress(UserError):  # deleted in the meantime, or the disk is full
                self.resume(name)
                queue.move(name, -len(queue.names()))

    def _outside_paths(self, config: RunConfig) -> list[Problem]:
        """Return a problem for each path in the config that is outside the allowed folders."""
        return allowed_paths.problems(config.model_dump(), uploads_path(self.runs_dir))

    def _refuse_outside_paths(self, config: RunConfig) -> None:
        """Raise ConfigError if a path in the config is outside the allowed folders."""
        if outside := self._outside_paths(config):
            raise ConfigError(outside)

    def _refuse_outside_values(self, fields: Sequence[str], values: Sequence[Any]) -> None:
        """Raise ConfigError if a value of one of these settings is a path outside the allowed folders."""
        for value in values:
            settings = dict.fromkeys(fields, value)
            if outside := allowed_paths.problems(settings, uploads_path(self.runs_dir)):
                raise ConfigError(outside)
