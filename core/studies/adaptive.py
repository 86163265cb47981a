"""Studies that react to results: searches that propose new runs, and pruning.

Reads the index and the run directories, and writes only study files, new runs and stop requests. It is called
repeatedly: by the Lab after each sync, and by the command `sweep` between and during runs.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.errors import UserError
from core.run.directory import ENDED_STATUSES
from core.studies import study as studies
from core.studies.pruning import Pruner, is_pruned
from core.studies.search import Result, next_combination
from core.studies.study import Study
from core.tracking import queries

if TYPE_CHECKING:
    from core.studies.analysis import Read


class AdaptiveStudies:
    """Prunes runs and extends searches. Caches what it reads, because it is called every second.

    Args:
        runs_dir: the folder with the run directories.
    """

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._pruner = Pruner(runs_dir)
        self._studies: dict[str, tuple[object, Study | None]] = {}
        self._exhausted: dict[str, Study] = {}

    def prune(self, running: Sequence[str]) -> None:
        """Ask running members of studies to stop if they are worse than most others."""
        for found in self._current() if running else []:
            if found.sweep.prune:
                for name in {member.name for member in found.members} & {*running}:
                    self._pruner.check(found, name)

    def extend_searches(self, read: "Read") -> list[str]:
        """Create the next runs of each search whose runs have ended. Returns the names of runs to queue.

        A search that fails, for example because the disk is full, does not stop the others. It is retried with the next
        call.
        """
        created = []
        for found in self._current():
            if found.sweep.mode == "search" and not found.is_paused:
                with contextlib.suppress(UserError):
                    created += self._extend(found, read)
        return created

    def _extend(self, found: Study, read: "Read") -> list[str]:
        if self._exhausted.get(found.name) is found:
            return []
        names = {member.name for member in found.members}
        active = {
            name
            for status in ("queued", "running")
            for name in read(queries.runs_with_status, status)
        }
        if names & active and found.is_complete:
            return []
        created = extend_search(self._runs_dir, found, read)
        if created is None:
            self._exhausted[found.name] = found
        if created and not found.is_complete:
            # An earlier call created some of the runs before it failed. They are not in the queue.
            return [member.name for member in found.members]
        return created or []

    def _current(self) -> list[Study]:
        """Return all readable studies. Rereads only files that have changed."""
        current = {}
        for name in studies.study_names(self._runs_dir):
            stamp = studies.stamp(self._runs_dir, name)
            if self._studies.get(name, (None,))[0] != stamp:
                try:
                    self._studies[name] = stamp, studies.find(self._runs_dir, name)
                except UserError:
                    self._studies[name] = stamp, None
            current[name] = self._studies[name]
        self._studies = current
        return [found for _, found in current.values() if found]


def extend_search(runs_dir: Path, found: Study, read: "Read") -> list[str] | None:
    """Create the runs of the next combination of a search, and return their names.

    Returns an empty list if some runs have not ended, the index does not contain them yet, or another process has
    changed the study; None if the search has ended. Raises UserError if the runs cannot be created.
    """
    from core.studies.analysis import runs_with_base_loss  # imports SciPy

    runs = runs_with_base_loss(read)
    with studies.locked(runs_dir):
        if studies.find(runs_dir, found.name) != found:
            return []
        if not found.is_complete:
            return studies.create_runs(runs_dir, found)
        names = [member.name for member in found.members]
        deleted = [name for name in names if not (runs_dir / name / "config.json").exists()]
        results = search_results(found, runs, deleted)
        if results is None:
            return []
        combination = next_combination(found.sweep, results)
        if combination is None:
            return None
        extended = studies.with_combinations(found, [combination], studies.taken_names(runs_dir))
        extended = replace(extended, deleted=studies.missing(runs_dir, found))
        studies.write(runs_dir, extended)
        return studies.create_runs(runs_dir, extended)


def search_results(found: Study, runs: pd.DataFrame, deleted: Sequence[str]) -> list[Result] | None:
    """Return the result of each combination of a search, or None if some runs have not ended.

    Args:
        runs: all runs; see `runs_with_base_loss`.
        deleted: members that were deleted. All other members must be among the runs.
    """
    from core.studies.effects import has_diverged  # imports SciPy

    everything = {*runs["name"]}
    runs = runs[runs["study"] == found.name].set_index("name", drop=False)
    by_combination: dict[tuple[Any, ...], list[Outcome]] = {}
    diverged = has_diverged(runs)
    for member in found.members:
        outcomes = by_combination.setdefault(studies.key(member.values), [])
        if member.name in runs.index:
            run = runs.loc[member.name]
            if run["status"] not in ENDED_STATUSES:
                return None
            is_lost = run["status"] == "failed" or bool(diverged[member.name])
            outcomes.append(_outcome(run.to_dict(), found.sweep.metric, is_lost))
        elif member.name not in everything and member.name not in deleted:
            return None  # not indexed yet
    losses = [
        o.loss for outcomes in by_combination.values() for o in outcomes if o.loss is not None
    ]
    worst = max((loss for loss in losses if math.isfinite(loss)), default=0.0)
    return [
        _combined(values, outcomes, worst)
        for values, outcomes in zip(found.combinations, by_combination.values(), strict=True)
    ]


@dataclass(frozen=True)
class Outcome:
    """The result of a run in a search.

    Args:
        loss: the value to minimize; inf if the run diverged or failed, None without a result.
        pruned: share of the planned steps at which the run was pruned, in percent, and the logarithm of its loss.
    """

    loss: float | None = None
    pruned: tuple[int, float] | None = None


def _outcome(run: Mapping[Any, Any], metric: str, is_lost: bool) -> Outcome:
    if is_lost:
        return Outcome(math.inf)
    if is_pruned(run["status"], run["reason"]) and run["subset_loss"] > 0 and run["steps"] > 0:
        share = int(100 * run["step"] / run["steps"])
        return Outcome(pruned=(share, math.log(run["subset_loss"])))
    value = run[metric]
    if run["status"] != "finished" or pd.isna(value) or value < 0:
        return Outcome()
    if metric == "exact":
        return Outcome(1 - float(value))
    return Outcome(math.log(value) if value > 0 else None)


def _combined(values: Mapping[str, Any], outcomes: Sequence[Outcome], worst: float) -> Result:
    """Return the result of a combination: the mean over its seeds, with the worst loss for runs that were lost."""
    pruned = [outcome.pruned for outcome in outcomes if outcome.pruned]
    if pruned:
        shares, logs = zip(*pruned, strict=True)
        return Result(values, None, (max(shares), sum(logs) / len(logs)))
    losses = [outcome.loss for outcome in outcomes if outcome.loss is not None]
    known = [loss if math.isfinite(loss) else worst for loss in losses]
    return Result(values, sum(known) / len(known) if known else None)
