"""Intervals have nominal coverage, and results match SciPy, statsmodels or a hand calculation."""

import math
import time

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from core.statistics.intervals import (
    Interval,
    components,
    mean_interval,
    mean_intervals,
    paired,
    resampled,
    tail,
    win_rate,
    within_scale,
)

ACCURATE_RESAMPLES = 50_000
POINTS = st.integers(0, 100).map(float)
VERDICTS = st.sampled_from((0.0, 50.0, 100.0))


def normal(rng, size):
    return rng.normal(50, 20, size)


def skewed(rng, size):
    """Half of the answers score 0, a fifth score 100, and most of the rest score low."""
    kind = rng.random(size)
    return np.where(kind < 0.5, 0, np.where(kind < 0.7, 100, 100 * rng.beta(2, 5, size)))


def coverage(draw, truth, n, studies=1000):
    scores = draw(np.random.default_rng(n), (studies, n))
    intervals = mean_intervals({str(study): row for study, row in enumerate(scores)})
    return np.mean([interval.low <= truth <= interval.high for interval in intervals.values()])


@pytest.mark.parametrize(("draw", "truth"), [(normal, 50), (skewed, 20 + 0.3 * 100 * 2 / 7)])
def test_intervals_have_nominal_coverage(draw, truth):
    assert 0.93 <= coverage(draw, truth, 110) <= 0.97
    assert 0.92 <= coverage(draw, truth, 20) <= 0.97


def test_interval_matches_scipy_at_the_expanded_level():
    scores = skewed(np.random.default_rng(1), 110)
    interval = mean_intervals({"a": scores}, resamples=ACCURATE_RESAMPLES)["a"]
    expected = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=ACCURATE_RESAMPLES, method="percentile", rng=2, batch=5000,
        confidence_level=1 - 2 * tail(110),
    ).confidence_interval  # fmt: skip
    assert interval.mean == pytest.approx(scores.mean())
    assert (interval.low, interval.high) == pytest.approx(
        expected, abs=0.01 * (expected.high - expected.low)
    )


def test_interval_is_wider_than_the_plain_bootstrap_by_the_expected_factor():
    scores = np.random.default_rng(1).normal(50, 20, 110)
    interval = mean_intervals({"a": scores}, resamples=ACCURATE_RESAMPLES)["a"]
    counts = resampled(110, ACCURATE_RESAMPLES)
    assert (counts.sum(axis=1) == 110).all()
    boot = counts @ np.sort(scores) / 110
    low, high = np.quantile(boot, [0.025, 0.975])
    factor = math.sqrt(110 / 109) * scipy.stats.t.ppf(0.975, 109) / scipy.stats.norm.ppf(0.975)
    assert (interval.high - interval.low) / (high - low) == pytest.approx(factor, rel=0.005)
    assert tail(110) == pytest.approx(
        scipy.stats.norm.cdf(math.sqrt(110 / 109) * scipy.stats.t.ppf(0.025, 109))
    )


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [20, 110])
def test_interval_for_normal_scores_matches_the_t_interval(n, level):
    scores = 50 + 20 * scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
    interval = mean_intervals({"a": scores}, level, resamples=ACCURATE_RESAMPLES)["a"]
    expected = scipy.stats.ttest_1samp(scores, 0).confidence_interval(level)
    assert (interval.low, interval.high) == pytest.approx(
        expected, abs=0.02 * (expected.high - expected.low)
    )


@given(st.lists(POINTS, min_size=2, max_size=30))
def test_interval_is_within_the_scores_and_contains_the_mean(scores):
    interval = mean_interval(scores)
    assert min(scores) - 1e-9 <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= max(scores) + 1e-9
    assert interval.n == len(scores)


@given(st.floats(0, 100), st.integers(2, 40))
def test_equal_scores_have_zero_width(score, n):
    interval = mean_interval([score] * n)
    assert (interval.mean, interval.low, interval.high) == (score, score, score)


def test_few_or_missing_scores_give_an_undefined_interval():
    intervals = mean_intervals({"b": [7], "none": [], "nan": [math.nan, 3, 5], "a": [3, 5]})
    assert list(intervals) == ["b", "none", "nan", "a"]
    assert (intervals["b"].mean, intervals["b"].n) == (7, 1)
    assert math.isnan(intervals["b"].low)
    assert math.isnan(intervals["b"].high)
    assert math.isnan(intervals["none"].mean)
    assert intervals["none"].n == 0
    assert intervals["nan"] == intervals["a"] == mean_interval([3, 5])


def test_intervals_for_a_thousand_runs_take_less_than_300_ms():
    rng = np.random.default_rng(0)
    scores = {str(run): rng.uniform(0, 100, 110).tolist() for run in range(1000)}
    mean_intervals(scores)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        mean_intervals(scores)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.3  # 0.04 s on an idle machine


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("effect", [0.02, 0.1, 0.3, 0.8, 1.5, 3])
def test_needed_items_match_statsmodels(effect, level):
    gaps = np.random.default_rng(3).normal(size=50)
    gaps = (gaps - gaps.mean()) / gaps.std(ddof=1) + effect
    expected = TTestPower().solve_power(effect_size=effect, alpha=1 - level, power=0.8)
    assert abs(paired(gaps, np.zeros(50), level).needed - expected) <= 2


@given(st.lists(st.tuples(POINTS, POINTS), min_size=2, max_size=30))
def test_difference_matches_the_interval_of_the_gaps(pairs):
    a, b = np.array(pairs).T
    result, expected = paired(a, b), mean_interval(a - b)
    assert (result.low, result.high, result.n) == (expected.low, expected.high, expected.n)
    assert result.mean == pytest.approx(a.mean() - b.mean(), abs=1e-9)
    assert not result.is_clear or (result.n >= 4 and (result.low > 0 or result.high < 0))
    assert (result.needed is None) == (a.sum() == b.sum())


def test_needed_items_give_80_percent_power():
    gaps = np.random.default_rng(5).normal(6, 20, (1000, 90))  # effect size 0.3 needs 90 items
    detected = [paired(row, np.zeros(90)).is_clear for row in gaps]
    assert np.mean(detected) == pytest.approx(0.8, abs=0.04)


def test_difference_uses_common_items():
    a, b = [10, math.nan, 30, 50], [0, 5, math.nan, 20]
    assert paired(a, b) == paired([10, 50], [0, 20])
    rounding = paired([0.1 + 0.2] * 5, [0.3] * 5)
    assert (rounding.mean, rounding.is_clear, rounding.needed) == (0, False, None)
    with pytest.raises(ValueError, match="Lengths differ: 2, 3"):
        paired([1, 2], [1, 2, 3])


def test_difference_is_described_in_a_sentence():
    rng = np.random.default_rng(4)
    b = rng.uniform(20, 70, 110)
    a = b + rng.normal(4, 16, 110)
    difference = paired(a, b)
    expected_text = (
        f"{difference.mean:.1f} ({difference.low:.1f} to {difference.high:.1f}) on 110 examples."
    )
    assert difference.is_clear
    assert (
        difference.sentence("Run A", "Run B")
        == f"Run A scores higher than Run B by {expected_text}"
    )
    assert paired(b, a).is_clear
    assert paired(b, a).sentence("Run B", "Run A").startswith("Run A scores higher than Run B by ")

    noise = rng.normal(0, 16, 110)
    close = paired(b + noise - noise.mean() + 0.5, b)
    assert close.needed > 1000
    assert close.sentence("A", "B") == (
        "No clear difference between A and B on 110 examples. "
        f"About {close.needed:,} would be needed."
    )
    assert paired(b, b).sentence("A", "B") == "A and B have the same mean score on 110 examples."
    assert (
        paired([1], [2]).sentence("A", "B") == "No clear difference between A and B on 1 example."
    )
    assert paired([], []).sentence("A", "B") == "A and B have no scored examples in common."


def test_variance_components_match_analysis_of_variance():
    rng = np.random.default_rng(6)
    repeats = rng.integers(1, 6, 40)
    scores = {i: rng.normal(rng.normal(50, 15), 8, n) for i, n in enumerate(repeats)}
    rows = pd.DataFrame(
        [(i, x) for i, values in scores.items() for x in values], columns=["i", "x"]
    )
    table = anova_lm(ols("x ~ C(i)", rows).fit())
    between, within = table["mean_sq"]
    size = (repeats.sum() - (repeats**2).sum() / repeats.sum()) / 39
    result = components(scores)
    assert result.judge == pytest.approx(within)
    assert result.items == pytest.approx((between - within) / size)
    assert result.repeats == repeats.mean()
    noise = within / repeats.mean()
    assert result.share == pytest.approx(noise / (result.items + noise))


def test_variance_components_of_two_items_match_a_hand_calculation():
    # Within: (2 + 2) / 2 = 2. Between: 2 * (5² + 5²) / 1 = 100. Items: (100 - 2) / 2 = 49.
    result = components({"a": [9, 11], "b": [19, 21]})
    assert (result.judge, result.items, result.repeats, result.share) == (2, 49, 2, 1 / 50)


def test_variance_components_recover_the_true_variances():
    rng = np.random.default_rng(7)
    estimates = []
    for _ in range(200):
        repeats = rng.integers(1, 4, 110)
        estimates.append(
            components({i: rng.normal(rng.normal(60, 20), 10, n) for i, n in enumerate(repeats)})
        )
    assert np.mean([estimate.items for estimate in estimates]) == pytest.approx(400, rel=0.03)
    assert np.mean([estimate.judge for estimate in estimates]) == pytest.approx(100, rel=0.03)


def test_degenerate_scores_have_no_or_zero_variance_components():
    assert components({}) is None
    assert components({"a": [1], "b": [2]}) is None
    assert components({"a": [1, 2], "b": [math.nan]}) is None
    repeat_noise_only = components({"a": [0, 100], "b": [100, 0]})
    assert (repeat_noise_only.items, repeat_noise_only.share) == (0, 1)
    item_spread_only = components({"a": [30, 30], "b": [70, 70]})
    assert (item_spread_only.judge, item_spread_only.share) == (0, 0)
    assert components({"a": [5, 5], "b": [5, 5]}).share == 0


def test_win_rate_matches_a_hand_calculation():
    # A wins both orders; A loses both; the answer shown first wins; A ties and wins; two ties; one order missing.
    forward = [100, 0, 100, 50, 50, 100]
    backward = [0, 100, 100, 0, 50, math.nan]
    rate = win_rate(forward, backward)
    assert rate.rate == pytest.approx((100 + 0 + 50 + 75 + 50) / 5)
    assert rate.flips == pytest.approx((0 + 0 + 1 + 0.5 + 0) / 5)
    assert rate.n == 5
    assert rate.low < rate.rate < rate.high
    empty_rate = win_rate([], [])
    assert all(math.isnan(value) for value in (empty_rate.rate, empty_rate.low, empty_rate.flips))


@given(st.lists(st.tuples(VERDICTS, VERDICTS), min_size=2, max_size=30))
def test_win_rates_of_both_sides_sum_to_100(pairs):
    forward, backward = np.array(pairs).T
    rate, opposite_rate = win_rate(forward, backward), win_rate(backward, forward)
    assert rate.rate + opposite_rate.rate == pytest.approx(100)
    assert rate.flips == opposite_rate.flips
    assert win_rate(forward, 100 - forward).flips == 0


def test_win_rate_of_an_undefeated_side_has_a_lower_bound_below_100():
    rate = win_rate([100] * 5, [0] * 5)
    assert (rate.rate, rate.high) == (100, 100)
    assert rate.low < 60


@given(st.integers(0, 30), st.integers(0, 30))
def test_win_rate_without_ties_matches_statsmodels(wins, defeats):
    points = np.array([100.0] * wins + [0.0] * defeats)
    rate = win_rate(points, 100 - points)
    if wins + defeats == 0:
        assert rate.n == 0
        return
    low, high = proportion_confint(wins, wins + defeats, method="agresti_coull")
    assert (rate.low, rate.high) == pytest.approx((max(0, 100 * low), min(100, 100 * high)))


def test_many_ties_give_a_narrow_interval():
    ties = win_rate([50] * 233 + [100] * 2 + [0], [50] * 233 + [0] * 2 + [100])
    assert ties.high - ties.low < 3
    flips = win_rate([100] * 236, [100] * 236)
    assert flips.high - flips.low < 3


def test_interval_ignores_the_order_of_scores():
    scores = np.random.default_rng(3).random(50)
    assert mean_interval(scores) == mean_interval(scores[::-1])


@pytest.mark.parametrize(("truth", "n"), [(0.9, 10), (0.5, 20), (0.7, 110)])
def test_win_rate_intervals_have_nominal_coverage(truth, n):
    won = 100.0 * (np.random.default_rng(n).random((1000, n)) < truth)
    rates = [win_rate(row, 100 - row) for row in won]
    covered = [rate.low <= 100 * truth <= rate.high for rate in rates]
    assert np.mean(covered) > 0.91


@pytest.mark.parametrize(("score", "expected"), [(0.0, 0), (100.0, 236)])
def test_scores_all_at_one_end_have_the_exact_binomial_interval(score, expected):
    interval = within_scale(mean_interval([score] * 236))
    low, high = proportion_confint(expected, 236, method="beta")
    assert (interval.low, interval.high) == pytest.approx((100 * low, 100 * high))
    assert within_scale(mean_interval([score])).n == 1
    assert math.isnan(within_scale(mean_interval([score])).low)


def test_interval_within_the_scale_is_unchanged():
    interval = mean_interval([50.0, 50.0, 50.0])
    assert within_scale(interval) == interval
    assert within_scale(Interval(99.0, 97.0, 100.00000000000006, 9)).high == 100
