"""From event files to the index, each event exactly once.

Every run's file is read from a stored position; its rows and the new position go in by one transaction.
A file that was cut, or replaced by another run's of the same name, is read anew.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import duckdb

from core.data.exact_match import exact_match
from core.tracking import bulk
from core.tracking.events import LARGEST, parse, read_lines
from core.tracking.pending import MOST, Pending
from core.tracking.plain_files import open_plain
from core.tracking.rundir import RunDirectory
from core.tracking.schema import EVENT_TABLES, STEPPED
from core.tracking.sources import EventFile

TOGETHER = 32
"""Runs that are new to the index and go in by one transaction."""
REMEMBERED = 256
"""Bytes kept of what stands before the position: by them a file is known again."""


Source = RunDirectory | EventFile
"""What events come from. Event files of no run are taken in like those of runs, under their own names."""


@dataclass(frozen=True)
class Place:
    """How far a run's events were read."""

    position: int = 0
    seq: int = 0
    unreadable: int = 0
    before: bytes = b""


class Ingester:
    """Keeps the index up with the run directories. Use from one thread at a time.

    Args:
        cursor: a connection of its own.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._db = cursor
        rows = cursor.execute("select * from ingested").fetchall()
        self._places = {run: Place(*place) for run, *place in rows}
        rows = cursor.execute("select run, stamp from config").fetchall()
        self._stamps: dict[str, str] = dict(rows)
        self._within, self._pending = False, Pending()
        self.fault: str | None = None
        """Which run the last poll could not take in and why, if there is one."""

    def poll(self, sources: Iterable[Source], these_are_all: bool = True) -> list[Source]:
        """Take in all that is new; the sources that had something.

        One that cannot be read keeps no other from being read.

        Args:
            sources: where to look.
            these_are_all: what is in the index and not among them is gone, and forgotten.
        """
        sources = list(sources)
        self.fault = None if these_are_all else self.fault
        changed = self._take_new(sources)
        for source in sources:
            try:
                if self._take(source):
                    changed.append(source)
            except FileNotFoundError:
                continue  # deleted while we looked; the next poll of all forgets it
            except (OSError, ValueError, duckdb.Error) as error:
                self.fault = f"{source.name} cannot be taken into the index: {error}"
        if these_are_all:
            for gone in self._known() - {source.name for source in sources}:
                self._forget(gone)
        return changed

    def _known(self) -> set[str]:
        return self._places.keys() | self._stamps.keys()

    def _take_new(self, sources: list[Source]) -> list[Source]:
        """Take in what is not in the index at all, many runs by one transaction, as when it is made anew.

        Where one of them cannot be read, none of its group is taken in: then each is on its own.
        """
        changed: list[Source] = []
        known = self._known()
        new = [source for source in sources if source.name not in known]
        for start in range(0, len(new), TOGETHER):
            with contextlib.suppress(OSError, ValueError, duckdb.Error):
                with self._transaction():
                    taken = [s for s in new[start : start + TOGETHER] if self._take(s)]
                changed += taken
        return changed

    def _take(self, run: Source) -> bool:
        changed = False
        if run.name in self._places and not _is_same(run.events_path, self._places[run.name]):
            self._forget(run.name)
            changed = True
        if isinstance(run, RunDirectory):
            changed |= self._take_config(run)
        while self._take_events(run):
            changed = True
        return changed

    def _take_config(self, run: RunDirectory) -> bool:
        stat = run.config_path.stat()
        stamp = f"{stat.st_mtime_ns} {stat.st_ino} {stat.st_size}"
        if self._stamps.get(run.name) == stamp:
            return False
        with open_plain(run.config_path, "r", encoding="utf-8", errors="replace") as file:
            settings = file.read()
        with self._transaction():
            self._pending.set_config(run.name, settings, stamp)
            self._stamps[run.name] = stamp
        return True

    def _take_events(self, run: Source) -> bool:
        place = self._places.get(run.name, Place())
        if _size(run.events_path) == place.position:
            return False
        lines, end = read_lines(run.events_path, place.position)
        if not lines:
            return False
        seq, unreadable = place.seq, place.unreadable
        with self._transaction():
            last, others = 0, lines
            if plain := bulk.split(lines, seq):
                steps, others, last = plain
                self._pending.add_steps(run.name, steps)
            for line in others:
                event = parse(line)
                if event is None or event["seq"] <= seq:
                    unreadable += event is None
                    continue
                seq = event["seq"]
                if (rewind := _rewind_step(event)) is not None:
                    self._rewind(run.name, rewind)
                elif (row := _row(run.name, event)) is not None:
                    self._pending.add_row(event["event"], row)
                else:
                    unreadable += 1
            new = Place(end, max(seq, last), unreadable, _last_bytes(place.before, lines))
            self._pending.set_place(run.name, *astuple(new))
            self._places[run.name] = new
            if self._pending.size > MOST:
                self._pending.write(self._db)
        return True

    def _rewind(self, run: str, step: int) -> None:
        self._pending.write(self._db)
        for table in STEPPED:
            self._db.execute(f'delete from "{table}" where run = ? and step > ?', [run, step])
        self._db.execute("delete from generation where run = ?", [run])

    def _forget(self, run: str) -> None:
        with self._transaction():
            for table in (*EVENT_TABLES, "config", "ingested"):
                self._db.execute(f'delete from "{table}" where run = ?', [run])
        self._places.pop(run, None)
        self._stamps.pop(run, None)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, what is remembered of it too; part of the one that is going on, if there is one."""
        if self._within:
            yield
            return
        kept = dict(self._places), dict(self._stamps)
        self._db.execute("begin transaction")
        self._within = True
        try:
            yield
            self._pending.write(self._db)
            self._db.execute("commit")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # a failed commit has rolled back already
                self._db.execute("rollback")
            self._places, self._stamps = kept
            self._pending = Pending()
            raise
        finally:
            self._within = False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_same(path: Path, place: Place) -> bool:
    """Whether this is still the file that was read up to that place."""
    size = _size(path)
    if size <= place.position:
        return size == place.position
    with open_plain(path) as file:
        file.seek(place.position - len(place.before))
        return file.read(len(place.before)) == place.before


def _last_bytes(before: bytes, lines: list[bytes]) -> bytes:
    read = b"".join(line + b"\n" for line in lines[-REMEMBERED:])
    return (before + read)[-REMEMBERED:]


def _rewind_step(event: dict[str, Any]) -> int | None:
    """The step to which an event rewinds the run; None where it is no rewind."""
    if event["event"] != "rewind":
        return None
    with contextlib.suppress(TypeError, OverflowError):
        return _read_whole(event.get("step"))
    return None


def _row(run: str, event: dict[str, Any]) -> list[Any] | None:
    """The event as a row of its table; None where it is of no known kind or a field has another type."""
    readers = READERS.get(event["event"])
    if readers is None:
        return None
    try:
        if event["event"] == "generation" and {"answer", "reference"} <= event.keys():
            event["exact"] = exact_match(event["answer"], event["reference"])
        if event["event"] == "verdict" and not 0 <= (event.get("score") or 0) <= 100:
            event["score"] = None
        values = [
            None if (value := event.get(name)) is None else read(value) for name, read in readers
        ]
        return [run, event["seq"], _read_number(event["time"]), *values]
    except (TypeError, KeyError, OverflowError):
        return None


def _read_whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(value)
    if abs(value) > LARGEST:
        raise OverflowError(value)
    return value


def _read_number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(value)
    return float(value)


def _read_truth(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(value)
    return value


def _read_text(value: Any) -> str:
    """A text without the half characters that JSON can spell and UTF-8 cannot."""
    if type(value) is not str:
        raise TypeError(value)
    return value.encode("utf-8", errors="replace").decode("utf-8")


def _read_list(value: Any) -> list[int]:
    if type(value) is not list:
        raise TypeError(value)
    return [_read_whole(item) for item in value]


READ: dict[str, Callable[[Any], Any]] = {
    "VARCHAR": _read_text,
    "BIGINT": _read_whole,
    "DOUBLE": _read_number,
    "BOOLEAN": _read_truth,
    "BIGINT[]": _read_list,
}
READERS = {
    table: [(name, READ[kind]) for name, kind in columns.items()]
    for table, columns in EVENT_TABLES.items()
}
