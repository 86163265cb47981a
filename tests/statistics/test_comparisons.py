"""Comparisons across seeds: results match SciPy and closed forms, and simulated error rates are as stated."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from core.statistics.comparisons import (
    FALSE_DISCOVERY_RATE,
    MAX_SEEDS,
    NoiseFloor,
    adjusted,
    average,
    compare,
    compare_items,
    noise_floor,
    noise_limit,
    power,
    seeds_needed,
    seeds_range,
    verdict,
    welch,
)

STUDIES = 2000
DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),
}


def by_seed(values):
    return dict(enumerate(map(float, values)))


def test_common_seeds_are_compared_by_a_paired_t_test():
    before, after = [3.1, 2.9, 3.3, 3.0], [2.8, 2.7, 2.9, 2.9]
    effect = compare({**by_seed(before), 9: 5.0}, by_seed(after))
    expected = stats.ttest_rel(after, before)
    assert effect.is_paired
    assert effect.n == 4
    assert effect.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert effect.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert effect.difference == pytest.approx(np.subtract(after, before).mean())


def test_different_seeds_are_compared_by_welch():
    before, after = {1: 3.1, 2: 2.9, 3: 3.3}, {4: 2.0, 5: 2.9}
    effect = compare(before, after)
    expected = stats.ttest_ind([*after.values()], [*before.values()], equal_var=False)
    assert not effect.is_paired
    assert effect.n == 5
    assert effect.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert effect.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_too_few_values_have_a_difference_without_an_interval():
    effect = compare({1: 3.0}, {1: 2.5})
    assert effect.difference == -0.5
    assert math.isnan(effect.p)
    assert all(map(math.isnan, effect.interval()))
    assert not effect.is_equivalent(100.0)
    assert verdict(effect, math.nan, 100.0, "lower") == "undecided"
    assert math.isnan(compare({}, {1: 2.0}).difference)


def test_equal_values_have_a_p_value_of_one():
    assert compare(by_seed([1, 1]), by_seed([1, 1])).p == 1
    assert compare(by_seed([1, 2]), by_seed([2, 3])).p < 1e-9
    assert welch([1.0, 1.0], [1.0, 1.0]).is_equivalent(0.1)


def test_mean_has_a_t_interval():
    values = [3.1, 2.9, 3.3]
    estimate = average(values)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert estimate.interval() == pytest.approx(expected)
    assert average([2.0]).difference == 2.0
    assert all(map(math.isnan, average([2.0]).interval()))
    assert math.isnan(average([]).difference)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("shape", DISTRIBUTIONS)
def test_interval_of_a_mean_covers_the_truth(n, shape):
    values = DISTRIBUTIONS[shape](np.random.default_rng(n), (STUDIES, n))
    bounds = np.array([average(row).interval() for row in values])
    covered = ((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean()
    assert covered >= 0.936
    assert shape != "normal" or covered <= 0.964


def test_crossed_items_match_a_t_test_where_only_one_component_varies():
    rng = np.random.default_rng(0)
    items = rng.normal(size=(1, 30))
    effect = compare_items(np.zeros((3, 30)), np.repeat(items, 3, axis=0))
    assert effect.interval() == pytest.approx(
        tuple(stats.ttest_1samp(items[0], 0).confidence_interval(0.95))
    )
    seeds = rng.normal(size=(5, 1))
    effect = compare_items(np.zeros((5, 8)), np.repeat(seeds, 8, axis=1))
    assert effect.interval() == pytest.approx(
        tuple(stats.ttest_1samp(seeds[:, 0], 0).confidence_interval(0.95))
    )
    one_seed = compare_items(np.zeros((1, 30)), items)
    assert one_seed.p == pytest.approx(stats.ttest_1samp(items[0], 0).pvalue, rel=1e-6)


def test_equal_items_have_no_interval():
    effect = compare_items(np.zeros((3, 12)), np.zeros((3, 12)))
    assert effect.difference == 0
    assert math.isnan(effect.p)
    assert not effect.is_equivalent(0.5)


def test_adjusted_p_values_match_scipy_and_skip_untested_effects():
    p = [0.01, math.nan, 0.04, 0.3]
    q = adjusted(p)
    assert math.isnan(q[1])
    assert [q[0], q[2], q[3]] == pytest.approx(stats.false_discovery_control([0.01, 0.04, 0.3]))
    assert all(map(math.isnan, adjusted([math.nan])))
    assert adjusted([]) == []


@pytest.mark.parametrize(
    ("after", "q", "direction", "expected"),
    [
        ([2.0, 2.1, 2.0], 0.01, "lower", "better"),
        ([2.0, 2.1, 2.0], 0.01, "higher", "worse"),
        ([4.0, 4.1, 4.0], 0.01, "higher", "better"),
        ([3.0, 3.001, 3.0], 0.6, "lower", "equivalent"),
        ([2.0, 3.9, 3.5], 0.6, "lower", "undecided"),
    ],
)
def test_verdict_depends_on_effect_margin_and_direction(after, q, direction, expected):
    effect = compare(by_seed([3.0, 3.0, 3.0]), by_seed(after))
    assert verdict(effect, q, 0.05, direction) == expected


def test_noise_floor_pools_settings_and_ignores_single_seeds():
    floor = noise_floor([[1.0, 3.0], [10.0, 10.0, 13.0], [99.0]])
    assert floor.df == 3
    assert floor.sd == pytest.approx(math.sqrt((2 + 6) / 3))
    assert floor.low < floor.sd < floor.high
    assert math.isnan(noise_floor([[1.0], []]).sd)


def test_power_and_number_of_seeds_match_statsmodels():
    peer = TTestPower()
    for seeds, sd, difference in ((2, 1.0, 1.0), (5, 0.5, 0.4), (12, 2.0, -1.5)):
        expected = peer.power(abs(difference) / sd, seeds, 0.05)
        assert power(seeds, sd, difference) == pytest.approx(expected, abs=1e-6)
    for sd, difference in ((1.0, 1.0), (0.02, 0.01), (1.0, 5.0)):
        expected = peer.solve_power(abs(difference) / sd, None, 0.05, 0.8)
        assert seeds_needed(sd, difference) == max(2, math.ceil(float(np.squeeze(expected))))
    assert seeds_needed(1.0, 1e-6) == MAX_SEEDS
    assert seeds_needed(0.0, 1.0) == 2
    with pytest.raises(ValueError, match="must not be 0"):
        seeds_needed(1.0, 0.0)


# Simulated error rates. "Different" must be at most 5% plus simulation error.


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("sd_ratio", [1, 10])
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("paired", [True, False])
def test_error_rates_and_coverage(seeds, sd_ratio, kind, paired):
    rng = np.random.default_rng(seeds * sd_ratio)
    draw, truth = DISTRIBUTIONS[kind], 0.7
    shared = rng.normal(size=(STUDIES, seeds)) if paired else 0.0
    before = shared + draw(rng, (STUDIES, seeds))
    after = truth + shared + sd_ratio * draw(rng, (STUDIES, seeds))
    offset = 0 if paired else 100
    effects = [
        compare(by_seed(x), {seed + offset: value for seed, value in by_seed(y).items()})
        for x, y in zip(before, after, strict=True)
    ]
    covered = np.mean([low <= truth <= high for low, high in (e.interval() for e in effects)])
    assert covered >= (0.936 if paired else 0.93)
    if paired:
        assert covered <= 0.964 if kind == "normal" else covered <= 0.975
    false_equivalent = np.mean([effect.is_equivalent(truth) for effect in effects])
    assert false_equivalent <= 0.062


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("items", [40, 110])
@pytest.mark.parametrize(
    "sds", [(0, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (2, 1, 1), (0, 0, 1), (0.3, 0.3, 1)]
)
def test_crossed_components_keep_the_error_rate(seeds, items, sds):
    rng = np.random.default_rng(7)
    shapes = (seeds, 1), (1, items), (seeds, items)
    false_different = 0
    for _ in range(STUDIES):
        gaps = sum(
            sd * rng.normal(size=shape) for sd, shape in zip(sds, shapes, strict=True)
        ) + np.zeros((seeds, items))
        low, high = compare_items(np.zeros_like(gaps), gaps).interval()
        false_different += not low <= 0 <= high
    assert false_different / STUDIES <= 0.062


@pytest.mark.long
@pytest.mark.parametrize("real", [0, 5, 10])
def test_verdicts_control_the_false_discovery_rate(real):
    rng = np.random.default_rng(real)
    effects_per_study, seeds = 20, 5
    shares = []
    for _ in range(STUDIES):
        truth = np.where(np.arange(effects_per_study) < real, 4.0, 0.0)
        gaps = truth[:, None] + rng.normal(size=(effects_per_study, seeds))
        effects = [compare(by_seed(np.zeros(seeds)), by_seed(row)) for row in gaps]
        q = np.array(adjusted([effect.p for effect in effects]))
        rejected = q <= FALSE_DISCOVERY_RATE
        shares.append((rejected & (truth == 0)).sum() / max(rejected.sum(), 1))
    assert np.mean(shares) <= 0.05 + 2 * np.std(shares) / math.sqrt(STUDIES)


@pytest.mark.long
@pytest.mark.parametrize(("sd", "difference"), [(1.0, 2.0), (1.0, 1.0), (0.02, 0.01)])
def test_planned_number_of_seeds_has_the_stated_power(sd, difference):
    rng = np.random.default_rng(3)
    seeds = seeds_needed(sd, difference)
    gaps = rng.normal(difference, sd, size=(STUDIES, seeds))
    found = [compare(by_seed(np.zeros(seeds)), by_seed(row)).p <= 0.05 for row in gaps]
    assert np.mean(found) >= 0.75
    assert power(seeds, sd, difference) == pytest.approx(np.mean(found), abs=0.05)


@pytest.mark.long
def test_interval_of_the_noise_floor_has_nominal_coverage():
    rng = np.random.default_rng(4)
    floors = [noise_floor(rng.normal(size=(6, 3))) for _ in range(STUDIES)]
    covered = np.mean([floor.low <= 1 <= floor.high for floor in floors])
    assert 0.936 <= covered <= 0.964


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("settings", "seeds"), [(1, 3), (2, 2), (6, 3)])
def test_two_single_runs_differ_by_more_than_the_noise_limit_in_5_percent(
    distribution, settings, seeds
):
    rng = np.random.default_rng(5)
    draw = DISTRIBUTIONS[distribution]
    floors = [noise_floor(draw(rng, (settings, seeds))) for _ in range(STUDIES)]
    runs = draw(rng, (STUDIES, 2))
    limits = [noise_limit(floor) for floor in floors]
    outside = np.mean(abs(runs[:, 0] - runs[:, 1]) > limits)
    low, high = (0.038, 0.062) if distribution == "normal" else (0.0, 0.085)
    assert low <= outside <= high


def test_noise_limit_of_runs_with_different_floors_holds():
    rng = np.random.default_rng(6)
    quiet = [noise_floor(group) for group in rng.normal(size=(STUDIES, 2, 3))]
    loud = [noise_floor(10 * group) for group in rng.normal(size=(STUDIES, 2, 3))]
    gaps = rng.normal(size=STUDIES) - 10 * rng.normal(size=STUDIES)
    limits = [noise_limit(a, b) for a, b in zip(quiet, loud, strict=True)]
    assert np.mean(abs(gaps) > limits) <= 0.062


def test_noise_limit_is_the_repeatability_limit_and_unknown_without_repeats():
    floor = NoiseFloor(2.0, 1.0, 3.0, df=8)
    assert noise_limit(floor) == pytest.approx(stats.t.ppf(0.975, 8) * math.sqrt(2) * 2.0)
    other = NoiseFloor(1.0, 0.5, 2.0, df=4)
    assert noise_limit(floor, other) == pytest.approx(
        math.hypot(2 * stats.t.ppf(0.975, 8), stats.t.ppf(0.975, 4))
    )
    assert math.isnan(noise_limit(noise_floor([[1.0]])))
    assert math.isnan(noise_limit(floor, NoiseFloor(0.0, 0.0, 0.0, 3)))


def test_number_of_seeds_is_a_range():
    expected, low, high = seeds_range(noise_floor([[1.0, 1.1, 0.9], [2.0, 2.1, 1.9]]), 0.1)
    assert low < expected < high
    assert expected == seeds_needed(math.sqrt(2) * 0.1, 0.1)
