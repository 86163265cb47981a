"""Opening files of a run that are no links: a run directory may come from a stranger, and should lead nowhere else."""

import os
from pathlib import Path
from typing import IO, Any


def open_plain(path: Path, mode: str = "rb", **more: Any) -> IO[Any]:
    """As `open`. Raises OSError (ELOOP) for a symbolic link."""
    return open(path, mode, opener=_no_link, **more)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)
