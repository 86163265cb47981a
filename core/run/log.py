"""A run's human-readable log: one line per event, except for steps, samples and answers."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.run.files import open_regular


def append_event(path: Path, kind: str, event: Mapping[str, Any]) -> None:
    """Append an event to a log if its kind is logged. Errors are ignored so that they never end a run."""
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
        if line := format_event(kind, event):
            timestamp = time.strftime("%Y-%m-%d %H:%M:%S")
            with open_regular(path, "ab") as file:
                file.write(f"{timestamp} {line}\n".encode(errors="replace"))


def format_event(kind: str, event: Mapping[str, Any]) -> str | None:
    """Return the log line for an event, or None if its kind is not logged."""
    match kind:
        case "status":
            reason = event.get("reason")
            return f"{event['status']}: {reason}" if reason else str(event["status"])
        case "plan":
            return (
                f"{event['steps']:,} steps on {event['train_examples']:,} examples, {event['trainable']:,} of "
                f"{event['parameters']:,} parameters trainable, {event['precision']} on {event['device']}"
            )
        case "eval":
            scope = " on the whole validation set" if event["final"] else ""
            train_loss = event["train_loss"]
            training = "" if train_loss is None else f"training loss {train_loss:.4f}, "
            return (
                f"step {event['step']:,}: {training}validation loss {event['val_loss']:.4f}{scope}"
            )
        case "weights":
            return (
                f"answering the test examples with the weights from step {event['step']:,}, which had the lowest "
                f"validation loss ({event['val_loss']:.4f})"
            )
        case "rewind":
            if event["step"] < 0:
                return "no usable checkpoint; starting from step 0"
            return f"resuming from the checkpoint at step {event['step']:,}"
        case "warning":
            return f"step {event['step']:,}: {event['message']}"
    return None
