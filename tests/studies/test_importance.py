"""Importance of varied settings: synthetic studies with known answers, and too few runs."""

import itertools

import numpy as np
import pandas as pd
import pytest

from core.errors import UserError
from core.studies.importance import importance
from core.studies.spacing import is_log_spaced

AXES = (("lora_rank", "lora_alpha"), ("lr",), ("optimizer",))


def grid(value, seeds=3):
    """Return a study of 3 x 2 x 2 settings whose metric is `value(rank, lr, optimizer)`."""
    rows = [
        {
            "lora_rank": rank, "lora_alpha": rank, "lr": lr, "optimizer": optimizer,
            "value": value(rank, lr, optimizer), "diverged": False,
        }
        for rank, lr, optimizer, _ in itertools.product(
            (4, 16, 64), (1e-4, 1e-3), ("adamw", "muon"), range(seeds)
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_only_the_setting_that_matters_is_important():
    rng = np.random.default_rng(0)
    runs = grid(lambda rank, lr, optimizer: (rank != 16) + rng.normal(0, 0.1))
    table = importance(runs, AXES, "lower")
    assert table["field"][0] == "lora_rank=lora_alpha"
    assert table["importance"][0] > 0.9
    assert table["importance"].sum() == pytest.approx(1)
    assert table["above_chance"].tolist() == [True, False, False]
    assert (table["low"] <= table["importance"]).all()
    assert (table["importance"] <= table["high"]).all()
    assert table["low"][0] > table["importance"][1]
    assert table["n"].tolist() == [36] * 3


def test_important_setting_is_found_with_one_run_per_combination():
    rng = np.random.default_rng(0)
    rates = np.geomspace(1e-5, 1e-2, 8)
    runs = pd.DataFrame([
        {"lr": lr, "optimizer": optimizer, "value": abs(np.log10(lr) + 3) + rng.normal(0, 0.1), "diverged": False}
        for lr, optimizer in itertools.product(rates, ("adamw", "muon"))
    ])  # fmt: skip
    table = importance(runs, AXES[1:], "lower")
    assert table["field"][0] == "lr"
    assert table["above_chance"].tolist() == [True, False]
    assert 0 < table["low"][0] < table["high"][0] <= 1


def false_alarms(studies):
    """Return the number of studies without any effect in which a setting is above chance."""
    count = 0
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        runs = grid(lambda *settings: rng.normal(), seeds=2)  # noqa: B023
        count += importance(runs, AXES, "lower")["above_chance"].any()
    return count


def test_settings_without_any_influence_are_rarely_above_chance():
    assert false_alarms(20) <= 3  # 5% of 20 is 1


@pytest.mark.long
def test_settings_without_any_influence_are_above_chance_in_at_most_five_percent_of_studies():
    studies = 400
    standard_error = (0.05 * 0.95 / studies) ** 0.5
    assert false_alarms(studies) / studies <= 0.05 + 2 * standard_error


def test_seeds_of_a_combination_are_not_independent_results():
    """The metric depends on the combination, but on no setting alone. Permuting single runs gives 13 of 24."""
    count = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        runs = pd.DataFrame(rng.integers(1, 5, (12, 3)), columns=["lr", "lora_rank", "epochs"])
        runs = runs.assign(value=rng.normal(size=12), diverged=False)
        runs = pd.concat([runs.assign(value=runs["value"] + rng.normal(0, 0.05, 12)) for _ in range(3)], ignore_index=True)  # fmt: skip
        axes = [("lr",), ("lora_rank",), ("epochs",)]
        count += importance(runs, axes, "lower")["above_chance"].any()
    assert count <= 3


def test_higher_values_can_be_better():
    rng = np.random.default_rng(0)
    runs = grid(lambda rank, lr, optimizer: (lr == 1e-3) + rng.normal(0, 0.1))
    lower, higher = (importance(runs, AXES, direction) for direction in ("lower", "higher"))
    assert lower["field"][0] == higher["field"][0] == "lr"
    runs["value"] *= -1
    pd.testing.assert_frame_equal(importance(runs, AXES, "lower"), higher)


def test_diverged_runs_count_as_the_worst():
    rng = np.random.default_rng(0)
    runs = grid(lambda *settings: rng.normal(0, 0.1))
    runs["diverged"] = runs["optimizer"] == "muon"
    runs.loc[runs["diverged"], "value"] = np.nan
    table = importance(runs, AXES, "lower")
    assert table["field"][0] == "optimizer"
    assert table["above_chance"][0]
    runs["diverged"] = True
    assert not importance(runs, AXES, "lower")["above_chance"].any()


def test_many_values_are_treated_as_a_range():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {"lr": 10 ** rng.uniform(-5, -2, 60), "warmup_fraction": rng.uniform(0, 0.5, 60)}
    )
    runs = runs.assign(value=(np.log10(runs["lr"]) + 3).abs(), diverged=False)
    table = importance(runs, [("lr",), ("warmup_fraction",)], "lower")
    assert table["field"].tolist() == ["lr", "warmup_fraction"]
    assert table["above_chance"].tolist() == [True, False]


def test_settings_without_effect_in_some_runs_are_accepted():
    rng = np.random.default_rng(0)
    runs = grid(lambda *settings: rng.normal())
    runs["method"] = np.where(runs["optimizer"] == "muon", "full", "lora")
    runs.loc[runs["method"] == "full", "lora_rank"] = np.nan
    table = importance(runs, [("lora_rank",), ("method",)], "lower")
    assert sorted(table["field"]) == ["lora_rank", "method"]


def test_equal_values_give_equal_importance():
    table = importance(grid(lambda *settings: 1.0), AXES, "lower")
    assert table["importance"].tolist() == pytest.approx([1 / 3] * 3)
    assert not table["above_chance"].any()


def test_the_same_runs_give_the_same_table():
    rng = np.random.default_rng(0)
    runs = grid(lambda *settings: rng.normal())
    pd.testing.assert_frame_equal(importance(runs, AXES, "lower"), importance(runs, AXES, "lower"))


def test_too_few_runs_or_settings_raise_user_error():
    runs = grid(lambda *settings: 1.0, seeds=2)
    runs.loc[10:, "value"] = np.nan
    with pytest.raises(UserError, match=r"at least 15 .* There are 10\."):
        importance(runs, AXES, "lower")
    with pytest.raises(UserError, match="only one varies"):
        importance(grid(lambda *settings: 1.0), AXES[:1], "lower")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4, 16, 64], True), ([1e-4, 3e-4, 1e-3], True), ([1, 2, 3, 4], False), ([5e-4, 2e-3], True),
        ([1, 2], False), ([0, 1, 10], False), (["a", "b"], False), ([True, False], False), ([2], False),
    ],
)  # fmt: skip
def test_log_spaced_values_are_recognized(values, expected):
    assert is_log_spaced(values) is expected
