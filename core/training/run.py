"""A run as its trainer knows it: a directory, events, a request to stop, and how far it has come."""

from dataclasses import dataclass
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


@dataclass
class Progress:
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
