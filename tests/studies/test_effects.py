"""Effects: selection and pairing of runs, names of changes and contexts, and excluded runs."""

import math
import time

import numpy as np
import pandas as pd
import pytest

from core.config import RunConfig, is_relevant
from core.errors import UserError
from core.studies.effects import (
    DOUBLE_CHANGE_COLUMNS,
    EFFECT_COLUMNS,
    double_changes,
    effects,
)

SEEDS = (1, 2, 3)


def runs_of(*groups):
    """Return rows like those of `queries.results`, from (settings, metrics by seed)."""
    rows = []
    for settings, losses in groups:
        for seed, loss in zip(SEEDS, losses, strict=False):
            config = RunConfig.parse({**settings, "seed": seed})
            values = config.model_dump()
            shown = {
                n: v if is_relevant(n, values) or n in ("name", "study") else None
                for n, v in values.items()
            }
            measured = {
                "val_loss": loss,
                "subset_loss": loss,
                "best_val_loss": loss,
                "perplexity": math.exp(min(loss, 700)),
            }
            other = {
                "status": "finished",
                "reason": None,
                "step": 9,
                "val_set": "whole set",
                "base_loss": 4.0,
            }
            rows.append({**shown, **measured, **other, "name": f"run-{len(rows)}", "seconds": 10.0})
    return pd.DataFrame(rows)  # fmt: skip


def row(table, field):
    [match] = table[table["field"] == field].to_dict("records")
    return match


def test_single_change_is_compared_across_seeds():
    table = effects(
        runs_of(({"lr": 1e-3}, [1.0, 1.1, 1.05]), ({"lr": 1e-4}, [2.0, 2.2, 2.1])), "val_loss"
    )
    effect = row(table, "lr")
    assert [*table.columns] == [*EFFECT_COLUMNS]
    assert (effect["from"], effect["to"]) == (1e-4, 1e-3), "from the smaller to the larger value"
    assert effect["difference"] == pytest.approx(1.0492 - 2.0983, abs=1e-3)
    assert effect["low"] < effect["difference"] < effect["high"] < 0
    assert (effect["seeds"], effect["n"], effect["direction"]) == (3, 3, "lower")
    assert effect["verdict"] == "better"
    assert effect["context"] == {}


def test_runs_that_differ_in_two_changes_are_not_compared():
    runs = runs_of(
        ({"lr": 1e-3, "warmup_fraction": 0.2}, [1.0, 1.1, 1.0]), ({"lr": 1e-4}, [2.0, 2.1, 2.0])
    )
    assert effects(runs, "val_loss").empty


def test_pairs_with_two_changes_are_listed_without_a_verdict():
    runs = runs_of(
        ({"lr": 1e-4}, [2.0, 2.1, 2.0]),
        ({"lr": 1e-3, "warmup_fraction": 0.2}, [1.0, 1.1, 1.0]),
        ({"lr": 1e-3, "lora_rank": 64, "lora_alpha": 64}, [0.5, 0.6, 0.5]),
        ({"lr": 1e-3, "lora_rank": 64, "lora_alpha": 64, "dropout": 0.1}, [9.0, 0.6, 0.5]),
    )
    table = double_changes(runs, "val_loss")
    assert [*table.columns] == [*DOUBLE_CHANGE_COLUMNS]
    pairs = {frozenset(field for field, _, _ in r["changes"]): r for r in table.to_dict("records")}
    assert pairs.keys() == {
        frozenset({"lr", "warmup_fraction"}),
        frozenset({"lr", "lora_rank=lora_alpha"}),
        frozenset({"warmup_fraction", "lora_rank=lora_alpha"}),
    }
    ranks = pairs[frozenset({"lr", "lora_rank=lora_alpha"})]
    assert ranks["changes"] == [("lora_rank=lora_alpha", 16, 64), ("lr", 1e-4, 1e-3)]
    assert ranks["difference"] == pytest.approx(0.531 - 2.033, abs=1e-3)
    assert ranks["seeds"] == 3
    assert ranks["context"].items() >= {"dropout": 0.0, "warmup_fraction": 0.0}.items()


def test_single_changes_and_three_changes_are_not_double_changes():
    runs = runs_of(({"lr": 1e-4}, [2.0]), ({"lr": 1e-3}, [1.0]))
    assert double_changes(runs, "val_loss").empty
    runs = runs_of(({}, [2.0]), ({"lr": 1e-3, "dropout": 0.1, "beta1": 0.8}, [1.0]))
    assert double_changes(runs, "val_loss").empty


def test_tied_settings_are_one_change():
    settings = [{"lora_rank": r, "lora_alpha": r} for r in (4, 16)]
    runs = runs_of((settings[0], [2.0, 2.1, 2.0]), (settings[1], [1.0, 1.1, 1.0]))
    effect = row(effects(runs, "val_loss"), "lora_rank=lora_alpha")
    assert (effect["from"], effect["to"]) == (4, 16)
    ties = [("lr", "min_lr")]
    rates = [{"lr": r, "min_lr": r} for r in (1e-4, 1e-3)]
    runs = runs_of((rates[0], [2.0, 2.1, 2.0]), (rates[1], [1.0, 1.1, 1.0]))
    assert effects(runs, "val_loss").empty
    assert row(effects(runs, "val_loss", axes=ties), "lr=min_lr")["verdict"] == "better"


def test_effects_are_listed_for_each_context():
    groups = [
        ({"lr": lr, "lora_scaling": scaling}, [loss, loss + 0.1, loss + 0.05])
        for (lr, scaling), loss in {
            (1e-4, "alpha/rank"): 2.0,
            (1e-3, "alpha/rank"): 1.0,
            (1e-4, "alpha"): 1.0,
            (1e-3, "alpha"): 2.0,
        }.items()
    ]
    table = effects(runs_of(*groups), "val_loss")
    rates = table[table["field"] == "lr"]
    verdicts = {r["context"]["lora_scaling"]: r["verdict"] for r in rates.to_dict("records")}
    assert verdicts == {"alpha/rank": "better", "alpha": "worse"}
    assert len(table) == 4


def test_settings_without_effect_on_one_side_are_ignored():
    runs = runs_of(({"method": "full"}, [2.0, 2.1, 2.0]), ({"lora_rank": 8}, [1.0, 1.1, 1.0]))
    assert row(effects(runs, "val_loss"), "method")["to"] in ("lora", "full")


def test_diverged_runs_are_counted_separately():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.0]), ({"lr": 1e-3}, [1.0, 9.0, 1.1]))
    effect = row(effects(runs, "val_loss"), "lr")
    assert effect["diverged"] == [0, 1]
    assert effect["seeds"] == 2
    everything = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.0]), ({"lr": 1e-3}, [9.0, 9.0, math.nan]))
    effect = row(effects(everything, "val_loss"), "lr")
    assert effect["diverged"] == [0, 3]
    assert math.isnan(effect["difference"])
    assert effect["verdict"] == "undecided"


def test_unfinished_runs_and_subset_losses_are_excluded():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.0]), ({"lr": 1e-3}, [1.0, 1.1, 1.0]))
    runs.loc[0, "status"] = "stopped"
    runs.loc[1, "val_set"] = "subset"
    effect = row(effects(runs, "val_loss"), "lr")
    assert effect["seeds"] == 1
    assert effect["verdict"] == "undecided"


def test_run_with_damaged_settings_is_left_out():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1]), ({"lr": 1e-3}, [1.0, 1.1]), ({"lr": 1e-2}, [1.5]))
    damaged = runs.tail(1).reindex(columns=runs.columns.difference(RunConfig.model_fields))
    runs = pd.concat([runs.head(4), damaged]).astype({"seed": "Int64"})
    table = effects(runs.reset_index(drop=True), "val_loss")
    assert table["to"].tolist() == [1e-3]


def test_one_seed_is_undecided():
    effect = row(effects(runs_of(({"lr": 1e-4}, [2.0]), ({"lr": 1e-3}, [1.0])), "val_loss"), "lr")
    assert effect["verdict"] == "undecided"
    assert math.isnan(effect["p"])


def test_seed_missing_on_one_side_leaves_the_others_paired():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.0]), ({"lr": 1e-3}, [1.0, 1.1, 1.0])).drop(index=1)
    effect = row(effects(runs.reset_index(drop=True), "val_loss"), "lr")
    assert (effect["seeds"], effect["n"]) == (2, 2)


def test_missing_metrics_are_left_out():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.0]), ({"lr": 1e-3}, [1.0, 1.1, 1.0]))
    runs.loc[0, "seconds"] = math.nan
    runs["peak_memory_mb"] = math.nan
    assert row(effects(runs, "seconds"), "lr")["seeds"] == 2
    effect = row(effects(runs, "peak_memory_mb"), "lr")
    assert math.isnan(effect["difference"])
    assert effect["verdict"] == "undecided"
    runs.loc[3:, "perplexity"] = math.inf
    assert row(effects(runs, "perplexity"), "lr")["verdict"] == "undecided"


def test_pruned_runs_are_neither_compared_nor_diverged():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.0]), ({"lr": 1e-3}, [9.0, 1.1, 1.0]))
    runs.loc[3, ["status", "reason"]] = ["stopped", "pruned after 20% of the steps"]
    effect = row(effects(runs, "val_loss"), "lr")
    assert (effect["seeds"], effect["diverged"], effect["pruned"]) == (2, [0, 0], [0, 1])
    runs.loc[3:, ["status", "reason"]] = ["stopped", "pruned after 20% of the steps"]
    assert effects(runs, "val_loss").empty, "a group of pruned runs has nothing to compare"


def test_runs_that_may_end_early_form_a_separate_group():
    runs = runs_of(({}, [2.0, 2.1, 2.0]), ({"early_stopping_patience": 3}, [1.0, 1.1, 1.0]))
    assert (row(effects(runs, "val_loss"), "early_stopping_patience")["to"]) == 3


def test_equivalence_needs_a_margin():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.1, 2.05]), ({"lr": 2e-4}, [2.0005, 2.1004, 2.0506]))
    assert row(effects(runs, "val_loss"), "lr")["verdict"] in ("equivalent", "worse")
    assert row(effects(runs, "val_loss", margin=1e-9), "lr")["verdict"] != "equivalent"
    with pytest.raises(UserError, match="must be greater than 0"):
        effects(runs, "val_loss", margin=0)


def test_exact_answers_are_compared_by_item_and_seed():
    runs = runs_of(({"lr": 1e-4}, [2.0, 2.0, 2.0]), ({"lr": 1e-3}, [1.9, 1.9, 1.9]))
    rng = np.random.default_rng(0)
    rows = []
    for i, name in enumerate(runs["name"]):
        chance = 0.2 if i < 3 else 0.8
        rows += [(name, f"example-{k}", float(rng.random() < chance)) for k in range(60)]
    items = pd.DataFrame(rows, columns=["run", "example", "score"])
    effect = row(effects(runs, "exact", items), "lr")
    assert effect["n"] == 180
    assert effect["direction"] == "higher"
    assert effect["difference"] == pytest.approx(0.6, abs=0.15)
    assert effect["verdict"] == "better"


def test_a_thousand_runs_are_compared_in_seconds():
    grid = [(lr, rank, b) for lr in range(1, 20) for rank in range(1, 7) for b in (1, 2, 4)]
    groups = [
        ({"lr": lr / 1e4, "lora_rank": rank, "batch_size": b}, [2.0, 2.1, 2.2])
        for lr, rank, b in grid
    ]
    runs = runs_of(*groups)
    start = time.process_time()
    table = effects(runs, "val_loss")
    assert len(table) > 1000
    assert time.process_time() - start < 5


def test_one_seed_supports_no_verdict_across_test_items():
    runs = runs_of(({"lr": 1e-4}, [2.0]), ({"lr": 1e-3}, [1.9]))
    rows = [(name, str(k), float(k % 10 < chance)) for name, chance in zip(runs["name"], (2, 8), strict=True) for k in range(60)]  # fmt: skip
    items = pd.DataFrame(rows, columns=["run", "example", "score"])
    effect = row(effects(runs, "exact", items), "lr")
    assert effect["low"] > 0
    assert (effect["seeds"], effect["verdict"]) == (1, "undecided")
