"""What scores tell: intervals, differences, a judge's own noise, win rates.

Knows arrays and tables of points from 0 to 100, and reads and writes nothing. Does not know what a judge,
a run or a page is. A missing score is nan and is left out, from a pair together with its partner.
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
"""Share of studies in which a difference that is there is to be seen."""
MIN_PAIRED_ITEMS = 4
"""Items below which no two runs are told apart."""
ROUNDING_TOLERANCE = 1e-9
"""Points below which a mean difference is rounding, not a difference."""


@dataclass(frozen=True)
class Interval:
    """A mean of n items in points; nan for what so few items do not tell."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """How much more one scores than another on the same n items, in points.

    Args:
        apart: the interval leaves out 0.
        needed: items at which a true difference of this size is seen in 80 % of studies; None where the
            difference is 0 or n below 2.
    """

    mean: float
    low: float
    high: float
    n: int
    apart: bool
    needed: int | None

    def gap(self) -> str:
        """The difference with its interval, for people."""
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"

    def sentence(self, name_a: str, name_b: str) -> str:
        """What that means, for people who see the names and never the numbers' names."""
        if self.n == 0:
            return f"{name_a} and {name_b} have no scored items in common."
        items = "1 item" if self.n == 1 else f"{self.n:,} items"
        if self.apart:
            better, other = (name_a, name_b) if self.mean > 0 else (name_b, name_a)
            low, high = sorted((abs(self.low), abs(self.high)))
            gap = f"{abs(self.mean):.1f} ({low:.1f} to {high:.1f})"
            return f"{better} scores higher than {other} by {gap} on {items}."
        no_difference = f"{name_a} and {name_b} cannot be told apart with {items}"
        if self.mean == 0:
            return f"{no_difference}: they score the same."
        if self.needed is None or self.needed <= self.n:
            return f"{no_difference}."
        return f"{no_difference}; {self.needed:,} would be needed."


@dataclass(frozen=True)
class Components:
    """Where scores get their variance from, in squared points.

    Args:
        items: between items.
        judge: within an item, which is the judge's own noise.
        repeats: mean number of scores of an item.
        share: of the variance of a mean over items, what is the judge's: 0 to 1.
    """

    items: float
    judge: float
    repeats: float
    share: float


@dataclass(frozen=True)
class WinRate:
    """How often A beats B, in percent, over n items each judged in both orders.

    Args:
        flips: share of items, 0 to 1, whose winner changes with the order. A win in one order and a tie in
            the other is half a flip: the verdict moved half as far as from one winner to the other.
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
    """Means of one score an item, with bootstrap intervals over the items. The order of the names is kept.

    The interval is the expanded percentile interval, see `tail`. Equal scores have an interval of no width.
    """
    valid_scores = {name: aligned(values)[0] for name, values in scores.items()}
    sizes: dict[int, list[str]] = defaultdict(list)
    for name, values in valid_scores.items():
        sizes[len(values)].append(name)
    intervals: dict[str, Interval] = {}
    for names in sizes.values():
        # In order of size: the same scores have the same interval, whatever order they come in.
        rows = np.stack([np.sort(valid_scores[name]) for name in names])
        intervals |= zip(names, _intervals(rows, level, resamples, seed), strict=True)
    return {name: intervals[name] for name in scores}


def within_scale(interval: Interval, level: float = CONFIDENCE_LEVEL) -> Interval:
    """The interval of a mean of points from 0 to 100, never beyond these.

    Where every score was 0, or every one 100, resampling knows of no other, and the interval is the exact one of a
    share of which none was seen (Clopper & Pearson 1934): at most 1.6 points wide from 236 items.
    """
    if interval.n < 2:
        return interval
    low, high = max(0.0, interval.low), min(100.0, interval.high)
    if low == high and low in (0.0, 100.0):
        unseen = 100 * (1 - ((1 - level) / 2) ** (1 / interval.n))
        low, high = (0.0, unseen) if high == 0 else (100 - unseen, 100.0)
    return Interval(interval.mean, low, high, interval.n)


def mean_interval(scores: ArrayLike, level: float = CONFIDENCE_LEVEL) -> Interval:
    """The same for one sequence of scores."""
    return mean_intervals({"": scores}, level)[""]


def paired(a: ArrayLike, b: ArrayLike, level: float = CONFIDENCE_LEVEL) -> Difference:
    """The mean of a - b over the same items in the same order. Raises ValueError for unequal lengths."""
    first, second = aligned(a, b)
    gaps = first - second
    interval = mean_interval(gaps, level)
    mean = 0.0 if abs(interval.mean) < ROUNDING_TOLERANCE else interval.mean
    deviation = float(gaps.std(ddof=1)) if interval.n > 1 else math.nan
    # The bootstrap alone leaves out 0 too often where items are few: so does Student's interval have to.
    reach = (
        stdtrit(max(interval.n - 1, 1), (1 + level) / 2) * deviation / math.sqrt(max(interval.n, 1))
    )
    outside = (interval.low > 0 or interval.high < 0) and abs(mean) > reach
    apart = bool(interval.n >= MIN_PAIRED_ITEMS and mean != 0 and outside)
    needed = None if mean == 0 or interval.n < 2 else _needed(mean, deviation, level)
    return Difference(mean, interval.low, interval.high, interval.n, apart, needed)


def components(scores: Mapping[Hashable, ArrayLike]) -> Components | None:
    """Splits variance into the items' and the judge's, from all scores of each item.

    One-way analysis of variance with random effects and unequal numbers of repeats (Searle, Casella &
    McCulloch 1992, "Variance Components", section 3.6). An estimate below 0 of the items' variance is cut
    at 0. None where no item was scored twice or there are fewer than two items.
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
    size = (total - float((counts**2).sum()) / total) / (k - 1)
    items = max(0.0, (between - judge) / size)
    repeats = total / k
    noise = judge / repeats
    return Components(items, judge, repeats, noise / (items + noise) if noise else 0.0)


def win_rate(forward: ArrayLike, backward: ArrayLike, level: float = CONFIDENCE_LEVEL) -> WinRate:
    """How often A beats B, each item counting as the mean of both orders.

    Args:
        forward: points of A over B with A shown first: 100 where A wins, 50 for a tie, 0 where B wins.
        backward: points of the answer shown first again, which now is B, for the same items.
        level: of the interval, see `_with_a_few_more`: it has a width for an undefeated side too.
    """
    first, second = aligned(forward, backward)
    second = 100 - second  # points of A in both orders
    interval = _with_a_few_more((first + second) / 2, level)
    moved = np.abs(np.sign(first - 50) - np.sign(second - 50)) / 2
    flips = float(moved.mean()) if interval.n else math.nan
    return WinRate(interval.mean, interval.low, interval.high, interval.n, flips)


@lru_cache(maxsize=16)
def resampled(n: int, resamples: int, seed: int = BOOTSTRAP_SEED) -> NDArray[np.uint16]:
    """How often each of n items is in each resample, (resamples, n). Always the same for the same arguments."""
    drawn = np.random.default_rng([seed, n]).integers(n, size=(resamples, n))
    drawn += n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n).astype(np.uint16)
    counts.setflags(write=False)
    return counts.reshape(resamples, n)


def tail(n: int, level: float = CONFIDENCE_LEVEL) -> float:
    """The quantile of a bootstrap distribution at which an interval of that level begins, for n > 1 items.

    A plain percentile interval is too short by the factor sqrt((n - 1) / n) and has normal where it should
    have t quantiles; both are made good by taking it at a higher level (Hesterberg 2015, "What Teachers Should
    Know About the Bootstrap", section 5.3, the expanded percentile interval).
    """
    return float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2)))


def _intervals(rows: NDArray, level: float, resamples: int, seed: int) -> list[Interval]:
    """One interval for each row of (rows, n) scores."""
    count, n = rows.shape
    if n == 0:
        return [Interval(math.nan, math.nan, math.nan, 0)] * count
    # Relative to the first score, so that equal scores are exactly 0 and do not get a width by rounding.
    start = rows[:, 0]
    offsets = rows - start[:, None]
    means = start + offsets.mean(axis=1)
    if n == 1:
        return [Interval(float(mean), math.nan, math.nan, 1) for mean in means]
    boot = offsets @ resampled(n, resamples, seed).T.astype(float) / n  # (rows, resamples)
    edge = tail(n, level)
    lows, highs = start + np.quantile(boot, [edge, 1 - edge], axis=1)
    return [
        Interval(float(mean), float(low), float(high), n)
        for mean, low, high in zip(means, lows, highs, strict=True)
    ]


def _with_a_few_more(points: NDArray, level: float) -> Interval:
    """The mean of n points from 0 to 100, with the interval of the sample and about two wins and two defeats more.

    For wins and defeats alone it is Agresti & Coull's (1998, "Approximate Is Better than 'Exact' for Interval Estimation
    of Binomial Proportions"); ties make it narrower by what they take from the variance.
    """
    n = len(points)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    edge = float(ndtri((1 + level) / 2))
    pseudo_count = edge**2 / 2  # wins, and as many defeats
    total = n + 2 * pseudo_count
    middle = (float(points.sum()) + 100 * pseudo_count) / total
    square = (float((points**2).sum()) + 100**2 * pseudo_count) / total
    half = edge * math.sqrt((square - middle**2) / total)
    return Interval(float(points.mean()), max(0.0, middle - half), min(100.0, middle + half), n)


def _needed(mean: float, deviation: float, level: float) -> int:
    """Items for a two-sided paired t test to see a difference with that power.

    The normal approximation with its correction for t (Guenther 1981, "Sample Size Formulas for Normal Theory
    T Tests"); within an item of the exact number.
    """
    edge = ndtri((1 + level) / 2)
    return max(2, math.ceil(((edge + ndtri(POWER)) * deviation / mean) ** 2 + edge**2 / 2))


def aligned(*columns: ArrayLike) -> list[NDArray]:
    """Aligned columns as floats, without the rows that have a nan in any."""
    arrays = [np.asarray(values, dtype=float) for values in columns]
    if len({values.shape for values in arrays}) > 1:
        raise ValueError(f"Lengths differ: {', '.join(str(len(values)) for values in arrays)}.")
    valid = ~np.any([np.isnan(values) for values in arrays], axis=0)
    return [values[valid] for values in arrays]
