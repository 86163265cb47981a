"""The learning rate finder: rates, data order, smoothing, early stopping and the quality of its suggestion."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.config import RunConfig
from core.presets import preset
from core.training import lr_finder
from core.training.lr_finder import LRCurve, find_lr, suggest
from core.training.trainer import Trainer, train

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]


@pytest.fixture(scope="module")
def curve(new_config: NewConfig) -> LRCurve:
    """A 40-step test of a 5-step run."""
    return find_lr(new_config(lr=1e-3, min_lr=1e-4, warmup_fraction=0.5), 40)


def test_rates_increase_by_a_constant_factor(curve: LRCurve) -> None:
    expected = np.geomspace(1e-6, 10, 40)[: len(curve.lr)]
    assert curve.lr == pytest.approx(expected.tolist())
    assert len(curve.lr) == len(curve.loss) == len(curve.smoothed)


def test_smoothed_loss_matches_pandas(curve: LRCurve) -> None:
    expected = pd.Series(curve.loss).ewm(alpha=1 - lr_finder.SMOOTHING).mean()
    assert curve.smoothed == pytest.approx(expected.tolist())


def test_first_losses_match_a_run_at_the_same_rates(
    new_config: NewConfig, new_run: NewRun, curve: LRCurve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "learning_rate", lambda self, step: curve.lr[step - 1])
    run = new_run()
    train(new_config(epochs=2), run)
    assert run.losses() == curve.loss[:10]


def test_finder_stops_when_the_loss_diverges(new_config: NewConfig) -> None:
    config = new_config(optimizer="sgd", momentum=0.9, grad_clip=None)
    curve = find_lr(config.changed(weight_decay=10.0), 60)
    assert len(curve.lr) < 60
    earlier = curve.smoothed[:-1]
    assert all(m <= 4 * min(earlier[: i + 1]) for i, m in enumerate(earlier))
    assert curve.suggestion is not None


def test_suggestion_is_a_tenth_of_the_rate_with_the_lowest_smoothed_loss() -> None:
    rates = np.geomspace(1e-6, 10, 100).tolist()
    losses = [(np.log10(rate) + 2) ** 2 + 1 for rate in rates]  # lowest at 0.01
    assert suggest(rates, losses) == pytest.approx(1e-3, rel=0.1001)  # rounded to two digits
    assert suggest(rates, sorted(losses)) is None, "the loss only rises"


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full"},
        {"method": "full", "optimizer": "muon"},
        {"method": "lora", "lora_rank": 16},
    ],
    ids=str,
)
def test_suggested_rate_beats_much_lower_and_higher_rates(
    new_run: NewRun, changes: dict[str, Any]
) -> None:
    values = {"epochs": 1, "batch_size": 8, "keep_weights": "none", "sample_prompt": ""}
    config = preset("demo").changed(**values, **changes, min_lr=None, schedule="linear")
    suggestion = find_lr(config, 100).suggestion
    assert suggestion is not None
    losses = {}
    for factor in (0.03, 1.0, 30.0):
        run = new_run(f"at-{factor:g}")
        Trainer(config.changed(lr=suggestion * factor, nonfinite="skip"), run).fit()
        losses[factor] = run.events_of("eval")[-1]["val_loss"]
    assert losses[1.0] < 0.8 * min(losses[0.03], losses[30.0]), losses
