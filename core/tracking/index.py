"""The DuckDB index of all runs, and the lock that lets only one process at a time drive them.

The index is a cache of the run directories. A file that cannot be opened or has a different schema version is deleted
and rebuilt. Only one process opens it, and only once; each thread uses its own cursor.
"""

import os
import re
import threading
from pathlib import Path

import duckdb

from core.errors import UserError
from core.file_lock import acquire
from core.tracking import schema

INDEX_FILE = "lab.duckdb"
LOCK_FILE = "driver.lock"
"""Stored next to the index, under a name that survives `rm lab.duckdb*`."""


class Index:
    """The open index.

    Args:
        path: the DuckDB file; None creates the index in memory.
        timeout: how long to wait for another process to release the file, in seconds.

    Raises:
        IndexHeldError: another process has the index open.
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path | None, timeout: float = 0.0) -> None:
        self.path = path
        self.rebuilt: str | None = None
        """Message that explains why the index was rebuilt; None if it was not."""
        self.generation = 0
        """Number of calls to `rebuild`. Each call closes all threads' connections."""
        self._lock = None if path is None else _acquire_lock(path, timeout)
        self._local = threading.local()
        try:
            self._connection = self._open()
        except BaseException:
            self._release()
            raise

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return this thread's connection."""
        local = self._local
        if getattr(local, "parent", None) is not self._connection:  # first use, or rebuilt since
            local.parent, local.cursor = self._connection, self.new_cursor()
        cursor: duckdb.DuckDBPyConnection = local.cursor
        return cursor

    def new_cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a new connection that is not tied to a thread."""
        return self._connection.cursor()

    def rebuild(self, reason: str) -> None:
        """Delete the index and create an empty one. The caller must sync it.

        Raises:
            UserError: the file cannot be replaced, or this index is closed and another process may have the file open.
        """
        if self.path is not None and self._lock is None:
            raise UserError(f"The index {self.path} is closed.")
        self._connection.close()
        self._connection = self._create(reason)
        self.generation += 1

    def close(self) -> None:
        """Write everything to disk and release the file."""
        self._connection.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self.path is None:
            connection = duckdb.connect(":memory:")
            schema.create(connection)
            return connection
        if not self.path.exists():
            return self._create(None)
        try:
            connection = duckdb.connect(str(self.path))
        except duckdb.Error as error:
            if lock_conflict := re.search(
                r"Conflicting lock is held in .*?\(PID (\d+)\)", str(error)
            ):
                raise IndexHeldError(self.path, int(lock_conflict[1])) from None
            return self._create(f"it could not be opened ({type(error).__name__})")
        version = _version(connection)
        if version == schema.SCHEMA_VERSION:
            return connection
        connection.close()
        return self._create(
            f"its version was {version}, but this program uses {schema.SCHEMA_VERSION}"
        )

    def _create(self, reason: str | None) -> duckdb.DuckDBPyConnection:
        """Replace the file with an empty index. `reason` is None if there was no file before."""
        if self.path is None:
            return self._open()
        try:
            for path in (self.path, self.path.with_name(f"{self.path.name}.wal")):
                path.unlink(missing_ok=True)
            connection = duckdb.connect(str(self.path))
            schema.create(connection)
        except (OSError, duckdb.Error) as error:
            raise UserError(f"The index {self.path} cannot be rebuilt: {error}") from None
        if reason:
            self.rebuilt = f"The index was rebuilt from the run directories: {reason}."
        return connection


class IndexHeldError(UserError):
    """Another process has the index open."""

    def __init__(self, path: Path, pid: int) -> None:
        self.pid = pid
        super().__init__(
            f"{path} is in use by process {pid}, probably a dashboard. Use that dashboard, or close it first."
        )


def _acquire_lock(path: Path, timeout: float) -> int:
    """Acquire the lock next to the index. Needed because DuckDB lets the same process open a file twice."""
    lock = path.with_name(LOCK_FILE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = acquire(lock, timeout)
        if handle is None:
            raise IndexHeldError(path, int(lock.read_text() or 0))
        os.ftruncate(handle, os.pwrite(handle, str(os.getpid()).encode(), 0))
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written to ({error})") from None
    return handle


def is_held(path: Path) -> bool:
    """Whether any process has the index open."""
    try:
        handle = acquire(path.with_name(LOCK_FILE), shared=True)
    except OSError:
        return False
    if handle is not None:
        os.close(handle)
    return handle is None


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the schema version; 0 if the file is not an index or cannot be read."""
    try:
        [[number]] = connection.execute("select max(number) from version").fetchall()
        return int(number or 0)
    except duckdb.Error:
        return 0
