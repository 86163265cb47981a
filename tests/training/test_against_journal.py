"""Ten steps of the journal's LoRA runs match a loop that adds `alpha * x A B`, as in the journal's code."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import RunConfig
from core.nn import pretrained
from core.presets import PRESETS, preset
from core.training.trainer import Trainer

RATE_FACTOR = 20
"""Learning rate multiplier. With it, ten steps change the weights enough to compare them."""
STEPS = 10
LORA_RUNS = [
    pytest.param(name, marks=[] if name == "run_10" else pytest.mark.long)
    for name, entry in PRESETS.items()
    if entry.journal and entry.settings["method"] == "lora"
]


class AdaptedLinear(nn.Module):
    """A linear layer plus alpha times the product of A (inputs, rank) and B (rank, outputs)."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear, self.alpha = linear, alpha
        self.A = nn.Parameter(torch.empty(linear.in_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(rank, linear.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.alpha * (x @ self.A @ self.B)


def add_reference_adapters(module: nn.Module, rank: int, alpha: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, AdaptedLinear(child, rank, alpha))
        else:
            add_reference_adapters(child, rank, alpha)


def rate(config: RunConfig, step: int) -> float:
    """Linear warm-up followed by half a cosine. Steps count from 0."""
    assert config.min_lr is not None
    warmup = int(config.warmup_fraction * STEPS)
    if step < warmup:
        return config.min_lr + step * (config.lr - config.min_lr) / warmup
    progress = (step - warmup) / (STEPS - 1 - warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def reference_loss(model: nn.Module, sequences: list[list[int]]) -> Tensor:
    """Return the mean cross entropy over all tokens of a padded batch."""
    width = max(map(len, sequences))
    ids = torch.tensor([s + [50256] * (width - len(s)) for s in sequences])
    targets = torch.tensor([s[1:] + [-100] * (width - len(s)) for s in sequences])
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("name", LORA_RUNS)
def test_ten_steps_equal_the_reference(
    name: str, base: Path, data: Path, new_run: Callable[..., Any]
) -> None:
    batch_size = preset(name).batch_size
    config = preset(name).changed(
        base_model=str(base),
        dataset=str(data),
        max_examples=None,
        device="cpu",
        sample_prompt="",
        epochs=STEPS * batch_size // 20,  # of 20 training examples
        lr=preset(name).lr * RATE_FACTOR,
        min_lr=(preset(name).min_lr or 0) * RATE_FACTOR,
    )
    run = new_run()
    trainer = Trainer(config, run)
    reference = pretrained.load(config.base_model).requires_grad_(False)
    add_reference_adapters(reference, config.lora_rank, config.lora_alpha)
    adapted = {n: m for n, m in reference.named_modules() if isinstance(m, AdaptedLinear)}
    for layer_name, layer in adapted.items():
        A = trainer.model.get_submodule(layer_name).lora_A.detach().T
        assert A.shape == layer.A.shape
        # The distributions match, but the random draws do not.
        assert A.abs().max().item() == pytest.approx(layer.A.abs().max().item(), rel=0.2)
        layer.A.data.copy_(A)
    trained = [p for p in reference.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in trainer.parameters)

    trainer.fit()
    events = run.events_of("step")
    assert len(events) == STEPS
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    losses = []
    for step, event in enumerate(events):
        optimizer.param_groups[0]["lr"] = rate(config, step)
        loss = reference_loss(reference, [[*trainer.train_set[i].ids] for i in event["batch"]])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert run.losses() == pytest.approx(losses, rel=1e-5, abs=1e-5)
    for layer_name, layer in adapted.items():
        ours = trainer.model.get_submodule(layer_name)
        torch.testing.assert_close(ours.lora_A.T, layer.A, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.lora_B.T, layer.B, atol=1e-5, rtol=1e-5)
        assert layer.B.abs().max() > 1e-3
