"""Every size of the family in its true width, with few layers: transformers' numbers, from its own files."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from core.nn import pretrained
from core.nn.architecture import FAMILY

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SIZES = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_loss_and_gradients(tmp_path: Path, size: str, tied: bool) -> None:
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
    torch.testing.assert_close(model(ids), logits, **CLOSE)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss = model.loss(ids, targets)
    torch.testing.assert_close(loss, expected, **CLOSE)
    expected.backward()
    loss.backward()
    theirs = {name: p.grad for name, p in peer.transformer.named_parameters()}
    qkv = [getattr(model.h[0].attn, letter).weight.grad for letter in "qkv"]
    for ours, name in (
        (model.wte.weight.grad, "wte.weight"),
        (model.wpe.weight.grad, "wpe.weight"),
        (torch.cat(qkv).T, "h.0.attn.c_attn.weight"),
        (model.h[0].attn.proj.weight.grad.T, "h.0.attn.c_proj.weight"),
        (model.h[0].mlp.fc.weight.grad.T, "h.0.mlp.c_fc.weight"),
        (model.h[0].mlp.proj.weight.grad.T, "h.0.mlp.c_proj.weight"),
        (model.ln_f.weight.grad, "ln_f.weight"),
    ):
        torch.testing.assert_close(ours, theirs[name], **CLOSE, msg=name)
    if not tied:
        torch.testing.assert_close(model.lm_head.weight.grad, peer.lm_head.weight.grad, **CLOSE)
