"""The scale of the adapters, and what it means for the learning rate. Arithmetic on settings, without a model."""

import statistics

from core.config import RunConfig
from core.nn.architecture import Architecture
from core.nn.lora import adapter_scale, initial_std


def equivalent_rate(config: RunConfig, arch: Architecture) -> float | None:
    """Return the learning rate with which alpha/rank and kaiming would take an equally large first step.

    As long as B is zero, a step changes a weight by scale (B' - B) A. The optimizers other than sgd move B by about the
    learning rate whatever the size of its gradient, so the change grows with scale, learning rate of B and A. For A,
    this uses the most frequent number of inputs of the adapted layers. None for sgd, whose steps also depend on the
    size of the gradient, and for PiSSA, whose A and B depend on the weights.

    Raises:
        UserError: a pattern of `lora_targets` matches no layer.
    """
    names = arch.lora_targets(config.lora_targets, config.lora_last_layers)
    inputs = statistics.mode(arch.linear_shapes()[name][0] for name in names)
    std = initial_std(config.lora_rank, inputs, config.lora_init)
    default_std = initial_std(config.lora_rank, inputs, "kaiming")
    if config.optimizer == "sgd" or std is None or default_std is None:
        return None
    default_scale = adapter_scale(config.lora_rank, config.lora_alpha)
    scale = adapter_scale(config.lora_rank, config.lora_alpha, config.lora_scaling)
    return config.lr * (config.lora_plus_ratio or 1) * scale / default_scale * std / default_std


def describe(config: RunConfig, arch: Architecture) -> str:
    """Return a sentence about the scale and, unless it is the default, about the learning rate. Raises UserError."""
    scale = adapter_scale(config.lora_rank, config.lora_alpha, config.lora_scaling)
    text = f"Adapter scale: {scale:.4g} ({config.lora_scaling})"
    if config.lora_init == "pissa":
        return f"{text}. With pissa, B is not zero at first, so learning rates tuned for other initializations do not carry over."
    rate = equivalent_rate(config, arch)
    if rate is None or abs(rate / config.lr - 1) < 0.01:
        return f"{text}."
    return (
        f"{text}. The first step is as large as with alpha/rank, kaiming and a learning rate of {rate:.2g} "
        f"({rate / config.lr:.3g} times the one set)."
    )
