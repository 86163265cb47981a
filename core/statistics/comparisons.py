"""Compare a metric between two settings, each trained with several seeds: intervals, tests and sample sizes.

Independent of runs and settings: arrays in, numbers out. A difference is always *after* minus *before*.

With two or three seeds, a pooled variance is unreliable if one setting is noisier than the other. Seeds that both
settings share are compared as pairs, because they share the order of the examples. Different seeds are compared by
Welch's test, which allows unequal variances.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats  # type: ignore[import-untyped]

CONFIDENCE_LEVEL = 0.95
FALSE_DISCOVERY_RATE = 0.05
POWER = 0.8
MAX_SEEDS = 1000
"""Largest number of seeds that `seeds_needed` returns."""
SMALLEST_P = 1e-12
CERTAIN_SHIFT = 36.0
"""SciPy's noncentral t distribution returns nan for larger shifts, where the power of two or more pairs is near 1."""
Direction = Literal["lower", "higher"]
"""Whether lower or higher values of a metric are better."""
Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Effect:
    """An estimated difference and its error.

    Args:
        difference: after minus before; nan if a side has no values.
        variances: independent components of the variance of `difference`, each with its degrees of freedom. Empty if
            there are too few values to estimate them.
        n: number of pairs, or the total number of values if they are not paired.
        is_paired: whether values were compared as pairs.
    """

    difference: float
    variances: tuple[tuple[float, float], ...]
    n: int
    is_paired: bool

    def margin(self, level: float = CONFIDENCE_LEVEL) -> float:
        """Return half the width of the confidence interval; nan if there is none.

        With one component, this is Student's t interval. With several, each has its own t quantile, as in
        Cochran's (1964) approximation for the Behrens-Fisher problem. It is at least as wide as Satterthwaite's.
        """
        if not self.variances:
            return math.nan
        quantile = (1 + level) / 2
        return math.sqrt(
            sum(v * float(special.stdtrit(df, quantile)) ** 2 for v, df in self.variances if v)
        )

    def interval(self, level: float = CONFIDENCE_LEVEL) -> tuple[float, float]:
        """Return the bounds of the confidence interval; nan if there is none."""
        margin = self.margin(level)
        return self.difference - margin, self.difference + margin

    @property
    def p(self) -> float:
        """Two-sided p-value for a true difference of 0; nan if it cannot be tested."""
        size = abs(self.difference)
        if math.isnan(self.margin()):
            return math.nan
        if size == 0:
            return 1.0
        if self.margin(1 - SMALLEST_P) <= size:
            return SMALLEST_P
        return 1 - float(
            optimize.brentq(lambda level: self.margin(level) - size, 0, 1 - SMALLEST_P)
        )

    def is_equivalent(self, margin: float) -> bool:
        """Return whether two one-sided tests at 5% reject a true difference of `margin` or more (Schuirmann 1987)."""
        low, high = self.interval(2 * CONFIDENCE_LEVEL - 1)
        return -margin < low and high < margin


def compare(before: Mapping[int, float], after: Mapping[int, float]) -> Effect:
    """Compare the metric of two settings with one run per seed.

    If both sides share at least two seeds, only those are compared, with a paired t-test. Otherwise, all seeds are
    compared with Welch's test.

    Args:
        before, after: the metric by seed.
    """
    common = sorted(before.keys() & after.keys())
    if len(common) < 2:
        return welch([*before.values()], [*after.values()])
    gaps = np.array([after[seed] - before[seed] for seed in common])
    variance = float(gaps.var(ddof=1)) / len(gaps)
    return Effect(float(gaps.mean()), ((variance, len(gaps) - 1),), len(gaps), is_paired=True)


def welch(before: Sequence[float], after: Sequence[float]) -> Effect:
    """Compare independent samples whose variances may differ (Welch 1947, with Satterthwaite's degrees of freedom).

    With two values on each side, simulated coverage is between 93.8% (one side ten times as noisy) and 97.8%.
    """
    x, y = np.asarray(before, float), np.asarray(after, float)
    n = len(x) + len(y)
    difference = float(y.mean() - x.mean()) if len(x) and len(y) else math.nan
    if len(x) < 2 or len(y) < 2:
        return Effect(difference, (), n, is_paired=False)
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (x, y)]
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(v**2 / d for v, d in parts) if total else float(n - 2)
    return Effect(difference, ((total, df),), n, is_paired=False)


def average(values: Sequence[float]) -> Effect:
    """Return the mean of one setting's values, as a difference from 0. The interval is Student's t."""
    x = np.asarray(values, float)
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    variances = ((float(x.var(ddof=1)) / n, n - 1),) if n > 1 else ()
    return Effect(mean, variances, n, is_paired=False)


def compare_items(before: ArrayLike, after: ArrayLike) -> Effect:
    """Compare scores on the same test items, from the same seeds.

    Both seeds and items are random and crossed, so the variance of the mean difference has a component for each (Owen
    2007, "The pigeonhole bootstrap"). The seed component, which includes the residual, has S - 1 degrees of freedom;
    the item component has I - 1. With a single seed, the result is valid for that seed only.

    Args:
        before, after: scores (S seeds, I items).
    """
    gaps = np.asarray(after, float) - np.asarray(before, float)
    seeds, items = gaps.shape
    if gaps.size == 0:
        return Effect(math.nan, (), 0, is_paired=True)
    mean, by_seed, by_item = float(gaps.mean()), gaps.mean(axis=1), gaps.mean(axis=0)
    if (
        items < 2 or (gaps == gaps[0, 0]).all()
    ):  # equal gaps, as between two wrong answers, give no estimate of the variance
        return Effect(mean, (), gaps.size, is_paired=True)
    item_variance = float(by_item.var(ddof=1)) / items
    if seeds < 2:
        return Effect(mean, ((item_variance, items - 1),), gaps.size, is_paired=True)
    residuals = gaps - by_seed[:, None] - by_item + mean
    residual_variance = float((residuals**2).sum()) / ((seeds - 1) * (items - 1)) / gaps.size
    seed_variance = float(by_seed.var(ddof=1)) / seeds
    variances = (
        (seed_variance, seeds - 1),
        (max(0.0, item_variance - residual_variance), items - 1),
    )
    return Effect(mean, variances, gaps.size, is_paired=True)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return q-values that control the false discovery rate (Benjamini & Hochberg 1995). nan stays nan."""
    p = np.asarray(p_values, float)
    q, tested = np.full(len(p), np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return [float(value) for value in q]


def verdict(effect: Effect, q: float, margin: float, direction: Direction) -> Verdict:
    """Return how *after* compares with *before*.

    Args:
        q: the adjusted p-value of the effect; see `adjusted`.
        margin: differences below this count as equivalent, in the unit of the difference.
    """
    if q <= FALSE_DISCOVERY_RATE:
        return "better" if (effect.difference < 0) == (direction == "lower") else "worse"
    return "equivalent" if effect.is_equivalent(margin) else "undecided"


@dataclass(frozen=True)
class NoiseFloor:
    """The seed-to-seed standard deviation of a metric, pooled over settings.

    Args:
        sd: standard deviation; nan if no setting has two seeds.
        low, high: bounds of its 95% interval.
        df: degrees of freedom. Without moderation, the number of runs minus the number of settings.
    """

    sd: float
    low: float
    high: float
    df: float


def noise_floor(groups: Sequence[ArrayLike]) -> NoiseFloor:
    """Pool the standard deviation over several settings. Each array holds one setting's values, one per seed."""
    values = [np.asarray(group, float) for group in groups]
    values = [group for group in values if len(group) > 1]
    df = sum(len(group) - 1 for group in values)
    if not df:
        return NoiseFloor(math.nan, math.nan, math.nan, 0)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in values)
    tails = (1 - CONFIDENCE_LEVEL) / 2
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(q, df))) for q in (1 - tails, tails))
    return NoiseFloor(math.sqrt(squares / df), low, high, df)


def noise_limit(before: NoiseFloor, after: NoiseFloor | None = None) -> float:
    """Return the largest difference between two single runs that is within the noise; nan if the noise is unknown.

    Of pairs of runs with no true difference, 5% differ by more. ISO 5725-6 calls this the repeatability limit and uses
    1.96 sqrt(2) sd. Here, Student's t replaces 1.96, because the deviation is itself an estimate: with 2 degrees of
    freedom, 19% of such pairs would exceed the limit otherwise. With heavy tails (Student's t with 3 degrees of
    freedom), up to 8% do. The limit is not a verdict: a verdict needs several seeds of both settings.

    A floor of 0 counts as unknown: it means that the metric is too coarse to show a difference.

    Args:
        before, after: the noise floors of the two runs. By default, both runs have the same floor.
    """
    floors = [before] if after is None or after == before else [before, after]
    if not all(floor.sd > 0 for floor in floors):
        return math.nan
    share, quantile = 2 / len(floors), (1 + CONFIDENCE_LEVEL) / 2
    # As in `Effect.margin`, but SciPy's low-level function is much faster.
    squares = (share * (f.sd * float(special.stdtrit(f.df, quantile))) ** 2 for f in floors)
    return math.sqrt(sum(squares))


def seeds_range(floor: NoiseFloor, difference: float) -> tuple[int, int, int]:
    """Return the number of seeds needed to detect a difference: at the estimated noise, and at its interval's bounds.

    Seeds are treated as independent. Pairs of runs with the same seed often vary less and then need fewer seeds.

    Args:
        difference: on the scale of the floor; not 0.
    """
    expected, low, high = (
        seeds_needed(math.sqrt(2) * sd, difference) for sd in (floor.sd, floor.low, floor.high)
    )
    return expected, low, high


def power(seeds: int, sd: float, difference: float) -> float:
    """Return the power of a paired t-test at 5%.

    Args:
        seeds: number of pairs, at least 2.
        sd: standard deviation of the paired differences.
        difference: the true difference.
    """
    shift = abs(difference) / sd * math.sqrt(seeds) if sd else math.inf
    if shift > CERTAIN_SHIFT:
        return 1.0
    df = seeds - 1
    critical = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, df))
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


def seeds_needed(sd: float, difference: float) -> int:
    """Return the smallest number of pairs needed to detect a difference with a power of 80%, up to MAX_SEEDS.

    Raises ValueError if the difference is 0.
    """
    if difference == 0:
        raise ValueError("the difference must not be 0")
    low = high = 2
    while high < MAX_SEEDS and power(high, sd, difference) < POWER:
        low, high = high + 1, min(2 * high, MAX_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, sd, difference) >= POWER else (middle + 1, high)
    return low
