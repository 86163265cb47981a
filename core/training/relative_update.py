"""Relative update in an optimizer step: ||ΔW|| / ||W||, in Frobenius norms.

For an adapted layer, W is the merged weight before the step. Neither W nor ΔW is formed. With full fine-tuning, W
consists of all trained weights in a transformer block, which are copied before the step, for one block at a time.
Independent of the loss, the optimizer and events.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.nn.gpt2 import GPT2
from core.nn.lora import LoRALinear

UPDATE_INTERVAL = 10
"""Steps between measurements. Measuring every step would noticeably slow down training."""
SIGNIFICANT_DIGITS = 4
"""Number of significant digits in a recorded ratio."""
Copies = dict[str, list[Tensor]]
"""Weights before a step, by module. For adapted layers, the row norms of the merged weight come last."""


@dataclass(frozen=True)
class RelativeUpdate:
    """The relative update in a step. Non-finite values are None."""

    overall: float | None
    """Relative update of all measured modules together."""
    modules: dict[str, float | None]


class UpdateMeter:
    """Measures the relative update of each adapted layer, or of one trained block at a time if there are none.

    Call `before` and `after` around an optimizer step.
    """

    def __init__(self, model: GPT2) -> None:
        self.layers = {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear)}
        trained = {f"h.{i}": _trained(block) for i, block in enumerate(model.h)}
        self.blocks = {} if self.layers else {name: part for name, part in trained.items() if part}

    @torch.no_grad()
    def before(self, step: int) -> Copies | None:
        """Return copies of the weights before the step, or None if this step is not measured.

        Args:
            step: counted from 1. Step 1 is measured.
        """
        measurement, remainder = divmod(step - 1, UPDATE_INTERVAL)
        if remainder:
            return None
        if self.layers:
            return {
                name: [*(p.clone() for p in _trained(layer)), layer.weight_norm()]
                for name, layer in self.layers.items()
            }
        if not self.blocks:
            return None
        name = list(self.blocks)[measurement % len(self.blocks)]
        return {name: [p.clone() for p in self.blocks[name]]}

    @torch.no_grad()
    def after(self, copies: Copies) -> RelativeUpdate:
        """Return the relative update since `before`. Synchronizes with the GPU once."""
        squares = []  # squared norms of each module's update and weight
        for name, old in copies.items():
            if name in self.layers:
                *factors, norm = old
                squares.append(_adapter_squares(self.layers[name], factors, norm))
            else:
                size = torch.nn.utils.get_total_norm(old)
                for before, now in zip(old, self.blocks[name], strict=True):
                    before.sub_(now)
                change = torch.nn.utils.get_total_norm(old)
                squares.append(torch.stack([change, size]).square())
        table = torch.stack(squares).double().cpu()  # (modules, 2)
        overall, *ratios = [
            _rounded(math.sqrt(change / size) if size else math.nan)
            for change, size in [table.sum(0).tolist(), *table.tolist()]
        ]
        return RelativeUpdate(overall, dict(zip(copies, ratios, strict=True)))


def _adapter_squares(layer: LoRALinear, old: list[Tensor], old_norm: Tensor) -> Tensor:
    """Return the squared norms of a layer's update and of its merged weight before the step, (2,).

    The change in B A is P Q with P = [B' - B, B] and Q = [A'; A' - A], of rank 2r. With [B', -B] and [A'; A], nearly
    equal terms would cancel, and small updates would be lost in fp32.

    Args:
        old: lora_A, lora_B and, with DoRA, lora_magnitude before the step.
        old_norm: `weight_norm` of the layer before the step.
    """
    old_A, old_B, *old_magnitude = old
    A, B, scale = layer.lora_A, layer.lora_B, layer.scale
    P = torch.cat([B - old_B, old_B], 1) * scale  # (out, 2 rank)
    Q = torch.cat([A, A - old_A])  # (2 rank, in)
    gram = Q @ Q.T
    if layer.lora_magnitude is None:
        return torch.stack([((P.T @ P) * gram).sum(), old_norm.square().sum()])
    # DoRA: in each row m v / |v|, both the direction v and the magnitude m change.
    weight = layer.linear.weight
    cross = (weight @ Q.T.to(weight.dtype)).float() + scale * old_B @ (old_A @ Q.T)
    inner = (P * cross).sum(1)  # inner product of v and its change
    square = (P @ gram * P).sum(1)  # squared norm of the change in v
    norm = (old_norm.square() + 2 * inner + square).clamp_min(0).sqrt()
    growth = (2 * inner + square) / (norm + old_norm)  # increase in |v|, without cancellation
    [magnitude], ratio = old_magnitude, layer.lora_magnitude / norm
    shift = (layer.lora_magnitude - magnitude) / norm - magnitude * growth / (old_norm * norm)
    change = (shift * old_norm).square() + 2 * shift * ratio * inner + ratio.square() * square
    return torch.stack([change.clamp_min(0).sum(), magnitude.square().sum()])


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
