"""The scale of the adapters and the equivalent learning rate, computed from the settings alone."""

import statistics

from core.config import RunConfig
from core.nn.architecture import Architecture
from core.nn.lora import adapter_scale, initial_std


def equivalent_rate(config: RunConfig, arch: Architecture) -> float | None:
    """Return the learning rate that gives an equally large first step with alpha/rank and kaiming.

    While B is zero, a step changes a weight by scale (B' - B) A. Optimizers other than sgd move B by about the learning
    rate, regardless of the gradient's size, so the change is proportional to the scale, the learning rate of B and the
    size of A. That size is computed for the most common number of inputs among the adapted layers. Returns None for
    sgd, whose steps depend on the size of the gradient, and for PiSSA, whose initial A and B depend on the weights.

    Raises:
        UserError: a pattern in `lora_targets` matches no layer.
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
    """Describe the scale and, if it differs from the configured one, the equivalent learning rate. Raises UserError."""
    scale = adapter_scale(config.lora_rank, config.lora_alpha, config.lora_scaling)
    text = f"Adapter scale: {scale:.4g} ({config.lora_scaling})"
    if config.lora_init == "pissa":
        return f"{text}. With pissa, B does not start at zero, so learning rates tuned for other initializations do not carry over."
    rate = equivalent_rate(config, arch)
    if rate is None or abs(rate / config.lr - 1) < 0.01:
        return f"{text}."
    return (
        f"{text}. The first step is as large as with alpha/rank, kaiming and a learning rate of "
        f"{rate:.2g} ({rate / config.lr:.3g} times the configured rate)."
    )
