"""Event files: append-only, with one numbered JSON object per line.

Each event is written by a single `write` call, so a killed process leaves at most one torn line at the end. Readers
return complete lines only, and the next writer truncates a torn one.
"""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.run.files import open_regular

TAIL_BYTES = 1 << 20
"""Number of bytes at the end of the file in which a new writer first looks for the last event."""
READ_CHUNK_BYTES = 16 << 20
"""Default maximum number of bytes that `read_lines` reads at once."""
MAX_BIGINT = 2**63 - 1
"""Maximum value of a BIGINT in the index."""


class EventWriter:
    """A writer that appends events to a file. A file can have only one writer at a time, so hold the run's lock.

    Args:
        path: the event file, created if it does not exist.
        clock: returns the current time in seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._path = clock, path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        self._seq = self._repair_tail()

    def append(self, kind: str, /, **fields: Any) -> None:
        """Write one event. Raises OSError if that fails, without leaving a partial event."""
        seq = self._seq + 1
        # Microseconds keep runs that were created in quick succession in order.
        event = {"seq": seq, "time": round(self._clock(), 6), "event": kind, **fields}
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
        data = line.encode("utf-8", errors="replace")
        bytes_written = os.write(self._file, data)
        if bytes_written != len(data):
            os.ftruncate(self._file, os.fstat(self._file).st_size - bytes_written)
            raise OSError(errno.ENOSPC, "the disk is full", str(self._path))
        self._seq = seq

    def sync(self) -> None:
        """Flush all events so far to disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _repair_tail(self) -> int:
        """Truncate a torn last line and return the sequence number of the last event."""
        size, length = os.fstat(self._file).st_size, TAIL_BYTES
        while True:
            start = max(0, size - length)
            tail = os.pread(self._file, size - start, start)
            complete_bytes = tail.rfind(b"\n") + 1
            events = (parse(line) for line in reversed(tail[:complete_bytes].split(b"\n")))
            last_seq = next((int(event["seq"]) for event in events if event), 0)
            if last_seq or start == 0:
                if complete_bytes < len(tail):
                    os.ftruncate(self._file, start + complete_bytes)
                return last_seq
            length *= 8


def read_lines(path: Path, offset: int, limit: int | None = None) -> tuple[list[bytes], int]:
    """Return the complete lines after a byte offset, up to about `limit` bytes, and the offset of their end."""
    limit = limit or READ_CHUNK_BYTES
    with open_regular(path) as file:
        file.seek(offset)
        data = file.read(limit)
        while b"\n" not in data and (chunk := file.read(limit)):
            data += chunk
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1], offset + end


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line, or None if the line is damaged."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    seq = event.get("seq")
    return event if type(seq) is int and 0 < seq <= MAX_BIGINT else None
