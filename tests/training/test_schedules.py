"""Learning rate schedules, compared with closed forms, torch's schedulers and transformers."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from core.config import RunConfig
from core.training.schedules import learning_rate

rates = st.floats(1e-6, 1.0)
shares = st.floats(0, 0.99)


def all_rates(config: RunConfig, steps: int) -> list[float]:
    return [learning_rate(config, step, steps) for step in range(1, steps + 1)]


def torch_rates(scheduler: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """Return the rates of a torch scheduler. Its optimizer takes a step before each rate but the first."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def sgd(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)


@given(rates, shares, st.integers(1, 500))
def test_rate_without_a_minimum_warms_up_from_zero_and_stays_constant(
    lr: float, warmup_fraction: float, steps: int
) -> None:
    config = RunConfig(lr=lr, min_lr=None, warmup_fraction=warmup_fraction)
    warmup = int(warmup_fraction * steps)
    expected = [lr * min(1.0, i / warmup) if warmup else lr for i in range(steps)]
    assert all_rates(config, steps) == pytest.approx(expected)
    assert all_rates(config.changed(schedule="constant"), steps) == all_rates(config, steps)


def test_constant_rate_with_warm_up_matches_transformers() -> None:
    from transformers import get_constant_schedule_with_warmup

    config = RunConfig(lr=2e-3, min_lr=None, warmup_fraction=0.2)
    schedule = get_constant_schedule_with_warmup(sgd(config.lr), num_warmup_steps=10)
    assert all_rates(config, 50) == pytest.approx(torch_rates(schedule, 50))


@given(rates, st.floats(0, 1), shares, st.integers(1, 500))
def test_warm_up_and_cosine_match_the_closed_form(
    lr: float, share: float, warmup_fraction: float, steps: int
) -> None:
    low = lr * share
    config = RunConfig(lr=lr, min_lr=low, warmup_fraction=warmup_fraction)
    actual = all_rates(config, steps)
    warmup = int(warmup_fraction * steps)
    for i, rate in enumerate(actual):
        if i < warmup:
            expected = low + (lr - low) * i / warmup
        else:
            angle = math.pi * (i - warmup) / max(1, steps - 1 - warmup)
            expected = (lr + low) / 2 + (lr - low) / 2 * math.cos(angle)
        assert rate == pytest.approx(expected, rel=1e-9)
    assert actual[warmup] == pytest.approx(lr)  # the peak
    assert all(low * (1 - 1e-9) <= rate <= lr * (1 + 1e-9) for rate in actual)
    if warmup:
        assert actual[0] == low
    if steps > warmup + 1:
        assert actual[-1] == pytest.approx(low)
    assert all_rates(config.changed(schedule="cosine"), steps) == actual


@pytest.mark.parametrize("low", [None, 1e-4])
def test_linear_and_cosine_match_the_schedulers_of_torch(low: float | None) -> None:
    end, steps, warmup = low or 0.0, 50, 10
    config = RunConfig(lr=2e-3, min_lr=low, warmup_fraction=0.2, warmup_start=5e-4)
    decay_steps = steps - 1 - warmup
    for schedule in ("linear", "cosine"):
        optimizer = sgd(config.lr)
        decay = {
            "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, end / config.lr, decay_steps),
            "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, decay_steps, end),
        }[schedule]
        parts = [lr_scheduler.LinearLR(optimizer, 0.25, 1.0, warmup), decay(optimizer)]
        expected = lr_scheduler.SequentialLR(optimizer, parts, [warmup])
        actual = all_rates(config.changed(schedule=schedule), steps)
        assert actual == pytest.approx(torch_rates(expected, steps), abs=1e-12), schedule


@given(rates, st.floats(0, 1), st.floats(0, 0.5), st.floats(0.01, 0.5), st.integers(1, 500))
def test_wsd_matches_the_closed_form(
    lr: float, share: float, warmup_fraction: float, decay_fraction: float, steps: int
) -> None:
    low = lr * share
    config = RunConfig(
        schedule="wsd",
        lr=lr,
        min_lr=low,
        warmup_fraction=warmup_fraction,
        decay_fraction=decay_fraction,
        warmup_start=0.0,
    )
    warmup = int(warmup_fraction * steps)
    # The first step after the warm-up has the peak rate, even if the fractions add up to 1.
    decay = min(max(1, int(decay_fraction * steps)), steps - 1 - warmup)
    for i, rate in enumerate(all_rates(config, steps)):
        remaining_steps = steps - 1 - i
        if i < warmup:
            expected = lr * i / warmup
        elif remaining_steps >= decay:
            expected = lr
        else:
            expected = low + (lr - low) * remaining_steps / decay
        assert rate == pytest.approx(expected, rel=1e-9, abs=1e-15)


@given(st.integers(10, 400), st.floats(0.05, 0.5), st.sampled_from(["linear", "cosine", "wsd"]))
def test_rate_rises_then_falls(steps: int, warmup_fraction: float, schedule: str) -> None:
    config = RunConfig.parse(
        {"lr": 1e-3, "min_lr": 1e-5, "warmup_fraction": warmup_fraction, "schedule": schedule}
    )
    result = all_rates(config, steps)
    peak = int(warmup_fraction * steps)
    assume(0 < peak < steps - 1)
    assert result[: peak + 1] == sorted(result[: peak + 1])
    assert result[peak:] == sorted(result[peak:], reverse=True)
    assert result[-1] == pytest.approx(1e-5)


def test_constant_schedule_ignores_the_minimum() -> None:
    config = RunConfig(schedule="constant", lr=1e-3, min_lr=1e-4, warmup_fraction=0.1)
    assert all_rates(config, 20) == [0.0, 5e-4, *[1e-3] * 18]


def test_schedule_matches_the_journal() -> None:
    config = RunConfig(lr=5e-5, min_lr=1e-5, warmup_fraction=0.2)
    result = [learning_rate(config, step, 101) for step in (1, 11, 21, 61, 101)]
    assert result == pytest.approx([1e-5, 3e-5, 5e-5, 3e-5, 1e-5])
