"""The learning rate of each step. Independent of the optimizer."""

import math

from core.config import RunConfig


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 1.

    During the first `warmup_fraction` of all steps, the rate rises linearly from `warmup_start` to `lr`. Then it stays
    constant or decays to `min_lr` at the last step: linearly, along half a cosine (Loshchilov & Hutter 2017), or
    linearly during the last `decay_fraction` of all steps (`wsd`; Hu et al. 2024, Hägele et al. 2024).
    """
    schedule = config.schedule
    if schedule == "auto":
        schedule = "constant" if config.min_lr is None else "cosine"
    low = (0.0 if schedule == "constant" else config.min_lr) or 0.0
    completed_steps, warmup = step - 1, int(config.warmup_fraction * steps)
    if completed_steps < warmup:
        start = low if config.warmup_start is None else config.warmup_start
        return start + (config.lr - start) * completed_steps / warmup
    if schedule == "constant":
        return config.lr
    last = steps - 1
    stable = warmup  # completed steps when the decay starts
    if schedule == "wsd":
        stable = max(warmup, last - max(1, int(config.decay_fraction * steps)))
    share = max(0, completed_steps - stable) / max(1, last - stable)
    remaining = 0.5 * (1 + math.cos(math.pi * share)) if schedule == "cosine" else 1 - share
    return low + (config.lr - low) * remaining
