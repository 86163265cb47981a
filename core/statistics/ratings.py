"""Strengths of several runs from who beats whom: the Bradley-Terry model on the scale of Elo ratings.

Knows runs as the numbers 0 to k - 1. Does not know how a winner was found, nor whether one pair was ever
compared: runs that met no common opponent are rated together only by the regularisation.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.statistics.intervals import BOOTSTRAP_SEED, CONFIDENCE_LEVEL, resampled, tail

ELO_PER_LOG_UNIT = 400 / math.log(10)
"""Points of rating to a unit of log strength: 400 points more means ten wins to a defeat."""
REGULARIZATION = 0.05
"""Regularisation: every pair counts as if each run of it had won about a tenth of a game more."""
RATING_RESAMPLES = 1000
MAX_ITERATIONS = 10_000
"""Most that a fit may take; some tens are usual, more only where a run is all but undefeated."""


@dataclass(frozen=True)
class Rating:
    """The strength of a run, 0 for the mean of all.

    Low and high are nan with fewer than two items, and of a run that never lost or never won: no resample of its
    items would have it do so either.
    """

    rating: float
    low: float
    high: float


def ratings(wins: ArrayLike, alpha: float = REGULARIZATION) -> NDArray:
    """Bradley-Terry strengths with mean 0, in Elo points, (k,).

    Iterative Luce spectral ranking (Maystre & Grossglauser 2015, "Fast and Accurate Inference of
    Plackett-Luce Models"), which ends at the maximum of the likelihood where `alpha` is 0.

    Args:
        wins: (k, k), how often the run of the row beat that of the column; a tie is half a win for each.
        alpha: above 0 it keeps the rating of an undefeated run finite.

    Raises:
        ValueError: `alpha` is 0 and some run never lost, or never won, against any of the others.
    """
    return _fit(np.asarray(wins, dtype=float), alpha, None) * ELO_PER_LOG_UNIT


def rating_intervals(
    outcomes: Iterable[tuple[Hashable, int, int, float]],
    runs: int,
    level: float = CONFIDENCE_LEVEL,
    resamples: int = RATING_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[Rating]:
    """The rating of each run with a bootstrap interval over the items, all comparisons of an item together.

    Args:
        outcomes: (item, i, j, points of run i over run j from 0 to 100); a pair may meet more than once.
        runs: how many there are, which are numbered from 0.
        level: of the intervals.
        resamples: of the items.
        seed: of the resamples.
    """
    games = _games(outcomes, runs)
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
    edge = tail(n, level)
    is_bounded = (total.sum(axis=0) > 0) & (total.sum(axis=1) > 0)
    lows, highs = np.where(is_bounded, np.quantile(boot, [edge, 1 - edge], axis=0), math.nan)
    return [
        Rating(
            float(value) * ELO_PER_LOG_UNIT,
            float(low) * ELO_PER_LOG_UNIT,
            float(high) * ELO_PER_LOG_UNIT,
        )
        for value, low, high in zip(strengths, lows, highs, strict=True)
    ]


def _games(outcomes: Iterable[tuple[Hashable, int, int, float]], runs: int) -> NDArray:
    """Wins of each run over each other by item, (items, k, k)."""
    item_indices: dict[Hashable, int] = {}
    rows = [
        (item_indices.setdefault(item, len(item_indices)), i, j, score)
        for item, i, j, score in outcomes
    ]
    games = np.zeros((len(item_indices), runs, runs))
    for item_index, i, j, score in rows:
        games[item_index, i, j] += score / 100
        games[item_index, j, i] += 1 - score / 100
    return games


def _fit(wins: NDArray, alpha: float, start: NDArray | None) -> NDArray:
    """Log strengths with mean 0, from a start near to them where one is known."""
    if len(wins) < 2:
        return np.zeros(len(wins))
    if alpha == 0 and not _linked(wins):
        raise ValueError(
            "Some runs never lost to, or never beat, the others: they cannot be rated."
        )
    import choix  # with scipy.stats, a third of a second that only this needs

    return choix.ilsr_pairwise_dense(wins, alpha, start, MAX_ITERATIONS)


def _linked(wins: NDArray) -> bool:
    """Whether a chain of wins leads from every run to every other, without which no maximum is finite."""
    k = len(wins)
    steps = np.linalg.matrix_power((wins > 0) + np.eye(k, dtype=bool), k)
    return bool(steps.all())
