"""A run's training shown in a terminal: follows its event file, whoever writes it."""

import threading
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from core.run.directory import RunDirectory
from core.run.events import parse, read_lines

MB = 1_000_000


def drive(run: RunDirectory, train: Callable[[RunDirectory], None], console: Console) -> None:
    """Train a run in a thread while showing how it goes. Ctrl-C asks it to checkpoint and stop."""
    thread = threading.Thread(target=train, args=(run,), name="trainer")
    offset = run.events_path.stat().st_size
    console.print(f"{run.name}: {run.path}")
    thread.start()
    try:
        follow(run, offset, thread.is_alive, console)
    except KeyboardInterrupt:
        run.request_stop()
        console.print("stopping after this step ...")
    thread.join()


def follow(
    run: RunDirectory, offset: int, is_training: Callable[[], bool], console: Console
) -> None:
    """Show steps, losses, samples and warnings until nobody trains the run any more.

    Args:
        offset: where in the event file to begin, so that a resumed run does not tell its past.
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
            lines, offset = read_lines(run.events_path, offset)
            for line in lines:
                if event := parse(line):
                    _show(event, progress, task, console)
            time.sleep(0 if is_last_pass else 0.2)


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
        losses = f"train {event['train_loss']:.3f}, validation {event['val_loss']:.3f}"
        console.print(f"step {event['step']}: loss {losses}", highlight=False)
    elif kind == "sample":
        console.print(Text(f"step {event['step']}: {event['prompt']} -> {event['text'].strip()!r}"))
    elif kind == "warning":
        console.print(Text(f"step {event['step']}: {event['message']}"), style="yellow")
    elif kind == "generation":
        progress.update(task, description="answering the test set")
