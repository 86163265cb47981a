"""User preferences for a folder of runs, stored in its `settings.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import UserError
from core.run.files import replace_text

PREFERENCES_FILE = "settings.json"


@dataclass(frozen=True)
class Preferences:
    """Preferences for a folder.

    Args:
        resume_interrupted: re-queue interrupted runs when a dashboard starts.
        baseline: the run with which all others are compared; empty if there is none. It may have been deleted.
    """

    resume_interrupted: bool = False
    baseline: str = ""


def load(runs_dir: Path) -> Preferences:
    """Load the preferences, or the defaults if the file is missing or invalid."""
    try:
        values = json.loads((runs_dir / PREFERENCES_FILE).read_text(encoding="utf-8"))
        baseline = values.get("baseline")
        return Preferences(
            resume_interrupted=values.get("resume_interrupted") is True,
            baseline=baseline if isinstance(baseline, str) else "",
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return Preferences()


def save(runs_dir: Path, preferences: Preferences) -> None:
    """Save the preferences. Raises UserError if the file cannot be written."""
    path = runs_dir / PREFERENCES_FILE
    try:
        replace_text(path, json.dumps(asdict(preferences), indent=2))
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error})") from None
