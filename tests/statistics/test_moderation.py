"""Moderated variances: shrinkage adapts to how much the noise of settings differs, and limits hold in simulations."""

import math

import numpy as np
import pytest

from core.statistics.comparisons import noise_floor, noise_limit
from core.statistics.moderation import moderated

STUDIES = 1000


def test_similar_variances_are_pooled():
    groups = [[1.0, 1.1, 0.9], [2.0, 2.1, 1.9], [3.0]]
    floors, further = moderated(groups)
    assert {*floors, further} == {noise_floor(groups)}


def test_very_different_variances_are_hardly_shrunk():
    rng = np.random.default_rng(0)
    sds = np.repeat([0.01, 10.0], 6)
    groups = [rng.normal(scale=sd, size=4) for sd in sds]
    floors, further = moderated(groups)
    assert max(floor.sd for floor in floors[:6]) < 1 < min(floor.sd for floor in floors[6:])
    assert math.isnan(further.sd), "nothing is known about a further group"
    assert all(floor.low < floor.sd < floor.high for floor in floors)


def test_groups_with_no_variance_or_no_repeats_are_accepted():
    floors, further = moderated([[1.0, 1.0], [1.0, 2.0], [5.0, 9.0], [1.0], []])
    assert all(math.isfinite(floor.sd) for floor in (*floors, further))
    assert math.isnan(moderated([[1.0]])[1].sd)
    assert moderated([])[0] == []


def test_prior_is_recovered():
    rng = np.random.default_rng(1)
    sds = np.sqrt(6 * 0.5 / rng.chisquare(6, size=4000))
    floors, further = moderated(rng.normal(size=(4000, 3)) * sds[:, None])
    assert further.df == pytest.approx(6, rel=0.3)
    assert further.sd**2 == pytest.approx(0.5, rel=0.1)
    assert floors[0].df == further.df + 2


@pytest.mark.long
@pytest.mark.parametrize("prior_df", [2, 6, math.inf])
@pytest.mark.parametrize("kind", ["both repeated", "one repeated", "none repeated"])
def test_noise_limit_holds_if_settings_differ_in_noise(prior_df, kind):
    rng = np.random.default_rng(2)
    groups, outside = 12, 0
    for _ in range(STUDIES):
        variances = np.ones(groups + 2)
        if math.isfinite(prior_df):
            variances = prior_df / rng.chisquare(prior_df, size=groups + 2)
        sds = np.sqrt(variances)
        floors, further = moderated(rng.normal(size=(groups, 3)) * sds[:groups, None])
        a, b = {"both repeated": (0, 1), "one repeated": (0, -1), "none repeated": (-1, -2)}[kind]
        chosen = [floors[i] if i >= 0 else further for i in (a, b)]
        gap = rng.normal() * sds[a] - rng.normal() * sds[b]
        outside += abs(gap) > noise_limit(*chosen)
    high = 0.09 if prior_df == 2 and kind == "none repeated" else 0.065
    assert 0.005 <= outside / STUDIES <= high


@pytest.mark.long
def test_noisiest_setting_exceeds_the_moderated_limit_less_often_than_the_pooled_one():
    rng = np.random.default_rng(3)
    pooled_outside = moderated_outside = 0
    for _ in range(STUDIES):
        sds = np.sqrt(2 / rng.chisquare(2, size=12))
        groups = rng.normal(size=(12, 3)) * sds[:, None]
        noisiest = int(sds.argmax())
        gap = abs(rng.normal() - rng.normal()) * sds[noisiest]
        pooled_outside += gap > noise_limit(noise_floor(groups))
        moderated_outside += gap > noise_limit(moderated(groups)[0][noisiest])
    assert pooled_outside / STUDIES > 0.3
    assert moderated_outside / STUDIES < 0.25
