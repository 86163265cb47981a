"""What a user sets once for a folder of runs, kept in `settings.json` beside them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import UserError
from core.run.files import replace_text

PREFERENCES_FILE = "settings.json"


@dataclass(frozen=True)
class Preferences:
    """Args:
    resume_interrupted: put runs back into the queue when a dashboard starts that were interrupted before.
    """

    resume_interrupted: bool = False


def load(runs_dir: Path) -> Preferences:
    """As kept; the defaults where nothing is that can be read."""
    try:
        values = json.loads((runs_dir / PREFERENCES_FILE).read_text(encoding="utf-8"))
        return Preferences(resume_interrupted=values.get("resume_interrupted") is True)
    except (OSError, ValueError, AttributeError, RecursionError):
        return Preferences()


def save(runs_dir: Path, preferences: Preferences) -> None:
    """Keep them. Raises UserError where they cannot be written."""
    path = runs_dir / PREFERENCES_FILE
    try:
        replace_text(path, json.dumps(asdict(preferences), indent=2))
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error})") from None
