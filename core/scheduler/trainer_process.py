"""The trainer process: `python -m core.scheduler.trainer_process RUN_DIRECTORY`.

Locks the run, trains it and records the final status. An error is recorded in the run's events as a one-sentence
reason. If the error is unexpected, its traceback is written to the log.
"""

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from core.config import RunConfig
from core.errors import UserError
from core.run import log
from core.run.directory import ENDED_STATUSES, RunDirectory
from core.run.events import EventWriter
from core.scheduler import processes

Train = Callable[[RunConfig, Any], str]
OUT_OF_MEMORY_PHRASES = ("out of memory", "allocate memory", "not enough memory")
"""Phrases in PyTorch's out-of-memory errors, on GPU and CPU."""


class ActiveRun:
    """The run being trained: its directory, event writer and stop request."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._writer = EventWriter(run.events_path)
        self.directory = run.path
        self.resumed = any(event["status"] == "running" for event in run.statuses())
        self.ending: str | None = None
        """Final status to record after a stop request; None if there has not been one."""
        self.reason: str | None = None
        self.stop_reason: str | None = None
        """Reason of the stop request, if it has one."""

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event to the event file and the log."""
        self._writer.append(kind, **fields)
        log.append_event(self._run.log_path, kind, fields)

    def stop_requested(self) -> bool:
        """Whether the user or a signal has asked the trainer to save a checkpoint and stop."""
        if self.ending is None and self._run.stop_path.exists():
            self.ending = self._run.stop_request()
            self.stop_reason = self._run.stop_reason()
        return self.ending is not None

    def last_plan(self) -> dict[str, Any] | None:
        """Return the newest `plan` event, or None."""
        return next(reversed(self._run.events("plan")), None)

    def sync(self) -> None:
        """Flush all events to disk."""
        self._writer.sync()

    def close(self) -> None:
        """Flush all events to disk and close the file."""
        self._writer.sync()
        self._writer.close()


def main(run: RunDirectory, signals: bool = False, train: Train | None = None) -> None:
    """Train a run in the calling thread until it ends.

    Args:
        signals: treat SIGTERM and SIGINT as requests to save a checkpoint and stop. Works only in the main thread.
        train: training function; `core.training.trainer.train` by default.

    Raises:
        RunHeldError: another trainer has locked the run.
        UserError: the run was deleted.
    """
    with run.lock():
        if run.status() in ENDED_STATUSES:
            run.discard_checkpoints()
            return
        with contextlib.closing(ActiveRun(run)) as active:
            if signals:
                _handle_signals(active)
            active.emit("status", **_train(run, active, train))
        run.discard_checkpoints()
        run.clear_stop_request()


def _train(run: RunDirectory, active: ActiveRun, train: Train | None) -> dict[str, Any]:
    """Train and return the fields of the final status event."""
    if active.stop_requested():
        return {"status": active.ending or "stopped", "reason": "withdrawn before it started"}
    active.emit("status", status="running", **processes.identity())
    try:
        # Imported after the status is written, because PyTorch takes seconds to import.
        from core.training import trainer

        train = train or trainer.train
        config = run.config()
        outcome = "stopped" if active.stop_requested() else train(config, active)
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    except KeyboardInterrupt:
        return {"status": "interrupted", "reason": "interrupted by Ctrl-C"}
    except BaseException as error:
        traceback.print_exc()
        return {"status": "failed", "reason": _reason(error, run)}
    if outcome == "finished":  # config.json may have been edited since the run started
        return {"status": outcome, "reason": active.reason, "keep_weights": config.keep_weights}
    return {"status": active.ending or outcome, "reason": active.stop_reason}


def _reason(error: BaseException, run: RunDirectory) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(
        phrase in message.lower() for phrase in OUT_OF_MEMORY_PHRASES
    ):
        traceback.clear_frames(error.__traceback__)  # their local variables keep tensors alive
        return f"out of memory; {memory_advice(run)}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read or written: {error.strerror}"
    return f"{type(error).__name__}: {message}"[:500]


def memory_advice(run: RunDirectory) -> str:
    """Suggest settings with lower memory use for a run that ran out of memory."""
    from core.planning import preflight
    from core.training import hardware

    try:
        hardware.release_cache()
        return preflight.memory_advice(run.config())
    except Exception:  # must not hide the original error
        return "try a smaller batch with more gradient accumulation, gradient checkpointing or LoRA"


def _handle_signals(active: ActiveRun) -> None:
    def on_signal(number: int, _: FrameType | None) -> None:
        active.ending = "interrupted"

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


if __name__ == "__main__":
    try:
        main(RunDirectory(Path(sys.argv[1])), signals=True)
    except UserError as error:
        sys.exit(str(error))
