"""The learning rate test: a short training run with an increasing learning rate (Smith 2017).

Uses the model, data order and optimizer that a run with the same settings would use. Writes nothing.
"""

from dataclasses import dataclass
from typing import Any

from core.config import RunConfig
from core.errors import UserError
from core.training.run import NullRun
from core.training.trainer import Trainer

LOWEST_LR, HIGHEST_LR = 1e-6, 10.0
"""First and last learning rate. The highest is the upper limit of the setting `lr`."""
SMOOTHING = 0.9
"""Weight of earlier losses in the exponential moving average."""
DIVERGENCE_FACTOR = 4.0
"""The test ends when the smoothed loss exceeds its minimum by this factor."""
SAFETY_FACTOR = 10.0
"""The rate with the lowest smoothed loss is divided by this to get the suggested rate."""


@dataclass(frozen=True)
class LRCurve:
    """The result of a learning rate test: per-step values and the suggested learning rate."""

    lr: list[float]
    loss: list[float]
    """Mean loss per token over the step's examples, in nats."""
    smoothed: list[float]
    """Exponential moving average of the loss, bias-corrected."""
    suggestion: float | None
    """Learning rate to use as the peak; None if the loss never decreased."""


class _Recorder(NullRun):
    """A run that keeps only the loss of its latest step, or None if it was not finite."""

    loss: float | None = None

    def emit(self, kind: str, **fields: Any) -> None:
        if kind == "step":
            self.loss = fields["loss"]


class _RisingTrainer(Trainer):
    """A trainer whose learning rate increases by a constant factor each step."""

    def __init__(self, config: RunConfig, run: NullRun, steps: int) -> None:
        super().__init__(config, run)
        self.test_steps = steps

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        share = (step - 1) / (self.test_steps - 1)
        return LOWEST_LR * (HIGHEST_LR / LOWEST_LR) ** share


def find_lr(config: RunConfig, steps: int) -> LRCurve:
    """Train for a few steps at increasing learning rates. Ends early if the loss diverges.

    Args:
        config: the settings of the run. Its learning rate and schedule have no effect.
        steps: at least 2. If the run has fewer steps, the test continues with further epochs.

    Raises:
        UserError: the run cannot be trained, or the loss of its first step is not finite.
    """
    run = _Recorder()
    trainer = _RisingTrainer(config.changed(nonfinite="skip"), run, steps)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for step in range(1, steps + 1):
        trainer.step(step, trainer.schedule.batches(step))
        if run.loss is None:
            break
        rates.append(trainer.learning_rate(step))
        losses.append(run.loss)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * run.loss
        smoothed.append(mean / (1 - SMOOTHING ** len(losses)))
        if smoothed[-1] > DIVERGENCE_FACTOR * min(smoothed):
            break
    if not losses:
        raise UserError("the loss of the first step is not finite")
    return LRCurve(rates, losses, smoothed, suggest(rates, smoothed))


def suggest(rates: list[float], smoothed: list[float]) -> float | None:
    """Return a tenth of the rate with the lowest smoothed loss, or None if the loss never decreased.

    This is fastai's rule (Gugger 2018). At the minimum itself, the loss is about to diverge.
    """
    lowest = min(range(len(rates)), key=smoothed.__getitem__)
    return None if lowest == 0 else float(f"{rates[lowest] / SAFETY_FACTOR:.1e}")
