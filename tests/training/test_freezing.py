"""Partial fine-tuning: which weights are trained, counted, saved and loaded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.config import RunConfig
from core.nn import pretrained
from core.planning import estimate
from core.training.trainer import Trainer, build_model, load_trained

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]
PARTS: dict[str, dict[str, Any]] = {
    "all": {"trained_weights": "all"},
    "last layer": {"trained_weights": "last_layers", "trained_layers": 1},
    "head": {"trained_weights": "head"},
    "no embeddings": {"trained_weights": "no_embeddings"},
}


def is_trained(name: str, part: str, tied: bool) -> bool:
    """Return whether a part contains a weight of the two-layer model."""
    is_embedding = name.startswith(("wte", "wpe"))
    return {
        "all": True,
        "last layer": name.startswith("h.1."),
        "head": name == ("wte.weight" if tied else "lm_head.weight"),
        "no embeddings": not is_embedding,
    }[part]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_only_the_trained_part_changes_and_has_gradients(
    new_config: NewConfig, new_run: NewRun, part: str, tied: bool
) -> None:
    config = new_config(**PARTS[part], tie_weights=tied, train_fraction=0.4)
    trainer = Trainer(config, new_run())
    trainer.step(1, trainer.schedule.batches(1))
    base = dict(pretrained.load(config.base_model, tie_weights=tied).named_parameters())
    for name, parameter in trainer.model.named_parameters():
        trained = is_trained(name, part, tied)
        assert torch.equal(parameter, base[name]) != trained, name
        assert (parameter.grad is not None) == trained, name
        assert bool(trainer.optimizer.state.get(parameter)) == trained, name
    arch = trainer.model.arch
    counts = estimate.parameters(config, arch)
    assert counts == (
        sum(p.numel() for p in trainer.model.parameters()),
        sum(p.numel() for p in trainer.parameters),
    )
    state = sum(s.numel() for s in _moments(trainer))
    assert estimate.optimizer_state(config, arch) == state


def _moments(trainer: Trainer) -> list[torch.Tensor]:
    return [
        tensor
        for state in trainer.optimizer.state.values()
        for name, tensor in state.items()
        if name != "step"
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.5},
        {"optimizer": "muon"},
        {"optimizer": "muon", "method": "lora", "lora_rank": 4},
        {"optimizer": "muon", **PARTS["last layer"]},
    ],
    ids=str,
)
def test_estimated_optimizer_state_matches_the_optimizer(
    new_config: NewConfig, new_run: NewRun, values: dict[str, Any]
) -> None:
    config = new_config(**values)
    trainer = Trainer(config, new_run())
    trainer.step(1, trainer.schedule.batches(1))
    state = sum(tensor.numel() for tensor in _moments(trainer))
    assert estimate.optimizer_state(config, trainer.model.arch) == state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_published_weights_are_the_whole_model(
    new_config: NewConfig, new_run: NewRun, precision: str
) -> None:
    config = new_config(**PARTS["last layer"], precision=precision, train_fraction=0.4)
    run = new_run(stop_at=1)
    trainer = Trainer(config, run)
    assert trainer.fit() == "stopped"
    from_checkpoint = load_trained(config, run.directory).state_dict()
    trainer.publish_weights()
    [path] = (run.directory / "weights").glob("*.safetensors")
    stored = load_file(path)
    model = build_model(config)
    assert stored.keys() == dict(model.named_parameters()).keys()
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    loaded = load_trained(config, run.directory).state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name
        assert torch.equal(from_checkpoint[name], tensor.float()), name
