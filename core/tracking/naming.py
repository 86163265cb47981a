"""What a run is called: a name that is a directory's on any system, and that no other run has."""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from core.config import RunConfig
from core.tracking.sources import FOLDERS

DEVICES = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(10))}
RESERVED = DEVICES | {"lab", "driver", "queue", "settings", "", *FOLDERS}
"""No run may be called like a device of Windows, or like what else lies beside the runs."""


def slug(name: str) -> str:
    """A safe directory name from any text: ASCII letters, digits, `.`, `_` and `-`, at most 60."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", ascii_name)[:60].strip("-._ ")
    return f"run-{cleaned}".rstrip("-") if cleaned.split(".")[0] in RESERVED else cleaned


def next_name(runs_dir: Path, config: RunConfig) -> str:
    """What a run of these settings would be called if it were made now."""
    return next(path.name for path in free_names(runs_dir, config) if not path.exists())


def free_names(runs_dir: Path, config: RunConfig) -> Iterator[Path]:
    """Where a run of these settings may lie: `name`, and `name-2` and so on where that is taken."""
    base = slug(config.name.strip() or f"{Path(config.base_model).name}-{config.method}")
    yield runs_dir / base
    yield from (runs_dir / f"{base}-{number}" for number in itertools.count(2))
