"""Early stopping: end a run whose validation loss no longer improves. Does not evaluate anything itself."""

import math
from dataclasses import dataclass, fields
from typing import Any

from core.config import RunConfig


@dataclass
class EarlyStopping:
    """The evaluations since the last improvement, as stored in checkpoints.

    Evaluations are counted even if early stopping is off, so that it can be enabled before a run resumes.

    Args:
        eval_examples: number of examples in the validation subset. Other losses are not comparable.
        best_step: step of the last improvement. The base model, at step 0, counts as the first.
        best_loss: its loss; None before the first evaluation with a finite loss.
        evaluations: number of evaluations since then.
        ended_at: the step after which the run ended early; None if it did not.
    """

    eval_examples: int
    best_step: int = 0
    best_loss: float | None = None
    evaluations: int = 0
    ended_at: int | None = None

    @classmethod
    def parse(cls, recorded: object, eval_examples: int) -> "EarlyStopping":
        """Return the state recorded in a checkpoint, or a new one if it has none for this number of examples."""
        values: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
        names = [field.name for field in fields(cls)]
        has_numbers = all(
            type(values.get(name)) in (int, float)
            or (name in ("best_loss", "ended_at") and values.get(name) is None)
            for name in names
        )
        if has_numbers and values["eval_examples"] == eval_examples:
            return cls(**{name: values[name] for name in names})
        return cls(eval_examples)

    def count(self, config: RunConfig, step: int, loss: float) -> None:
        """Count an evaluation before the last step, and end the run if it was the last without an improvement."""
        lowest = math.inf if self.best_loss is None else self.best_loss
        if loss < lowest - config.early_stopping_min_delta:
            self.best_step, self.best_loss, self.evaluations = step, loss, 0
            return
        self.evaluations += 1
        patience = config.early_stopping_patience
        if step and patience is not None and self.evaluations >= patience:
            self.ended_at = step

    @property
    def reason(self) -> str | None:
        """Why the run ended early, or None if it did not."""
        if self.ended_at is None:
            return None
        return (
            f"stopped early at step {self.ended_at:,}: no improvement since step {self.best_step:,}"
        )
