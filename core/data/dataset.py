"""Alpaca-format data sets: read, check and split them.

A file is a JSON list of records, a JSON object that holds one such list, JSONL, or Parquet. A record has
`instruction`, `output` and optionally `input`, all text. Unusable records are skipped and reported. Does not know
about tokens.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import EmptyOutputs, RunConfig
from core.data import hub
from core.data.template import Example
from core.errors import UserError

EMBEDDED = {"primer": Path(__file__).parent.parent / "assets" / "primer.json"}
KEYS = ("instruction", "input", "output")
FORMAT = "a record must be an object with instruction and output as text"
"""Appended to the error about a file without usable records, whose keys may have other names."""
MAX_LISTED_RECORDS = 30
"""Maximum number of skipped records listed per reason in a message; the Alpaca data set has 28."""
MAX_LISTED_KEYS = 10
MAX_KEY_LENGTH = 40
"""Maximum length of a key in a message, in characters."""
JSON_TYPES = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    str: "text",
    type(None): "null",
}


@dataclass(frozen=True)
class SkippedRecord:
    """A skipped record and the reason."""

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
    """Keys that training ignores, formatted for display, and the number of records that have a value for each."""


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
) -> Records:
    """Read a data set: `primer`, `alpaca`, `owner/name` on the hub, or a file.

    Args:
        max_examples: stop after this many usable records.
        empty_outputs: `keep` uses records whose output is empty, `drop` skips them.
        download: download files that are not cached; if False, raise NotDownloadedError instead.

    Raises:
        UserError: the data set does not exist, is not in Alpaca format, or has no usable record.
    """
    on_hub = hub.repository(dataset) is not None
    paths = hub.files(dataset, download) if on_hub else [_local_path(dataset)]
    records = Records([], [], [], {})
    for path in paths:
        suffix = f" of {path.name}" if len(paths) > 1 else ""
        for source_row, record in _read_records(path, dataset):
            if max_examples is not None and len(records.examples) >= max_examples:
                return records
            _add_record(records, record, source_row + suffix, empty_outputs)
    if not records.examples and records.skipped:
        count = len(records.skipped)
        subject = "its only record is not" if count == 1 else f"none of its {count:,} records is"
        message = f"{subject} usable: {_skip_reasons(records)}; {FORMAT}"
        raise UserError(f"dataset = {dataset!r}: {message}")
    if not records.examples:
        raise UserError(f"dataset = {dataset!r}: it contains no examples")
    return records


def load(
    dataset: str,
    max_examples: int | None = None,
    empty_outputs: EmptyOutputs = "drop",
    download: bool = True,
) -> list[Example]:
    """Return the usable examples of a data set, in file order. Arguments and errors are those of `read`."""
    return read(dataset, max_examples, empty_outputs, download).examples


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
    return f"unused keys (with record counts): {_join(keys, MAX_LISTED_KEYS)}"


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
        message = f"dataset = {config.dataset!r}: the {splits} would be empty with {count}, train_fraction = {config.train_fraction} and test_fraction = {config.test_fraction}; use more examples or other fractions"
        raise UserError(message)
    return parts


def stamps(dataset: str) -> tuple[tuple[str, int, int], ...]:
    """Return path, mtime and size of each file of a data set, as a cache key. Empty if the data set is not local."""
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
        message = f"dataset = {dataset!r}: file not found; use primer, alpaca, owner/name on the Hugging Face hub, or the path of a JSON, JSONL or Parquet file"
        raise UserError(message)
    return path


def _existing_file(dataset: str) -> Path | None:
    try:
        path = Path(dataset).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # the name is too long, or `~user` does not exist
        return None


def _read_records(path: Path, dataset: str) -> Iterator[tuple[str, Any]]:
    """Yield each record of a file with its position: `record 3`, or `line 3` of a JSONL file."""
    if path.suffix == ".parquet":
        yield from _numbered(_parquet_rows(path, dataset))
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"dataset = {dataset!r}: it cannot be read as UTF-8 text ({error})"
        raise UserError(message) from None
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"dataset = {dataset!r}: it is not valid JSON ({error})") from None
        yield from _numbered(records)
    elif (records := _records_of_object(text, dataset)) is not None:
        yield from _numbered(records)
    else:
        yield from _jsonl_records(text, dataset)


def _parquet_rows(path: Path, dataset: str) -> list[Any]:
    from pyarrow import parquet  # 60 MB of memory, needed only for this format

    try:
        rows: list[Any] = parquet.ParquetFile(path).read().to_pylist()
    except (OSError, ValueError) as error:  # the base classes of pyarrow's errors
        reason = " ".join(str(error).split())
        raise UserError(f"dataset = {dataset!r}: {path.name} cannot be read ({reason})") from None
    return rows


def _records_of_object(text: str, dataset: str) -> list[Any] | None:
    """Return the records of a file that is one JSON object; None if it is JSONL.

    The object holds one list of records under any key, or is itself an indented record.
    """
    first_line, _, remainder = text.strip().partition("\n")
    if not first_line.startswith("{") or (remainder and _is_json(first_line)):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        start = len(text) - len(text.lstrip())
        if not isinstance(error, json.JSONDecodeError) or "\n" not in text[start : error.pos]:
            return None  # the JSONL reader reports an error in the first line
        if error.msg == "Extra data":
            message = "it contains several multi-line JSON objects; put them in a list or write one object per line"
        else:
            message = f"it is not valid JSON ({error})"
        raise UserError(f"dataset = {dataset!r}: {message}") from None
    lists = (
        {} if value.keys() & set(KEYS) else {k: v for k, v in value.items() if isinstance(v, list)}
    )
    if len(lists) > 1:
        names = _join([_display_key(key) for key in lists], MAX_LISTED_KEYS)
        message = f"its JSON object has several lists ({names}); put all records in one list"
        raise UserError(f"dataset = {dataset!r}: {message}")
    if lists:
        [records] = lists.values()
        return list(records)
    return [value] if remainder else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _jsonl_records(text: str, dataset: str) -> Iterator[tuple[str, Any]]:
    for i, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"dataset = {dataset!r}: line {i} is not valid JSON ({error}); the file must be a JSON list or have one JSON object per line"
            raise UserError(message) from None
        yield f"line {i}", record


def _numbered(records: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"record {i}", record) for i, record in enumerate(records, 1))


def _add_record(
    records: Records, record: Any, source_row: str, empty_outputs: EmptyOutputs
) -> None:
    """Add a record to the examples or to the skipped records."""
    if reason := _skip_reason(record, empty_outputs):
        records.skipped.append(SkippedRecord(source_row, reason))
        return
    records.examples.append(Example(**{key: _valid_unicode(record.get(key) or "") for key in KEYS}))
    records.source_rows.append(source_row)
    for key, value in record.items():
        if key not in KEYS and value not in (None, "", [], {}):
            display_key = _display_key(key)
            records.unused_keys[display_key] = records.unused_keys.get(display_key, 0) + 1


def _skip_reason(record: Any, empty_outputs: EmptyOutputs) -> str | None:
    """Return the reason to skip a record, such as `no output`; None if the record is usable."""
    if not isinstance(record, dict):
        return "not an object"
    if missing := [key for key in ("instruction", "output") if key not in record]:
        return f"no {' or '.join(missing)}"
    for key in KEYS:
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            return f"{key} is {_json_type(value)}"
    required = ["instruction"] if empty_outputs == "keep" else ["instruction", "output"]
    empty = [key for key in required if not (record[key] or "").strip()]
    return f"empty {' and '.join(empty)}" if empty else None


def _skip_reasons(records: Records) -> str:
    """List skipped records by reason: `empty output (record 285, record 1105)`."""
    rows_by_reason: dict[str, list[str]] = {}
    for skipped in records.skipped:
        rows_by_reason.setdefault(skipped.reason, []).append(skipped.source_row)
    return ", ".join(
        f"{reason} ({_join(rows, MAX_LISTED_RECORDS)})" for reason, rows in rows_by_reason.items()
    )


def _join(items: Sequence[str], limit: int) -> str:
    """Join the first items with commas, and count the rest."""
    suffix = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + suffix


def _display_key(key: str) -> str:
    """Format a record's key for display: one line, shortened, without control characters."""
    printable = "".join(c if c.isprintable() else " " for c in _valid_unicode(key))
    text = " ".join(printable.split())
    return text if len(text) <= MAX_KEY_LENGTH else text[: MAX_KEY_LENGTH - 3] + "..."


def _json_type(value: Any) -> str:
    return JSON_TYPES.get(type(value), f"of type {type(value).__name__}")


def _valid_unicode(text: str) -> str:
    """Replace lone surrogates: JSON can contain them as escapes, UTF-8 cannot encode them."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
