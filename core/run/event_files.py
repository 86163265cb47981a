"""Event files that belong to no run: verdicts of judges, and answers of base models. Knows not what is in them."""

from dataclasses import dataclass
from pathlib import Path

VERDICTS_FOLDER = "verdicts"
PRETRAINED_FOLDER = "pretrained"
EVENT_FOLDERS = (VERDICTS_FOLDER, PRETRAINED_FOLDER)
"""Beside the run directories; no run may have such a name."""


@dataclass(frozen=True)
class EventFile:
    """A file of events that the index takes in as it does a run's; `name` stands where a run's would."""

    name: str
    events_path: Path


def event_files(runs_dir: Path) -> list[EventFile]:
    """Every such file. Links are not followed."""
    paths = [
        path
        for folder in EVENT_FOLDERS
        if not (runs_dir / folder).is_symlink()
        for path in sorted((runs_dir / folder).glob("*.jsonl"))
        if not path.is_symlink()
    ]
    return [EventFile(f"{path.parent.name}/{path.stem}", path) for path in paths]
