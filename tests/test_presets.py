"""Compare the presets with the results table in the training journal, row by row."""

import math

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.presets import DEMO, PRESETS, preset

JOURNAL = """
run_1  medium 2 1 5e-5   -    0   0.1 -  -  1.519 4.569  33.39 12.76
run_2  large  2 1 5e-5   -    0   0.1 -  -  1.591 4.911  33.06 21.19
run_3  xl     2 1 5e-5   -    0   0.1 -  -  1.602 4.963  41.55 34.16
run_4  large  2 1 5e-5   1e-5 0.2 0.1 -  -  1.417 4.125  51.80 22.05
run_5  medium 2 1 5e-5   1e-5 0.2 0.1 -  -  1.448 4.255  32.55 13.37
run_6  large  2 1 5e-5   1e-5 0.2 0.1 -  -  1.436 4.203  41.91 -
run_10 medium 2 1 5e-5   1e-5 0.2 0.1 16 16 1.484 4.411  28.65 20.02
run_11 large  2 1 5e-5   1e-5 0.2 0.1 16 16 1.402 4.063  34.53 39.75
run_12 medium 4 1 5e-5   1e-5 0.2 0.1 16 16 1.388 4.007  32.46 19.19
run_13 medium 2 1 5e-5   1e-5 0.2 0.1 16 32 1.509 4.523  21.22 20.48
run_14 medium 2 1 5e-5   1e-5 0.2 0.1 32 32 1.498 4.472  25.27 20.12
run_15 medium 4 1 5e-5   1e-5 0.2 0.1 64 64 1.844 6.319  14.80 20.70
run_16 medium 4 1 2.5e-5 1e-5 0.3 0.1 64 64 1.470 4.350  28.14 20.70
run_17 medium 4 1 3e-5   1e-5 0   0.1 64 64 1.560 4.760  31.53 20.70
run_18 medium 4 1 1e-4   1e-5 0   0.1 64 64 3.974 53.202 -     20.70
run_19 medium 4 2 5e-5   1e-5 0.2 0.1 16 16 1.378 3.967  36.35 19.19
"""
"""Columns: run, model, batch size, epochs, lr, min_lr, warm-up fraction, weight decay, LoRA rank, LoRA alpha,
validation loss, perplexity, Gemini score (0 to 100) and training time in minutes. A dash marks a missing value.
"""

ROWS = [line.split() for line in JOURNAL.strip().splitlines()]


def number(text: str) -> float | None:
    return None if text == "-" else float(text)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_preset_matches_its_journal_row(row: list[str]) -> None:
    name, model = row[:2]
    config = preset(name)
    assert config.name == name
    assert config.base_model == f"gpt2-{model}"
    settings = (config.batch_size, config.epochs, config.lr, config.min_lr)
    assert (*settings, config.warmup_fraction, config.weight_decay) == tuple(map(number, row[2:8]))
    assert config.optimizer == "adamw"
    if row[8] == "-":
        assert config.method == "full"
    else:
        assert config.method == "lora"
        assert (config.lora_rank, config.lora_alpha) == (float(row[8]), float(row[9]))
        assert (config.lora_targets, config.lora_last_layers) == ("all", None)
    assert config.grad_clip == (None if name == "run_6" else 1.0)
    assert not config.tie_weights

    journal = PRESETS[name].journal
    assert journal is not None
    results = (journal.val_loss, journal.perplexity, journal.gemini, journal.minutes)
    assert results == tuple(map(number, row[10:]))
    assert journal.perplexity == pytest.approx(math.exp(journal.val_loss), rel=2e-3)
    assert journal.hardware == ("A100" if config.method == "full" else "T4")


def test_presets_cover_the_demos_and_every_journal_run() -> None:
    assert set(PRESETS) == {"demo", "demo_lora", *(row[0] for row in ROWS)}


def test_demo_does_not_need_a_download_and_is_not_a_journal_run() -> None:
    config = preset("demo")
    assert (config.base_model, config.dataset) == ("gpt2-nano", "primer")
    assert PRESETS["demo"].journal is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_use_only_known_settings(name: str) -> None:
    assert PRESETS[name].settings.keys() <= RunConfig.model_fields.keys()
    assert PRESETS[name].title


def test_preset_keeps_the_defaults_of_other_settings() -> None:
    other_settings = RunConfig.model_fields.keys() - DEMO.keys() - {"name"}
    config = preset("demo")
    assert all(getattr(config, name) == getattr(RunConfig(), name) for name in other_settings)


def test_unknown_preset_error_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown preset 'run_7'.*demo.*run_19"):
        preset("run_7")
