"""Low-rank adapters (Hu et al. 2021) for linear layers, with several scalings and initializations, and DoRA.

y = W x + b + scale B A x. With DoRA (Liu et al. 2024), y = m (W x + scale B A x) / ||W + scale B A|| + b, with a
magnitude m and a norm for each output. As in PEFT, the norm is a constant in the backward pass. An adapted model
starts out equal to its base. W is changed only by `merge` and, for PiSSA, by `freeze_residuals`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import LoRAInit, LoRAScaling

INITIAL_FACTORS = ("lora_A0", "lora_B0")
"""Buffers for the factors that PiSSA subtracts from a layer's weight. Saved with the adapter."""
SVD_ROWS = 4096
"""Number of rows of a weight converted to fp64 at a time."""


def adapter_scale(rank: int, alpha: float, scaling: LoRAScaling = "alpha/rank") -> float:
    """Return the scale of an adapter's output.

    Sources: Hu et al. 2021 (alpha/rank), Kalajdzievski 2023 (alpha/sqrt(rank)).
    """
    return alpha / {"alpha/rank": rank, "alpha/sqrt(rank)": math.sqrt(rank), "alpha": 1}[scaling]


def initial_std(rank: int, inputs: int, init: LoRAInit) -> float | None:
    """Return the standard deviation of the initial lora_A, or None for PiSSA, where it depends on the weights."""
    if init == "pissa":
        return None
    if init == "gaussian":
        return 1 / rank
    return 1 / math.sqrt(3 * (rank if init == "kaiming-rank" else inputs))


class LoRALinear(nn.Module):
    """A frozen linear layer with an adapter.

    Args:
        linear: the layer; its weights are frozen.
        rank: rank of the adapter.
        alpha: determines the scale of the adapter's output; see `adapter_scale`.
        dropout: probability of zeroing an input of the adapter in training.
        generator: draws lora_A; None uses torch's global generator.
        scaling: see `adapter_scale`.
        init: `kaiming` and `kaiming-rank` draw lora_A uniformly within 1/sqrt(inputs) or 1/sqrt(rank), `gaussian` with
            a standard deviation of 1/rank; lora_B is zero. `pissa` (Meng et al. 2024) sets both to the weight's
            principal components; call `freeze_residuals` afterward.
        dora: train a magnitude for each output.
        load: skip computing the components for `pissa`, because the factors will be loaded.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        *,
        scaling: LoRAScaling = "alpha/rank",
        init: LoRAInit = "kaiming",
        dora: bool = False,
        load: bool = False,
    ) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = adapter_scale(rank, alpha, scaling)
        self.dropout = dropout
        self.merged = False
        device = linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        self.is_pissa = init == "pissa"
        if self.is_pissa:
            with torch.no_grad():
                self._set_principal_components(load)
        elif init == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / rank, generator=generator)
        elif init == "kaiming-rank":
            bound = 1 / math.sqrt(rank)
            nn.init.uniform_(self.lora_A, -bound, bound, generator=generator)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        self.lora_magnitude: nn.Parameter | None = None
        if dora:
            self.lora_magnitude = nn.Parameter(torch.linalg.vector_norm(linear.weight, dim=1))
        self._frozen_square: Tensor | None = None
        """Squared norm of each row of the frozen weight, computed on first use."""
        self._eval_norm: Tensor | None = None
        """Cached `weight_norm` in evaluation mode, in which weights do not change."""
        self._merged_ratio: Tensor | None = None
        """DoRA's output ratio when the adapter was merged."""

    def _set_principal_components(self, load: bool) -> None:
        self.lora_A.zero_()
        if not load:
            B, A = principal_components(self.linear.weight, len(self.lora_A))
            self.lora_A[: len(A)] = A / math.sqrt(self.scale)
            self.lora_B[:, : len(A)] = B / math.sqrt(self.scale)
        for name, factor in zip(INITIAL_FACTORS, (self.lora_A, self.lora_B), strict=True):
            self.register_buffer(name, factor.detach().clone())

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
        y = _Adapted.apply(self.scale, *tensors, self.output_ratio())  # (N, out)
        return y.view(*x.shape[:-1], y.size(-1))

    def low(self, x: Tensor) -> Tensor:
        """Return A x after dropout, (N, rank), for inputs (N, in)."""
        return F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)

    def output_ratio(self) -> Tensor | None:
        """Return DoRA's factor for each output, applied before the bias, (out,) in fp32; None without DoRA."""
        if self.lora_magnitude is None:
            return None
        if self.training:
            return self.lora_magnitude / self.weight_norm()
        if self._eval_norm is None:
            self._eval_norm = self.weight_norm()
        return self.lora_magnitude / self._eval_norm

    @torch.no_grad()
    def weight_norm(self) -> Tensor:
        """Return the norm of each row of W + scale B A, (out,) in fp32. Call only while unmerged.

        Does not form the sum: ||w + s b A||^2 = ||w||^2 + 2 s b A w' + s^2 b A A' b'. The only large product, W A',
        takes as many operations as B A, but its result is much smaller than W.
        """
        assert not self.merged
        weight, A, B = self.linear.weight, self.lora_A, self.lora_B
        with torch.autocast(weight.device.type, enabled=False):
            cross = (weight @ A.T.to(weight.dtype)).float()  # (out, rank)
            shift = B * (2 * cross + self.scale * (B @ (A @ A.T)))  # (out, rank)
        squares = self._frozen_squares() + self.scale * shift.sum(1)
        return squares.clamp_min(0).sqrt()

    def _frozen_squares(self) -> Tensor:
        if self._frozen_square is None:
            norm = torch.linalg.vector_norm(self.linear.weight, dim=1, dtype=torch.float32)
            self._frozen_square = norm.square()
        return self._frozen_square

    def forget_norms(self) -> None:
        """Discard cached norms. Call after the frozen weight has changed."""
        self._frozen_square = self._eval_norm = None

    def train(self, mode: bool = True) -> "LoRALinear":
        self._eval_norm = None
        return super().train(mode)

    @torch.no_grad()
    def merge(self, in_place: bool = False) -> None:
        """Add the adapter to the layer's weight, so that inference costs no more than with the plain layer.

        Unless `in_place`, the sum is a new tensor, and a token embedding that shares the old one keeps its values.
        """
        if self.merged:
            return
        if self.lora_magnitude is not None:
            self._merged_ratio = (self.lora_magnitude / self.weight_norm())[:, None]
        self._add(self.scale, self.lora_B, self.lora_A, in_place)
        if self._merged_ratio is not None:
            self.linear.weight.mul_(self._merged_ratio)
        self.merged = True

    @torch.no_grad()
    def unmerge(self, in_place: bool = False) -> None:
        """Subtract the adapter from the layer's weight. Restores the weight up to rounding."""
        if not self.merged:
            return
        if self._merged_ratio is not None:
            self.linear.weight.div_(self._merged_ratio)  # a merged weight is not shared
            self._merged_ratio = None
        self._add(-self.scale, self.lora_B, self.lora_A, in_place)
        self.merged = False

    @torch.no_grad()
    def freeze_residual(self, in_place: bool = False) -> None:
        """Subtract PiSSA's initial factors from the weight."""
        A, B = (getattr(self, name) for name in INITIAL_FACTORS)
        self._add(-self.scale, B, A, in_place)
        self.forget_norms()

    def _add(self, factor: float, B: Tensor, A: Tensor, in_place: bool) -> None:
        """Add factor B A to the weight."""
        weight = self.linear.weight
        if in_place and weight.dtype is A.dtype:
            weight.addmm_(B, A, alpha=factor)
        else:
            exact = weight.to(A.dtype)
            shifted = torch.addmm(exact, B, A, alpha=factor)  # (out, in)
            self.linear.weight = nn.Parameter(shifted.to(weight.dtype), requires_grad=False)


@torch.no_grad()
def principal_components(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors B (out, k) and A (k, in) of the best rank-k approximation of a weight (out, in).

    k is `rank`, or the smaller dimension of the weight if that is less. Each factor contains the square roots of the
    singular values (Meng et al. 2024). Computed in fp64 from the eigenvectors of the smaller Gram matrix. For GPT-2's
    output head, this is much faster than a singular value decomposition and reproducible up to fp32 rounding.
    """
    if len(weight) < weight.size(1):
        A, B = principal_components(weight.T, rank)
        return B.T.contiguous(), A.T.contiguous()
    gram = sum(rows.double().T @ rows.double() for rows in weight.split(SVD_ROWS))
    values, vectors = torch.linalg.eigh(gram)  # ascending
    top = vectors[:, -rank:].flip(1)  # (in, k)
    roots = values[-rank:].flip(0).clamp_min(1e-30).pow(0.25)  # roots of the singular values
    B = torch.cat([rows.double() @ top for rows in weight.split(SVD_ROWS)]) / roots  # (out, k)
    return B.to(weight.dtype), (top * roots).T.to(weight.dtype)


class _Adapted(torch.autograd.Function):
    """ratio (x W' + scale (x A') B') + b with W and b frozen. A ratio of None counts as 1.

    Both passes add the adapter's term in place: at small ranks, writing a second matrix of the same size costs more
    than the product.
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
        ratio: Tensor | None,
    ) -> Tensor:
        inner = x if dropped is None else dropped
        low = (inner @ A.T).mul_(scale)  # (N, rank)
        ctx.scale, ctx.has_dropout = scale, dropped is not None
        if ratio is not None:
            y = (x @ weight.T).addmm_(low, B.T).mul_(ratio)
            if bias is not None:
                y.add_(bias)
            ctx.save_for_backward(inner, low, weight, A, B, bias, ratio, y)
            return y
        ctx.save_for_backward(inner, low, weight, A, B)
        # Append the bias to the thin product as one more column. Adding it separately would take another pass.
        if bias is not None:
            low = torch.cat([low, low.new_ones(len(low), 1)], 1)  # (N, rank + 1)
            B = torch.cat([B, bias[:, None]], 1)  # (out, rank + 1)
        return (x @ weight.T).addmm_(low, B.T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        [y_grad] = outputs  # (N, out)
        inner, low, weight, A, B, *dora = ctx.saved_tensors
        ratio_grad = None
        if dora:
            bias, ratio, y = dora
            # Save y instead of y / ratio, because attention and GELU save most outputs anyway.
            ratio_grad = (y_grad * y).sum(0, dtype=ratio.dtype)
            if bias is not None:
                ratio_grad -= bias * y_grad.sum(0, dtype=ratio.dtype)
            ratio_grad /= ratio
            y_grad = (y_grad * ratio).to(y_grad.dtype)
        low_grad = (y_grad @ B).mul_(ctx.scale)  # (N, rank)
        x_grad = y_grad @ weight if ctx.needs_input_grad[1] else None
        dropped_grad = None
        if ctx.has_dropout:
            dropped_grad = low_grad @ A
        elif x_grad is not None:
            x_grad.addmm_(low_grad, A)
        A_grad, B_grad = low_grad.T @ inner, y_grad.T @ low
        return None, x_grad, dropped_grad, None, None, A_grad, B_grad, ratio_grad


def add_adapters(
    model: nn.Module,
    names: Iterable[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> None:
    """Freeze the model and add an adapter to each named linear layer.

    Args:
        options: `scaling`, `init`, `dora` and `load`; see `LoRALinear`.
    """
    model.requires_grad_(False)
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        child = name.rpartition(".")[2]
        linear = getattr(parent, child)
        setattr(parent, child, LoRALinear(linear, rank, alpha, dropout, generator, **options))


def narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """Store frozen linear layers in the dtype to which autocast would convert them for each product.

    The results are the same, at half the memory. A head tied to the token embedding keeps its dtype.
    """
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        for p in layer.parameters():
            if not p.requires_grad and p not in embeddings:
                p.data = p.data.to(dtype)
    forget_norms(model)


def widen(model: nn.Module) -> None:
    """Convert all linear layers back to fp32. The values keep the rounding from `narrow`."""
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        for p in layer.parameters():
            p.data = p.data.float()
    forget_norms(model)


def forget_norms(model: nn.Module) -> None:
    """Discard the cached norms of all adapters."""
    for layer in adapters(model):
        layer.forget_norms()


def adapters(model: nn.Module) -> Iterator[LoRALinear]:
    """Return the adapted layers of a model."""
    return (module for module in model.modules() if isinstance(module, LoRALinear))


def freeze_residuals(model: nn.Module) -> None:
    """Subtract PiSSA's initial factors from the frozen weights, so that the adapted model equals its base.

    Call once: before training, or after loading an adapter and its initial factors. Does nothing without PiSSA.
    """
    for layer, owns_weight in _layers_and_ownership(model):
        if layer.is_pissa:
            layer.freeze_residual(in_place=owns_weight)


def initial_factors(model: nn.Module) -> dict[str, Tensor]:
    """Return PiSSA's initial factors by name. Together with the base model they determine the frozen weights.

    They are saved with the adapters because recomputing them is slow and can give different components where singular
    values are close.
    """
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] in INITIAL_FACTORS
    }


def merge(model: nn.Module) -> None:
    """Merge every adapter, in place unless another layer shares the weight's memory.

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
