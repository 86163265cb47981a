"""Cross entropy for a wide output head, computed slice by slice over positions and vocabulary.

GPT-2 has 50,257 logits per position, 65 times the size of its hidden state. Together with their softmax and gradient,
they would use most of a training step's memory, and a matrix product with 50,257 columns reaches only slightly more
than half of a CPU's peak speed. Here, the products are narrow, only one slice of the logits exists at a time, and its
gradients are computed immediately. This module does not depend on the model below the head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.nn.lora import LoRALinear

CPU_SLICE = (256, 2048)
"""Positions per slice (51 MB of logits) and columns per product. Wider products or fewer positions are slower."""
GPU_POSITIONS = 1024
"""Positions per slice on a GPU, over the whole vocabulary: 206 MB of logits."""


def head_logits(head: nn.Module, x: Tensor) -> Tensor:
    """Return `head(x)` in fp32, (N, vocabulary), for a few hidden states (N, n_embd).

    On a CPU, it is computed in slices for speed.
    """
    plain = head.linear if isinstance(head, LoRALinear) and head.merged else head
    if not (x.is_cpu and isinstance(plain, nn.Linear)) or torch.is_autocast_enabled("cpu"):
        return head(x).float()
    logits = x.new_empty(len(x), plain.out_features)
    for columns in _columns(plain.out_features, CPU_SLICE[1]):
        torch.mm(x, plain.weight[columns].T, out=logits[:, columns])
    return logits


class SharedGradient:
    """The weight gradient of a tied head, to which the embedding adds its own rows in place.

    Autograd would allocate a second matrix of the same size, nearly all zeros, and add the two.
    """

    head: Tensor | None = None


def lookup(ids: Tensor, table: Tensor, shared: SharedGradient) -> Tensor:
    """Return rows (*ids.shape, n_embd) of an embedding table that is also the head's weight."""
    return _Lookup.apply(ids, table, shared)


def summed_cross_entropy(
    head: nn.Linear | LoRALinear,
    x: Tensor,
    targets: Tensor,
    shared: SharedGradient | None = None,
    per_position: bool = False,
) -> Tensor:
    """Return the summed cross entropy of `head(x)` in nats, as `F.cross_entropy(..., reduction="sum")` does.

    Call backward at most once; second derivatives are not supported.

    Args:
        head: output head without bias.
        x: hidden states (N, n_embd).
        targets: token ids (N,), int64.
        shared: the object passed to `lookup` for the same tokens, if the head's weight is also the embedding table.
        per_position: return the cross entropy of each position (N,) instead of the sum, without gradients.
    """
    low = up = ratio = None
    if isinstance(head, LoRALinear):
        if not head.merged:
            low, up, ratio = head.low(x) * head.scale, head.lora_B, head.output_ratio()
        head = head.linear
    differentiate = torch.is_grad_enabled() and not per_position
    losses = _HeadLoss.apply(differentiate, shared, targets, x, head.weight, low, up, ratio)
    return losses.detach() if per_position else losses.sum()


class _HeadLoss(torch.autograd.Function):
    """Losses (N,) for the logits, which are ratio (x weight' + low up').

    Computes the gradients of their sum in the forward pass; backward only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        differentiate: bool,
        shared: SharedGradient | None,
        targets: Tensor,
        x: Tensor,
        weight: Tensor,
        low: Tensor | None,
        up: Tensor | None,
        ratio: Tensor | None,
    ) -> Tensor:
        positions, width = CPU_SLICE if x.is_cpu else (GPU_POSITIONS, len(weight))
        losses = torch.zeros(len(x), device=x.device)
        inputs = (x, weight, low, up, ratio)
        needs_grad = [differentiate and needed for needed in ctx.needs_input_grad[3:]]
        ctx.shared = shared
        allocate = torch.empty_like if len(x) else torch.zeros_like
        ctx.grads = grads = [
            allocate(tensor, dtype=torch.float32) if tensor is not None and needed else None
            for tensor, needed in zip(inputs, needs_grad, strict=True)
        ]
        x_grad, weight_grad, low_grad, up_grad, ratio_grad = grads
        for rows in _rows(len(x), positions):
            row_low = None if low is None else low[rows]
            blocks = [
                _logits(x[rows], weight[columns], row_low, None if up is None else up[columns])
                for columns in _columns(len(weight), width)
            ]
            if ratio is not None:
                for columns, block in zip(_columns(len(weight), width), blocks, strict=True):
                    block.mul_(ratio[columns])
            top = torch.stack([block.amax(1) for block in blocks]).amax(0)[:, None]
            norm = torch.zeros_like(top)  # softmax denominator times exp(-top)
            target_logits = torch.zeros_like(top)  # relative to top
            local_targets = []
            for columns, block in zip(_columns(len(weight), width), blocks, strict=True):
                local = targets[rows, None] - columns.start
                inside = (local >= 0) & (local < block.size(1))
                local = local.clamp(0, block.size(1) - 1)
                local_targets.append((local, inside))
                block.sub_(top)
                block_targets = block.gather(1, local) * inside
                target_logits += block_targets
                losses[rows] -= block_targets[:, 0]
                norm += block.exp_().sum(1, keepdim=True)
            losses[rows] += norm.log()[:, 0]
            if not any(needs_grad):
                continue
            row_x = x[rows] / norm
            first_rows = rows.start == 0
            for columns, block, (local, inside) in zip(
                _columns(len(weight), width), blocks, local_targets, strict=True
            ):
                first_columns = columns.start == 0
                logits = None
                if ratio_grad is not None:
                    # Exponentials may have underflowed to zero, which matters only for targets.
                    logits = block.clamp_min(torch.finfo(block.dtype).tiny).log_()
                    finite_targets = torch.where(inside, target_logits, logits.gather(1, local))
                    logits.scatter_(1, local, finite_targets).add_(top)
                # Turn the exponentials into the gradient of these logits, times norm.
                block.scatter_add_(1, local, -(inside * norm))
                if ratio is not None:
                    if ratio_grad is not None and logits is not None:
                        product = logits.mul_(block).div_(norm).sum(0)  # ratio times its gradient
                        ratio_grad[columns] = product + (0 if first_rows else ratio_grad[columns])
                    block.mul_(ratio[columns])
                if x_grad is not None:
                    _add_product(x_grad[rows], block, weight[columns], first_columns)
                if weight_grad is not None:
                    _add_product(weight_grad[columns], block.T, row_x, first_rows)
                if low_grad is not None and up is not None:
                    _add_product(low_grad[rows], block, up[columns], first_columns)
                if up_grad is not None and row_low is not None:
                    _add_product(up_grad[columns], block.T, row_low / norm, first_rows)
            for grad in (x_grad, low_grad):
                if grad is not None:
                    grad[rows] /= norm
        if ratio_grad is not None and ratio is not None:
            ratio_grad /= ratio
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = outputs[0][:1].sum()  # equal for all positions, because only their sum is used
        grads = [None if grad is None else grad.mul_(scale) for grad in ctx.grads]
        del ctx.grads
        if ctx.shared is not None:
            ctx.shared.head = grads[1]
        return None, None, None, *grads


class _Lookup(torch.autograd.Function):
    """An embedding that adds its gradient to the head's before autograd passes the sum to the weight."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, shared: SharedGradient) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shared = shared
        return table[ids]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        [ids] = ctx.saved_tensors
        assert ctx.shared.head is not None, "backward did not pass through the head's loss"
        ctx.shared.head.index_add_(0, ids.flatten(), outputs[0].flatten(0, -2))
        del ctx.shared.head  # if another reference existed, autograd would copy it
        return None, None, None


def _rows(length: int, size: int) -> Iterator[slice]:
    """Return consecutive slices of nearly equal length, each at most `size`."""
    count = -(-length // size)
    return (slice(i * length // count, (i + 1) * length // count) for i in range(count))


def _columns(length: int, size: int) -> Iterator[slice]:
    """Return consecutive slices of length `size`; the last may be shorter. Products with a round width are faster."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _logits(x: Tensor, weight: Tensor, low: Tensor | None, up: Tensor | None) -> Tensor:
    """Return the fp32 logits for some positions and columns."""
    logits = x @ weight.T
    if low is not None and up is not None:
        logits.addmm_(low, up.T.to(low.dtype))
    return logits.float()


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Compute total += a b, or total = a b if `first`. Avoids a temporary matrix unless autocast is on."""
    if torch.is_autocast_enabled(total.device.type):
        product = a @ b
        if first:
            total.copy_(product)
        else:
            total += product
    else:
        total.addmm_(a, b, beta=0 if first else 1)
