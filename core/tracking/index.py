"""The DuckDB file over all runs: its tables, who may open it, and what happens when it is damaged.

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
from core.tracking.lock import acquire

VERSION = 5
LOCK = "driver.lock"
"""Beside the index: whoever holds it drives the runs."""

EVENT_TABLES = {
    "status": {"status": "VARCHAR", "reason": "VARCHAR", "pid": "BIGINT", "host": "VARCHAR"},
    "plan": {
        "steps": "BIGINT",
        "steps_per_epoch": "BIGINT",
        "train_examples": "BIGINT",
        "parameters": "BIGINT",
        "trainable": "BIGINT",
        "base_hash": "VARCHAR",
        "device": "VARCHAR",
        "precision": "VARCHAR",
    },
    "step": {
        "step": "BIGINT",
        "epoch": "DOUBLE",
        "examples": "BIGINT",
        "tokens": "BIGINT",
        "padding": "DOUBLE",
        "lr": "DOUBLE",
        "loss": "DOUBLE",
        "grad_norm": "DOUBLE",
        "seconds": "DOUBLE",
        "tokens_per_s": "DOUBLE",
        "memory_mb": "DOUBLE",
        "batch": "BIGINT[]",
    },
    "eval": {
        "step": "BIGINT",
        "epoch": "DOUBLE",
        "tokens": "BIGINT",
        "seconds": "DOUBLE",
        "train_loss": "DOUBLE",
        "val_loss": "DOUBLE",
        "final": "BOOLEAN",
    },
    "sample": {"step": "BIGINT", "prompt": "VARCHAR", "text": "VARCHAR"},
    "generation": {
        "item": "BIGINT",
        "instruction": "VARCHAR",
        "input": "VARCHAR",
        "reference": "VARCHAR",
        "answer": "VARCHAR",
        "tokens": "BIGINT",
        "cut": "BOOLEAN",
        "prompt_cut": "BOOLEAN",
        "memory_mb": "DOUBLE",
        "exact": "BOOLEAN",
    },
    "warning": {"step": "BIGINT", "about": "VARCHAR", "message": "VARCHAR"},
    "judge": {
        "id": "VARCHAR",
        "judge": "VARCHAR",
        "kind": "VARCHAR",
        "model": "VARCHAR",
        "temperature": "DOUBLE",
        "prompt": "VARCHAR",
    },
    "verdict": {
        "key": "VARCHAR",
        "id": "VARCHAR",
        "subject": "VARCHAR",
        "repeat": "BIGINT",
        "score": "DOUBLE",
        "reason": "VARCHAR",
        "missing": "VARCHAR",
        "raw": "VARCHAR",
        "tokens_in": "BIGINT",
        "tokens_out": "BIGINT",
        "seconds": "DOUBLE",
    },
}
"""Tables by the kind of event they hold, and the fields they keep; each also has run, seq and time.

`exact` of a generation is no field of the event: the ingester adds it.
"""

STEPPED = ("step", "eval", "sample", "warning")
"""Tables from which a rewind drops what came after its step."""


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
        """A sentence about why an earlier file was set aside, if it was."""
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
            _create(connection)
            return connection
        try:
            sound = _is_sound(self.path)
            connection = duckdb.connect(str(self.path))
            try:
                version = _version(connection)
                if version == VERSION and not sound:
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
        if version == VERSION:
            return connection
        if version is None:
            _create(connection)
            return connection
        connection.close()
        reason = f"it has version {version} and this program writes {VERSION}"
        return self._start_over(self.path, reason)

    def _start_over(self, path: Path, reason: str) -> duckdb.DuckDBPyConnection:
        aside = path.with_name(f"{path.name}.damaged")
        wal = path.with_name(path.name + ".wal")
        try:
            path.replace(aside)
            if wal.exists():
                wal.replace(aside.with_name(aside.name + ".wal"))
            connection = duckdb.connect(str(path))
            _create(connection)
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
    for table in (*EVENT_TABLES, "config", "ingested"):
        connection.execute(f'select bit_xor(hash(t)) from "{table}" t').fetchall()
    for table in ("config", "ingested"):  # a key is looked up through blocks of its own
        for key in connection.execute(f"select run from {table}").fetchall():
            connection.execute(f"select 1 from {table} where run = ?", key).fetchall()


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    """All tables or none."""
    connection.execute("begin transaction")
    connection.execute("create table version (number INTEGER)")
    connection.execute("insert into version values (?)", [VERSION])
    connection.execute(
        "create table config (run VARCHAR PRIMARY KEY, settings JSON, stamp VARCHAR)"
    )
    connection.execute("""
        create table ingested (
            run VARCHAR PRIMARY KEY, position BIGINT, seq BIGINT, unreadable BIGINT, before BLOB)
    """)
    for table, columns in EVENT_TABLES.items():
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        connection.execute(
            f'create table "{table}" (run VARCHAR, seq BIGINT, time DOUBLE, {listed})'
        )
    connection.execute("commit")
