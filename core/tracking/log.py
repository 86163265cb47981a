"""A run's log, for people: what its events say of how it goes, a line each. Steps and answers are left to the pages."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from core.tracking.plain_files import open_plain
from core.tracking.rundir import RunDirectory


class Log:
    """The log of one run, to be added to. Whatever keeps a line from being written disturbs no training."""

    def __init__(self, run: RunDirectory) -> None:
        self._path = run.log_path

    def tell(self, kind: str, event: Mapping[str, Any]) -> None:
        """Add the line of an event, if it is one to be told."""
        if line := told(kind, event):
            moment = time.strftime("%Y-%m-%d %H:%M:%S")
            with contextlib.suppress(OSError), open_plain(self._path, "ab") as file:
                file.write(f"{moment} {line}\n".encode(errors="replace"))


def told(kind: str, event: Mapping[str, Any]) -> str | None:
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
            where = "whole validation set" if event["final"] else "some validation examples"
            return (
                f"step {event['step']:,}: training loss {event['train_loss']:.4f}, "
                f"validation loss {event['val_loss']:.4f} ({where})"
            )
        case "rewind":
            if event["step"] < 0:
                return "no checkpoint to go on from: starting over"
            return f"going on from the checkpoint of step {event['step']:,}"
        case "warning":
            return f"step {event['step']:,}: {event['message']}"
    return None
