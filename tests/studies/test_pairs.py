"""The study that repeats two runs: the settings that it varies."""

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.studies.pairs import pair_sweep


def test_pair_is_repeated_with_every_seed():
    before = RunConfig(name="one", lr=1e-4, seed=7, notes="n", study="s", color="#112233")
    sweep = pair_sweep(before, RunConfig(lr=1e-3, seed=9, eval_every=5), 3)
    assert [(axis.fields, axis.values) for axis in sweep.axes] == [(("lr",), (1e-4, 1e-3))]
    assert sweep.seeds == (7, 8, 9)
    assert len([*sweep.members("p")]) == 6
    base = sweep.base
    assert (base.parent, base.name, base.study, base.notes) == ("one", "", None, "")


def test_tied_settings_are_one_change():
    runs = [RunConfig(lora_rank=r, lora_alpha=r) for r in (4, 16)]
    [axis] = pair_sweep(*runs, 2).axes
    assert axis.fields == ("lora_rank", "lora_alpha")
    runs[0] = RunConfig(lora_rank=4, lora_alpha=8)
    assert len(pair_sweep(*runs, 2).axes) == 2


def test_settings_without_effect_in_one_run_come_from_the_other():
    sweep = pair_sweep(RunConfig(method="full"), RunConfig(name="two", lora_rank=8, seed=5), 2)
    assert [axis.name for axis in sweep.axes] == ["method"]
    assert (sweep.base.lora_rank, sweep.base.parent, sweep.seeds) == (8, "two", (5, 6))
    assert len(sweep.combinations()) == 2


def test_pairs_that_no_study_can_settle_are_refused():
    one = RunConfig(lr=1e-4)
    with pytest.raises(UserError, match="same settings"):
        pair_sweep(one, one.changed(seed=5), 3)
    other = RunConfig(lr=1e-3, batch_size=8, epochs=2, weight_decay=0.0)
    with pytest.raises(UserError, match="differ in 4 settings"):
        pair_sweep(one, other, 3)
