"""What happens when the loss or its gradient is no longer finite: the run stops, or leaves the step out."""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from core.config import RunConfig
from core.errors import TrainingError
from core.training.run import Run

MAX_SKIPPED_STEPS = 10
"""Steps left out one after the other, after which a run stops all the same: it has diverged for good."""
MAX_NAMED_WEIGHTS = 3
"""Weights that a warning names."""


def is_sound(loss: float, grad_norm: float, scaled: bool) -> bool:
    """Whether a step may be taken. fp16's scaler leaves out a step by itself whose gradient overflows."""
    return math.isfinite(loss if scaled else loss + grad_norm)


def report(
    config: RunConfig,
    run: Run,
    model: nn.Module,
    step: int,
    batch: Sequence[int],
    lr: float,
    loss: float,
    grad_norm: float,
    skipped: int,
) -> None:
    """Keep what is known of a step that will not be taken, as a warning.

    Args:
        batch: places of its examples in the data set.
        skipped: steps left out just before this one.

    Raises:
        TrainingError: the run should stop.
    """
    diagnosis = f"the loss became {loss:g} and the gradient norm {grad_norm:g}"
    unsound = (
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    )
    names = list(itertools.islice(unsound, MAX_NAMED_WEIGHTS))
    detail = f"; without a finite gradient: {', '.join(names)}" if names else ""
    listed_indices = ", ".join(map(str, batch))
    message = f"{diagnosis} at lr = {lr:g}, on examples {listed_indices}{detail}"
    run.emit("warning", step=step, about="divergence", message=message, batch=list(batch), lr=lr)
    if config.nonfinite == "stop":
        raise TrainingError(
            f"training diverged at step {step} with lr = {lr:g}: {diagnosis}; "
            "a lower lr, a longer warm-up or gradient clipping may help"
        )
    if skipped + 1 >= MAX_SKIPPED_STEPS:
        raise TrainingError(
            f"training diverged: {MAX_SKIPPED_STEPS} steps in a row up to step {step} had no finite loss and gradient; "
            "a lower lr, a longer warm-up or gradient clipping may help"
        )
