"""A run's log, for people: what its events say of how it goes, a line each. Steps and answers are left to the pages."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.run.files import open_regular


def append_event(path: Path, kind: str, event: Mapping[str, Any]) -> None:
    """Add the line of an event to a log, if it is one to be told. Whatever hinders that disturbs nobody."""
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
        if line := format_event(kind, event):
            moment = time.strftime("%Y-%m-%d %H:%M:%S")
            with open_regular(path, "ab") as file:
                file.write(f"{moment} {line}\n".encode(errors="replace"))


def format_event(kind: str, event: Mapping[str, Any]) -> str | None:
    """An event in words, None where its kind is not told."""
    match kind:
        case "status":
            reason = event.get("reason")
            return f"{event['status']}: {reason}" if reason else str(event["status"])
        case "plan":
            return (
                f"{event['steps']:,} steps over {event['train_examples']:,} examples, {event['trainable']:,} of "
                f"{event['parameters']:,} parameters trained, {event['precision']} on {event['device']}"
            )
        case "eval":
            scope = ", over its whole set" if event["final"] else ""
            return (
                f"step {event['step']:,}: training loss {event['train_loss']:.4f}, "
                f"validation loss {event['val_loss']:.4f}{scope}"
            )
        case "weights":
            return (
                f"weights of step {event['step']:,}, which had the lowest validation loss "
                f"({event['val_loss']:.4f}), answer the test set"
            )
        case "rewind":
            if event["step"] < 0:
                return "no checkpoint to go on from: starting over"
            return f"going on from the checkpoint of step {event['step']:,}"
        case "warning":
            return f"step {event['step']:,}: {event['message']}"
    return None
