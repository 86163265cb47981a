"""The cross entropy of a wide output head, a few positions and a piece of the vocabulary at a time.

The logits of GPT-2 are 50,257 numbers a position, 65 times its hidden state; with their softmax and its
gradient they would be most of a training step's memory, and a matrix product 50,257 columns wide runs at
little more than half of a CPU's speed. Here the products are narrow, only a slice of the logits exists
at a time, and its gradients are computed at once. Knows nothing of the model below the head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.nn.lora import LoRALinear

CPU_SLICE = (256, 2048)
"""Positions and columns at a time: the pieces, 2 MB each, are used again while the cache holds them."""
GPU_POSITIONS = 1024
"""At a time, over the whole vocabulary: 206 MB of logits."""


def summed_cross_entropy(head: nn.Linear | LoRALinear, x: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of `head(x)` in nats, as of `F.cross_entropy(..., reduction="sum")`.

    Its gradient can be taken once and not be differentiated again.

    Args:
        head: without bias.
        x: hidden states (N, n_embd).
        targets: token ids (N,), int64.
    """
    low = up = None
    if isinstance(head, LoRALinear):
        if not head.merged:
            low, up = head.low(x) * head.scale, head.lora_B
        head = head.linear
    return _HeadLoss.apply(torch.is_grad_enabled(), targets, x, head.weight, low, up)


class _HeadLoss(torch.autograd.Function):
    """Logits are x weight' + low up'. Computes the gradients along with the loss; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        differentiate: bool,
        targets: Tensor,
        x: Tensor,
        weight: Tensor,
        low: Tensor | None,
        up: Tensor | None,
    ) -> Tensor:
        positions, width = CPU_SLICE if x.is_cpu else (GPU_POSITIONS, len(weight))
        total = torch.zeros((), device=x.device)
        inputs = (x, weight, low, up)
        wanted = [differentiate and needed for needed in ctx.needs_input_grad[2:]]
        ctx.grads = grads = [
            torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and needed else None
            for tensor, needed in zip(inputs, wanted, strict=True)
        ]
        x_grad, weight_grad, low_grad, up_grad = grads
        for rows in _slices(len(x), positions):
            row_low = None if low is None else low[rows]
            pieces = [
                _logits(x[rows], weight[columns], row_low, None if up is None else up[columns])
                for columns in _slices(len(weight), width)
            ]
            log_sum = torch.stack([piece.logsumexp(1) for piece in pieces]).logsumexp(0)[:, None]
            for columns, piece in zip(_slices(len(weight), width), pieces, strict=True):
                local = targets[rows, None] - columns.start
                inside = (local >= 0) & (local < piece.size(1))
                local = local.clamp(0, piece.size(1) - 1)
                log_probability = piece.sub_(log_sum)
                total -= (log_probability.gather(1, local) * inside).sum()
                if not any(wanted):
                    continue
                logits_grad = log_probability.exp_().scatter_add_(1, local, -inside.float())
                if x_grad is not None:
                    x_grad[rows] += logits_grad @ weight[columns]
                if weight_grad is not None:
                    weight_grad[columns] += logits_grad.T @ x[rows]
                if low_grad is not None and up is not None:
                    low_grad[rows] += logits_grad @ up[columns]
                if up_grad is not None and row_low is not None:
                    up_grad[columns] += logits_grad.T @ row_low
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if grad is None else grad.mul_(outputs[0]) for grad in ctx.grads]
        del ctx.grads
        return None, None, *grads


def _slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size`, as even as can be."""
    count = -(-length // size)
    return (slice(i * length // count, (i + 1) * length // count) for i in range(count))


def _logits(x: Tensor, weight: Tensor, low: Tensor | None, up: Tensor | None) -> Tensor:
    """Of some positions for some columns, fp32."""
    logits = x @ weight.T
    if low is not None and up is not None:
        logits.addmm_(low, up.T.to(low.dtype))
    return logits.float()
