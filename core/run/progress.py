"""Show a run's progress in a terminal or notebook. Reads only the event file, so any process can train the run."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from core.errors import UserError
from core.run.directory import RunDirectory
from core.run.events import parse, read_lines

MB = 1_000_000


def follow(
    run: RunDirectory, offset: int, is_training: Callable[[], bool], console: Console
) -> None:
    """Show steps, losses, samples and warnings until training ends.

    Args:
        offset: byte offset in the event file to start from, to skip the events before a resume.
        is_training: polled five times per second. Remaining events are shown after it returns False.

    Raises:
        UserError: the run was deleted.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=None, figures="")
        is_last_pass = False
        while not is_last_pass:
            is_last_pass = not is_training()
            lines, offset = _read_new_lines(run, offset)
            for line in lines:
                if event := parse(line):
                    _show(event, progress, task, console)
            time.sleep(0 if is_last_pass else 0.2)


def _read_new_lines(run: RunDirectory, offset: int) -> tuple[list[bytes], int]:
    try:
        return read_lines(run.events_path, offset)
    except FileNotFoundError:
        if run.config_path.exists():  # not queued yet
            return [], offset
        raise UserError(f"{run.name} was deleted") from None


def _show(event: dict[str, Any], progress: Progress, task: TaskID, console: Console) -> None:
    kind = event["event"]
    if kind == "download":
        downloaded, total = event["bytes"] // MB, event["total"] // MB
        description = f"downloading {event['repository']}, MB"
        progress.update(task, total=total, completed=downloaded, description=description)
    elif kind == "plan":
        progress.update(task, total=event["steps"], completed=0, description="training")
    elif kind == "step":
        loss = "skipped" if event["loss"] is None else f"loss {event['loss']:.3f}"
        figures = f"{loss}  lr {event['lr']:.1e}  {event['tokens_per_s']:.0f} tokens/s"
        progress.update(task, completed=event["step"], figures=figures)
    elif kind == "eval":
        train_loss = event["train_loss"]
        training = "" if train_loss is None else f"train {train_loss:.3f}, "
        if event["final"]:  # may be before the planned last step
            progress.update(task, total=event["step"])
        losses = f"{training}validation {event['val_loss']:.3f}"
        console.print(f"step {event['step']}: loss {losses}", highlight=False)
    elif kind == "weights":
        weights = f"weights from step {event['step']} (validation loss {event['val_loss']:.3f})"
        console.print(f"answering the test examples with the {weights}", highlight=False)
    elif kind == "sample":
        console.print(Text(f"step {event['step']}: {event['prompt']} -> {event['text'].strip()!r}"))
    elif kind == "warning":
        console.print(Text(f"step {event['step']}: {event['message']}"), style="yellow")
    elif kind == "generation":
        progress.update(task, description="answering the test examples")
