"""Ten trainer steps compared with transformers' GPT-2 trained with plain PyTorch on the same batches."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

from core.config import RunConfig
from core.data.tokenizer import encode
from core.training.trainer import Trainer

END = 50256


def rows(data: Path) -> list[list[int]]:
    """Return the token ids of the training examples, built independently of core.data."""
    with_input = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    without_input = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    records = json.loads(data.read_text())[:20]
    return [
        [
            *encode((with_input if r["input"] else without_input).format(**r)),
            *encode(r["output"]),
            END,
        ]
        for r in records
    ]


def trained_peer(
    base: Path, data: Path, batches: list[list[int]], lr: Callable[[int], float]
) -> tuple[list[float], list[float], GPT2LMHeadModel]:
    """Return the losses, the gradient norms and the model after training with AdamW and gradient clipping at 1."""
    model = GPT2LMHeadModel.from_pretrained(base, tie_word_embeddings=False)
    model.train()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.transformer.wte.weight)
    assert model.lm_head.weight is not model.transformer.wte.weight
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    examples, losses, norms = rows(data), [], []
    for step, batch_indices in enumerate(batches):
        width = max(len(examples[i]) for i in batch_indices)
        ids = torch.full((len(batch_indices), width), END)
        labels = torch.full((len(batch_indices), width), -100)
        mask = torch.zeros((len(batch_indices), width), dtype=torch.long)
        for row, i in enumerate(batch_indices):
            n = len(examples[i])
            ids[row, :n] = labels[row, :n] = torch.tensor(examples[i])
            mask[row, :n] = 1
        logits = model(ids, attention_mask=mask).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.param_groups[0]["lr"] = lr(step)
        optimizer.step()
        losses.append(loss.item())
    return losses, norms, model


def test_ten_steps_match_transformers(
    base: Path, data: Path, new_config: Callable[..., RunConfig], new_run: Callable[..., Any]
) -> None:
    config = new_config(batch_size=4, epochs=2, lr=3e-3, min_lr=3e-4, weight_decay=0.1)
    run = new_run()
    trainer = Trainer(config, run)
    assert trainer.fit() == "finished"
    steps = run.events_of("step")
    assert len(steps) == 10

    def lr(step: int) -> float:
        return 3e-4 + (3e-3 - 3e-4) * (1 + math.cos(math.pi * step / 9)) / 2

    assert sorted(i for step in steps[:5] for i in step["batch"]) == list(range(20))
    losses, norms, peer = trained_peer(base, data, [step["batch"] for step in steps], lr)
    assert run.losses() == pytest.approx(losses, rel=1e-5)
    assert [step["grad_norm"] for step in steps] == pytest.approx(norms, rel=1e-3)
    assert losses[-1] < losses[0] - 0.1

    trainer.publish_weights()
    weights = load_file(run.directory / "weights" / "model.safetensors")
    peer_weights = peer.state_dict()
    torch.testing.assert_close(
        weights["wte.weight"], peer_weights["transformer.wte.weight"], **close()
    )
    torch.testing.assert_close(weights["lm_head.weight"], peer_weights["lm_head.weight"], **close())
    for i in range(2):
        block, peer_block = f"h.{i}", f"transformer.h.{i}"
        fc = peer_weights[f"{peer_block}.mlp.c_fc.weight"].T
        torch.testing.assert_close(weights[f"{block}.mlp.fc.weight"], fc, **close())
        qkv = torch.cat([weights[f"{block}.attn.{x}.weight"] for x in "qkv"])
        attn = peer_weights[f"{peer_block}.attn.c_attn.weight"].T
        torch.testing.assert_close(qkv, attn, **close())
        # The key bias has no effect, so Adam moves it only by rounding errors. It is not compared.
        norm = peer_weights[f"{peer_block}.ln_2.bias"]
        torch.testing.assert_close(weights[f"{block}.ln_2.bias"], norm, **close())


def close() -> dict[str, float]:
    """Return tolerances. Adam amplifies rounding errors in tiny gradients; a wrong step would differ by 3e-3."""
    return {"atol": 1e-4, "rtol": 1e-3}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_same_settings_are_bit_identical(
    new_config: Callable[..., RunConfig], new_run: Callable[..., Any], method: str
) -> None:
    config = new_config(method=method, batch_size=4, lr=3e-3, dropout=0.1, grad_accumulation=2)
    curves = []
    for _ in range(2):
        run = new_run()
        assert Trainer(config, run).fit() == "finished"
        curves.append([(step["loss"], step["grad_norm"]) for step in run.events_of("step")])
    assert len(curves[0]) >= 2
    assert curves[0] == curves[1]
