"""Safe access to the files of run directories, which may come from untrusted sources.

Refuses links, which could lead out of the directory, and pipes, which could block.
"""

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Any


def open_regular(path: Path, mode: str = "rb", **kwargs: Any) -> IO[Any]:
    """Open a regular file with the arguments of `open`. Raises OSError for links (ELOOP) and other special files."""
    return open(path, mode, opener=_regular_opener, **kwargs)


def replace_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file; see `replace_bytes`."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it. A link with the final name is replaced, not followed."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")  # unique per writer
    try:
        with open_regular(partial, "xb") as file:
            file.write(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _regular_opener(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    kind = os.fstat(handle).st_mode
    # `open` itself raises IsADirectoryError for directories.
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle
