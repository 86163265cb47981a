"""The edge between a run and its trainer: `python -m core.scheduler.trainer_process RUN_DIRECTORY`.

Holds the run's lock, trains, and turns whatever happens into the run's last status: the traceback goes
to the run's log, a sentence into its events.
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
"""How torch says it, on a GPU and on a CPU."""


class ActiveRun:
    """A run as its trainer sees it: a directory, an event writer and the request to stop."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._writer = EventWriter(run.events_path)
        self.directory = run.path
        self.resumed = any(event["status"] == "running" for event in run.statuses())
        self.ending: str | None = None
        """The status to end with once a stop was asked for."""

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event, and to the log what it says."""
        self._writer.append(kind, **fields)
        log.append_event(self._run.log_path, kind, fields)

    def stop_requested(self) -> bool:
        """Whether to checkpoint and end: by request of a person or a signal."""
        if self.ending is None and self._run.stop_path.exists():
            self.ending = self._run.stop_request()
        return self.ending is not None

    def last_plan(self) -> dict[str, Any] | None:
        """Return the newest `plan` event; None if there is none."""
        return next(reversed(self._run.events("plan")), None)

    def sync(self) -> None:
        """Make the events so far durable."""
        self._writer.sync()

    def close(self) -> None:
        """Make the events durable and release the file."""
        self._writer.sync()
        self._writer.close()


def main(run: RunDirectory, signals: bool = False, train: Train | None = None) -> None:
    """Train a run to its end, in this thread.

    Args:
        signals: take SIGTERM and SIGINT as requests to checkpoint and end; main thread only.
        train: how; fine-tuning where absent.

    Raises:
        RunHeldError: another trainer holds it.
        UserError: it is gone.
    """
    with run.lock():
        if run.status() in ENDED_STATUSES:
            run.discard_checkpoints()
            return
        with contextlib.closing(ActiveRun(run)) as active:
            if signals:
                _listen(active)
            active.emit("status", **_train(run, active, train))
        run.discard_checkpoints()
        run.clear_stop_request()


def _train(run: RunDirectory, active: ActiveRun, train: Train | None) -> dict[str, Any]:
    """Train, and return the fields of the final status event."""
    if active.stop_requested():
        return {"status": active.ending or "stopped", "reason": "withdrawn before it started"}
    active.emit("status", status="running", **processes.identity())
    try:
        from core.training import trainer  # torch: seconds, which the status need not wait for

        train = train or trainer.train
        config = run.config()
        outcome = "stopped" if active.stop_requested() else train(config, active)
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    except KeyboardInterrupt:
        return {"status": "interrupted", "reason": "interrupted from the keyboard"}
    except BaseException as error:
        traceback.print_exc()
        return {"status": "failed", "reason": _reason(error, run)}
    if outcome == "finished":  # config.json may have been edited since the run started
        return {"status": outcome, "reason": None, "keep_weights": config.keep_weights}
    return {"status": active.ending or outcome, "reason": None}


def _reason(error: BaseException, run: RunDirectory) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(
        phrase in message.lower() for phrase in OUT_OF_MEMORY_PHRASES
    ):
        traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
        return f"out of memory; {memory_advice(run)}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read or written ({error.strerror})"
    return f"{type(error).__name__}: {message}"[:500]


def memory_advice(run: RunDirectory) -> str:
    """What would need less memory than a run that ran out of it, in words."""
    from core.planning import preflight
    from core.training import hardware

    try:
        hardware.release_cache()
        return preflight.memory_advice(run.config())
    except Exception:  # what it is for has failed already: a plain word will do
        return "a smaller batch with more gradient accumulation, gradient checkpointing or LoRA needs less"


def _listen(active: ActiveRun) -> None:
    def on_signal(number: int, _: FrameType | None) -> None:
        active.ending = "interrupted"

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


if __name__ == "__main__":
    try:
        main(RunDirectory(Path(sys.argv[1])), signals=True)
    except UserError as error:
        sys.exit(str(error))
