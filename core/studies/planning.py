"""Plan a study before launching it: its runs, steps, time, disk space and problems. Writes nothing.

Settings that cost the same are checked once, because most studies vary settings such as the learning rate.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from core import allowed_paths
from core.config import RunConfig, is_relevant
from core.errors import ConfigError, Problem, UserError
from core.planning import preflight
from core.planning.preflight import Plan
from core.run.uploads import uploads_path
from core.studies import study
from core.studies.reuse import identical_runs
from core.studies.sweep import Sweep, products

FREE_SETTINGS = frozenset({
    *("lr", "schedule", "min_lr", "decay_fraction", "warmup_fraction", "warmup_start"),
    *("beta1", "beta2", "epsilon", "weight_decay", "decay_scope", "grad_clip", "nonfinite"),
    *("lora_alpha", "lora_scaling", "lora_plus_ratio", "lora_dropout", "dropout", "seed"),
    "sample_prompt",
})  # fmt: skip
"""Settings that change neither the estimates nor the problems of `preflight.check`."""
MAX_CHECKED = 2000
"""Maximum number of combinations that are checked for contradictions."""
LISTED_REASONS = 3
"""Number of reasons named in a message about invalid combinations."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a planned study. Figures that cannot be computed are None.

    Args:
        seconds: estimated time of the training steps and evaluations.
        disk_mb: disk space used after the run has finished, in MiB.
        is_reused: whether a finished run with the same settings takes its place, so that it need not be trained.
    """

    name: str
    values: Mapping[str, Any]
    seed: int
    steps: int | None
    seconds: float | None
    disk_mb: float | None
    is_reused: bool = False


@dataclass(frozen=True)
class InvalidCombination:
    """Values that cannot be trained together, and why."""

    values: Mapping[str, Any]
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        text = "; ".join(str(problem) for problem in self.problems)
        named = {name for p in self.problems for name in (p.field, p.conflicting_field)}
        return text if named & self.values.keys() else f"{values_text(self.values)}: {text}"


@dataclass(frozen=True)
class SweepPlan:
    """The outcome of planning a study. Figures that cannot be computed are None.

    Args:
        study: the name that the study would get.
        sweep: the sweep without the invalid combinations.
        problems: sentences that say why the study cannot be launched.
        setting_problems: problems with settings that every run shares.
        invalid: combinations that cannot be trained. The other runs are planned without them.
        reused: finished runs that take the place of planned ones, by the name of the planned run.
        later: number of runs of a search whose values depend on the results of the first ones.
        merged: number of combinations that differ from others only in settings without an effect.
        disk_mb: disk space that the study needs, in MiB.
        note: remarks that are not problems, such as a download.
    """

    study: str
    sweep: Sweep
    runs: tuple[PlannedRun, ...] = ()
    problems: tuple[str, ...] = ()
    setting_problems: tuple[Problem, ...] = ()
    invalid: tuple[InvalidCombination, ...] = ()
    reused: Mapping[str, str] = field(default_factory=dict)
    later: int = 0
    merged: int = 0
    disk_mb: float | None = None
    free_disk_mb: float | None = None
    note: str | None = None

    @property
    def trained(self) -> list[PlannedRun]:
        """The runs that have to be trained."""
        return [run for run in self.runs if not run.is_reused]

    @property
    def count(self) -> int:
        """Number of runs that have to be trained, including those of a search whose values are not known yet."""
        return len(self.trained) + self.later

    @property
    def steps(self) -> int | None:
        """Number of steps of all runs."""
        total = self._total([run.steps for run in self.trained])
        return None if total is None else round(total)

    @property
    def seconds(self) -> float | None:
        """Estimated time of all runs, which are trained one after the other."""
        return self._total([run.seconds for run in self.trained])

    def scaled_seconds(self, config: RunConfig, measured: float) -> float | None:
        """Return the time of all runs, given the measured time of one.

        Args:
            config: the settings of the measured run. If no run of the study has the same values, the result is None.
            measured: its time in seconds.
        """
        for run in self.runs:
            is_same = all(getattr(config, name) == value for name, value in run.values.items())
            if is_same and run.seconds and self.seconds is not None:
                return self.seconds * measured / run.seconds
        return None

    def _total(self, values: Sequence[float | None]) -> float | None:
        """Return the sum, using the mean for runs whose values are not known yet."""
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return sum(known) * self.count / max(1, len(known))

    @property
    def invalid_message(self) -> str | None:
        """A sentence that names the invalid combinations; None if there are none."""
        if not self.invalid:
            return None
        reasons = list(dict.fromkeys(str(combination) for combination in self.invalid))
        count, more = len(self.invalid), len(reasons) - LISTED_REASONS
        start = "1 combination is" if count == 1 else f"{count:,} combinations are"
        listed = "; ".join(reasons[:LISTED_REASONS]) + (f"; and {more} more" if more > 0 else "")
        return f"{start} invalid: {listed}"


def values_text(values: Mapping[str, Any]) -> str:
    """Return the values of a combination as text, such as `lr=5e-05, lora_rank=4`."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def plan_sweep(
    runs_dir: Path, sweep: Sweep, name: str = "", runs: pd.DataFrame | None = None
) -> SweepPlan:
    """Plan a study. Problems are listed in the plan rather than raised.

    Args:
        name: name of the study. If empty, an unused name made of the varied settings.
        runs: `queries.results`, to reuse finished runs that belong to no study. None trains all runs.
    """
    try:
        for seed in sweep.seeds:
            sweep.base.changed(seed=seed)
        invalid = _contradictions(sweep)
        sweep = _without(sweep, invalid)
        checks: dict[tuple[Any, ...], Plan] = {}
        combinations, plans = _planned(runs_dir, sweep, checks)
        if shared := _shared_problems(plans):
            return SweepPlan(name, sweep, (), (), tuple(shared), tuple(invalid))
        if any(plan.problems for plan in plans):
            refused = _refused(runs_dir, sweep, checks)
            invalid += refused
            sweep = _without(sweep, refused)  # a random subset is now another one
            combinations, plans = _planned(runs_dir, sweep, checks)
    except UserError as error:
        return SweepPlan(name, sweep, problems=(str(error),))
    problems = []
    try:
        study_name = study.new_name(runs_dir, name) if name else study.unused_name(runs_dir, sweep)
    except UserError as error:
        problems.append(str(error))
        study_name = study.file_name(name)
    members = [*sweep.members(study_name)]
    reused = {} if runs is None else identical_runs(runs_dir, sweep, members, runs)
    plans *= len(sweep.seeds)
    planned = tuple(
        PlannedRun(
            reused.get(member.name, member.name), member.values, member.seed, plan.steps,
            _seconds(plan), plan.disk_mb, member.name in reused,
        )
        for member, plan in zip(members, plans, strict=True)
    )  # fmt: skip
    trained = [p for run, p in zip(planned, plans, strict=True) if not run.is_reused]
    if not trained:
        problems.append("every run of this study exists already; use other values or more seeds")
    later = _later_runs(sweep, len(combinations))
    disk_mb, free_mb = _disk_mb(trained, later), plans[0].free_disk_mb
    if disk_mb is not None and free_mb is not None and disk_mb > free_mb:
        problems.append(_disk_problem(trained, later, disk_mb, free_mb, sweep.base))
    note = next((plan.note for plan in plans if plan.note), None)
    return SweepPlan(
        study_name, sweep, planned, tuple(problems), (), tuple(invalid), reused, later,
        _merged(sweep, len(combinations)), disk_mb, free_mb, note,
    )  # fmt: skip


def _contradictions(sweep: Sweep) -> list[InvalidCombination]:
    """Return the combinations whose settings contradict each other.

    Only the first MAX_CHECKED are checked. If others are invalid, the study cannot be launched.
    """
    invalid = []
    for values in itertools.islice(products(sweep.axes), MAX_CHECKED):
        try:
            sweep.base.changed(**values)
        except ConfigError as error:
            invalid.append(InvalidCombination(values, tuple(error.problems)))
    return invalid


def _without(sweep: Sweep, invalid: Sequence[InvalidCombination]) -> Sweep:
    excluded = [tuple(c.values[axis.fields[0]] for axis in sweep.axes) for c in invalid]
    return replace(sweep, excluded=(*sweep.excluded, *excluded))


def _planned(
    runs_dir: Path, sweep: Sweep, checks: dict[tuple[Any, ...], Plan]
) -> tuple[list[dict[str, Any]], list[Plan]]:
    """Return the combinations of a sweep and their plans. Raises UserError if there are none."""
    combinations = sweep.combinations()
    plans = [_checked(runs_dir, sweep.base.changed(**v), checks) for v in combinations]
    return combinations, plans


def _refused(
    runs_dir: Path, sweep: Sweep, checks: dict[tuple[Any, ...], Plan]
) -> list[InvalidCombination]:
    """Return all combinations with problems, including those that a random subset does not contain."""
    refused = []
    for values in products(sweep.axes, sweep.excluded):
        plan = _checked(runs_dir, sweep.base.changed(**values), checks)
        if plan.problems:
            refused.append(InvalidCombination(values, tuple(plan.problems)))
    return refused


def _check_key(config: RunConfig) -> tuple[Any, ...]:
    """Return the settings that matter for a check."""
    values = config.model_dump()
    return tuple(
        str(value) if name not in FREE_SETTINGS and is_relevant(name, values) else None
        for name, value in values.items()
    )


def _checked(runs_dir: Path, config: RunConfig, checks: dict[tuple[Any, ...], Plan]) -> Plan:
    """Check a run. `checks` caches the result by the settings that matter."""
    key = _check_key(config)
    if key not in checks:
        outside = allowed_paths.problems(config.model_dump(), uploads_path(runs_dir))
        checks[key] = Plan(outside) if outside else preflight.check(config, runs_dir)
    return checks[key]


def _shared_problems(plans: Sequence[Plan]) -> list[Problem]:
    """Return the problems that every run has."""
    first, *others = plans
    return [problem for problem in first.problems if all(problem in p.problems for p in others)]


def _seconds(plan: Plan) -> float | None:
    return None if plan.seconds is None else plan.seconds + (plan.evaluation_seconds or 0.0)


def _disk_mb(plans: Sequence[Plan], later: int = 0) -> float | None:
    """Return the peak disk space of runs that are trained one after the other, in MiB.

    Args:
        later: number of further runs. On average, they need as much as the given ones.
    """
    kept, peak = 0.0, 0.0
    for plan in plans:
        if plan.disk_mb is None or plan.disk_peak_mb is None:
            return None
        peak = max(peak, kept + plan.disk_peak_mb)
        kept += plan.disk_mb
    return peak + later * kept / max(1, len(plans))


def _disk_problem(
    plans: Sequence[Plan], later: int, needed: float, free: float, base: RunConfig
) -> str:
    fits = 0
    while fits < len(plans) and (_disk_mb(plans[: fits + 1]) or 0.0) <= free:
        fits += 1
    remedy = "delete files" + ("" if base.keep_weights == "none" else ", use keep_weights = none")
    return (
        f"runs = {len(plans) + later}: they need about {needed:,.0f} MB of disk space, but only {free:,.0f} MB is free, "
        f"enough for {fits}{' or more' if fits == len(plans) else ''}; {remedy} or use fewer values or seeds"
    )


def _later_runs(sweep: Sweep, combinations: int) -> int:
    """Return the number of runs of a search whose values depend on the results of the first ones."""
    if sweep.mode in ("grid", "random"):
        return 0
    possible = math.prod(len(axis.values) for axis in sweep.axes) - len(sweep.excluded)
    total = min((sweep.max_runs or 0) // len(sweep.seeds), possible)
    return max(0, total - combinations) * len(sweep.seeds)


def _merged(sweep: Sweep, combinations: int) -> int:
    """Return the number of combinations left out because they differ only in settings without an effect."""
    if sweep.mode != "grid":
        return 0
    count = math.prod(len(axis.values) for axis in sweep.axes)
    return count - len(sweep.excluded) - combinations
