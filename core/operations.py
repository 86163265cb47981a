"""Operations on runs that do not need an open index.

Commands call them directly, which also works while a dashboard is open. The Lab builds on them.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from core.config import RunConfig
from core.errors import ConfigError, Problem, UserError
from core.run import files
from core.run.directory import ENDED_STATUSES, RunDirectory
from core.run.names import explain_name
from core.scheduler.executors import EXECUTORS
from core.scheduler.processes import kill_trainer
from core.studies import adaptive, reuse, study
from core.studies.pruning import is_pruned
from core.studies.study import Study
from core.studies.sweep import Sweep
from core.tracking import queries
from core.tracking.sync import read_index, rebuild_index
from core.training import resumption

if TYPE_CHECKING:  # importing these at runtime takes seconds
    from rich.console import Console

    from core.inference import StreamedAnswer
    from core.judging.scores import Score
    from core.judging.scoring import Scoring
    from core.planning.measurement import Cost
    from core.planning.preflight import Plan
    from core.training.lr_finder import LRCurve

PRUNING_INTERVAL_S = 1.0
"""How often the command `sweep` checks whether to prune the current run, in seconds."""
KILL_AFTER_S = 30.0
"""A second stop request this long after the first kills the trainer."""
EXECUTOR_NAMES = tuple(EXECUTORS)
ExportFormat = Literal["capsule", "report"]


def stop(runs_dir: Path, name: str) -> None:
    """Stop a run.

    A queued run is withdrawn. A run in training saves a checkpoint and stops. If it has not stopped after KILL_AFTER_S
    seconds, another call kills it. Raises UserError if the run has ended or does not exist.
    """
    run = RunDirectory.find(runs_dir, name)
    if (status := run.status()) in ENDED_STATUSES:
        raise UserError(f"Run {run.name!r} is not running (status: {status}).")
    if (run.seconds_since_stop_request() or 0) > KILL_AFTER_S and kill_trainer(run):
        run.mark_ended(f"killed: it did not stop within {KILL_AFTER_S:g} s")
        return
    if run.seconds_since_stop_request() is None:
        run.request_stop()
    if status == "queued":
        run.mark_ended("withdrawn before it started")
    elif not run.is_alive():
        run.mark_ended("the trainer died")


def requeue(runs_dir: Path, name: str, restart: bool = False) -> None:
    """Mark an unfinished run as queued.

    Args:
        restart: delete the run's checkpoints and weights, so that it trains from step 0 with the current settings.
            Nothing is deleted if a run with these settings cannot be launched. Earlier events stay in the file; a
            rewind event supersedes them.

    Raises:
        UserError: the run does not exist, has finished or is running; its settings have changed since the checkpoint;
            or a restart with the current settings cannot be launched.
    """
    run = RunDirectory.find(runs_dir, name)
    with run.lock():
        if (status := run.status()) == "finished":
            raise UserError(f"Run {run.name!r} has already finished.")
        if restart:
            _check_launch(run.config(), runs_dir, run.disk_bytes() / 2**20)
            run.discard_training()
        elif run.checkpoint_step() is not None:
            resumption.check_newest(run.path, run.config())
        run.clear_stop_request()
        if restart:
            run.append("rewind", step=-1)
        if status != "queued":
            action = "restarted" if restart else "resumed"
            run.append("status", status="queued", reason=f"{action} after it was {status}")


def _check_launch(config: RunConfig, runs_dir: Path, freed_mb: float = 0.0) -> None:
    """Raise ConfigError with all problems that prevent a launch."""
    from core.planning import preflight  # imports PyTorch, which takes seconds

    if problems := preflight.check(config, runs_dir, freed_mb).problems:
        raise ConfigError(problems)


def read_runs(runs_dir: Path) -> "tuple[pd.DataFrame, dict[str, dict[str, Score]]]":
    """Return all runs (see `queries.results`) and each run's score from each judge."""
    from core.judging import scores  # imports SciPy

    with contextlib.closing(read_index(runs_dir)) as index:
        db = index.cursor()
        return queries.results(db), scores.by_run(queries.scores(db))


def read_answers(runs_dir: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return runs' answers to their test examples; see `queries.answers`."""
    with contextlib.closing(read_index(runs_dir, names)) as index:
        return queries.answers(index.cursor(), names)


def export(
    runs_dir: Path, name: str, path: Path, format: ExportFormat, replace: bool = False
) -> int:
    """Write a run or a study to a file and return the size of the file in bytes.

    Args:
        format: `capsule` writes a run as a self-contained HTML file; see `core.exchange.capsule`. `report` writes a
            study as an HTML file or, if the path ends in .zip, as Markdown with pictures; see
            `core.exchange.study_report`.
        replace: replace an existing file, atomically.

    Raises:
        UserError: the run or study does not exist, the file exists and `replace` is false, or it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory. Name a file.")
    if path.exists() and not replace:
        raise UserError(f"{path} already exists. Use --force to replace it.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: directory not found")
    content = (
        _capsule(runs_dir, name) if format == "capsule" else _study_report(runs_dir, name, path)
    )
    try:
        files.replace_bytes(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
    return len(content)


def _capsule(runs_dir: Path, name: str) -> bytes:
    from core.exchange import capsule, run_record  # imports Plotly and SciPy

    RunDirectory.find(runs_dir, name)
    with contextlib.closing(read_index(runs_dir, [name])) as index:
        record = run_record.collect(
            runs_dir, name, lambda query, *args, **options: query(index.cursor(), *args, **options)
        )
    return capsule.render(record)


def _study_report(runs_dir: Path, name: str, path: Path) -> bytes:
    from core.exchange import study_record, study_report  # imports Plotly and SciPy

    suffix = path.suffix.lower()
    if suffix not in (".html", ".zip"):
        raise UserError(f"{path} must end in .html, or in .zip for Markdown with pictures.")
    found = study.find(runs_dir, name)
    with contextlib.closing(read_index(runs_dir)) as index:
        record = study_record.collect(
            lambda query, *args, **options: query(index.cursor(), *args, **options), found
        )
    return study_report.render(record, "html" if suffix == ".html" else "md")


def reindex(runs_dir: Path) -> int:
    """Rebuild the index and return the number of runs. Raises UserError if a dashboard has it open."""
    if not runs_dir.is_dir():
        raise UserError(f"runs_dir = {str(runs_dir)!r}: directory not found")
    return rebuild_index(runs_dir)


def check(config: RunConfig, runs_dir: Path) -> "Plan":
    """Return the plan for a run, including all problems that prevent its launch."""
    from core.planning import preflight  # imports PyTorch, which takes seconds

    return preflight.check(config, runs_dir)


def problems(values: Mapping[str, Any], runs_dir: Path) -> list[Problem]:
    """Return all problems in unvalidated settings."""
    from core.planning import preflight

    return preflight.all_problems(values, runs_dir)


def measure(config: RunConfig) -> "tuple[Cost, list[Problem]]":
    """Measure a run's time and memory use in a separate process.

    Downloads the model and data if needed. Raises UserError if the download or the measurement fails.

    Returns:
        The cost, and a problem if the run needs more memory than is available.
    """
    from core.planning import measurement, preflight

    preflight.fetch(config)
    cost = measurement.measure(config)
    return cost, preflight.memory_problems(config, cost.memory_mb)


def find_lr(config: RunConfig, steps: int) -> "LRCurve":
    """Test increasing learning rates in a separate process. Downloads the model and data if needed.

    Raises:
        ConfigError: the run cannot be launched. Disk space is not checked, because a test needs none.
        UserError: the download or the test fails.
    """
    from core.planning import lr_test, preflight

    if problems := preflight.check(config).problems:
        raise ConfigError(problems)
    preflight.fetch(config)
    return lr_test.find_lr(config, steps)


def create(runs_dir: Path, config: RunConfig) -> tuple[str, str | None]:
    """Create a run without adding it to a queue.

    Returns:
        The name of the run, and why it differs from the requested name (None if it does not).
    """
    run = RunDirectory.create(runs_dir, config)
    return run.name, explain_name(config.name, run.name)


def create_checked(runs_dir: Path, config: RunConfig) -> tuple[str, str | None]:
    """Check the settings, download the model and data if needed, then `create` the run.

    Raises ConfigError with all problems in the settings.
    """
    from core.planning import preflight

    _check_launch(config, runs_dir)
    preflight.fetch(config)
    return create(runs_dir, config)


def train(runs_dir: Path, name: str, executor: str, console: "Console") -> tuple[str, str | None]:
    """Train a run until it ends and show its progress. Ctrl-C saves a checkpoint and stops the run.

    Returns:
        The final status and its reason.
    """
    from core.run.progress import follow  # imports rich

    run = RunDirectory.find(runs_dir, name)
    thread = threading.Thread(target=EXECUTORS[executor], args=(run,), name="trainer")
    offset = run.events_path.stat().st_size
    console.print(f"{name}: {run.path}")
    thread.start()
    try:
        follow(run, offset, thread.is_alive, console)
    except KeyboardInterrupt:
        run.request_stop()
        console.print("Stopping after the current step…")
    finally:
        thread.join()
    last_event = run.statuses()[-1]
    return last_event["status"], last_event.get("reason")


def train_member(runs_dir: Path, name: str, executor: str, console: "Console") -> str | None:
    """Train a run of a study, or resume it, unless it has finished, failed, been pruned or been deleted.

    If another process is training the run, wait until that ends.

    Returns:
        The final status, `pruned` for a pruned run, or None if it was deleted.
    """
    run, pruner = RunDirectory(runs_dir / name), adaptive.AdaptiveStudies(runs_dir)
    if run.is_alive():
        console.print(f"{name}: waiting for the process that is training it")
    while run.is_alive():
        time.sleep(PRUNING_INTERVAL_S)
    if not run.config_path.exists():
        return None
    if run.status() in ENDED_STATUSES:
        status = _final_status(run)
        if status in ("finished", "failed", "pruned"):
            return status
        requeue(runs_dir, name)
    has_ended = threading.Event()

    def prune() -> None:
        while not has_ended.wait(PRUNING_INTERVAL_S):
            with contextlib.suppress(OSError, UserError):
                pruner.prune([name])

    thread = threading.Thread(target=prune, name="pruning")
    thread.start()
    try:
        train(runs_dir, name, executor, console)
    finally:
        has_ended.set()
        thread.join()
    return _final_status(run)


def _final_status(run: RunDirectory) -> str:
    """Return the status of a run, or `pruned`."""
    last = (run.statuses() or [{"status": "queued"}])[-1]
    return "pruned" if is_pruned(last["status"], last.get("reason")) else str(last["status"])


def wait_until_ended(runs_dir: Path, name: str, timeout: float) -> str | None:
    """Wait for a run to end and return its status, or None after `timeout` seconds.

    A run whose trainer died is marked as ended.
    """
    run, deadline = RunDirectory.find(runs_dir, name), time.monotonic() + timeout
    while (status := run.status()) not in ENDED_STATUSES:
        if time.monotonic() > deadline:
            return None
        if not run.is_alive():
            run.mark_ended("the trainer died", from_statuses=("running",))
        time.sleep(0.1)
    return status


def delete(runs_dir: Path, name: str) -> None:
    """Delete a run with its weights, events and answers. Raises UserError if it is being trained."""
    RunDirectory.find(runs_dir, name).delete()


def generate(
    runs_dir: Path,
    models: Sequence[str],
    instruction: str,
    input: str = "",
    raw: bool = False,
    **sampling: Any,
) -> "Iterator[StreamedAnswer]":
    """Yield the complete answer from each run or base model (`base:NAME`). Only one model is in memory at a time.

    Args:
        raw: use the instruction as the prompt, without the template.
        sampling: see `core.nn.generation.Sampling`.
    """
    from core.inference import Answerer
    from core.nn.generation import Sampling

    answerer, settings = Answerer(runs_dir, max_models=1), Sampling(**sampling)
    for model in models:
        *_, answer = answerer.answer(model, instruction, input, settings, raw)
        yield answer


def sweep(
    runs_dir: Path,
    name: str,
    planned: Sweep,
    question: str = "",
    reused: Mapping[str, str] | None = None,
) -> list[str]:
    """Create the missing runs of a new or existing study, and return the names of all its runs.

    Deleted and damaged runs are left out. Raises UserError if the sweep is invalid, the disk is too small for the runs, or
    a study with this name has a different sweep.

    Args:
        reused: finished runs that replace planned runs of a new study; see `reuse.check`.
    """
    with study.locked(runs_dir):
        if (file_name := study.file_name(name)) in study.study_names(runs_dir):
            existing = study.find(runs_dir, file_name)
            study.check_repeated(existing, planned)
        else:
            combinations = planned.combinations()
            reuse.check(runs_dir, planned, file_name, reused or {})
            is_search = planned.mode == "search"
            count = planned.max_combinations if is_search else len(combinations)
            _check_disk(runs_dir, planned, combinations, count * len(planned.seeds))
            existing = study.plan(runs_dir, name, planned, question)
            if reused:
                existing = reuse.with_reused(runs_dir, existing, reused)
        study.create_runs(runs_dir, existing)
        return [run.name for run in _existing_members(runs_dir, existing)]


def _check_disk(
    runs_dir: Path, planned: Sweep, combinations: Sequence[Mapping[str, Any]], runs: int
) -> None:
    """Raise UserError if the disk is too small for this number of new runs."""
    from core.planning import preflight  # imports PyTorch, which takes seconds

    configs = [planned.base.changed(**values) for values in combinations]
    preflight.check_disk(configs, runs, runs_dir)


def extend_search(runs_dir: Path, name: str) -> list[str]:
    """Create the next runs of a search if all of its runs have ended, and return their names.

    Returns an empty list if the search has ended or is paused, and for any other study. Raises UserError.
    """
    found = study.find(runs_dir, study.file_name(name))
    if found.sweep.mode != "search" or found.is_paused:
        return []
    with contextlib.closing(read_index(runs_dir)) as index:
        created = adaptive.extend_search(
            runs_dir, found, lambda query, *args: query(index.cursor(), *args)
        )
        return created or []


def studies(runs_dir: Path, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per study: name, runs, finished, failed, queued, pruned, deleted, mode, max_runs, seeds, axes,
    is_paused, question.

    A study whose file is damaged has only a name and an `error`.

    Args:
        frame: `queries.results`.
    """
    rows: list[dict[str, Any]] = []
    for name in study.study_names(runs_dir):
        try:
            found = study.find(runs_dir, name)
        except UserError as error:
            rows.append({"name": name, "error": str(error)})
            continue
        names = [member.name for member in found.members]
        runs = frame[frame["name"].isin(names) & (frame["study"] == name)]
        statuses = runs["status"]
        rows.append({
            "name": name,
            "runs": len(names),
            **{status: int((statuses == status).sum()) for status in ("finished", "failed", "queued")},
            "pruned": sum(map(is_pruned, statuses, runs["reason"])),
            "deleted": len(names) - len(statuses) if found.is_complete else 0,
            "mode": found.sweep.mode,
            "max_runs": found.sweep.max_runs,
            "seeds": len(found.sweep.seeds),
            "axes": {axis.name: [*axis.values] for axis in found.sweep.axes},
            "is_paused": found.is_paused,
            "question": found.question,
        })  # fmt: skip
    return rows


def extend_study(
    runs_dir: Path,
    name: str,
    seeds: int = 0,
    axis: str = "",
    values: Sequence[Any] = (),
    runs: int = 0,
) -> list[str]:
    """Add seeds or values to a study, or runs to a search; create the runs and return their names. Raises UserError."""
    with study.locked(runs_dir):
        found = study.find(runs_dir, name)
        taken = study.taken_names(runs_dir)
        extended = study.extended(found, seeds, axis, values, runs, taken)
        added = len(extended.members) - len(found.members) + runs
        _check_disk(runs_dir, extended.sweep, extended.combinations, added)
        if found.is_complete:
            extended = replace(extended, deleted=study.missing(runs_dir, found))
        study.write(runs_dir, extended)
        return study.create_runs(runs_dir, extended)


def pause_study(runs_dir: Path, name: str) -> list[str]:
    """Withdraw the queued runs of a study, and return their names. The current run continues.

    A paused search does not create more runs. Raises UserError.
    """
    with study.locked(runs_dir):
        found = study.find(runs_dir, name)
        members = _existing_members(runs_dir, found)
        queued = [run.name for run in members if run.status() == "queued"]
        # First, so that `continue_study` finds the withdrawn runs if the program is killed in between.
        study.write(runs_dir, replace(found, paused=(*found.paused, *queued), is_paused=True))
        for run_name in queued:
            stop(runs_dir, run_name)
    return queued


def continue_study(runs_dir: Path, name: str) -> list[str]:
    """Mark the runs withdrawn by `pause_study` as queued, and return their names. Raises UserError."""
    with study.locked(runs_dir):
        found = study.find(runs_dir, name)
        paused = [r for r in _existing_members(runs_dir, found) if r.name in found.paused]
        requeued = [run.name for run in paused if run.status() == "stopped"]
        for run_name in requeued:
            requeue(runs_dir, run_name)
        study.write(runs_dir, replace(found, paused=(), is_paused=False))
    return requeued


def edit_study(runs_dir: Path, name: str, **texts: Any) -> None:
    """Change a study's `question`, `notes` or `summary`. Raises UserError."""
    assert texts.keys() <= {"question", "notes", "summary"}
    with study.locked(runs_dir):
        study.write(runs_dir, replace(study.find(runs_dir, name), **texts))


def _existing_members(runs_dir: Path, found: Study) -> list[RunDirectory]:
    """Return the runs of a study that exist and are not damaged.

    A run that reuses the name of a deleted member is not one of them.
    """
    existing = []
    for member in found.members:
        run = RunDirectory(runs_dir / member.name)
        with contextlib.suppress(UserError):
            if run.config_path.exists() and run.config().study == found.name:
                existing.append(run)
    return existing


def effects(
    runs_dir: Path, metric: str, study_name: str | None = None, margin: float | None = None
) -> pd.DataFrame:
    """Return the effects in a study, or in all runs; see `core.studies.effects`. Raises UserError."""
    from core.studies.analysis import study_effects  # imports SciPy

    found = study.find(runs_dir, study_name) if study_name else None
    with contextlib.closing(read_index(runs_dir)) as index:
        return study_effects(
            lambda query, *args: query(index.cursor(), *args), metric, found, margin
        )


@contextlib.contextmanager
def open_scoring(runs_dir: Path, runs: Sequence[str]) -> "Iterator[Scoring]":
    """Open a Scoring for some runs, and release the index on exit. Raises UserError if a run does not exist."""
    from core.judging.scoring import Scoring

    for name in runs:
        RunDirectory.find(runs_dir, name)
    with contextlib.closing(read_index(runs_dir, runs)) as index:
        yield Scoring(runs_dir, lambda query, *args: query(index.cursor(), *args))
