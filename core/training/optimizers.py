"""The optimiser and the learning rate at each step."""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from core.config import RunConfig


def _alone(optimizer: type[torch.optim.Optimizer]) -> Any:
    """The same optimiser without the wrappers that keep PyTorch's compiler out of it.

    The first call of any of them imports that compiler: seconds of each trainer's start, and 71 MB.
    """
    names = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")
    plain = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    plain["step"] = torch.no_grad()(plain["step"])
    return type(optimizer.__name__, (optimizer,), plain)


AdamW, SGD = _alone(torch.optim.AdamW), _alone(torch.optim.SGD)


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 1.

    During the first `warmup_fraction` of all steps the rate rises linearly from `min_lr` (or 0 if None) to `lr`.
    Then it follows half a cosine down to `min_lr` at the last step (Loshchilov & Hutter 2017), or stays constant
    if `min_lr` is None.
    """
    low = config.min_lr or 0.0
    span = config.lr - low
    completed_steps, warmup = step - 1, int(config.warmup_fraction * steps)
    if completed_steps < warmup:
        return low + span * completed_steps / warmup
    if config.min_lr is None:
        return config.lr
    share = (completed_steps - warmup) / max(1, steps - 1 - warmup)
    return low + span * 0.5 * (1 + math.cos(math.pi * share))


def build_optimizer(config: RunConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW (fused) or SGD over all given parameters, biases and norms included, as in the journal."""
    if config.optimizer == "sgd":
        return SGD(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
