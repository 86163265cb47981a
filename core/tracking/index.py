"""The DuckDB file over all runs: its tables, who may open it, and what happens when it is damaged.

The index holds nothing that the run directories do not: a file of another version or a damaged one is
set aside and rebuilt. One process may hold it; threads take a cursor each.
"""

import re
import threading
from pathlib import Path

import duckdb

from core.errors import UserError

VERSION = 1

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
    },
    "warning": {"step": "BIGINT", "about": "VARCHAR", "message": "VARCHAR"},
}
"""Tables by the kind of event they hold, and the fields they keep; each also has run, seq and time."""

STEPPED = ("step", "eval", "sample", "warning")
"""Tables from which a rewind drops what came after its step."""


class Index:
    """The open index.

    Args:
        path: of the DuckDB file; None for one in memory.

    Raises:
        IndexHeldError: another process has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rebuilt: str | None = None
        """A sentence about why an earlier file was set aside, if it was."""
        self._connection = self._open()
        self._local = threading.local()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """This thread's own connection to the index."""
        if not hasattr(self._local, "cursor"):
            self._local.cursor = self._connection.cursor()
        cursor: duckdb.DuckDBPyConnection = self._local.cursor
        return cursor

    def close(self) -> None:
        """Write everything out and let other processes in."""
        self._connection.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            connection = self._connect()
            version = _version(connection)
        except duckdb.IOException as error:
            if held := re.search(r"Conflicting lock is held in .*?\(PID (\d+)\)", str(error)):
                raise IndexHeldError(self.path, int(held[1])) from None
            return self._start_over(f"it could not be read ({type(error).__name__})")
        except duckdb.Error as error:
            return self._start_over(f"it is damaged ({type(error).__name__})")
        if version not in (None, VERSION):
            connection.close()
            return self._start_over(f"it has version {version} and this program writes {VERSION}")
        if version is None:
            _create(connection)
        return connection

    def _connect(self) -> duckdb.DuckDBPyConnection:
        if self.path is None:
            return duckdb.connect(":memory:")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path.parent} cannot be written to ({error})") from None
        return duckdb.connect(str(self.path))

    def _start_over(self, reason: str) -> duckdb.DuckDBPyConnection:
        assert self.path is not None
        aside = self.path.with_name(f"{self.path.name}.damaged")
        self.path.replace(aside)
        wal = self.path.with_name(self.path.name + ".wal")
        if wal.exists():
            wal.replace(aside.with_name(aside.name + ".wal"))
        self.rebuilt = f"the index was rebuilt from the run directories: {reason}; the old file is {aside.name}"
        connection = self._connect()
        _create(connection)
        return connection


class IndexHeldError(UserError):
    """Another process has the index open."""

    def __init__(self, path: Path | None, pid: int) -> None:
        self.pid = pid
        message = f"{path} is held by process {pid}, most likely a dashboard; use that one or stop it first"
        super().__init__(message)


def _version(connection: duckdb.DuckDBPyConnection) -> int | None:
    tables = connection.execute("select table_name from duckdb_tables()").fetchall()
    if ("version",) not in tables:
        return None
    rows = connection.execute("select number from version").fetchall()
    return int(rows[0][0]) if rows else None


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("create table version (number INTEGER)")
    connection.execute("insert into version values (?)", [VERSION])
    connection.execute("create table config (run VARCHAR PRIMARY KEY, settings JSON, mtime DOUBLE)")
    connection.execute(
        "create table ingested (run VARCHAR PRIMARY KEY, position BIGINT, seq BIGINT, unreadable BIGINT)"
    )
    for table, columns in EVENT_TABLES.items():
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        connection.execute(
            f'create table "{table}" (run VARCHAR, seq BIGINT, time DOUBLE, {listed})'
        )
