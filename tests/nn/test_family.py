"""Every GPT-2 size, at full width but with one layer, compared with transformers and PEFT."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from core.nn import lora, pretrained
from core.nn.architecture import FAMILY
from core.nn.gpt2 import GPT2

CLOSE = 1e-4
SIZES = [
    "gpt2",
    pytest.param("gpt2-medium", marks=pytest.mark.long),
    pytest.param("gpt2-large", marks=pytest.mark.long),
    pytest.param("gpt2-xl", marks=pytest.mark.long),
]


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to 1 + |expected|. Faster than `assert_close` on large tensors."""
    assert actual.shape == expected.shape
    actual, expected = (torch.atleast_1d(t.detach()).split(1024) for t in (actual, expected))
    parts = [
        (a - b).abs_().div_(b.abs().add_(1)).max() for a, b in zip(actual, expected, strict=True)
    ]
    return torch.stack(parts).max().item()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_loss_and_gradients_match_transformers(
    tmp_path: Path, size: str, tied: bool
) -> None:
    arch = FAMILY[size]
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=arch.n_embd,
        n_layer=1,
        n_head=arch.n_head,
        tie_word_embeddings=tied,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    peer = GPT2LMHeadModel(config)
    peer.save_pretrained(tmp_path)
    model = pretrained.load(str(tmp_path), tie_weights=tied)
    ids = torch.randint(arch.vocabulary, (2, 9))
    targets = torch.randint(arch.vocabulary, (2, 9))
    targets[1, 5:] = -100

    logits = peer(ids).logits
    assert difference(model(ids), logits) < CLOSE
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss = model.loss(ids, targets)
    assert difference(loss, expected) < CLOSE
    expected.backward()
    loss.backward()
    peer_gradients = {name: p.grad for name, p in peer.transformer.named_parameters()}
    qkv = [getattr(model.h[0].attn, letter).weight.grad for letter in "qkv"]
    for gradient, name in (
        (model.wte.weight.grad, "wte.weight"),
        (model.wpe.weight.grad, "wpe.weight"),
        (torch.cat(qkv).T, "h.0.attn.c_attn.weight"),
        (model.h[0].attn.proj.weight.grad.T, "h.0.attn.c_proj.weight"),
        (model.h[0].mlp.fc.weight.grad.T, "h.0.mlp.c_fc.weight"),
        (model.h[0].mlp.proj.weight.grad.T, "h.0.mlp.c_proj.weight"),
        (model.ln_f.weight.grad, "ln_f.weight"),
    ):
        assert difference(gradient, peer_gradients[name]) < CLOSE, name
    if not tied:
        assert difference(model.lm_head.weight.grad, peer.lm_head.weight.grad) < CLOSE


@pytest.mark.parametrize("size", SIZES)
def test_ten_lora_steps_match_peft(size: str) -> None:
    arch = replace(FAMILY[size], n_layer=1)
    model = GPT2(arch)
    model.initialize(torch.Generator().manual_seed(0))
    names = arch.lora_targets()
    peer = inject_adapter_in_model(
        LoraConfig(r=16, lora_alpha=16, target_modules=names), copy.deepcopy(model)
    )
    lora.add_adapters(model, names, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name in names:
            reference = peer.get_submodule(name).lora_A["default"].weight
            reference.copy_(model.get_submodule(name).lora_A)

    def steps(tuned: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        generator = torch.Generator().manual_seed(2)
        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(10):
            ids, targets = torch.randint(arch.vocabulary, (2, 2, 9), generator=generator)
            optimizer.zero_grad()
            loss = loss_of(ids, targets) / targets.numel()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def loss_of_peer(ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(peer(ids).flatten(0, 1), targets.flatten(), reduction="sum")

    assert steps(model, model.loss) == pytest.approx(steps(peer, loss_of_peer), abs=1e-4)
    for name in names:
        layer, reference = model.get_submodule(name), peer.get_submodule(name)
        for matrix in ("lora_A", "lora_B"):
            matrix_value, peer_matrix = (
                getattr(layer, matrix),
                getattr(reference, matrix)["default"].weight,
            )
            # Compare only norms: AdamW takes full-size steps even for gradients that are only rounding error.
            assert (matrix_value - peer_matrix).norm() < 5e-3 * peer_matrix.norm(), name
        assert layer.lora_B.abs().max() > 1e-3
