"""Low-rank adapters (Hu et al. 2021) for linear layers.

y = W x + b + (alpha / rank) B A x, with A Kaiming-uniform and B zero, so that an adapted model starts out equal to its
base. Only `merge` adds adapters to W.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRALinear(nn.Module):
    """A frozen linear layer with an adapter.

    Args:
        linear: the layer; its weights are frozen.
        rank: rank of the adapter.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: probability of zeroing an input of the adapter in training.
        generator: draws lora_A; None uses torch's global generator.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        self.dropout = dropout
        self.merged = False
        device = linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.linear(x)
        rows = x.flatten(0, -2)  # (N, in)
        dropped = F.dropout(rows, self.dropout, self.training) if self.dropout else None
        bias = self.linear.bias
        tensors = [rows, dropped, self.linear.weight, bias, self.lora_A, self.lora_B]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [None if t is None else t.to(dtype) for t in tensors]
        y = _Adapted.apply(self.scale, *tensors)  # (N, out)
        return y.view(*x.shape[:-1], y.size(-1))

    def low(self, x: Tensor) -> Tensor:
        """Return A x after dropout, (N, rank), for inputs (N, in)."""
        return F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)

    @torch.no_grad()
    def merge(self, in_place: bool = False) -> None:
        """Add the adapter to the layer's weight, so that inference costs no more than the plain layer.

        Unless `in_place`, the sum is a new tensor, and a token embedding that shares the old one keeps its values.
        """
        if not self.merged:
            self._shift(1.0, in_place)

    @torch.no_grad()
    def unmerge(self, in_place: bool = False) -> None:
        """Subtract the adapter from the layer's weight. Restores the weight up to rounding."""
        if self.merged:
            self._shift(-1.0, in_place)

    def _shift(self, sign: float, in_place: bool) -> None:
        weight, alpha = self.linear.weight, sign * self.scale
        if in_place and weight.dtype is self.lora_A.dtype:
            weight.addmm_(self.lora_B, self.lora_A, alpha=alpha)
        else:
            exact = weight.to(self.lora_A.dtype)
            shifted = torch.addmm(exact, self.lora_B, self.lora_A, alpha=alpha)  # (out, in)
            self.linear.weight = nn.Parameter(shifted.to(weight.dtype), requires_grad=False)
        self.merged = sign > 0


class _Adapted(torch.autograd.Function):
    """x W' + b + scale (x A') B' with W and b frozen.

    The adapter's term is added in place, forward and backward: at small ranks, writing a second matrix of the same
    size costs more than the product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scale: float,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
    ) -> Tensor:
        inner = x if dropped is None else dropped
        low = (inner @ A.T).mul_(scale)  # (N, rank)
        ctx.scale, ctx.has_dropout = scale, dropped is not None
        ctx.save_for_backward(inner, low, weight, A, B)
        # The bias is one more column of the thin product. Adding it separately would take another pass.
        if bias is not None:
            low = torch.cat([low, low.new_ones(len(low), 1)], 1)  # (N, rank + 1)
            B = torch.cat([B, bias[:, None]], 1)  # (out, rank + 1)
        return (x @ weight.T).addmm_(low, B.T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        [y_grad] = outputs  # (N, out)
        inner, low, weight, A, B = ctx.saved_tensors
        low_grad = (y_grad @ B).mul_(ctx.scale)  # (N, rank)
        x_grad = y_grad @ weight if ctx.needs_input_grad[1] else None
        dropped_grad = None
        if ctx.has_dropout:
            dropped_grad = low_grad @ A
        elif x_grad is not None:
            x_grad.addmm_(low_grad, A)
        return None, x_grad, dropped_grad, None, None, low_grad.T @ inner, y_grad.T @ low


def add_adapters(
    model: nn.Module,
    names: Iterable[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> None:
    """Freeze the model and add an adapter to each named linear layer."""
    model.requires_grad_(False)
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        child = name.rpartition(".")[2]
        linear = getattr(parent, child)
        setattr(parent, child, LoRALinear(linear, rank, alpha, dropout, generator))


def narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """Store frozen linear layers in the dtype to which autocast would convert them in each product.

    The results are the same, at half the memory. A head tied to the token embedding keeps its dtype.
    """
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        for p in layer.parameters():
            if not p.requires_grad and p not in embeddings:
                p.data = p.data.to(dtype)


def widen(model: nn.Module) -> None:
    """Convert all linear layers back to fp32. The values stay rounded by `narrow`."""
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        for p in layer.parameters():
            p.data = p.data.float()


def adapters(model: nn.Module) -> Iterator[LoRALinear]:
    """Return the adapted layers of a model."""
    return (module for module in model.modules() if isinstance(module, LoRALinear))


def merge(model: nn.Module) -> None:
    """Merge every adapter, in place unless the layer shares its weight's memory with another.

    Merge into fp32 weights only: in bf16, rounding loses most of a small adapter and changes greedy answers.
    """
    for layer, owns_weight in _layers_and_ownership(model):
        layer.merge(in_place=owns_weight)


def unmerge(model: nn.Module) -> None:
    """Unmerge every adapter."""
    for layer, owns_weight in _layers_and_ownership(model):
        layer.unmerge(in_place=owns_weight)


def _layers_and_ownership(model: nn.Module) -> list[tuple[LoRALinear, bool]]:
    """Return each adapted layer and whether no other layer shares its weight's memory."""
    parameters = model.named_parameters(remove_duplicate=False)
    users = Counter(parameter.data_ptr() for _, parameter in parameters)
    return [(layer, users[layer.linear.weight.data_ptr()] == 1) for layer in adapters(model)]
