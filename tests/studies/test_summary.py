"""Summaries of studies: means and intervals, the best combination, and counts of runs by outcome."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from core.studies.effects import effects
from core.studies.summary import SUMMARY_COLUMNS, summary, varied_axes
from tests.studies.test_effects import runs_of

RATES = ("lr",)
RANKS = ("lora_rank", "lora_alpha")


def row(table, **settings):
    [match] = [r for r in table.to_dict("records") if r["settings"] == settings]
    return match


def test_loss_has_a_geometric_mean_and_an_interval_on_the_log_scale():
    losses = [1.0, 1.2, 1.1]
    table = summary(
        runs_of(({"lr": 1e-3}, losses), ({"lr": 1e-4}, [2.0, 2.1, 2.2])), "val_loss", [RATES]
    )
    group = row(table, lr=1e-3)
    logs = np.log(losses)
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert [*table.columns] == [*SUMMARY_COLUMNS]
    assert group["mean"] == pytest.approx(math.exp(logs.mean()))
    assert (group["low"], group["high"]) == pytest.approx((math.exp(low), math.exp(high)))
    assert group["sd"] == pytest.approx(logs.std(ddof=1) * group["mean"])
    assert group["n"] == 3
    assert table["settings"].tolist() == [{"lr": 1e-4}, {"lr": 1e-3}], "in the order of the values"


def test_best_combination_and_differences_from_it():
    table = summary(
        runs_of(
            ({"lr": 1e-4, "lora_scaling": "alpha"}, [2.0, 2.1, 2.05]),
            ({"lr": 1e-3, "lora_scaling": "alpha"}, [1.0, 1.1, 1.05]),
            ({"lr": 1e-3, "lora_scaling": "alpha/rank"}, [1.5, 1.6, 1.54]),
            ({"lr": 1e-4, "lora_scaling": "alpha/rank"}, [3.0, 3.1, 3.06]),
        ),
        "val_loss",
        [RATES, ("lora_scaling",)],
    )
    best = row(table, lr=1e-3, lora_scaling="alpha")
    other_rate = row(table, lr=1e-4, lora_scaling="alpha")
    both = row(table, lr=1e-4, lora_scaling="alpha/rank")
    assert table["is_best"].sum() == 1
    assert best["is_best"]
    assert other_rate["verdict"] == "worse"
    assert other_rate["difference_low"] < other_rate["difference"] < other_rate["difference_high"]
    assert other_rate["difference"] == pytest.approx(other_rate["mean"] - best["mean"])
    assert both["difference"] > 0
    assert both["verdict"] is None, "two changes"


def test_higher_exact_answers_are_better_and_vary_over_items_and_seeds():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1]), ({"lr": 1e-3}, [1.0, 1.1]))
    rng = np.random.default_rng(0)
    items = pd.DataFrame([
        {"run": name, "example": str(i), "score": float(rng.random() < (0.2 if j < 2 else 0.9))}
        for j, name in enumerate(runs["name"])
        for i in range(40)
    ])  # fmt: skip
    table = summary(runs, "exact", [RATES], items)
    best = row(table, lr=1e-3)
    assert best["is_best"]
    assert 0 <= best["low"] < best["mean"] < best["high"] <= 1
    assert row(table, lr=1e-4)["difference"] < 0


def test_one_seed_has_no_interval_and_no_verdict():
    table = summary(runs_of(({"lr": 1e-4}, [2.0]), ({"lr": 1e-3}, [1.0])), "val_loss", [RATES])
    group = row(table, lr=1e-4)
    assert group["n"] == 1
    assert group["difference"] == pytest.approx(1.0)
    assert all(math.isnan(group[name]) for name in ("sd", "low", "high", "difference_low"))
    assert group["verdict"] is None


def test_runs_without_a_result_are_counted_by_outcome():
    runs = runs_of(
        ({"lr": 1e-4}, [2.0, 9.0, 2.2]),
        ({"lr": 1e-3}, [1.0, 9.0, 9.0]),
        ({"lr": 1e-2}, [3.0, 3.0, 3.0]),
    )
    runs.loc[2, "status"] = "running"
    runs.loc[6, ["status", "reason"]] = "stopped", "pruned at step 20"
    runs.loc[7, ["status", "reason"]] = "failed", "out of memory"
    runs.loc[8, "status"] = "queued"
    table = summary(runs, "val_loss", [RATES])
    first, last = row(table, lr=1e-4), row(table, lr=1e-2)
    assert (first["n"], first["diverged"], first["unfinished"]) == (1, 1, 1)
    assert first["diverged_runs"] == ["run-1"]
    assert (last["n"], last["pruned"], last["failed"], last["unfinished"]) == (0, 1, 1, 1)
    assert math.isnan(last["mean"])


def test_combination_with_diverged_runs_is_best_only_if_there_is_no_other():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.2]), ({"lr": 1e-3}, [1.0, 9.0, 9.0]))
    assert row(summary(runs, "val_loss", [RATES]), lr=1e-4)["is_best"]
    assert row(summary(runs.tail(3), "val_loss", [RATES]), lr=1e-3)["is_best"]
    assert not summary(runs.iloc[4:5], "val_loss", [RATES])["is_best"].any()


def test_settings_that_vary_together_are_one_axis():
    settings = [{"lora_rank": r, "lora_alpha": r} for r in (4, 16)]
    runs = runs_of((settings[0], [2.0, 2.1]), (settings[1], [1.0, 1.1]))
    table = summary(runs, "val_loss", [RANKS])
    assert table["settings"].tolist() == [{"lora_rank=lora_alpha": 4}, {"lora_rank=lora_alpha": 16}]
    assert varied_axes(runs) == [RANKS]
    assert varied_axes(runs_of(({"lr": 1e-4, "lora_rank": 4}, [1.0]), ({"lr": 1e-3}, [1.0]))) == [
        ("lora_rank",), ("lr",)
    ]  # fmt: skip


def test_only_the_newest_run_with_a_seed_counts():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.2]))
    repeated = pd.concat([runs.head(1).assign(name="newer", val_loss=3.0), runs], ignore_index=True)
    [group] = summary(repeated, "val_loss", [RATES]).to_dict("records")
    assert group["n"] == 3
    assert group["runs"] == ["newer", "run-1", "run-2"]


def test_mean_relative_update_includes_diverged_runs():
    runs = runs_of(({"lr": 1e-4}, [2.0, 9.0, 2.2])).assign(relative_update=[1e-3, 3e-3, math.nan])
    [group] = summary(runs, "val_loss", [RATES]).to_dict("records")
    assert group["relative_update"] == pytest.approx(2e-3)


def test_study_without_runs_has_no_rows():
    runs = runs_of(({"lr": 1e-4}, [2.0])).head(0)
    assert summary(runs, "val_loss", [RATES]).empty
    assert varied_axes(runs) == []


def test_a_thousand_runs_are_summarized_in_seconds():
    rates = np.geomspace(1e-5, 1e-2, 83)
    groups = [
        ({"lr": float(f"{lr:.4g}"), "lora_rank": rank}, [1.0, 1.1, 1.05])
        for lr in rates
        for rank in (4, 8, 16, 32)
    ]
    runs = runs_of(*groups)
    start = time.perf_counter()
    table = summary(runs, "val_loss", [RATES, ("lora_rank",)])
    assert len(table) == len(groups)
    assert time.perf_counter() - start < 10  # 2 s on an idle machine


def test_varied_settings_that_do_not_affect_learning_are_groups_of_their_own():
    runs = runs_of(({"precision": "fp32"}, [2.0, 2.1]), ({"precision": "bf16"}, [2.0, 2.1]))
    runs["seconds"] = [20.0, 21.0, 10.0, 10.5]
    table = summary(runs, "seconds", [("precision",)])
    assert {r["settings"]["precision"]: r["is_best"] for r in table.to_dict("records")} == {
        "fp32": False, "bf16": True,
    }  # fmt: skip
    assert table["n"].tolist() == [2, 2]
    assert row(table, precision="fp32")["verdict"] == "worse"
    effect = effects(runs, "seconds", axes=[("precision",)]).iloc[0]
    assert (effect["field"], effect["from"], effect["to"]) == ("precision", "bf16", "fp32")
    assert effects(runs, "seconds").empty, "not varied by a study"
