"""Bradley-Terry ratings from pairwise comparisons, on the Elo scale.

Runs are numbered from 0 to k - 1. This module does not depend on how winners are determined. It also does not check
that comparisons connect all runs; if they do not, only the regularization relates their ratings.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.statistics.intervals import BOOTSTRAP_SEED, CONFIDENCE_LEVEL, resampled, tail

ELO_PER_LOG_UNIT = 400 / math.log(10)
"""Elo points per unit of log strength. A lead of 400 points means odds of ten to one."""
REGULARIZATION = 0.05
"""Adds about a tenth of a win to each run in every pair."""
RATING_RESAMPLES = 1000
MAX_ITERATIONS = 10_000
"""Upper bound for a fit. Most fits take a few dozen iterations, but more if a run almost never loses."""


@dataclass(frozen=True)
class Rating:
    """The rating of a run in Elo points, relative to the mean of all runs.

    The bounds are nan if there are fewer than two items. They are also nan for a run that never lost or never won,
    because the same is then true in every resample.
    """

    rating: float
    low: float
    high: float


def ratings(wins: ArrayLike, alpha: float = REGULARIZATION) -> NDArray:
    """Return Bradley-Terry ratings with mean 0, in Elo points, (k,).

    Uses iterative Luce spectral ranking (Maystre & Grossglauser 2015, "Fast and Accurate Inference of Plackett-Luce
    Models"). With `alpha` 0, this is the maximum likelihood estimate.

    Args:
        wins: how often the run in each row beat the run in each column, (k, k); a tie is half a win for each.
        alpha: regularization; a positive value keeps the rating of an undefeated run finite.

    Raises:
        ValueError: `alpha` is 0 and a group of runs never lost to, or never beat, the others.
    """
    return _fit(np.asarray(wins, dtype=float), alpha, None) * ELO_PER_LOG_UNIT


def rating_intervals(
    outcomes: Iterable[tuple[Hashable, int, int, float]],
    runs: int,
    level: float = CONFIDENCE_LEVEL,
    resamples: int = RATING_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[Rating]:
    """Return the rating of each run with a bootstrap interval. Items are resampled with all their comparisons.

    Args:
        outcomes: (item, i, j, points), where run i scored points (0 to 100) against run j. A pair may occur more than
            once per item.
        runs: number of runs.
        level: confidence level.
        resamples: number of bootstrap resamples.
        seed: random seed for resampling.
    """
    games = _wins_by_item(outcomes, runs)
    total = games.sum(axis=0)
    strengths = _fit(total, REGULARIZATION, None)
    n = len(games)
    if n < 2:
        return [Rating(float(value) * ELO_PER_LOG_UNIT, math.nan, math.nan) for value in strengths]
    totals = np.tensordot(
        resampled(n, resamples, seed).astype(float), games, 1
    )  # (resamples, k, k)
    boot = np.array(
        [_fit(resample, REGULARIZATION, strengths) for resample in totals]
    )  # (resamples, k)
    quantile = tail(n, level)
    is_bounded = (total.sum(axis=0) > 0) & (total.sum(axis=1) > 0)
    quantiles = np.quantile(boot, [quantile, 1 - quantile], axis=0)
    lows, highs = np.where(is_bounded, quantiles, math.nan)
    return [
        Rating(
            float(value) * ELO_PER_LOG_UNIT,
            float(low) * ELO_PER_LOG_UNIT,
            float(high) * ELO_PER_LOG_UNIT,
        )
        for value, low, high in zip(strengths, lows, highs, strict=True)
    ]


def _wins_by_item(outcomes: Iterable[tuple[Hashable, int, int, float]], runs: int) -> NDArray:
    """Return how often each run beat each other run, by item, (items, k, k)."""
    item_indices: dict[Hashable, int] = {}
    rows = [
        (item_indices.setdefault(item, len(item_indices)), i, j, score)
        for item, i, j, score in outcomes
    ]
    wins = np.zeros((len(item_indices), runs, runs))
    for item_index, i, j, score in rows:
        wins[item_index, i, j] += score / 100
        wins[item_index, j, i] += 1 - score / 100
    return wins


def _fit(wins: NDArray, alpha: float, start: NDArray | None) -> NDArray:
    """Return log strengths with mean 0, (k,). `start` is an initial estimate, if available."""
    if len(wins) < 2:
        return np.zeros(len(wins))
    if alpha == 0 and not _is_strongly_connected(wins):
        raise ValueError("Runs that never lost to, or never beat, the others cannot be rated.")
    import choix  # imports scipy.stats, which takes a third of a second

    return choix.ilsr_pairwise_dense(wins, alpha, start, MAX_ITERATIONS)


def _is_strongly_connected(wins: NDArray) -> bool:
    """Whether a chain of wins leads from every run to every other. Otherwise, the likelihood has no finite maximum."""
    k = len(wins)
    reachable = np.linalg.matrix_power((wins > 0) + np.eye(k, dtype=bool), k)
    return bool(reachable.all())
