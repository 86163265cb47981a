"""Sentences for effects, and the command that repeats a study."""

import math
import shlex

import pandas as pd
import pytest

from core.cli.options import parse_config
from core.config import RunConfig
from core.studies.analysis import scale
from core.studies.sweep import Sweep, parse_axis
from core.views import study_text

AXES = [("lora_rank", "lora_alpha"), ("lr",)]
NO_ROWS = pd.DataFrame({"diverged": [], "settings": []})
EFFECT = {
    "field": "lora_rank=lora_alpha", "from": 4, "to": 16, "context": {"lora_scaling": "alpha", "lr": 5e-4},
    "difference": -0.12, "low": -0.16, "high": -0.08, "seeds": 3, "margin": 0.01, "verdict": "better",
    "exploratory": False, "pruned": [0, 0],
}  # fmt: skip


def sentences(*changes, metric="val_loss", table=NO_ROWS):
    effects = pd.DataFrame([{**EFFECT, **change} for change in changes], columns=[*EFFECT])
    return study_text.conclusions(effects, table, metric, scale(metric), AXES)


def test_effect_has_difference_interval_seeds_and_context():
    assert sentences({}) == [
        "Rank = alpha = 16 instead of 4 lowers the validation loss by 0.120 (95% interval 0.080 to 0.160, 3 seeds) with "
        "learning rate 5e-4 and scaling alpha."
    ]


def test_long_summaries_are_cut():
    assert sentences(*[{}] * 53)[-1] == "3 more comparisons of the validation loss have a verdict."
    table = pd.DataFrame([{"diverged": 1, "n": 1, "settings": {"lr": 1e-3}}] * 51)
    assert sentences({}, table=table)[-1] == "1 more combination has diverged runs."


def test_pruning_is_mentioned():
    assert sentences({"pruned": [0, 2]})[-1] == study_text.PRUNING_BIAS


def test_effect_in_the_other_direction():
    [sentence] = sentences(
        {"difference": 0.12, "low": 0.08, "high": 0.16, "context": {}, "verdict": "worse"}
    )
    assert sentence.endswith(
        "raises the validation loss by 0.120 (95% interval 0.080 to 0.160, 3 seeds)."
    )


@pytest.mark.parametrize(
    ("metric", "difference", "expected"),
    [
        ("exact", 0.123, "raises the share of exact answers by 12.3 points (95% interval 12.3 to 12.3"),
        ("seconds", 12.3, "raises the training time by 12.3 s (95% interval 12.3 to 12.3"),
        ("my judge", 12.34, "raises the score from my judge by 12.3 points (95% interval"),
        ("val_loss", 0.00123456, "raises the validation loss by 0.00123 (95% interval 0.00123"),
    ],
)  # fmt: skip
def test_amounts_have_the_unit_of_the_metric(metric, difference, expected):
    [sentence] = sentences(
        {"difference": difference, "low": difference, "high": difference}, metric=metric
    )
    assert expected in sentence


def test_equivalent_settings_name_the_margin():
    change = {"verdict": "equivalent", "context": {}}
    assert sentences(change) == [
        "Rank = alpha = 16 and 4 are equivalent: the validation loss differs by less than 1% (3 seeds)."
    ]
    [sentence] = sentences({**change, "margin": 0.02}, metric="exact")
    assert "the share of exact answers differs by less than 2 points" in sentence


def test_undecided_and_impossible_comparisons_are_counted_but_not_listed():
    undecided = {"verdict": "undecided"}
    assert sentences(undecided, undecided, {**undecided, "seeds": 0, "difference": math.nan}) == [
        "2 comparisons of the validation loss are undecided.",
        "1 comparison of the validation loss has only diverged or unfinished runs on one side.",
    ]


def test_one_seed_supports_no_conclusion():
    assert sentences({"seeds": 1}, metric="exact") == [
        "1 comparison of the share of exact answers has only one seed, which supports no conclusion."
    ]


def test_effects_are_sorted_by_setting_and_value():
    lines = sentences(
        {"field": "lr", "from": 1e-4, "to": 1e-3, "context": {}},
        {"from": 16, "to": 64}, {"from": 4, "to": 64}, {"from": 4, "to": 16},
    )  # fmt: skip
    starts = [line.partition(" lowers")[0] for line in lines]
    assert starts == [
        "Rank = alpha = 16 instead of 4", "Rank = alpha = 64 instead of 4", "Rank = alpha = 64 instead of 16",
        "Learning rate 0.001 instead of 1e-4",
    ]  # fmt: skip


def test_diverged_runs_and_added_seeds_are_mentioned():
    table = pd.DataFrame({
        "diverged": [0, 1, 3], "n": [3, 2, 0],
        "settings": [{"lora_rank=lora_alpha": rank, "lr": 1e-3} for rank in (4, 16, 64)],
    })  # fmt: skip
    assert sentences({"exploratory": True}, table=table)[1:] == [
        "1 of 3 runs with rank = alpha = 16 and learning rate 0.001 diverged.",
        "All 3 runs with rank = alpha = 64 and learning rate 0.001 diverged.",
        "Seeds were added after this study was planned, so these conclusions are exploratory.",
    ]


def test_study_without_results_says_so():
    assert sentences() == ["No comparison of the validation loss is possible yet."]


def test_command_repeats_the_sweep(tmp_path):
    base = RunConfig(
        batch_size=2, min_lr=1e-5, mask_prompt=True, max_examples=1000, lora_targets="attention, mlp", seed=7,
        dataset="it's; a file", warmup_fraction=0.123456789,
    )  # fmt: skip
    axes = tuple(
        map(
            parse_axis,
            [
                "lora_rank=lora_alpha=4,16",
                "lr=1e-4,0.0003",
                "max_length=64,2048",
                "lora_dora=off,on",
                "grad_clip=none,1",
            ],
        )
    )
    planned = Sweep(base, axes, (7, 8, 9), "random", 12)
    command = study_text.command("rates and ranks", planned)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:5] == ["python", "-m", "core", "sweep", "--study"]
    options = list(zip(words[4::2], words[5::2], strict=True))
    assert options[0] == ("--study", "rates and ranks")
    given = {name: [value for key, value in options if key == name] for name, _ in options}
    parsed = parse_config(None, given["--set"], tmp_path)
    varied = {field: None for axis in axes for field in axis.fields}
    assert parsed.model_dump(exclude={"name", *varied}) == base.model_dump(
        exclude={"name", *varied}
    )
    assert tuple(map(parse_axis, given["--axis"])) == axes
    assert (given["--seeds"], given["--mode"], given["--max-runs"]) == (["3"], ["random"], ["12"])


def test_seeds_that_are_not_consecutive_are_noted():
    planned = Sweep(RunConfig(), (parse_axis("lr=1e-4,1e-3"),), (1, 5))
    assert study_text.command("a", planned).startswith("# The study used the seeds 1, 5.\n")
