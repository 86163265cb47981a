"""The cross entropy of a wide output head, a few positions at a time.

The logits of GPT-2 are 50,257 numbers a position, 65 times its hidden state; with their softmax and its
gradient they would be most of a training step's memory. Here only one slice of them exists at a time:
its gradients are computed at once and the logits dropped. Knows nothing of what the head is made of.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.nn.architecture import VOCABULARY

POSITIONS = 128
"""In a slice: enough for the matrix products to run at full speed, 25 MB of logits."""


def summed_cross_entropy(head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of `head(x)` in nats, as of `F.cross_entropy(..., reduction="sum")`.

    Its gradient can be taken once and not be differentiated again.

    Args:
        head: from hidden states to logits; a row's logits depend on that row alone.
        x: hidden states (N, n_embd).
        targets: token ids (N,), int64.
    """
    parameters = [p for p in head.parameters() if p.requires_grad]
    if torch.is_grad_enabled():
        return _SlicedLoss.apply(head, x, targets, *parameters)
    slices = zip(x.split(POSITIONS), targets.split(POSITIONS), strict=True)
    return torch.stack([_loss(head, rows, wanted) for rows, wanted in slices]).sum()


def _loss(head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(x).float(), targets, reduction="sum")


class _SlicedLoss(torch.autograd.Function):
    """Computes the gradients along with the loss; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, head: nn.Module, x: Tensor, targets: Tensor, *parameters: nn.Parameter
    ) -> Tensor:
        # Gradients are summed once a slice: no fewer positions than make logits of the same size.
        size = max(POSITIONS, sum(p.numel() for p in parameters) // VOCABULARY)
        total, x_grads = torch.zeros((), device=x.device), []
        grads: list[Tensor] = []
        for rows, wanted in zip(x.split(size), targets.split(size), strict=True):
            with torch.enable_grad():
                rows = rows.detach().requires_grad_()
                loss = _loss(head, rows, wanted)
            x_grad, *new = torch.autograd.grad(loss, [rows, *parameters])
            total += loss.detach()
            x_grads.append(x_grad)
            grads = [old.add_(more) for old, more in zip(grads, new, strict=True)] if grads else new
        ctx.grads = [torch.cat(x_grads), *grads]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, *grads = (grad.mul_(outputs[0]) for grad in ctx.grads)
        del ctx.grads
        return None, x_grad, None, *grads
