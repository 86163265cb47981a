"""Sync the DuckDB index with the run directories. Each event is inserted exactly once.

Event files are read from a stored byte offset; the rows and the new offset are committed in one transaction. A
truncated or replaced file is read again from the start. Step events, which make up most of a long run, are parsed with
Arrow. Other events, and lines in a format other than that of `EventWriter`, are parsed one by one.
"""

import contextlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.json as arrow_json

from core.config import REPLACED_SETTINGS, upgraded
from core.data.content_hash import content_hash
from core.data.exact_match import exact_match
from core.errors import UserError
from core.run.directory import RunDirectory, list_runs
from core.run.event_files import EventFile, event_files
from core.run.events import MAX_BIGINT, parse, read_lines
from core.run.files import open_regular
from core.scheduler.processes import mark_dead_runs
from core.tracking import queries
from core.tracking.index import INDEX_FILE, Index
from core.tracking.schema import EVENT_TABLES, REWINDABLE_TABLES

NEW_RUNS_PER_TRANSACTION = 32
"""New runs are inserted in groups to reduce the number of commits when the index is rebuilt."""
MAX_PENDING_ROWS = 100_000
"""Maximum number of rows held in memory before they are written."""
FINGERPRINT_BYTES = 256
"""Number of bytes before the offset that are stored to detect whether a file was replaced."""
MIN_ARROW_STEPS = 500
"""Minimum number of steps for the Arrow path; below it, parsing line by line is faster."""
ARROW_BLOCK_BYTES = 1 << 20
"""Must exceed the longest line."""
EVENT_HEAD = re.compile(rb'\{"seq":([1-9]\d{0,17}),"time":-?\d+(?:\.\d+)?,"event":"(\w+)"[,}]')
"""Start of a line written by `EventWriter`."""
ARROW_TYPES = {
    "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(), "VARCHAR": pa.string(),
    "BIGINT[]": pa.list_(pa.int64()), "DOUBLE[]": pa.list_(pa.float64()), "VARCHAR[]": pa.list_(pa.string()),
}  # fmt: skip
STEP_SCHEMA = pa.schema(
    [
        ("seq", pa.int64()),
        ("time", pa.float64()),
        *((name, ARROW_TYPES[kind]) for name, kind in EVENT_TABLES["step"].items()),
    ]
)

LIST_TABLES = {
    table: pa.schema(
        [
            ("run", pa.string()),
            ("seq", pa.int64()),
            ("time", pa.float64()),
            *((name, ARROW_TYPES[kind]) for name, kind in columns.items()),
        ]
    )
    for table, columns in EVENT_TABLES.items()
    if table != "step" and any(kind.endswith("[]") for kind in columns.values())
}
"""Schemas of tables with lists. The few steps that Arrow did not parse go through the appender."""

Source = RunDirectory | EventFile
"""Anything with an event file. Event files outside run directories are synced like runs, under their own names."""


@dataclass(frozen=True)
class ReadOffset:
    """The position up to which an event file has been read.

    Args:
        position: byte offset after the last complete line.
        seq: sequence number of the last event.
        unreadable: number of lines skipped so far.
        before: the FINGERPRINT_BYTES before `position`.
    """

    position: int = 0
    seq: int = 0
    unreadable: int = 0
    before: bytes = b""


class Sync:
    """Keeps the index up to date. Use from one thread at a time.

    Args:
        cursor: a connection for exclusive use.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._db = cursor
        rows = cursor.execute("select * from ingested").fetchall()
        self._offsets = {run: ReadOffset(*offset) for run, *offset in rows}
        rows = cursor.execute("select run, stamp from config").fetchall()
        self._stamps: dict[str, str] = dict(rows)
        rows = cursor.execute("select run, stamp from disk").fetchall()
        self._disk_stamps: dict[str, int] = dict(rows)
        self._in_transaction, self._pending = False, PendingRows()
        self.fault: str | None = None
        """Why the last sync skipped a run, if it did."""

    def run(self, sources: Iterable[Source]) -> bool:
        """Insert new events and delete rows from sources that no longer exist. Returns whether the index may have changed.

        A source that cannot be read does not affect the others.
        """
        sources = list(sources)
        self.fault = None
        changed = self._insert_new(sources)
        for source in sources:
            try:
                changed |= self._insert(source)
            except FileNotFoundError:
                continue  # deleted during this sync; the next one removes its rows
            except (OSError, ValueError, duckdb.Error) as error:
                if isinstance(error, duckdb.FatalException | duckdb.InternalException):
                    raise
                self.fault = f"{source.name} cannot be indexed: {error}"
                changed = True  # some of its events may have been inserted
        for deleted_name in self._known_names() - {source.name for source in sources}:
            self._delete(deleted_name)
            changed = True
        return changed

    def _known_names(self) -> set[str]:
        return self._offsets.keys() | self._stamps.keys()

    def _insert_new(self, sources: list[Source]) -> bool:
        """Insert new sources in groups. If a group fails, `run` retries its sources one by one."""
        existing_names, changed = self._known_names(), False
        new_sources = [source for source in sources if source.name not in existing_names]
        for start in range(0, len(new_sources), NEW_RUNS_PER_TRANSACTION):
            with contextlib.suppress(OSError, ValueError, duckdb.Error), self._transaction():
                for source in new_sources[start : start + NEW_RUNS_PER_TRANSACTION]:
                    changed |= self._insert(source)
        return changed

    def _insert(self, source: Source) -> bool:
        """Insert new events from one source. Returns whether there were any."""
        changed = False
        offset = self._offsets.get(source.name)
        if offset and not _is_same_file(source.events_path, offset):
            self._delete(source.name)
            changed = True
        if isinstance(source, RunDirectory):
            changed |= self._insert_config(source)
        while self._insert_events(source):
            changed = True
        if isinstance(source, RunDirectory):
            changed |= self._insert_disk_size(source, changed)
        return changed

    def _insert_config(self, run: RunDirectory) -> bool:
        stat = run.config_path.stat()
        stamp = f"{stat.st_mtime_ns} {stat.st_ino} {stat.st_size}"
        if self._stamps.get(run.name) == stamp:
            return False
        with open_regular(run.config_path, "r", encoding="utf-8", errors="replace") as file:
            settings = _upgraded_text(file.read())
        with self._transaction():
            self._pending.set_config(run.name, settings, stamp)
            self._stamps[run.name] = stamp
        return True

    def _insert_disk_size(self, run: RunDirectory, changed: bool) -> bool:
        """Measure the size of a run's directory if its events or the directory itself changed.

        The directory also changes when the trainer deletes checkpoints, which happens after its last event.
        Returns whether the size was measured.
        """
        stamp = run.path.stat().st_mtime_ns
        if not changed and self._disk_stamps.get(run.name) == stamp:
            return False
        with self._transaction():
            self._pending.set_disk_size(run.name, run.disk_bytes(), stamp)
            self._disk_stamps[run.name] = stamp
        return True

    def _insert_events(self, source: Source) -> bool:
        """Insert the next lines from a source. Returns whether there were any."""
        offset = self._offsets.get(source.name, ReadOffset())
        if _size(source.events_path) == offset.position:
            return False
        lines, end = read_lines(source.events_path, offset.position)
        if not lines:
            return False
        seq, unreadable = offset.seq, offset.unreadable
        with self._transaction():
            last_seq, other_lines = 0, lines
            if parsed := parse_steps(lines, seq):
                steps, other_lines, last_seq = parsed
                self._pending.add_steps(source.name, steps)
            for line in other_lines:
                event = parse(line)
                if event is None or event["seq"] <= seq:
                    unreadable += event is None
                    continue
                seq = event["seq"]
                if (rewind := _rewind_step(event)) is not None:
                    self._rewind(source.name, rewind)
                elif (row := _row(source.name, event)) is not None:
                    self._pending.add_row(event["event"], row)
                else:
                    unreadable += 1
            new_offset = ReadOffset(
                end, max(seq, last_seq), unreadable, _last_bytes(offset.before, lines)
            )
            self._pending.set_offset(source.name, *astuple(new_offset))
            self._offsets[source.name] = new_offset
            if self._pending.size > MAX_PENDING_ROWS:
                self._pending.write(self._db)
        return True

    def _rewind(self, run: str, step: int) -> None:
        """Delete rows that a resumed run recorded after its checkpoint."""
        self._pending.write(self._db)
        for table in REWINDABLE_TABLES:
            self._db.execute(f'delete from "{table}" where run = ? and step > ?', [run, step])
        self._db.execute("delete from generation where run = ?", [run])

    def _delete(self, run: str) -> None:
        with self._transaction():
            for table in (*EVENT_TABLES, "config", "disk", "ingested"):
                self._db.execute(f'delete from "{table}" where run = ?', [run])
        self._offsets.pop(run, None)
        self._stamps.pop(run, None)
        self._disk_stamps.pop(run, None)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit rows and offsets together or not at all. Joins a transaction that is already open."""
        if self._in_transaction:
            yield
            return
        saved = dict(self._offsets), dict(self._stamps), dict(self._disk_stamps)
        self._db.execute("begin transaction")
        self._in_transaction = True
        try:
            yield
            self._pending.write(self._db)
            self._db.execute("commit")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # a failed commit has already rolled back
                self._db.execute("rollback")
            self._offsets, self._stamps, self._disk_stamps = saved
            self._pending = PendingRows()
            raise
        finally:
            self._in_transaction = False


class PendingRows:
    """Rows from several runs, buffered so that they can be written in a few large inserts."""

    def __init__(self) -> None:
        self.size = 0
        """Number of event rows."""
        self._steps: list[pa.Table] = []
        self._rows: dict[str, list[list[Any]]] = {}
        self._offsets: dict[str, list[Any]] = {}
        self._configs: dict[str, list[str]] = {}
        self._disk_sizes: dict[str, list[Any]] = {}

    def add_steps(self, run: str, steps: pa.Table) -> None:
        """Add steps returned by `parse_steps`."""
        self._steps.append(steps.add_column(0, "run", pa.repeat(run, len(steps))))
        self.size += len(steps)

    def add_row(self, table: str, row: list[Any]) -> None:
        """Add an event as values in the order of the table's columns."""
        self._rows.setdefault(table, []).append(row)
        self.size += 1

    def set_offset(self, run: str, *offset: Any) -> None:
        """Set the fields of a ReadOffset."""
        self._offsets[run] = [run, *offset]

    def set_config(self, run: str, settings: str, stamp: str) -> None:
        """Set the content of config.json. Invalid JSON is stored as an empty object."""
        self._configs[run] = [run, settings, stamp]

    def set_disk_size(self, run: str, size: int, stamp: int) -> None:
        """Set the size of a run's directory in bytes, and the directory's modification time when it was measured."""
        self._disk_sizes[run] = [run, size, stamp]

    def write(self, db: duckdb.DuckDBPyConnection) -> None:
        """Write and clear all rows inside the caller's transaction. Raises duckdb.Error."""
        if self._steps:
            steps = pa.concat_tables(self._steps)
            columns = ", ".join(f'"{name}"' for name in ("run", *STEP_SCHEMA.names))
            db.execute(f"insert into step ({columns}) select {columns} from steps")
            del steps
        for table, rows in self._rows.items():
            if table in LIST_TABLES:  # DuckDB converts Python lists several times slower than Arrow
                events = pa.table(_columns(rows), schema=LIST_TABLES[table])
                db.execute(f'insert into "{table}" select * from events')
                del events
                continue
            with db.appender(table) as appender:
                appender.append_rows(rows)
        for table, rows_by_run in (("ingested", self._offsets), ("disk", self._disk_sizes)):
            if rows_by_run:
                values = _columns(rows_by_run.values())
                unnested = ", ".join(["unnest(?)"] * len(values))
                db.execute(f"insert or replace into {table} select {unnested}", values)
        if self._configs:
            db.execute(
                """
                insert or replace into config
                select run, case when json_valid(settings) then settings else '{}' end, stamp
                from (select unnest(?) as run, unnest(?) as settings, unnest(?) as stamp)
                """,
                _columns(self._configs.values()),
            )
        self.size = 0
        for collected in (
            self._steps,
            self._rows,
            self._offsets,
            self._configs,
            self._disk_sizes,
        ):
            collected.clear()


def parse_steps(lines: Sequence[bytes], seq: int) -> tuple[pa.Table, list[bytes], int] | None:
    """Parse the step events among complete lines with Arrow, which is several times faster than Python.

    Args:
        seq: sequence number of the event before these lines.

    Returns:
        The steps as a table of STEP_SCHEMA, the other lines, and the sequence number of the last event. None if all
        lines must be parsed one by one: there are fewer than MIN_ARROW_STEPS steps, or a line is not in the format of
        `EventWriter`.
    """
    if len(lines) < MIN_ARROW_STEPS:
        return None
    steps: list[bytes] = []
    other_lines: list[bytes] = []
    for line in lines:
        head = EVENT_HEAD.match(line)
        if head is None or (event_seq := int(head[1])) <= seq or head[2] == b"rewind":
            return None
        seq = event_seq
        (steps if head[2] == b"step" else other_lines).append(line)
    if len(steps) < MIN_ARROW_STEPS:
        return None
    try:
        table = arrow_json.read_json(
            io.BytesIO(b"\n".join(steps)),
            arrow_json.ReadOptions(block_size=ARROW_BLOCK_BYTES),
            arrow_json.ParseOptions(
                explicit_schema=STEP_SCHEMA, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    return (table, other_lines, seq) if len(table) == len(steps) else None


def sources(runs_dir: Path, run_names: Collection[str] | None = None) -> list[Source]:
    """Return the sources to index. With `run_names`, other runs are left out."""
    runs = (run for run in list_runs(runs_dir) if run_names is None or run.name in run_names)
    return [*runs, *event_files(runs_dir)]


def read_index(runs_dir: Path, run_names: Collection[str] | None = None) -> Index:
    """Return an up-to-date index for a command.

    The index is in memory if a dashboard has the file open or the file is not writable. Also marks runs whose trainer
    died as interrupted; see `core.scheduler.processes.mark_dead_runs`.

    Args:
        run_names: the required runs. An index in memory contains only these, which makes it faster to build.
    """
    try:
        index = Index(runs_dir / INDEX_FILE) if runs_dir.is_dir() else Index(None)
    except UserError:
        index = Index(None)
    try:
        _sync_once(runs_dir, index, run_names if index.path is None else None)
    except duckdb.Error as error:
        if index.path is None:
            raise
        index.rebuild(f"it failed while syncing ({type(error).__name__})")
        _sync_once(runs_dir, index, None)
    return index


def rebuild_index(runs_dir: Path) -> int:
    """Delete the index and rebuild it from the run directories. Returns the number of runs.

    Also marks runs whose trainer died as interrupted; see `core.scheduler.processes.mark_dead_runs`.

    Raises:
        UserError: another process has the index open, or it cannot be written.
    """
    index = Index(runs_dir / INDEX_FILE)
    index.rebuild("as requested")
    _sync_once(runs_dir, index, None)
    index.close()
    return len(list_runs(runs_dir))


def _sync_once(runs_dir: Path, index: Index, run_names: Collection[str] | None) -> None:
    sync = Sync(index.new_cursor())
    sync.run(sources(runs_dir, run_names))
    if mark_dead_runs(runs_dir, queries.runs_with_status(index.cursor(), "running")):
        sync.run(sources(runs_dir, run_names))


def is_broken(error: Exception) -> bool:
    """Whether an error means that the index is unusable. TransactionException is not included: it means a full disk."""
    return isinstance(error, duckdb.Error) and not isinstance(error, duckdb.TransactionException)


def _upgraded_text(settings: str) -> str:
    """Convert settings from an older version. Return current settings and invalid JSON unchanged."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        if any(name in settings for name in REPLACED_SETTINGS):
            return json.dumps(upgraded(json.loads(settings)))
    return settings


def _columns(rows: Iterable[list[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_same_file(path: Path, offset: ReadOffset) -> bool:
    """Whether the file is still the one read up to the offset. Compares the bytes before the offset."""
    size = _size(path)
    if size <= offset.position:
        return size == offset.position
    with open_regular(path) as file:
        file.seek(offset.position - len(offset.before))
        return file.read(len(offset.before)) == offset.before


def _last_bytes(previous: bytes, lines: list[bytes]) -> bytes:
    appended = b"".join(line + b"\n" for line in lines[-FINGERPRINT_BYTES:])
    return (previous + appended)[-FINGERPRINT_BYTES:]


def _rewind_step(event: dict[str, Any]) -> int | None:
    """Return the step of a `rewind` event; None for other events."""
    if event["event"] != "rewind":
        return None
    with contextlib.suppress(TypeError, OverflowError):
        return _read_int(event.get("step"))
    return None


def _row(run: str, event: dict[str, Any]) -> list[Any] | None:
    """Convert an event to a row of its table; None if its type is unknown or a field has the wrong type."""
    readers = COLUMN_READERS.get(event["event"])
    if readers is None:
        return None
    try:
        if event["event"] == "generation":
            _add_derived_fields(event)
        if event["event"] == "eval" and "subset_loss" not in event and not event.get("final"):
            event["subset_loss"] = event.get("val_loss")  # an older version
        if event["event"] == "verdict" and not 0 <= (event.get("score") or 0) <= 100:
            event["score"] = None
        values = [
            None if (value := event.get(name)) is None else read(value) for name, read in readers
        ]
        return [run, event["seq"], _read_float(event["time"]), *values]
    except (TypeError, KeyError, OverflowError):
        return None


def _add_derived_fields(generation: dict[str, Any]) -> None:
    """Add whether an answer matches its reference, and the hashes used to look up verdicts. Raises TypeError."""
    if {"answer", "reference"} <= generation.keys():
        generation["exact"] = exact_match(generation["answer"], generation["reference"])
    generation["example"] = generation["subject"] = None
    if {"instruction", "input", "reference", "answer"} <= generation.keys():
        example = [generation[name] for name in ("instruction", "input", "reference")]
        generation["example"] = content_hash(*example)
        generation["subject"] = content_hash(*example, generation["answer"])


def _read_int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(value)
    if abs(value) > MAX_BIGINT:
        raise OverflowError(value)
    return value


def _read_float(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(value)
    return float(value)


def _read_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(value)
    return value


def _read_text(value: Any) -> str:
    """Replace lone surrogates, which JSON can contain but UTF-8 cannot encode."""
    if type(value) is not str:
        raise TypeError(value)
    return value.encode("utf-8", errors="replace").decode("utf-8")


def _read_list(value: Any, *types: type) -> list[Any]:
    """Return a list whose items all have one of these types. A Python loop would take half of the sync time."""
    if type(value) is not list or not set(map(type, value)) <= {*types}:
        raise TypeError(value)
    return value


def _read_ints(value: Any) -> list[int]:
    integers = _read_list(value, int)
    if integers and max(-min(integers), max(integers)) > MAX_BIGINT:
        raise OverflowError(value)
    return integers


def _read_optional_floats(value: Any) -> list[float | None]:
    numbers = _read_list(value, int, float, type(None))
    if int in map(type, numbers):
        return [None if number is None else float(number) for number in numbers]
    return numbers


def _read_texts(value: Any) -> list[str]:
    return [_read_text(text) for text in _read_list(value, str)]


VALUE_READERS: dict[str, Callable[[Any], Any]] = {
    "VARCHAR": _read_text,
    "BIGINT": _read_int,
    "DOUBLE": _read_float,
    "BOOLEAN": _read_bool,
    "BIGINT[]": _read_ints,
    "VARCHAR[]": _read_texts,
    "DOUBLE[]": _read_optional_floats,
}
COLUMN_READERS = {
    table: [(name, VALUE_READERS[kind]) for name, kind in columns.items()]
    for table, columns in EVENT_TABLES.items()
}
