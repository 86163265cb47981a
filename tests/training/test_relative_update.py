"""Relative updates, compared with those of the merged weights in fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.config import RunConfig
from core.nn import lora
from core.nn.architecture import Architecture
from core.nn.gpt2 import GPT2
from core.nn.pretrained import architecture
from core.planning.adapter_scale import equivalent_rate
from core.training.relative_update import UPDATE_INTERVAL, UpdateMeter
from core.training.trainer import Trainer

ARCH = Architecture(n_layer=3, n_head=2, n_embd=16, context=32, vocabulary=61)
IDS = torch.randint(61, (3, 12), generator=torch.Generator().manual_seed(1))


def random_base() -> GPT2:
    model = GPT2(ARCH)
    model.initialize(torch.Generator().manual_seed(0))
    return model


def adapted(**options: Any) -> GPT2:
    model = random_base()
    generator = torch.Generator().manual_seed(7)
    lora.add_adapters(model, ARCH.lora_targets(), 4, 8.0, 0.0, generator, **options)
    lora.freeze_residuals(model)
    return model


def step(model: GPT2, lr: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.loss(IDS, IDS.roll(-1, 1)).backward()
    optimizer.step()
    return optimizer


def merged_weights(model: GPT2) -> dict[str, Tensor]:
    """Return the merged fp64 weight of each adapted layer, computed from the formulas of LoRA and DoRA."""
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, lora.LoRALinear):
            A, B = layer.lora_A.detach().double(), layer.lora_B.detach().double()
            weight = layer.linear.weight.detach().double() + layer.scale * B @ A
            if layer.lora_magnitude is not None:
                magnitude = layer.lora_magnitude.detach().double()
                weight = weight * (magnitude / weight.norm(dim=1))[:, None]
            weights[name] = weight
    return weights


@pytest.mark.parametrize("lr", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("options", [{}, {"init": "pissa"}, {"dora": True}])
def test_adapter_updates_match_the_merged_weights(options: dict[str, Any], lr: float) -> None:
    model = adapted(**options)
    for _ in range(3):
        step(model, 1e-3)
    before = merged_weights(model)
    meter = UpdateMeter(model)
    copies = meter.before(1)
    assert copies is not None
    step(model, lr)
    update = meter.after(copies)
    after = merged_weights(model)
    assert list(update.modules) == ARCH.lora_targets()
    changes = {name: (after[name] - before[name]).norm() for name in before}
    for name, value in update.modules.items():
        expected = (changes[name] / before[name].norm()).item()
        assert value == pytest.approx(expected, rel=0.01), name
    total = torch.stack(list(changes.values())).norm()
    size = torch.stack([weight.norm() for weight in before.values()]).norm()
    assert update.overall == pytest.approx((total / size).item(), rel=0.01)


def test_blocks_are_measured_in_rotation() -> None:
    model = random_base()
    meter, names = UpdateMeter(model), []
    for i in range(4):
        before = {name: p.detach().clone().double() for name, p in model.named_parameters()}
        copies = meter.before(1 + i * UPDATE_INTERVAL)
        assert copies is not None
        assert sum(copy.numel() for [*part] in copies.values() for copy in part) < 4000
        step(model, 1e-4)
        update = meter.after(copies)
        [(name, value)] = update.modules.items()
        block = [n for n in before if n.startswith(f"{name}.")]
        parameters = dict(model.named_parameters())
        change = torch.cat([(parameters[n] - before[n]).flatten() for n in block]).norm()
        size = torch.cat([before[n].flatten() for n in block]).norm()
        assert value == update.overall == pytest.approx((change / size).item(), rel=1e-3)
        names.append(name)
    assert names == ["h.0", "h.1", "h.2", "h.0"]


def test_only_every_tenth_step_is_measured() -> None:
    meter = UpdateMeter(random_base())
    assert [s for s in range(1, 32) if meter.before(s)] == [1, 11, 21, 31]


def test_non_finite_update_is_none() -> None:
    model = adapted()
    meter = UpdateMeter(model)
    copies = meter.before(1)
    assert copies is not None
    with torch.no_grad():
        model.h[1].attn.q.lora_B.fill_(torch.nan)
    update = meter.after(copies)
    assert update.overall is None
    assert update.modules["h.1.attn.q"] is None
    assert update.modules["h.1.attn.k"] == 0


def test_nothing_is_measured_if_all_blocks_are_frozen() -> None:
    model = random_base()
    model.h.requires_grad_(False)
    assert UpdateMeter(model).before(1) is None


@pytest.mark.parametrize("method", ["full", "lora"])
def test_trainer_records_updates(
    new_config: Callable[..., RunConfig], new_run: Callable[..., Any], method: str
) -> None:
    run = new_run()
    Trainer(new_config(method=method, epochs=3), run).fit()
    updates = run.events_of("update")
    assert [event["step"] for event in updates] == [1, 11]
    for event in updates:
        assert event["relative_update"] > 0
        assert len(event["modules"]) == len(event["relative_updates"]) == (1, 13)[method == "lora"]


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_scaling": "alpha", "lora_init": "kaiming-rank", "lora_rank": 2, "lora_alpha": 2},
        {"lora_scaling": "alpha/sqrt(rank)", "lora_rank": 4, "lora_plus_ratio": 3.0},
        {"lora_alpha": 32},
    ],
)
def test_first_step_matches_the_equivalent_learning_rate(
    new_config: Callable[..., RunConfig],
    new_run: Callable[..., Any],
    settings: dict[str, Any],
) -> None:
    """See `core.planning.adapter_scale`."""
    config = new_config(method="lora", lr=1e-5, lora_targets="attention", **settings)
    default = {"lora_scaling": "alpha/rank", "lora_init": "kaiming", "lora_plus_ratio": None}
    rate = equivalent_rate(config, architecture(config.base_model))
    updates = []
    for index, run_config in enumerate((config, config.changed(lr=rate, **default))):
        run = new_run(f"run-{index}")
        trainer = Trainer(run_config, run)
        trainer.step(1, trainer.schedule.batches(1))
        [event] = run.events_of("update")
        updates.append(event["relative_update"])
    assert updates[0] == pytest.approx(updates[1], rel=0.01)
