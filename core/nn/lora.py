"""Low-rank adapters (Hu et al. 2021) beside chosen linear layers.

y = W x + b + (alpha / rank) B A x, with A Kaiming-uniform and B zero, so that an adapted model starts
as the model it adapts. Adapters merge into W only when told to.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRALinear(nn.Module):
    """A frozen linear layer with an adapter.

    Args:
        linear: the layer; its weights are frozen.
        rank: of the adapter.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: probability of zeroing an input of the adapter while training.
        generator: draws lora_A; torch's own where absent.
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
        y = self.linear(rows)
        low = self.low(rows)
        # In place: at small ranks, writing the outputs a second time costs more than the product.
        y.addmm_(low, self.lora_B.T.to(low.dtype), alpha=self.scale)  # (N, out)
        return y.view(*x.shape[:-1], y.size(-1))

    def low(self, x: Tensor) -> Tensor:
        """The adapter's inner values A x, (N, rank), of inputs (N, in)."""
        return F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapter into the layer's weight: inference then costs what the plain layer does.

        The sum is a new tensor, so a token embedding that shares the old one keeps its values.
        """
        if not self.merged:
            self._shift(1.0)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the adapter out again, up to rounding."""
        if self.merged:
            self._shift(-1.0)

    def _shift(self, sign: float) -> None:
        weight = self.linear.weight
        delta = self.lora_B @ self.lora_A * (sign * self.scale)  # (out, in)
        self.linear.weight = nn.Parameter(weight + delta.to(weight.dtype), requires_grad=False)
        self.merged = sign > 0


def add_adapters(
    model: nn.Module,
    names: Iterable[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> None:
    """Freeze the whole model and put an adapter on each linear layer named."""
    model.requires_grad_(False)
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        child = name.rpartition(".")[2]
        linear = getattr(parent, child)
        setattr(parent, child, LoRALinear(linear, rank, alpha, dropout, generator))


def adapters(model: nn.Module) -> Iterator[LoRALinear]:
    """Every adapted layer of a model."""
    return (module for module in model.modules() if isinstance(module, LoRALinear))


def merge(model: nn.Module) -> None:
    """Merge every adapter."""
    for layer in adapters(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take every adapter out again."""
    for layer in adapters(model):
        layer.unmerge()
