"""Confidence intervals for means, paired differences and win rates, and variance components of scores.

Scores are arrays of points from 0 to 100. Missing scores are nan and are excluded; a pair is excluded if either score
is missing. This module does not depend on judges, runs or pages.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit  # type: ignore[import-untyped]

CONFIDENCE_LEVEL = 0.95
BOOTSTRAP_RESAMPLES = 2000
BOOTSTRAP_SEED = 20150810
POWER = 0.8
"""Power assumed by `Difference.needed`: the probability of detecting a true difference."""
MIN_PAIRED_ITEMS = 4
"""Minimum number of items for a difference to count as clear."""
ROUNDING_TOLERANCE = 1e-9
"""Smaller mean differences, in points, are rounding errors and count as 0."""


@dataclass(frozen=True)
class Interval:
    """The mean of n scores in points and its confidence interval.

    The bounds are nan if n is below 2, and the mean is nan if n is 0.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean difference between paired scores over n items, in points, with its confidence interval.

    Args:
        is_clear: whether the difference is significant; see `paired`.
        needed: number of items needed to detect a true difference of this size with a power of 80%; None if the
            difference is 0 or n is below 2.
    """

    mean: float
    low: float
    high: float
    n: int
    is_clear: bool
    needed: int | None

    def gap(self) -> str:
        """Return the difference with its interval as text."""
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"

    def sentence(self, name_a: str, name_b: str) -> str:
        """Return a sentence that says which of the two scores higher, if the difference is clear."""
        if self.n == 0:
            return f"{name_a} and {name_b} have no scored examples in common."
        examples = "1 example" if self.n == 1 else f"{self.n:,} examples"
        if self.is_clear:
            better, other = (name_a, name_b) if self.mean > 0 else (name_b, name_a)
            low, high = sorted((abs(self.low), abs(self.high)))
            gap = f"{abs(self.mean):.1f} ({low:.1f} to {high:.1f})"
            return f"{better} scores higher than {other} by {gap} on {examples}."
        if self.mean == 0:
            return f"{name_a} and {name_b} have the same mean score on {examples}."
        no_difference = f"No clear difference between {name_a} and {name_b} on {examples}."
        if self.needed is None or self.needed <= self.n:
            return no_difference
        return f"{no_difference} About {self.needed:,} would be needed."


@dataclass(frozen=True)
class Components:
    """Variance components of scores, in squared points.

    Args:
        items: variance between items.
        judge: variance within items, which is judge noise.
        repeats: mean number of scores per item.
        share: fraction of the variance of a mean over items that is due to judge noise, 0 to 1.
    """

    items: float
    judge: float
    repeats: float
    share: float


@dataclass(frozen=True)
class WinRate:
    """How often A beats B, in percent, over n items that were each judged in both orders.

    Args:
        flips: fraction of items, 0 to 1, whose winner changes with the order. A win in one order and a tie in the
            other count as half a flip.
    """

    rate: float
    low: float
    high: float
    n: int
    flips: float


def mean_intervals(
    scores: Mapping[str, ArrayLike],
    level: float = CONFIDENCE_LEVEL,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> dict[str, Interval]:
    """Return the mean of each array of scores with its bootstrap interval, by name.

    Uses the expanded percentile interval; see `tail`. If all scores are equal, the interval has zero width.

    Args:
        scores: one score per item, by name.
        level: confidence level.
        resamples: number of bootstrap resamples of the items.
        seed: random seed for resampling.
    """
    valid_scores = {name: aligned(values)[0] for name, values in scores.items()}
    names_by_size: dict[int, list[str]] = defaultdict(list)
    for name, values in valid_scores.items():
        names_by_size[len(values)].append(name)
    intervals: dict[str, Interval] = {}
    for names in names_by_size.values():
        # Sorted, so that the interval does not depend on the order of the scores.
        rows = np.stack([np.sort(valid_scores[name]) for name in names])
        intervals |= zip(names, _intervals(rows, level, resamples, seed), strict=True)
    return {name: intervals[name] for name in scores}


def within_scale(interval: Interval, level: float = CONFIDENCE_LEVEL) -> Interval:
    """Clip the interval for a mean score to the range from 0 to 100.

    If all scores are 0 or all are 100, the bootstrap interval has zero width. It is replaced by the exact binomial
    interval for zero observed events (Clopper & Pearson 1934), which is at most 1.6 points wide for n >= 236.
    """
    if interval.n < 2:
        return interval
    low, high = max(0.0, interval.low), min(100.0, interval.high)
    if low == high and low in (0.0, 100.0):
        width = 100 * (1 - ((1 - level) / 2) ** (1 / interval.n))
        low, high = (0.0, width) if high == 0 else (100 - width, 100.0)
    return Interval(interval.mean, low, high, interval.n)


def mean_interval(scores: ArrayLike, level: float = CONFIDENCE_LEVEL) -> Interval:
    """Return the mean of one array of scores with its bootstrap interval; see `mean_intervals`."""
    return mean_intervals({"": scores}, level)[""]


def paired(a: ArrayLike, b: ArrayLike, level: float = CONFIDENCE_LEVEL) -> Difference:
    """Return the mean of a - b over the same items in the same order, with its bootstrap interval.

    The difference is clear if both the bootstrap interval and Student's t interval exclude 0, and if there are at least
    MIN_PAIRED_ITEMS items. Raises ValueError if the lengths differ.
    """
    first, second = aligned(a, b)
    gaps = first - second
    interval = mean_interval(gaps, level)
    mean = 0.0 if abs(interval.mean) < ROUNDING_TOLERANCE else interval.mean
    deviation = float(gaps.std(ddof=1)) if interval.n > 1 else math.nan
    # With few items, the bootstrap interval alone excludes 0 too often.
    t_margin = (
        stdtrit(max(interval.n - 1, 1), (1 + level) / 2) * deviation / math.sqrt(max(interval.n, 1))
    )
    excludes_zero = (interval.low > 0 or interval.high < 0) and abs(mean) > t_margin
    is_clear = bool(interval.n >= MIN_PAIRED_ITEMS and mean != 0 and excludes_zero)
    needed = None if mean == 0 or interval.n < 2 else _needed_items(mean, deviation, level)
    return Difference(mean, interval.low, interval.high, interval.n, is_clear, needed)


def components(scores: Mapping[Hashable, ArrayLike]) -> Components | None:
    """Estimate the variance between items and the variance within items, from all scores of each item.

    Uses one-way random-effects ANOVA with unequal numbers of repeats (Searle, Casella & McCulloch 1992, "Variance
    Components", section 3.6). A negative estimate of the variance between items is set to 0. Returns None if
    no item was scored twice or there are fewer than two items.
    """
    groups = [
        values
        for values in (aligned(item_scores)[0] for item_scores in scores.values())
        if len(values)
    ]
    k, counts = len(groups), np.array([len(values) for values in groups])
    total = int(counts.sum())
    if k < 2 or total == k:
        return None
    means = np.array([values.mean() for values in groups])
    within = sum(float(((values - values.mean()) ** 2).sum()) for values in groups)
    judge = within / (total - k)
    between = float((counts * (means - np.average(means, weights=counts)) ** 2).sum()) / (k - 1)
    effective_repeats = (total - float((counts**2).sum()) / total) / (k - 1)
    items = max(0.0, (between - judge) / effective_repeats)
    repeats = total / k
    noise = judge / repeats
    return Components(items, judge, repeats, noise / (items + noise) if noise else 0.0)


def win_rate(forward: ArrayLike, backward: ArrayLike, level: float = CONFIDENCE_LEVEL) -> WinRate:
    """Return how often A beats B. The outcome of an item is the mean of both orders.

    Args:
        forward: A's points when A is shown first: 100 if A wins, 50 for a tie, 0 if B wins.
        backward: B's points when B is shown first, for the same items.
        level: confidence level of the interval; see `_agresti_coull_interval`.
    """
    first, second = aligned(forward, backward)
    second = 100 - second  # A's points
    interval = _agresti_coull_interval((first + second) / 2, level)
    item_flips = np.abs(np.sign(first - 50) - np.sign(second - 50)) / 2
    flips = float(item_flips.mean()) if interval.n else math.nan
    return WinRate(interval.mean, interval.low, interval.high, interval.n, flips)


@lru_cache(maxsize=16)
def resampled(n: int, resamples: int, seed: int = BOOTSTRAP_SEED) -> NDArray[np.uint16]:
    """Return how often each of n items occurs in each bootstrap resample, (resamples, n). Deterministic."""
    drawn = np.random.default_rng([seed, n]).integers(n, size=(resamples, n))
    drawn += n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n).astype(np.uint16)
    counts.setflags(write=False)
    return counts.reshape(resamples, n)


def tail(n: int, level: float = CONFIDENCE_LEVEL) -> float:
    """Return the lower quantile of the bootstrap distribution for a confidence level and n > 1 items.

    A plain percentile interval is too narrow by a factor of sqrt((n - 1) / n) and uses normal instead of t quantiles.
    The expanded percentile interval corrects both with a smaller tail probability (Hesterberg 2015, "What Teachers
    Should Know About the Bootstrap", section 5.3).
    """
    return float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2)))


def _intervals(rows: NDArray, level: float, resamples: int, seed: int) -> list[Interval]:
    """Return the interval for each row of (rows, n) scores."""
    count, n = rows.shape
    if n == 0:
        return [Interval(math.nan, math.nan, math.nan, 0)] * count
    # Relative to the first score, so that equal scores are exactly 0 and rounding adds no width.
    start = rows[:, 0]
    offsets = rows - start[:, None]
    means = start + offsets.mean(axis=1)
    if n == 1:
        return [Interval(float(mean), math.nan, math.nan, 1) for mean in means]
    boot = offsets @ resampled(n, resamples, seed).T.astype(float) / n  # (rows, resamples)
    quantile = tail(n, level)
    lows, highs = start + np.quantile(boot, [quantile, 1 - quantile], axis=1)
    return [
        Interval(float(mean), float(low), float(high), n)
        for mean, low, high in zip(means, lows, highs, strict=True)
    ]


def _agresti_coull_interval(points: NDArray, level: float) -> Interval:
    """Return the mean of n points from 0 to 100, with an Agresti-Coull interval generalized to ties.

    Adds about two wins and two losses to the sample, so that the interval for an undefeated side has nonzero width.
    Without ties, it is the interval of Agresti & Coull (1998, "Approximate Is Better than 'Exact' for Interval Estimation of
    Binomial Proportions"). Ties reduce the variance and therefore the width.
    """
    n = len(points)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = float(ndtri((1 + level) / 2))
    pseudo_count = z**2 / 2  # added wins, and added losses
    total = n + 2 * pseudo_count
    center = (float(points.sum()) + 100 * pseudo_count) / total
    mean_square = (float((points**2).sum()) + 100**2 * pseudo_count) / total
    margin = z * math.sqrt((mean_square - center**2) / total)
    return Interval(float(points.mean()), max(0.0, center - margin), min(100.0, center + margin), n)


def _needed_items(mean: float, deviation: float, level: float) -> int:
    """Return the number of items that a two-sided paired t-test needs to detect a difference with a power of POWER.

    Uses a normal approximation with a correction for the t distribution (Guenther 1981, "Sample Size Formulas for
    Normal Theory T Tests"). The result is within one item of the exact number.
    """
    z = ndtri((1 + level) / 2)
    return max(2, math.ceil(((z + ndtri(POWER)) * deviation / mean) ** 2 + z**2 / 2))


def aligned(*columns: ArrayLike) -> list[NDArray]:
    """Return columns as float arrays, without rows that contain nan. Raises ValueError if the lengths differ."""
    arrays = [np.asarray(values, dtype=float) for values in columns]
    if len({values.shape for values in arrays}) > 1:
        raise ValueError(f"Lengths differ: {', '.join(str(len(values)) for values in arrays)}.")
    valid = ~np.any([np.isnan(values) for values in arrays], axis=0)
    return [values[valid] for values in arrays]
