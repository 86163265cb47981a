"""The DuckDB file over all runs: who may open it, and what happens when it is damaged.

The index holds nothing that the run directories do not: a file of another version or a damaged one is
set aside and rebuilt. It is opened once: by one process, and there once; threads take a cursor each.
"""

import contextlib
import os
import re
import threading
from pathlib import Path

import duckdb

from core.errors import UserError
from core.tracking import schema
from core.tracking.lock import acquire

INDEX = "lab.duckdb"
"""Its name, beside the runs."""
LOCK = "driver.lock"
"""Beside the index: whoever holds it drives the runs."""


class Index:
    """The open index.

    Args:
        path: of the DuckDB file; None for one in memory.
        timeout: seconds to wait for another holder.

    Raises:
        IndexHeldError: it is open already, most likely in another process.
        UserError: it cannot be written to.
    """

    def __init__(self, path: Path | None, timeout: float = 0.0) -> None:
        self.path = path
        self.rebuilt: str | None = None
        """A sentence about what became of an earlier file, if it is not this one."""
        self._driven_before = path is not None and path.with_name(LOCK).exists()
        self._lock = None if path is None else _hold(path, timeout)
        try:
            self._connection = self._open()
        except BaseException:
            self._let_go()
            raise
        self._local = threading.local()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """This thread's own connection to the index."""
        if not hasattr(self._local, "cursor"):
            self._local.cursor = self.new_cursor()
        cursor: duckdb.DuckDBPyConnection = self._local.cursor
        return cursor

    def new_cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection that belongs to no thread. `close` reaches it however deep its user sits."""
        return self._connection.cursor()

    def close(self) -> None:
        """Write everything out and let other processes in."""
        self._connection.close()
        if self.path is not None:
            with contextlib.suppress(OSError):  # the next opening reads it all through
                _mark(self.path).write_text(_identity(self.path), encoding="ascii")
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self.path is None:
            connection = duckdb.connect(":memory:")
            schema.create(connection)
            return connection
        try:
            sound = _is_sound(self.path)
            connection = duckdb.connect(str(self.path))
            try:
                version = _version(connection)
                if version == schema.VERSION and not sound:
                    _read_through(connection)
            except duckdb.Error:
                connection.close()  # else DuckDB gives the same database to who connects next
                raise
        except duckdb.IOException as error:
            if held := re.search(r"Conflicting lock is held in .*?\(PID (\d+)\)", str(error)):
                raise IndexHeldError(self.path, int(held[1])) from None
            return self._start_over(self.path, f"it could not be read ({type(error).__name__})")
        except duckdb.Error as error:
            return self._start_over(self.path, f"it is damaged ({type(error).__name__})")
        if version == schema.VERSION:
            return connection
        if version is None:
            schema.create(connection)
            if self._driven_before:
                self.rebuilt = (
                    "the index was rebuilt from the run directories: it was gone or empty"
                )
            return connection
        connection.close()
        reason = f"it has version {version} and this program writes {schema.VERSION}"
        return self._start_over(self.path, reason)

    def _start_over(self, path: Path, reason: str) -> duckdb.DuckDBPyConnection:
        aside = path.with_name(f"{path.name}.damaged")
        wal = path.with_name(path.name + ".wal")
        try:
            path.replace(aside)
            if wal.exists():
                wal.replace(aside.with_name(aside.name + ".wal"))
            connection = duckdb.connect(str(path))
            schema.create(connection)
        except (OSError, duckdb.Error) as error:
            raise UserError(f"{path} cannot be rebuilt: {reason}, and then: {error}") from None
        self.rebuilt = f"the index was rebuilt from the run directories: {reason}; the old file is {aside.name}"
        return connection


class IndexHeldError(UserError):
    """The index is open already."""

    def __init__(self, path: Path, pid: int) -> None:
        self.pid = pid
        message = f"{path} is held by process {pid}, most likely a dashboard; use that one or stop it first"
        super().__init__(message)


def _hold(path: Path, timeout: float) -> int:
    """Lock the index beside its file: DuckDB lets one process open a file twice, and rows would double.

    Whoever deletes the index with all that is called like it leaves the lock.
    """
    lock = path.with_name(LOCK)
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
    """Whether some process has this index open."""
    try:
        handle = acquire(path.with_name(LOCK), shared=True)
    except OSError:
        return False
    if handle is not None:
        os.close(handle)
    return handle is None


def _version(connection: duckdb.DuckDBPyConnection) -> int | None:
    """The version of an index, 0 for a database that is none, None for an empty one.

    Raises duckdb.Error where it is damaged in what this reads.
    """
    tables = connection.execute("select table_name from duckdb_tables()").fetchall()
    if not tables:
        return None
    if ("version",) not in tables:
        return 0
    [[number]] = connection.execute("select coalesce(max(number), 0) from version").fetchall()
    return int(number)


def _mark(path: Path) -> Path:
    """Beside an index: which file it was when it was last closed in order."""
    return path.with_name(path.name + ".closed")


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _is_sound(path: Path) -> bool:
    """Whether nothing has touched the file since it was closed in order. Asked once: the mark is gone then."""
    mark = _mark(path)
    try:
        told = mark.read_text(encoding="ascii")
        mark.unlink()
        return told == _identity(path) and not path.with_name(path.name + ".wal").exists()
    except (OSError, ValueError):
        return False


def _read_through(connection: duckdb.DuckDBPyConnection) -> None:
    """Read every block of every table: DuckDB checks their sums. Raises duckdb.Error where one is damaged."""
    for table in (*schema.EVENT_TABLES, "config", "ingested"):
        connection.execute(f'select bit_xor(hash(t)) from "{table}" t').fetchall()
    for table in ("config", "ingested"):  # a key is looked up through blocks of its own
        for key in connection.execute(f"select run from {table}").fetchall():
            connection.execute(f"select 1 from {table} where run = ?", key).fetchall()
