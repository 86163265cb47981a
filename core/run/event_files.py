"""Event files outside run directories: judges' verdicts and base models' answers. Does not interpret the events."""

from dataclasses import dataclass
from pathlib import Path

VERDICTS_FOLDER = "verdicts"
PRETRAINED_FOLDER = "pretrained"
EVENT_FOLDERS = (VERDICTS_FOLDER, PRETRAINED_FOLDER)
"""Folders next to the run directories. No run can have one of these names."""


@dataclass(frozen=True)
class EventFile:
    """An event file that is synced into the index like a run's event file, but under `name` rather than a run name."""

    name: str
    events_path: Path


def event_files(runs_dir: Path) -> list[EventFile]:
    """Return all event files outside run directories. Skips links."""
    paths = [
        path
        for folder in EVENT_FOLDERS
        if not (runs_dir / folder).is_symlink()
        for path in sorted((runs_dir / folder).glob("*.jsonl"))
        if not path.is_symlink()
    ]
    return [EventFile(f"{path.parent.name}/{path.stem}", path) for path in paths]
