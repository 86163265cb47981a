"""Moderated variances: the variance of each of many small groups, shrunk toward those of the others (Smyth 2004).

With two or three seeds, the variance of one setting is unreliable, and the pooled variance is wrong for settings that
are noisier or quieter than others. The amount of shrinkage is estimated from how much the variances differ.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special  # type: ignore[import-untyped]

from core.statistics.comparisons import CONFIDENCE_LEVEL, NoiseFloor, noise_floor

MAX_DF = 1e4
"""With this many prior degrees of freedom or more, the variances are treated as equal."""
MIN_DF = 1.0
"""With fewer prior degrees of freedom, nothing is known about a further group."""
UNKNOWN = NoiseFloor(math.nan, math.nan, math.nan, 0)


def moderated(groups: Sequence[ArrayLike]) -> tuple[list[NoiseFloor], NoiseFloor]:
    """Return the noise floor of each group, and that of a further group without repeats.

    The variances of groups are assumed to follow a scaled inverse chi-squared distribution (Smyth 2004, "Linear models
    and empirical Bayes methods for assessing differential expression in microarray experiments"). If they do not differ
    more than expected by chance, all floors equal the pooled one. In simulations with 12 settings of 3 seeds, at most
    6.5% of pairs without a difference exceed the resulting `noise_limit`, and at most 9% if neither run has repeats and
    the deviations of settings differ by a factor of 10.

    Args:
        groups: values by seed. Groups with a single value have the floor of a further group, which may be UNKNOWN.
    """
    values = [np.asarray(group, float) for group in groups]
    df = np.array([max(len(group) - 1, 0) for group in values], float)
    variances = np.array([group.var(ddof=1) if len(group) > 1 else 0.0 for group in values])
    pooled = noise_floor(values)
    prior_df, prior = _prior(variances, df)
    if prior_df >= MAX_DF:
        return [pooled] * len(values), pooled
    floors = [
        _floor((prior_df * prior + d * variance) / (prior_df + d), prior_df + d)
        if prior_df + d >= MIN_DF
        else UNKNOWN
        for variance, d in zip(variances, df, strict=True)
    ]
    return floors, _floor(prior, prior_df) if prior_df >= MIN_DF else UNKNOWN


def _prior(variances: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """Return the degrees of freedom and the scale of the distribution of variances, by the method of moments.

    The degrees of freedom are infinite if the variances do not differ more than expected by chance. Groups without
    variance are left out: they are usually measured too coarsely.
    """
    usable = (df > 0) & (variances > 0)
    variances, df = variances[usable], df[usable]
    if len(variances) < 2:
        return math.inf, math.nan
    logs = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    spread = float(logs.var(ddof=1) - special.polygamma(1, df / 2).mean())
    if spread <= float(special.polygamma(1, MAX_DF / 2)):
        return math.inf, math.nan
    half = math.exp(
        optimize.brentq(
            lambda x: math.log(special.polygamma(1, math.exp(x)) / spread), -20, math.log(MAX_DF)
        )
    )
    return 2 * half, math.exp(float(logs.mean()) + float(special.digamma(half)) - math.log(half))


def _floor(variance: float, df: float) -> NoiseFloor:
    variance, df = float(variance), float(df)
    tails = (1 - CONFIDENCE_LEVEL) / 2
    low, high = (
        math.sqrt(df * variance / float(special.chdtri(df, q))) for q in (tails, 1 - tails)
    )
    return NoiseFloor(math.sqrt(variance), low, high, df)
