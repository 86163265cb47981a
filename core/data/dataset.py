"""Data sets: find, read and split them.

`files` reads records and `formats` converts them to examples. Unusable records are skipped and reported. This module
does not depend on tokenization.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import EmptyOutputs, RunConfig
from core.data import files, formats, hub
from core.data.files import MAX_LISTED_KEYS, display_key, join
from core.data.formats import Columns, UnusableRecordError
from core.data.template import Example
from core.errors import UserError

EMBEDDED = {"primer": Path(__file__).parent.parent / "assets" / "primer.json"}
MAX_LISTED_RECORDS = 30
"""Maximum number of skipped records listed per reason in a message; the Alpaca data set has 28."""
DETECTION_RECORDS = 1000
"""Number of records used to detect the format, because a single JSON record may lack columns."""


@dataclass(frozen=True)
class SkippedRecord:
    """A skipped record and the reason for skipping it."""

    source_row: str
    """Position in the file, such as `record 285`, `line 3` or `record 3 of train-0.parquet`."""
    reason: str


@dataclass(frozen=True)
class Records:
    """The contents of a data set.

    Example positions in events and on pages are indices into `examples`, so skipped records have none.
    """

    examples: list[Example]
    source_rows: list[str]
    """Position of each example's record in the file, counting skipped records; see `SkippedRecord.source_row`."""
    skipped: list[SkippedRecord]
    unused_keys: dict[str, int]
    """Keys that training ignores, formatted for display, with the number of records that have a value for each."""
    columns: Columns
    """The column mapping."""


@dataclass(frozen=True)
class Split:
    """A data set split into training, test and validation examples, in file order."""

    train: list[Example]
    test: list[Example]
    validation: list[Example]

    @property
    def first_test_item(self) -> int:
        """Index of the first test example in the data set."""
        return len(self.train)


def read(
    dataset: str,
    max_examples: int | None = None,
    empty_outputs: EmptyOutputs = "drop",
    download: bool = True,
    columns: str = "",
) -> Records:
    """Read a data set: `primer`, `alpaca`, `owner/name` on the hub, or a file.

    Args:
        max_examples: stop after this many usable records.
        empty_outputs: `keep` uses records whose output is empty, `drop` skips them.
        download: download files that are not cached; if False, raise NotDownloadedError instead.
        columns: the column mapping (see `RunConfig.columns`); empty to detect it.

    Raises:
        UserError: the data set does not exist, has an unknown format, or has no usable record.
    """
    mapping = formats.parse_columns(columns)
    on_hub = hub.repository(dataset) is not None
    paths = hub.files(dataset, download) if on_hub else [_local_path(dataset)]
    stream = _records(paths, dataset)
    first, present = _first_records(stream, max_examples)
    if not first:
        raise UserError(f"dataset = {dataset!r}: it contains no examples")
    mapping = mapping or formats.detect(present)
    if mapping is None and present:
        raise UserError(f"dataset = {dataset!r}: {formats.unknown_format(present)}")
    records = Records([], [], [], {}, mapping or formats.ALPACA)
    for source_row, record in itertools.chain(first, stream):
        _add_record(records, record, source_row, empty_outputs)
        if columns and isinstance(record, dict):
            present.update(dict.fromkeys(record))
        if len(records.examples) == max_examples:
            break
    if columns and present:
        complete = len(records.examples) != max_examples
        _check_columns(records, columns, present, complete)
    if not records.examples:
        count = len(records.skipped)
        subject = "its only record is not" if count == 1 else f"none of its {count:,} records is"
        message = f"{subject} usable: {_skip_reasons(records)}; {records.columns.requirement}"
        raise UserError(f"dataset = {dataset!r}: {message}")
    return records


def load(
    dataset: str,
    max_examples: int | None = None,
    empty_outputs: EmptyOutputs = "drop",
    download: bool = True,
    columns: str = "",
) -> list[Example]:
    """Return the usable examples of a data set, in file order. Arguments and errors are those of `read`."""
    return read(dataset, max_examples, empty_outputs, download, columns).examples


def skipped_summary(records: Records) -> str | None:
    """Return a message about the skipped records; None if there are none."""
    if not records.skipped:
        return None
    total = len(records.examples) + len(records.skipped)
    return f"{len(records.skipped):,} of {total:,} records are skipped: {_skip_reasons(records)}"


def unused_summary(records: Records) -> str | None:
    """Return a message about the keys that training ignores; None if there are none."""
    if not records.unused_keys:
        return None
    keys = [f"{key} ({count:,})" for key, count in records.unused_keys.items()]
    return f"unused keys (with record counts): {join(keys, MAX_LISTED_KEYS)}"


def split(examples: list[Example], config: RunConfig) -> Split:
    """Split a data set by `train_fraction` and `test_fraction`, in file order.

    Raises:
        UserError: a split is empty.
    """
    n = len(examples)
    train = int(n * config.train_fraction)
    test = int(n * config.test_fraction)
    parts = Split(examples[:train], examples[train : train + test], examples[train + test :])
    sizes = {"train": parts.train, "test": parts.test, "validation": parts.validation}
    if empty := [name for name, part in sizes.items() if not part]:
        splits = f"{' and '.join(empty)} {'split' if len(empty) == 1 else 'splits'}"
        count = "1 example" if n == 1 else f"{n:,} examples"
        message = f"dataset = {config.dataset!r}: the {splits} would be empty with {count}, train_fraction = {config.train_fraction} and test_fraction = {config.test_fraction}; use more examples or different fractions"
        raise UserError(message)
    return parts


def stamps(dataset: str) -> tuple[tuple[str, int, int], ...]:
    """Return the path, mtime and size of each file in a data set, as a cache key. Empty if it is not local."""
    try:
        on_hub = hub.repository(dataset) is not None
        paths = (
            hub.files(dataset, False)
            if on_hub
            else [EMBEDDED.get(dataset) or Path(dataset).expanduser()]
        )
        stats = [(str(path.absolute()), path.stat()) for path in paths]
    except (OSError, RuntimeError):
        return ()
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def _local_path(dataset: str) -> Path:
    path = EMBEDDED.get(dataset) or _existing_file(dataset)
    if path is None:
        message = f"dataset = {dataset!r}: file not found; use primer, alpaca, owner/name on the Hugging Face hub, or the path of a JSON, JSONL, CSV, TSV or Parquet file"
        raise UserError(message)
    return path


def _existing_file(dataset: str) -> Path | None:
    try:
        path = Path(dataset).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # the name is too long, or `~user` does not exist
        return None


def _records(paths: Sequence[Path], dataset: str) -> Iterator[tuple[str, Any]]:
    """Yield the records of all files with their positions."""
    for path in paths:
        suffix = f" of {path.name}" if len(paths) > 1 else ""
        for source_row, record in files.read_records(path, dataset, formats.is_record):
            yield source_row + suffix, record


def _first_records(
    stream: Iterator[tuple[str, Any]], max_examples: int | None
) -> tuple[list[tuple[str, Any]], dict[str, None]]:
    """Read DETECTION_RECORDS records (or `max_examples`, if fewer), then more until the format is detected.

    Returns:
        The records, and their columns in order of first occurrence.
    """
    wanted = min(DETECTION_RECORDS, max_examples or DETECTION_RECORDS)
    first: list[tuple[str, Any]] = []
    columns: dict[str, None] = {}
    for source_row, record in stream:
        first.append((source_row, record))
        if isinstance(record, dict):
            columns.update(dict.fromkeys(record))
        if len(first) >= wanted and formats.detect(columns):
            break
    return first, columns


def _add_record(
    records: Records, record: Any, source_row: str, empty_outputs: EmptyOutputs
) -> None:
    """Add a record to the examples or to the skipped records."""
    try:
        example = formats.convert(record, records.columns, empty_outputs)
    except UnusableRecordError as error:
        records.skipped.append(SkippedRecord(source_row, str(error)))
        return
    records.examples.append(example)
    records.source_rows.append(source_row)
    used = records.columns.sources.values()
    for key, value in record.items():
        if key not in used and value not in (None, "", [], {}):
            name = display_key(key)
            records.unused_keys[name] = records.unused_keys.get(name, 0) + 1


def _check_columns(
    records: Records, columns: str, present: Mapping[str, None], complete: bool
) -> None:
    """Raise UserError if a configured column is missing. Ignores a missing input column until all records are read."""
    for role, column in records.columns.sources.items():
        if column not in present and (role != "input" or complete):
            names = join([display_key(name) for name in present], MAX_LISTED_KEYS)
            message = f"no record has a column {display_key(column)!r}; the columns are {names}"
            raise UserError(f"columns = {columns!r}: {message}")


def _skip_reasons(records: Records) -> str:
    """List skipped records by reason: `empty output (record 285, record 1105)`."""
    rows_by_reason: dict[str, list[str]] = {}
    for skipped in records.skipped:
        rows_by_reason.setdefault(skipped.reason, []).append(skipped.source_row)
    return ", ".join(
        f"{reason} ({join(rows, MAX_LISTED_RECORDS)})" for reason, rows in rows_by_reason.items()
    )
