"""Search: propose the next combination of a study from the results so far, with Optuna's TPE (Bergstra et al. 2011).

A pure function of the results. Nothing is stored: each proposal replays all results into a new Optuna study in memory,
so that the same results always lead to the same proposal.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.studies.sweep import STARTUP_COMBINATIONS, Axis, Sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MAX_PROPOSALS = 50
"""Number of proposals to try before an untried combination is chosen at random."""


@dataclass(frozen=True)
class Result:
    """The result of a combination.

    Args:
        values: the varied settings.
        loss: the mean over seeds of the value to minimize; None if there is no result because runs were pruned, stopped
            or deleted.
        pruned: share of the planned steps at which runs were pruned, in percent, and the value there; None if none was.
    """

    values: Mapping[str, Any]
    loss: float | None
    pruned: tuple[int, float] | None = None


def next_combination(sweep: Sweep, results: Sequence[Result]) -> dict[str, Any] | None:
    """Return the combination to try next, or None if all have been tried or the maximum number has been reached.

    Args:
        results: all combinations tried so far, in order.
    """
    if len(results) >= sweep.max_combinations:
        return None
    tried = {sweep.effective(result.values) for result in results}
    untried = {
        key: values
        for values in sweep.search_space()
        if (key := sweep.effective(values)) not in tried
    }
    if not untried:
        return None
    for values in _proposals(sweep, results):
        if found := untried.get(sweep.effective(values)):
            return found
    return random.Random(sweep.base.seed + len(results)).choice([*untried.values()])


def _proposals(sweep: Sweep, results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield proposals. They may repeat combinations that have been tried."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    values = {axis.name: _ordered(axis) for axis in sweep.axes}
    distributions = {axis.name: _distribution(axis) for axis in sweep.axes}
    sampler = optuna.samplers.TPESampler(
        seed=sweep.base.seed + len(results), n_startup_trials=STARTUP_COMBINATIONS
    )
    study = optuna.create_study(sampler=sampler)
    for result in results:
        if not all(result.values.get(axis.fields[0]) in axis.values for axis in sweep.axes):
            continue  # the study file was edited
        params = {
            axis.name: values[axis.name].index(result.values[axis.fields[0]]) for axis in sweep.axes
        }
        if result.pruned:
            share, loss = result.pruned
            trial = create_trial(
                state=TrialState.PRUNED,
                params=params,
                distributions=distributions,
                intermediate_values={share: loss},
            )
        elif result.loss is None:
            continue
        else:
            trial = create_trial(value=result.loss, params=params, distributions=distributions)
        study.add_trial(trial)
    for _ in range(MAX_PROPOSALS):
        # A trial without a result makes the next one likely to differ.
        params = study.ask(distributions).params
        yield {
            field: values[axis.name][params[axis.name]]
            for axis in sweep.axes
            for field in axis.fields
        }


def _is_numeric(axis: Axis) -> bool:
    return all(type(value) in (int, float) for value in axis.values)


def _ordered(axis: Axis) -> list[Any]:
    """Return the values of an axis, with numbers sorted by size."""
    return sorted(axis.values) if _is_numeric(axis) else [*axis.values]


def _distribution(axis: Axis) -> "BaseDistribution":
    """Return a distribution over the positions of the values. It is ordered if the values are numbers."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if _is_numeric(axis):
        return IntDistribution(0, len(axis.values) - 1)
    return CategoricalDistribution(range(len(axis.values)))
