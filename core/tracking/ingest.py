"""From event files to the index, each event exactly once.

Every run's file is read from a stored position; its rows and the new position go in by one transaction.
"""

from collections.abc import Callable, Iterable
from typing import Any

import duckdb

from core.tracking.events import parse, read_lines
from core.tracking.index import EVENT_TABLES, STEPPED
from core.tracking.rundir import RunDirectory

READ: dict[str, Callable[[Any], Any]] = {
    "VARCHAR": str,
    "BIGINT": int,
    "DOUBLE": float,
    "BOOLEAN": bool,
    "BIGINT[]": lambda values: [int(value) for value in values],
}
READERS = {
    table: [(name, READ[kind]) for name, kind in columns.items()]
    for table, columns in EVENT_TABLES.items()
}


class Ingester:
    """Keeps the index up with the run directories. Use from one thread.

    Args:
        cursor: a connection of its own.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._db = cursor
        rows = cursor.execute("select run, position, seq, unreadable from ingested").fetchall()
        self._places = {run: (position, seq, bad) for run, position, seq, bad in rows}
        rows = cursor.execute("select run, mtime from config").fetchall()
        self._configs: dict[str, float] = dict(rows)

    def poll(self, runs: Iterable[RunDirectory]) -> bool:
        """Take in all that is new, and forget runs that are gone. Whether anything changed."""
        changed, seen = False, set()
        for run in runs:
            seen.add(run.name)
            try:
                changed |= self._take_config(run)
                while self._take_events(run):
                    changed = True
            except FileNotFoundError:
                continue  # deleted while we looked; the next poll forgets it
        for gone in (self._configs.keys() | self._places.keys()) - seen:
            self._forget(gone)
            changed = True
        return changed

    def _take_config(self, run: RunDirectory) -> bool:
        mtime = run.config_path.stat().st_mtime
        if self._configs.get(run.name) == mtime:
            return False
        settings = run.config_path.read_text(encoding="utf-8", errors="replace")
        try:
            self._db.execute(
                "insert or replace into config values (?, ?, ?)", [run.name, settings, mtime]
            )
        except duckdb.Error:  # edited by hand into something that is not JSON
            self._db.execute("insert or replace into config values (?, '{}', ?)", [run.name, mtime])
        self._configs[run.name] = mtime
        return True

    def _take_events(self, run: RunDirectory) -> bool:
        position, seq, unreadable = self._places.get(run.name, (0, 0, 0))
        if not run.events_path.exists():
            return False
        size = run.events_path.stat().st_size
        if size == position:
            return False
        if size < position:  # cut or replaced by hand: read it anew
            self._forget(run.name)
            return True
        lines, end = read_lines(run.events_path, position)
        if not lines:
            return False
        rows: dict[str, list[list[Any]]] = {}
        self._db.execute("begin transaction")
        try:
            for line in lines:
                event = parse(line)
                if event is None or event["seq"] <= seq:
                    unreadable += event is None
                    continue
                if event["event"] == "rewind":
                    self._write(rows)
                    rows = {}
                    self._rewind(run.name, event)
                elif (row := _row(run.name, event)) is not None:
                    rows.setdefault(event["event"], []).append(row)
                else:
                    unreadable += 1
                seq = event["seq"]
            self._write(rows)
            place = [run.name, end, seq, unreadable]
            self._db.execute("insert or replace into ingested values (?, ?, ?, ?)", place)
            self._db.execute("commit")
        except BaseException:
            self._db.execute("rollback")
            raise
        self._places[run.name] = (end, seq, unreadable)
        return True

    def _write(self, rows: dict[str, list[list[Any]]]) -> None:
        for table, listed in rows.items():
            with self._db.appender(table) as appender:
                appender.append_rows(listed)

    def _rewind(self, run: str, event: dict[str, Any]) -> None:
        step = event.get("step", -1)
        for table in STEPPED:
            self._db.execute(f'delete from "{table}" where run = ? and step > ?', [run, step])
        self._db.execute("delete from generation where run = ?", [run])

    def _forget(self, run: str) -> None:
        self._db.execute("begin transaction")
        for table in (*EVENT_TABLES, "config", "ingested"):
            self._db.execute(f'delete from "{table}" where run = ?', [run])
        self._db.execute("commit")
        self._places.pop(run, None)
        self._configs.pop(run, None)


def _row(run: str, event: dict[str, Any]) -> list[Any] | None:
    """The event as a row of its table; None where it is of no known kind or a field has another type."""
    readers = READERS.get(event["event"])
    if readers is None:
        return None
    try:
        values = [
            None if (value := event.get(name)) is None else read(value) for name, read in readers
        ]
        return [run, event["seq"], float(event["time"]), *values]
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
