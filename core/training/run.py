"""The interface between the trainer and the run it trains, and the training progress."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "stopped"]


class Run(Protocol):
    """The run operations that the trainer uses."""

    directory: Path
    resumed: bool
    reason: str | None
    """Why the run ended, if its status does not say so."""

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event."""

    def sync(self) -> None:
        """Flush all events so far to disk."""

    def stop_requested(self) -> bool:
        """Return whether a stop has been requested."""

    def last_plan(self) -> Mapping[str, Any] | None:
        """Return the newest `plan` event written before the run was resumed, or None."""


class NullRun:
    """A run that discards its events."""

    directory = Path(os.devnull)
    resumed = False
    reason: str | None = None

    def emit(self, kind: str, **fields: Any) -> None: ...

    def sync(self) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def last_plan(self) -> None:
        return None


class StoppedError(Exception):
    """Raised when a stop is requested during a download, before the first step."""


def report_download(run: Run) -> Callable[[str, int, int], None]:
    """Return a download listener that writes one event per report and raises StoppedError if a stop was requested."""

    def notify(repository: str, downloaded: int, total: int) -> None:
        run.emit("download", repository=repository, bytes=downloaded, total=total)
        if run.stop_requested():
            raise StoppedError

    return notify


@dataclass(frozen=True)
class Evaluation:
    """A loss on the validation subset. Comparable only with losses on the same number of examples."""

    step: int
    val_loss: float
    eval_examples: int

    @classmethod
    def parse(cls, facts: object) -> "Evaluation | None":
        """Return the evaluation recorded in a manifest, or None."""
        values: dict[str, Any] = facts if isinstance(facts, dict) else {}
        recorded: list[Any] = [values.get(field.name) for field in fields(cls)]
        types = [type(value) for value in recorded]
        return cls(*recorded) if types == [int, float, int] else None


@dataclass
class TrainingProgress:
    """A run's progress, as stored in checkpoints.

    Args:
        seconds: time spent in training steps.
        skipped: number of consecutive steps skipped so far.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
