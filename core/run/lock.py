"""Locks on files that the kernel frees when their holder dies. Knows nothing of what they guard.

A lock belongs to an open file, not to a process, so threads of one process exclude each other too.
"""

import fcntl
import os
import time
from pathlib import Path

RETRY_INTERVAL_S = 0.01


def acquire(path: Path, timeout: float = 0.0, shared: bool = False) -> int | None:
    """Lock a file, made if absent; returns the handle that unlocks it when closed, or None if it is held.

    Args:
        timeout: seconds to wait for its holder.
        shared: hold it beside others who share it: enough to find out whether somebody does not.

    Raises:
        FileNotFoundError: the file's directory is gone, or went while we waited.
        OSError: it cannot be opened.
    """
    access = os.O_RDONLY if shared else os.O_RDWR
    handle = os.open(path, access | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    deadline = time.monotonic() + timeout
    try:
        while not _locked(handle, shared):
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


def _locked(handle: int, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
