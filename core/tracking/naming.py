"""Names of run directories: safe on any file system, readable in any script, unique within a runs directory."""

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


MAX_CHARACTERS = 60
MAX_BYTES = 180
"""Of a slug in UTF-8. File systems allow 255 for a file name, and suffixes such as `-2` and `.jsonl` are added."""
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""Letters and combining marks without a glyph (Unicode's Default_Ignorable_Code_Point). Category Cf has the others."""


def slug(name: str) -> str:
    """Return a safe directory name for any text.

    Letters and digits of every script are kept, lower-cased and in NFKC, as are `.`, `_` and `-`. Invisible and
    bidirectional control characters are dropped. Any other run of characters becomes `-`.
    """
    visible = "".join(c for c in INVISIBLE.sub("", name) if unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).lower())
    kept = ""
    for c in text:
        # A combining mark, such as a vowel sign, is only safe on a letter.
        is_mark = unicodedata.category(c).startswith("M") and kept[-1:] not in ("", "\0", *"._-")
        kept += c if c.isalnum() or c in "._-" or is_mark else "\0"
    short = re.sub("\0+", "-", kept)[:MAX_CHARACTERS].encode()[:MAX_BYTES].decode(errors="ignore")
    cleaned = short.strip("-._")
    return f"run-{cleaned}".rstrip("-") if cleaned.split(".")[0] in RESERVED else cleaned


def next_name(runs_dir: Path, config: RunConfig) -> str:
    """Return the name that a run of these settings would get now."""
    return next(path.name for path in free_names(runs_dir, config) if not path.exists())


def free_names(runs_dir: Path, config: RunConfig) -> Iterator[Path]:
    """Yield the directories to try for a run of these settings: `name`, `name-2`, `name-3` and so on."""
    base = slug(config.name.strip() or f"{Path(config.base_model).name}-{config.method}")
    yield runs_dir / base
    yield from (runs_dir / f"{base}-{number}" for number in itertools.count(2))
