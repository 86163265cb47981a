"""A run as its trainer knows it: a directory, events, a request to stop, and how far it has come."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "stopped"]


class Run(Protocol):
    """What the trainer may ask of the run it trains."""

    directory: Path
    resumed: bool

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event."""

    def sync(self) -> None:
        """Make the events so far durable."""

    def stop_requested(self) -> bool:
        """Whether somebody asked the run to stop."""

    def last_plan(self) -> Mapping[str, Any] | None:
        """Return the newest `plan` event, written before this resume; None if there is none."""


class StoppedError(Exception):
    """A stop was asked for before there was a step to end after."""


def report_download(run: Run) -> Callable[[str, int, int], None]:
    """A listener to downloads that writes an event each time. It raises StoppedError where a stop was asked for."""

    def notify(repository: str, downloaded: int, total: int) -> None:
        run.emit("download", repository=repository, bytes=downloaded, total=total)
        if run.stop_requested():
            raise StoppedError

    return notify


@dataclass(frozen=True)
class Evaluation:
    """A validation loss, comparable with others over the same number of batches."""

    step: int
    val_loss: float
    eval_batches: int

    @classmethod
    def parse(cls, facts: object) -> "Evaluation | None":
        """Return the evaluation that a manifest records; None if it records none."""
        values: dict[str, Any] = facts if isinstance(facts, dict) else {}
        recorded: list[Any] = [values.get(field.name) for field in fields(cls)]
        types = [type(value) for value in recorded]
        return cls(*recorded) if types == [int, float, int] else None


@dataclass
class TrainingProgress:
    """How far a run has come.

    Args:
        seconds: of training steps only.
        skipped: steps left out one after the other, up to the last.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
