"""File locks that the kernel releases when their holder dies. This module does not depend on what the locks protect.

A lock belongs to an open file, not to a process, so it also excludes other threads of the same process.
"""

import fcntl
import os
import time
from pathlib import Path

RETRY_INTERVAL_S = 0.01


def acquire(path: Path, timeout: float = 0.0, shared: bool = False) -> int | None:
    """Lock a file. Creates it if it does not exist.

    Args:
        timeout: seconds to wait for another holder to release the lock.
        shared: take a shared lock, which is enough to detect an exclusive one.

    Returns:
        The file descriptor, or None if the file is already locked. Closing the descriptor releases the lock.

    Raises:
        FileNotFoundError: the directory or the lock file was deleted, possibly while waiting.
        OSError: the file cannot be opened.
    """
    access = os.O_RDONLY if shared else os.O_RDWR
    handle = os.open(path, access | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    deadline = time.monotonic() + timeout
    try:
        while not _try_lock(handle, shared):
            if time.monotonic() >= deadline:
                os.close(handle)
                return None
            time.sleep(RETRY_INTERVAL_S)
        if os.fstat(handle).st_nlink == 0:
            raise FileNotFoundError(path)
    except OSError:
        os.close(handle)
        raise
    return handle


def _try_lock(handle: int, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
