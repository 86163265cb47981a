"""GPT-2 as a plain PyTorch module: pre-norm blocks, learned positions, tanh GELU, untied head.

Source: Radford et al. 2019 and the shapes of the published weights. q, k and v are separate linear layers so that
each can have an adapter. This module does not depend on tokenization or training.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.nn.architecture import Architecture
from core.nn.loss import SharedGradient, lookup, summed_cross_entropy


@dataclass
class KVCache:
    """Keys and values for one layer: (B, n_head, capacity, head_dim), with the first `length` positions filled."""

    k: Tensor
    v: Tensor
    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions and return all filled positions. k, v: (B, n_head, T, head_dim)."""
        end = self.length + k.size(2)
        self.k[:, :, self.length : end] = k
        self.v[:, :, self.length : end] = v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.k, self.v = self.k[rows], self.v[rows]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.n_head, self.dropout = arch.n_head, dropout
        self.q = nn.Linear(arch.n_embd, arch.n_embd)
        self.k = nn.Linear(arch.n_embd, arch.n_embd)
        self.v = nn.Linear(arch.n_embd, arch.n_embd)
        self.proj = nn.Linear(arch.n_embd, arch.n_embd)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        lengths: list[int] | None,
        recompute: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        B, T, C = x.shape
        heads = (B, T, self.n_head, C // self.n_head)
        with recomputed(x, recompute):
            q, k, v = (layer(x).view(heads) for layer in (self.q, self.k, self.v))
        if lengths is None:
            return self.proj(self.attend(q, k, v, mask, cache).reshape(B, T, C))
        # Each sequence in the packed row attends only to itself.
        parts = zip(*(t.split(lengths, 1) for t in (q, k, v)), strict=True)
        join = partial(torch.cat, [self.attend(q, k, v, None, None) for q, k, v in parts], 1)
        y = join()
        with recomputed(y, recompute and join):
            return self.proj(y.view(B, T, C))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """Return the attention output. q, k, v and the result: (B, T, n_head, head_dim)."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, n_head, T, head_dim)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, n_head, length, head_dim)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None,
        )
        return y.transpose(1, 2)


def recomputed(
    value: Tensor, recompute: Callable[[], Tensor] | None
) -> AbstractContextManager[object]:
    """Return a context in which autograd does not save `value`: the backward pass recomputes it with `recompute`.

    Without `recompute`, the context does nothing.
    """
    if recompute is None:
        return nullcontext()
    address, count, dtype = value.data_ptr(), value.numel(), value.dtype

    def pack(saved: Tensor) -> Tensor | torch.Size:
        is_value = saved.data_ptr() == address and saved.numel() == count
        return saved.shape if is_value else saved

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        return packed if isinstance(packed, Tensor) else recompute().to(dtype).view(packed)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class Norm(nn.LayerNorm):
    """Layer norm that casts its output to the autocast dtype once, so the layers reading it do not each cast it."""

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        y = super().forward(x)
        return y.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else y


class MLP(nn.Module):
    """Two linear layers with a tanh-approximated GELU in between."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.fc = nn.Linear(arch.n_embd, 4 * arch.n_embd)
        self.proj = nn.Linear(4 * arch.n_embd, arch.n_embd)

    def forward(self, x: Tensor, recompute: Callable[[], Tensor] | None = None) -> Tensor:
        with recomputed(x, recompute):
            inner = self.fc(x)  # (B, T, 4 n_embd)
        active = _gelu(inner)
        with recomputed(active, recompute and partial(_gelu, inner)):
            return self.proj(active)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With `recompute`, the backward pass recomputes the outputs of the norms and the GELU, which make up two fifths of
    the saved activations.
    """

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.recompute = False
        self.ln_1 = Norm(arch.n_embd, eps=1e-5)
        self.attn = Attention(arch, dropout)
        self.ln_2 = Norm(arch.n_embd, eps=1e-5)
        self.mlp = MLP(arch)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None, lengths: list[int] | None
    ) -> Tensor:
        recompute = partial(self.ln_1, x) if self.recompute else None
        x = x + self.drop(self.attn(self.ln_1(x), mask, cache, lengths, recompute))
        recompute = partial(self.ln_2, x) if self.recompute else None
        return x + self.drop(self.mlp(self.ln_2(x), recompute))


class Embedding(nn.Embedding):
    """An embedding that skips initialization on the meta device, where it would import PyTorch's compiler."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class GPT2(nn.Module):
    """The GPT-2 language model.

    Args:
        arch: sizes of the model.
        dropout: dropout probability for embeddings, attention and residuals.
        tie_weights: share the token embedding with the head.
    """

    def __init__(self, arch: Architecture, dropout: float = 0.0, tie_weights: bool = False) -> None:
        super().__init__()
        self.arch = arch
        self.grad_checkpointing = False
        self.wte = Embedding(arch.vocabulary, arch.n_embd)
        self.wpe = Embedding(arch.context, arch.n_embd)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(arch, dropout) for _ in range(arch.n_layer))
        self.ln_f = nn.LayerNorm(arch.n_embd, eps=1e-5)
        self.lm_head = nn.Linear(arch.n_embd, arch.vocabulary, bias=False)
        if tie_weights:
            self.lm_head.weight = self.wte.weight

    def recompute(self, enabled: bool) -> None:
        """Set whether the backward pass recomputes the outputs of norms and GELUs."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = enabled

    def initialize(self, generator: torch.Generator) -> None:
        """Initialize the weights as in GPT-2: normal with std 0.02, or smaller for residual projections.

        The head starts as a copy of the token embedding.
        """
        residual_std = 0.02 / (2 * self.arch.n_layer) ** 0.5
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    std = residual_std if name.endswith("proj.weight") else 0.02
                    p.normal_(0.0, std, generator=generator)
                else:
                    p.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
            self.lm_head.weight.copy_(self.wte.weight)

    def features(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        caches: list[KVCache] | None = None,
        lengths: list[int] | None = None,
        shared: SharedGradient | None = None,
    ) -> Tensor:
        """Return the final hidden states, before the head.

        Args:
            ids: token ids (B, T), int64.
            positions: position of each token (B, T); defaults to 0 .. T-1.
            mask: True where a query may attend, broadcastable to (B, n_head, T, keys); defaults to a causal mask.
            caches: one per layer, extended in place.
            lengths: lengths of the sequences packed into the only row of `ids`; defaults to one sequence per row.
            shared: accumulates the gradient of a tied head; see `summed_cross_entropy`.

        Returns:
            (B, T, n_embd)
        """
        if positions is None:
            positions = torch.arange(ids.size(1), device=ids.device)
        wte = self.wte(ids) if shared is None else lookup(ids, self.wte.weight, shared)
        x = self.drop(wte + self.wpe(positions))  # (B, T, n_embd)
        for i, block in enumerate(self.h):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, mask, None, lengths, use_reentrant=False)
            else:
                x = block(x, mask, caches[i] if caches else None, lengths)
        return self.ln_f(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, vocabulary) for token ids (B, T)."""
        return self.lm_head(self.features(ids))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy, in nats, over all targets except -100.

        The head, which accounts for a third of a small model's computation, runs only at those positions. On a CPU,
        all rows are packed into one so that padding costs nothing.

        Args:
            ids: token ids (B, T). These and `targets` must be on the CPU even if the model is on a GPU, so that the
                target positions can be computed without waiting for the GPU.
            targets: the next token at each position (B, T).
        """
        tied = getattr(self.lm_head, "weight", None) is self.wte.weight
        shared = SharedGradient() if tied and torch.is_grad_enabled() else None
        x, targets = self._target_states(ids, targets, shared)
        return summed_cross_entropy(self.lm_head, x, targets, shared)

    @torch.no_grad()
    def sequence_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy of each sequence (B,), in nats. For the arguments, see `loss`."""
        counts = (targets != -100).sum(1).tolist()
        x, targets = self._target_states(ids, targets, None)
        losses = summed_cross_entropy(self.lm_head, x, targets, per_position=True)
        return torch.stack([part.sum() for part in losses.split(counts)])

    def _target_states(
        self, ids: Tensor, targets: Tensor, shared: SharedGradient | None
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states (N, n_embd) and targets (N,) of all target positions, row by row."""
        is_target = targets != -100
        device = self.wte.weight.device
        if device.type != "cpu":
            positions = is_target.flatten().nonzero()[:, 0]
            ids, positions, targets = (
                send(t, device) for t in (ids, positions, targets[is_target])
            )
            x = self.features(ids, shared=shared).flatten(0, 1).index_select(0, positions)
            return x, targets
        positions = torch.arange(ids.size(1)).expand_as(ids)
        # Stop at the last target, because nothing after it affects the loss.
        lengths = ((positions + 1) * is_target).amax(1, keepdim=True).clamp(min=1)
        is_used = positions < lengths
        packed = ids[is_used][None], positions[is_used][None]  # (1, tokens) each
        x = self.features(*packed, lengths=lengths[:, 0].tolist(), shared=shared)
        return x[0, is_target[is_used]], targets[is_target]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to another device. Pinned memory allows a GPU to copy while it computes."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
