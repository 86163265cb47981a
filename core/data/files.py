"""Read records from JSON, JSONL, CSV, TSV and Parquet files, plain or gzipped.

Each record is yielded with its position in the file and is not interpreted.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError

COMPRESSED_SUFFIX = ".gz"
GZIP_MAGIC = b"\x1f\x8b"
DATA_SUFFIXES = (".parquet", ".json", ".jsonl", ".csv", ".tsv")
"""Suffixes of data files. Each may be followed by COMPRESSED_SUFFIX."""
SEPARATORS = {".csv": ",", ".tsv": "\t"}
MAX_LISTED_KEYS = 10
MAX_KEY_LENGTH = 40
"""Maximum length of a key in a message, in characters."""


def data_suffix(path: Path) -> str:
    """Return the entry of DATA_SUFFIXES that a file name ends with, or "". Ignores case and a trailing COMPRESSED_SUFFIX."""
    name = path.name.lower().removesuffix(COMPRESSED_SUFFIX)
    return next((suffix for suffix in DATA_SUFFIXES if name.endswith(suffix)), "")


def read_records(
    path: Path, dataset: str, is_record: Callable[[dict[str, Any]], bool]
) -> Iterator[tuple[str, Any]]:
    """Yield each record in a file with its position: `record 3`, or `line 3` in a JSONL file.

    CSV, TSV and Parquet are recognized by their suffix, gzip by its content. Other files are JSON or JSONL.

    Args:
        dataset: the setting, for error messages.
        is_record: whether a single JSON object is a record rather than a wrapper around a list of records.

    Raises:
        UserError: the file cannot be read.
    """
    suffix = data_suffix(path)
    if suffix == ".parquet":
        yield from _numbered(_parquet_rows(path, dataset))
        return
    data = _content(path, dataset)
    if suffix in SEPARATORS:
        yield from _numbered(_table_rows(data, SEPARATORS[suffix], dataset))
        return
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise _not_utf8(dataset, error) from None
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"dataset = {dataset!r}: it is not valid JSON ({error})") from None
        yield from _numbered(records)
    elif (records := _records_of_object(text, dataset, is_record)) is not None:
        yield from _numbered(records)
    else:
        yield from _jsonl_records(text, dataset)


def join(items: Sequence[str], limit: int) -> str:
    """Join the first `limit` items with commas, followed by the number of remaining items."""
    suffix = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + suffix


def display_key(key: str) -> str:
    """Format a record's key for display: one line, shortened, without control characters."""
    printable = "".join(c if c.isprintable() else " " for c in valid_unicode(key))
    text = " ".join(printable.split())
    return text if len(text) <= MAX_KEY_LENGTH else text[: MAX_KEY_LENGTH - 3] + "..."


def valid_unicode(text: str) -> str:
    """Replace lone surrogates: JSON can contain them as escapes, UTF-8 cannot encode them."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _content(path: Path, dataset: str) -> bytes:
    """Return the content of a file, decompressed if it is gzipped."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _not_utf8(dataset, error) from None
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        message = f"{path.name} cannot be decompressed ({error})"
        raise UserError(f"dataset = {dataset!r}: {message}") from None


def _not_utf8(dataset: str, error: Exception) -> UserError:
    return UserError(f"dataset = {dataset!r}: it cannot be read as UTF-8 text ({error})")


def _parquet_rows(path: Path, dataset: str) -> list[Any]:
    from pyarrow import BufferReader, parquet  # takes 60 MB of memory; needed only for this format

    try:
        with path.open("rb") as file:
            is_compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        source = BufferReader(_content(path, dataset)) if is_compressed else path
        rows: list[Any] = parquet.ParquetFile(source).read().to_pylist()
    except (OSError, ValueError) as error:  # the base classes of pyarrow's errors
        reason = " ".join(str(error).split())
        raise UserError(f"dataset = {dataset!r}: {path.name} cannot be read ({reason})") from None
    return rows


def _table_rows(data: bytes, separator: str, dataset: str) -> list[Any]:
    """Return the rows of a CSV or TSV file with a header. All values are text; missing values are empty."""
    import pandas as pd

    try:
        frame = pd.read_csv(
            io.BytesIO(data), sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except UnicodeDecodeError as error:
        raise _not_utf8(dataset, error) from None
    except pd.errors.EmptyDataError:
        return []
    except (ValueError, OverflowError) as error:  # the base class of pandas' parser errors
        reason = " ".join(str(error).split())
        raise UserError(f"dataset = {dataset!r}: it is not a valid table ({reason})") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas treats extra fields as row labels
        raise UserError(f"dataset = {dataset!r}: its rows have more fields than the header")
    return frame.to_dict("records")


def _records_of_object(
    text: str, dataset: str, is_record: Callable[[dict[str, Any]], bool]
) -> list[Any] | None:
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
    lists = {} if is_record(value) else {k: v for k, v in value.items() if isinstance(v, list)}
    if len(lists) > 1:
        names = join([display_key(key) for key in lists], MAX_LISTED_KEYS)
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
