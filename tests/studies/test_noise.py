"""Noise floors: which runs count as repeats, and the scale on which they are compared."""

import math

import numpy as np
import pandas as pd
import pytest

from core.config import RunConfig, is_relevant
from core.statistics.comparisons import noise_limit
from core.studies.noise import groups, measure

LORA, FULL = ("lora", "gpt2-nano", "primer"), ("full", "gpt2-nano", "primer")


def runs_of(*rows):
    """Return rows like those of `queries.results`, newest first, built from pairs of settings and results."""
    table = []
    for i, given in enumerate(rows):
        settings = {name: v for name, v in given.items() if name in RunConfig.model_fields}
        values = RunConfig.parse(settings).model_dump()
        shown = {n: v if is_relevant(n, values) else None for n, v in values.items()}
        results = {"val_loss": 2.0, "exact": None, "val_set": "whole set", "status": "finished"}
        other = {"reason": None, "step": 9, "base_loss": 4.0}
        table.append({**shown, **results, **other, **given, "name": f"run-{i}"})
    runs = pd.DataFrame(table).astype({"val_loss": float, "exact": float})
    return runs.assign(subset_loss=runs["val_loss"])


def repeats(values, metric="val_loss", **settings):
    return [{**settings, "seed": seed, metric: value} for seed, value in enumerate(values)]


def floors(runs, metric="val_loss"):
    return measure(runs, metric, runs[metric]).floors


def test_floor_is_the_relative_deviation_between_seeds_pooled_over_settings():
    runs = runs_of(
        *repeats([2.0, 2.1, 2.2], lr=1e-4), *repeats([1.0, 1.05, 1.1], lr=1e-3), {"lr": 1e-2}
    )
    logs = [np.log([2.0, 2.1, 2.2]), np.log([1.0, 1.05, 1.1])]
    floor = floors(runs)[LORA]
    assert floor.sd == pytest.approx(math.sqrt(np.mean([v.var(ddof=1) for v in logs])))
    assert floor.df == 4


def test_floors_are_separate_for_each_method():
    runs = runs_of(*repeats([2.0, 2.1]), *repeats([1.0, 1.5], method="full"), {"dataset": "alpaca"})
    measured = measure(runs, "val_loss", runs["val_loss"])
    assert measured.floors[FULL].sd > measured.floors[LORA].sd
    lora, full = runs.iloc[0], runs.iloc[2]
    assert measured.limit(lora, lora) == noise_limit(measured.floors[LORA])
    assert measured.limit(lora, lora) < measured.limit(lora, full) == measured.limit(full, lora)
    assert math.isnan(measured.limit(lora, runs.iloc[4]))


@pytest.mark.parametrize(
    "change",
    [
        {"status": "stopped"},
        {"val_set": "subset"},
        {"val_loss": 9.0},
        {"val_loss": math.inf},
        {"val_loss": math.nan},
        {"seed": 0},
    ],
)
def test_unfinished_diverged_and_repeated_runs_do_not_count(change):
    runs = runs_of(*repeats([2.0, 2.1, 2.2]))
    runs.loc[2, [*change]] = [*change.values()]
    runs["subset_loss"] = runs["val_loss"]
    assert floors(runs)[LORA].sd == pytest.approx(np.log([2.0, 2.1]).std(ddof=1))


def test_exact_answers_are_compared_in_points_without_settings_at_a_bound():
    runs = runs_of(
        *repeats([0.5, 0.6], "exact"),
        *repeats([0.0, 0.0, 0.0], "exact", lr=1e-2),
        *repeats([1.0, 1.0], "exact", lr=1e-3),
    )
    floor = floors(runs, "exact")[LORA]
    assert (floor.sd, floor.df) == (pytest.approx(0.1 / math.sqrt(2)), 1)


def test_groups_ignore_the_seed_and_settings_that_do_not_affect_learning():
    runs = runs_of(
        {"seed": 1}, {"seed": 2, "notes": "n", "eval_every": 3}, {"lr": 1e-3}, {"grad_clip": None}
    )
    numbers = groups(runs)
    assert numbers[0] == numbers[1]
    assert len({*numbers}) == 3


def test_floor_is_unknown_without_runs():
    runs = runs_of({"status": "queued"})
    assert measure(runs, "val_loss", runs["val_loss"]).table().empty
