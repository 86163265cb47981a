"""The learning rate schedule and one step of each optimizer, compared with closed forms."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.config import RunConfig
from core.training.optimizers import build_optimizer, learning_rate

ROOT = Path(__file__).parents[2]
rates = st.floats(1e-6, 1.0)


@given(rates, st.floats(0, 0.99), st.integers(1, 500))
def test_rate_without_a_minimum_warms_up_from_zero_and_stays_constant(
    lr: float, warmup_fraction: float, steps: int
) -> None:
    config = RunConfig(lr=lr, min_lr=None, warmup_fraction=warmup_fraction)
    warmup = int(warmup_fraction * steps)
    for step in range(1, steps + 1):
        expected = lr * min(1.0, (step - 1) / warmup) if warmup else lr
        assert learning_rate(config, step, steps) == pytest.approx(expected)


def test_constant_rate_with_warm_up_matches_transformers() -> None:
    from transformers import get_constant_schedule_with_warmup

    config = RunConfig(lr=2e-3, min_lr=None, warmup_fraction=0.2)
    optimizer = build_optimizer(config, [nn.Parameter(torch.ones(1))])
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=10)
    for step in range(1, 51):
        assert learning_rate(config, step, 50) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@given(rates, st.floats(0, 1), st.floats(0, 0.99), st.integers(1, 500))
def test_warm_up_and_cosine_decay_match_the_closed_form(
    lr: float, share: float, warmup_fraction: float, steps: int
) -> None:
    low = lr * share
    config = RunConfig(lr=lr, min_lr=low, warmup_fraction=warmup_fraction)
    actual = [learning_rate(config, step, steps) for step in range(1, steps + 1)]
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


@given(st.integers(10, 400), st.floats(0.05, 0.9))
def test_rate_rises_then_falls(steps: int, warmup_fraction: float) -> None:
    config = RunConfig(lr=1e-3, min_lr=1e-5, warmup_fraction=warmup_fraction)
    result = [learning_rate(config, step, steps) for step in range(1, steps + 1)]
    peak = int(warmup_fraction * steps)
    assume(0 < peak < steps - 1)
    assert result[: peak + 1] == sorted(result[: peak + 1])
    assert result[peak:] == sorted(result[peak:], reverse=True)


def test_schedule_matches_the_journal() -> None:
    config = RunConfig(lr=5e-5, min_lr=1e-5, warmup_fraction=0.2)
    result = [learning_rate(config, step, 101) for step in (1, 11, 21, 61, 101)]
    assert result == pytest.approx([1e-5, 3e-5, 5e-5, 3e-5, 1e-5])


def test_adamw_step_matches_the_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = RunConfig(optimizer="adamw", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(config, [weight])
    weight.grad = torch.tensor([3.0, -0.2])
    optimizer.step()
    # Decoupled weight decay, then a step of size lr in the direction of the sign.
    torch.testing.assert_close(weight.data, torch.tensor([1 * 0.95 - 0.1, -2 * 0.95 + 0.1]))


def test_sgd_step_matches_the_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = RunConfig(optimizer="sgd", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(config, [weight])
    weight.grad = torch.tensor([3.0, -0.2])
    optimizer.step()
    expected = torch.tensor([1 - 0.1 * (3 + 0.5), -2 - 0.1 * (-0.2 - 1.0)])
    torch.testing.assert_close(weight.data, expected)


def test_optimizer_steps_do_not_import_the_compiler() -> None:
    code = """
import sys
import torch
from core.config import RunConfig
from core.nn.architecture import FAMILY
from core.nn.gpt2 import GPT2
from core.training.optimizers import build_optimizer

with torch.device("meta"):
    GPT2(FAMILY["gpt2-nano"])
for name in ("adamw", "sgd"):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(RunConfig(optimizer=name), [weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert weight[0] < 1
print("torch._dynamo" in sys.modules)
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.stdout == "False\n", completed.stderr


def test_adamw_updates_all_weights_in_one_operation() -> None:
    """Unfused AdamW makes several passes over the weights and moments."""

    class OperationRecorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    optimizer = build_optimizer(RunConfig(), parameters)
    with OperationRecorder():
        optimizer.step()
    assert names.count("aten::_fused_adamw_") == 1
    assert not [name for name in names if "addcdiv" in name]
