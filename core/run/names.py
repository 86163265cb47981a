"""Run directory names: safe on all file systems, readable in any script, unique in the runs directory."""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from core.config import RunConfig
from core.run.event_files import EVENT_FOLDERS

WINDOWS_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{n}{i}" for n in ("com", "lpt") for i in range(10)),
}
UPLOADS_FOLDER = "uploads"
"""Folder for uploaded data sets in the runs directory."""
STUDIES_FOLDER = "studies"
"""Folder for studies in the runs directory."""
RESERVED_NAMES = WINDOWS_DEVICES | {
    *("lab", "driver", "queue", "settings", ""), UPLOADS_FOLDER, STUDIES_FOLDER, *EVENT_FOLDERS
}  # fmt: skip
"""Names that a run cannot have: Windows device names, and the names of other files in the runs directory."""
MAX_CHARACTERS = 60
"""Maximum number of characters in a slug."""
MAX_BYTES = 180
"""Maximum size of a slug in UTF-8. File systems allow 255 bytes, which leaves room for suffixes such as `.jsonl`."""
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""Invisible letters and combining marks (Unicode's Default_Ignorable_Code_Point) that are not in category Cf."""


def slug(name: str) -> str:
    """Convert any text to a safe directory name.

    Keeps letters and digits from all scripts, lower-cased and NFKC-normalized, and `.`, `_` and `-`. Drops invisible
    and bidirectional control characters. Replaces each sequence of other characters with `-`.
    """
    visible = "".join(c for c in INVISIBLE.sub("", name) if unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).lower())
    safe_text = ""
    for c in text:
        # Keep a combining mark, such as a vowel sign, only after a letter, a digit or another mark.
        is_mark = unicodedata.category(c).startswith("M") and safe_text[-1:] not in (
            "",
            "\0",
            *"._-",
        )
        safe_text += c if c.isalnum() or c in "._-" or is_mark else "\0"
    short = (
        re.sub("\0+", "-", safe_text)[:MAX_CHARACTERS].encode()[:MAX_BYTES].decode(errors="ignore")
    )
    cleaned = short.strip("-._")
    return f"run-{cleaned}".rstrip("-") if cleaned.split(".")[0] in RESERVED_NAMES else cleaned


def next_name(runs_dir: Path, config: RunConfig) -> str:
    """Return the name that a new run with these settings would be given."""
    return next(path.name for path in free_names(runs_dir, config) if not path.exists())


def free_names(runs_dir: Path, config: RunConfig) -> Iterator[Path]:
    """Yield candidate directories for a run with these settings: `name`, `name-2`, `name-3` and so on."""
    base = slug(config.name.strip() or f"{Path(config.base_model).name}-{config.method}")
    yield runs_dir / base
    yield from (runs_dir / f"{base}-{number}" for number in itertools.count(2))


def explain_name(requested_name: str, name: str) -> str | None:
    """Return why a run's name differs from the requested one, or None if it does not."""
    requested_name = requested_name.strip()
    if name == requested_name:
        return None
    if not requested_name:
        return "no name given"
    short_name = slug(requested_name)
    return f"from {requested_name!r}" if short_name == name else f"{short_name!r} is taken"
