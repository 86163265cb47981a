"""Differences from a reference run: which runs are comparable, and which differences are within the noise."""

import math

import pandas as pd
import pytest

from core.config import RunConfig
from core.statistics.comparisons import NoiseFloor
from core.studies.noise import Noise
from core.views.differences import (
    ONE_PAIR,
    differences,
    floor_text,
    pair_sentence,
    planned_seeds,
    size_text,
)

FLOOR = NoiseFloor(0.01, 0.008, 0.014, df=20)
KIND = ("lora", "gpt2-nano", "primer")


def runs_of(*rows):
    table = [
        {
            **RunConfig(name=f"run-{i}").model_dump(),
            "val_set": "whole set",
            "status": "finished",
            **row,
        }
        for i, row in enumerate(rows)
    ]
    return pd.DataFrame(table)


def compared(*rows, metric="val_loss"):
    runs = runs_of(*rows)
    noise = Noise(metric, {KIND: FLOOR}, others={KIND: FLOOR})
    return differences(runs, runs.iloc[0].to_dict(), noise, runs[metric])


def test_losses_are_compared_relative_to_the_reference():
    table = compared({"val_loss": 2.0}, {"val_loss": 2.04}, {"val_loss": 1.9})
    assert math.isnan(table["difference"][0])
    assert table["difference"][1:].tolist() == pytest.approx([0.04, -0.1])
    assert table["is_noise"].tolist() == [False, True, False], "the limit is 2.95%"


def test_exact_answers_are_compared_in_points():
    table = compared({"exact": 0.5}, {"exact": 0.52}, {"exact": 0.54}, metric="exact")
    assert table["is_noise"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    "change",
    [{"dataset": "alpaca"}, {"mask_prompt": True}, {"val_set": "subset"}, {"status": "stopped"}],
)
def test_other_tokens_and_unfinished_runs_are_not_compared(change):
    table = compared({"val_loss": 2.0}, {"val_loss": 2.0, **change}, {"val_loss": 2.0})
    assert table["difference"].isna().tolist() == [True, True, False]


def test_the_prompt_mask_does_not_matter_for_exact_answers():
    table = compared({"exact": 0.5}, {"exact": 0.5, "mask_prompt": True}, metric="exact")
    assert table["difference"][1] == 0


def test_nothing_is_noise_without_a_floor():
    runs = runs_of({"val_loss": 2.0}, {"val_loss": 2.0})
    table = differences(runs, runs.iloc[0].to_dict(), Noise("val_loss"), runs["val_loss"])
    assert table["is_noise"].tolist() == [False, False]
    assert table["difference"][1] == 0


def test_missing_values_have_no_difference():
    table = compared({"val_loss": math.nan}, {"val_loss": 2.0})
    assert table["difference"].isna().all()


def test_texts():
    assert size_text("val_loss", 0.0031) == "0.31%"
    assert size_text("exact", 0.0123) == "1.2 pp"
    assert floor_text("val_loss", FLOOR, KIND) == (
        "Seed-to-seed sd 1.0% (95% interval 0.80% to 1.4%), from 20 repeats (lora, gpt2-nano, primer)."
    )


def test_number_of_seeds_is_a_range_or_three_if_the_noise_is_unknown():
    run = {"name": "a", "method": "lora", "base_model": "gpt2-nano", "dataset": "primer"}
    seeds, sentence = planned_seeds(
        Noise("val_loss", {KIND: FLOOR}, others={KIND: FLOOR}), run, run, 0.01
    )
    assert seeds == 18
    assert "To detect 1.0% in 80% of studies: 18 seeds of both settings (13 to 34" in sentence
    seeds, sentence = planned_seeds(Noise("val_loss"), run, run, 0.01)
    assert seeds == 3
    assert sentence.startswith("The noise is unknown. Start with 3 seeds")


@pytest.mark.parametrize(
    ("change", "values", "expected"),
    [
        (
            {"lr": 1e-3},
            (2.0, 2.01),
            "b vs. a: validation loss +0.0100, within the noise of two single runs (up to 2.9%, estimated from 20 repeats).",
        ),
        (
            {"lr": 1e-3},
            (2.0, 1.0),
            "b vs. a: validation loss -1.0000, more than the noise of two single runs (up to 2.9%, estimated from 20 repeats). A verdict needs exactly one changed setting, and several seeds for each of its two values.",
        ),
        ({"dataset": "alpaca"}, (2.0, 1.0), f"b vs. a: validation loss -1.0000. {ONE_PAIR}"),
        (
            {"seed": 9},
            (2.0, 1.0),
            "b vs. a: validation loss -1.0000. The settings are the same, so the difference is noise.",
        ),
    ],
)
def test_sentence_about_a_pair(change, values, expected):
    a = RunConfig(name="a").model_dump()
    noise = Noise("val_loss", {KIND: FLOOR}, others={KIND: FLOOR})
    assert (
        pair_sentence(noise, a, {**a, "name": "b", **change}, values, "validation loss") == expected
    )


def test_sentence_without_names_starts_with_the_metric():
    a = RunConfig(name="a").model_dump()
    text = pair_sentence(
        Noise("val_loss"), a, {**a, "lr": 1.0}, (2.0, 1.0), "validation loss", False
    )
    assert text == f"Validation loss -1.0000. {ONE_PAIR}"
