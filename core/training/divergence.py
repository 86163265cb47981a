"""Handle steps whose loss or gradient is not finite: stop the run, or skip the step."""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from core.config import RunConfig
from core.errors import TrainingError
from core.training.run import Run

MAX_SKIPPED_STEPS = 10
"""Number of consecutive skipped steps after which a run stops anyway."""
MAX_NAMED_WEIGHTS = 3
"""Maximum number of weights that a warning lists."""


def is_sound(loss: float, grad_norm: float, scaled: bool) -> bool:
    """Return whether a step may be taken.

    Args:
        scaled: whether a gradient scaler is active. If so, only the loss is checked, because the scaler already skips
            steps with overflowing gradients.
    """
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
    """Write a warning event about a step that is not taken.

    Args:
        batch: data set indices of the step's examples.
        skipped: number of steps skipped immediately before this one.

    Raises:
        TrainingError: the run must stop.
    """
    diagnosis = f"the loss became {loss:g} and the gradient norm {grad_norm:g}"
    unsound = (
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    )
    names = list(itertools.islice(unsound, MAX_NAMED_WEIGHTS))
    detail = f"; non-finite gradients: {', '.join(names)}" if names else ""
    listed_indices = ", ".join(map(str, batch))
    message = f"{diagnosis} at lr = {lr:g}, on examples {listed_indices}{detail}"
    run.emit("warning", step=step, about="divergence", message=message, batch=list(batch), lr=lr)
    if config.nonfinite == "stop":
        raise TrainingError(
            f"training diverged at step {step} with lr = {lr:g}: {diagnosis}; "
            "try a lower lr, a longer warm-up or gradient clipping"
        )
    if skipped + 1 >= MAX_SKIPPED_STEPS:
        raise TrainingError(
            f"training diverged: {MAX_SKIPPED_STEPS} consecutive steps up to step {step} "
            "had a non-finite loss or gradient; "
            "try a lower lr, a longer warm-up or gradient clipping"
        )
