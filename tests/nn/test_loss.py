"""The sliced loss compared with PyTorch's cross-entropy over all logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.nn import loss
from core.nn.lora import LoRALinear
from core.nn.loss import summed_cross_entropy

N_EMBD, VOCABULARY = 8, 50


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    """Split the positions and the vocabulary into several slices, with sizes that do not divide evenly."""
    monkeypatch.setattr(loss, "CPU_SLICE", (5, 7))


def head_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    linear = nn.Linear(N_EMBD, VOCABULARY, bias=False)
    if kind == "linear":
        return linear
    head = LoRALinear(linear, rank=3, alpha=6)
    nn.init.normal_(head.lora_B)
    if kind == "merged":
        head.merge()
    return head


def gradients(head: nn.Module, value: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    inputs = [x, *(p for p in head.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(3 * value, inputs, allow_unused=True))


@pytest.mark.parametrize("kind", ["linear", "adapted", "merged"])
@pytest.mark.parametrize("positions", [1, 5, 23])
def test_loss_and_gradients_match_cross_entropy(kind, positions):
    head = head_of(kind)
    x = torch.randn(positions, N_EMBD, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (positions,))
    loss = summed_cross_entropy(head, x, targets)
    expected_loss = F.cross_entropy(head(x), targets, reduction="sum")
    torch.testing.assert_close(loss, expected_loss)
    for gradient, expected_gradient in zip(
        gradients(head, loss, x), gradients(head, expected_loss, x), strict=True
    ):
        if expected_gradient is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite():
    head = head_of("linear")
    x = torch.full((4, N_EMBD), 1e4, requires_grad=True)
    targets = torch.tensor([0, 6, 7, 49])
    loss = summed_cross_entropy(head, x, targets)
    torch.testing.assert_close(loss, F.cross_entropy(head(x), targets, reduction="sum"))
    loss.backward()
    assert torch.isfinite(x.grad).all()


def test_no_gradients_are_recorded_under_no_grad():
    head = head_of("adapted")
    x = torch.randn(6, N_EMBD)
    targets = torch.randint(0, VOCABULARY, (6,))
    with torch.no_grad():
        value = summed_cross_entropy(head, x, targets)
        torch.testing.assert_close(value, F.cross_entropy(head(x), targets, reduction="sum"))
    assert not value.requires_grad


def test_bfloat16_loss_is_close_to_float32():
    head = head_of("adapted")
    x = torch.randn(9, N_EMBD, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (9,))
    exact = summed_cross_entropy(head, x, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = summed_cross_entropy(head, x, targets)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.05)
    assert all(torch.isfinite(grad).all() for grad in gradients(head, rounded, x))
