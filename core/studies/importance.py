"""Importance: how much each varied setting decides whether a run is among the best of its study (PED-ANOVA).

PED-ANOVA (Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces")
compares the values of a setting among the best runs with its values among all runs. It looks at one setting at a time,
so it misses a setting that matters only in combination with another. DataFrames in, DataFrames out.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, create_trial

from core.errors import UserError
from core.statistics.comparisons import CONFIDENCE_LEVEL, Direction
from core.studies.spacing import is_log_spaced
from core.studies.sweep import Axes

TOP_SHARE = 1 / 3
"""Fraction of the runs that count as the best."""
MIN_RUNS = 15
"""Optuna recommends at least 5 of the best runs."""
MAX_CATEGORIES = 10
"""A number with more values is treated as continuous."""
RESAMPLES = 200
COLUMNS = ("field", "importance", "low", "high", "n", "above_chance")


def importance(runs: pd.DataFrame, axes: Axes, direction: Direction) -> pd.DataFrame:
    """Return the importance of each varied setting, the most important first.

    Columns: field, importance, low, high, n, above_chance. The importances sum to 1. `low` and `high` bound the 95%
    interval from a bootstrap, and `n` is the number of runs. `above_chance` says whether the unscaled importance exceeds
    the largest importance of any setting in 95% of random permutations of the metric. Both keep the runs of a
    combination together, because its seeds are not independent results for its settings: with three seeds, permuting
    single runs made 20% of the irrelevant settings of a random sweep stand out.

    Args:
        runs: settings, `value` (the metric) and `diverged`. Diverged runs count as the worst.
        axes: settings that vary. Those that vary together are in one tuple.
        direction: which values of the metric are better.

    Raises:
        UserError: there are too few runs or varied settings.
    """
    runs = runs[runs["value"].notna() | runs["diverged"]]
    varied = [fields for fields in axes if runs[fields[0]].nunique(dropna=False) > 1]
    if len(runs) < MIN_RUNS:
        raise UserError(
            f"Importance needs at least {MIN_RUNS} finished or diverged runs with this metric. There are {len(runs)}."
        )
    if len(varied) < 2:
        raise UserError("Importance compares settings, but only one varies between these runs.")
    trials = _trials(runs, varied, _costs(runs, direction))
    names = ["=".join(fields) for fields in varied]
    numbers = runs.groupby([fields[0] for fields in varied], dropna=False).ngroup().to_numpy()
    combinations = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    rng = np.random.default_rng(0)  # the same runs give the same intervals
    observed = _divergences(trials, names)
    resampled = np.array(
        [
            _shares(_divergences([trials[i] for j in chosen for i in combinations[j]], names))
            for chosen in rng.integers(0, len(combinations), (RESAMPLES, len(combinations)))
        ]
    )  # fmt: skip
    tails = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(resampled, [tails, 1 - tails], axis=0)
    shares = _shares(observed)
    table = {
        "field": names,
        "importance": shares,
        # The bootstrap distribution may not contain the estimate if a setting is far more important than the others.
        "low": np.minimum(low, shares),
        "high": np.maximum(high, shares),
        "n": len(runs),
        "above_chance": observed > _chance(trials, combinations, names, rng),
    }
    return pd.DataFrame(table, columns=list(COLUMNS)).sort_values(
        "importance", ascending=False, kind="stable", ignore_index=True
    )


class _Trials:
    """The part of an `optuna.Study` that PedAnovaImportanceEvaluator 5.0 uses.

    Adding trials to a real study takes most of the time of an evaluation, and a bootstrap needs hundreds of them.
    """

    directions = (StudyDirection.MINIMIZE,)

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self._trials = trials

    def get_trials(self, deepcopy: bool, states: object) -> list[FrozenTrial]:
        return self._trials

    def _is_multi_objective(self) -> bool:
        return False


def _costs(runs: pd.DataFrame, direction: Direction) -> NDArray:
    """Return the metric as a cost to minimize. Diverged runs cost more than all others."""
    values = runs["value"].to_numpy(float)
    costs = values if direction == "lower" else -values
    diverged = runs["diverged"].to_numpy(bool)
    costs = np.where(diverged, np.nan, costs)
    worst = np.nanmax(costs) if not diverged.all() else 0.0
    return np.where(diverged, worst + 1, costs)


def _trials(
    runs: pd.DataFrame, varied: Sequence[tuple[str, ...]], costs: NDArray
) -> list[FrozenTrial]:
    params: list[dict[str, Any]] = [{} for _ in costs]
    distributions: list[dict[str, BaseDistribution]] = [{} for _ in costs]
    for fields in varied:
        values = [None if pd.isna(value) else value for value in runs[fields[0]]]
        distribution, own = _distribution(values)
        for i, value in enumerate(own):
            if value is not None:
                params[i]["=".join(fields)] = value
                distributions[i]["=".join(fields)] = distribution
    trials = []
    for i, cost in enumerate(costs):
        trial = create_trial(params=params[i], distributions=distributions[i], value=float(cost))
        trial._trial_id = i  # has no public setter in Optuna 5.0
        trials.append(trial)
    return trials


def _distribution(values: list[Any]) -> tuple[BaseDistribution, list[Any]]:
    """Return the distribution of a setting, and its values as the distribution expects them. None means no effect."""
    distinct = sorted({value for value in values if value is not None}, key=str)
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
    if is_number and len(distinct) > MAX_CATEGORIES:
        range = FloatDistribution(min(distinct), max(distinct), log=is_log_spaced(distinct))
        return range, [None if value is None else float(value) for value in values]
    codes = {value: code for code, value in enumerate(distinct)}
    return CategoricalDistribution([*codes.values()]), [codes.get(value) for value in values]


def _divergences(trials: list[FrozenTrial], names: Sequence[str]) -> NDArray:
    """Return the divergence between the best runs and all runs, for each setting."""
    with warnings.catch_warnings():
        # Optuna warns that the evaluator is experimental and, with ties, that all runs are equally good.
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE)
        found = evaluator.evaluate(cast(Study, _Trials(trials)))
    return np.array([found.get(name, 0.0) for name in names])


def _shares(divergences: NDArray) -> NDArray:
    total = float(divergences.sum())
    return divergences / total if total > 0 else np.full(len(divergences), 1 / len(divergences))


def _chance(
    trials: list[FrozenTrial],
    combinations: Sequence[NDArray],
    names: Sequence[str],
    rng: np.random.Generator,
) -> float:
    """Return the 95th percentile of the largest divergence if the metric does not depend on any setting."""
    costs = np.array([cast(float, trial.value) for trial in trials])
    largest = []
    for _ in range(RESAMPLES):
        order = rng.permutation(len(combinations))
        for own, other in zip(combinations, order, strict=True):
            # Combinations can have different numbers of runs.
            for i, cost in zip(own, np.resize(costs[combinations[other]], len(own)), strict=True):
                trials[i].value = float(cost)
        largest.append(_divergences(trials, names).max())
    rank = math.ceil(CONFIDENCE_LEVEL * (RESAMPLES + 1)) - 1
    return float(np.sort(largest)[rank])
