"""Files of a run that are plain files: a run directory may come from a stranger, and should lead nowhere else."""

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Any


def open_regular(path: Path, mode: str = "rb", **kwargs: Any) -> IO[Any]:
    """As `open`. Raises OSError for what is no plain file: a link (ELOOP), a pipe nobody would write to."""
    return open(path, mode, opener=_plain, **kwargs)


def replace_text(path: Path, text: str) -> None:
    """Write a file anew and give it its name when it is whole. A link of that name is replaced, not followed."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")  # two may write at once
    try:
        with open_regular(partial, "x", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _plain(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    kind = os.fstat(handle).st_mode
    # `open` itself says of directories what they are
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no plain file", path)
    return handle
