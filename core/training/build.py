"""The model that a run trains, and the model that it made."""

from pathlib import Path

import torch

from core.config import RunConfig
from core.errors import UserError
from core.nn import lora, pretrained
from core.nn.gpt2 import GPT2
from core.training import checkpoints, hardware


def build_model(config: RunConfig) -> GPT2:
    """The base model, and adapters on it where the method is LoRA. Raises UserError."""
    lora_only = config.method == "lora"
    model = pretrained.load(config.base_model, config.dropout, config.tie_weights, frozen=lora_only)
    if lora_only:
        names = model.arch.lora_targets(config.lora_targets, config.lora_last_layers)
        generator = torch.Generator().manual_seed(config.seed)
        lora.add_adapters(
            model, names, config.lora_rank, config.lora_alpha, config.lora_dropout, generator
        )
    return model


def load_trained(config: RunConfig, directory: Path) -> GPT2:
    """Load a run's model in fp32, from `weights/` or its newest valid checkpoint, with adapters merged.

    Frozen weights are rounded to the precision that the run trained in, because its adapters were trained on
    the rounded weights. Manifests of older versions do not record the precision.

    Raises:
        UserError: the run has neither, or its adapters belong to a different base model.
    """
    model = build_model(config)
    if (directory / "weights").is_dir():
        facts, files = checkpoints.read(directory / "weights")
        [tensors] = files.values()
        if config.method == "lora" and facts.get("base_hash") != pretrained.fingerprint(model):
            message = f"{directory.name}: its adapters were trained on other weights of {config.base_model} than those of today"
            raise UserError(message)
    else:
        facts, tensors = checkpoints.newest_weights(directory / "checkpoint")
    checkpoints.load_trainable(model, tensors)
    for dtype in (torch.bfloat16, torch.float16):
        if facts.get("precision") == hardware.name_of(dtype):
            lora.narrow(model, dtype)
            lora.widen(model)
    lora.merge(model)
    return model.eval()
