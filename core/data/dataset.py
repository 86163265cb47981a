"""Alpaca-format data sets: reading, checking, splitting.

A file is JSON (a list of records) or JSONL (one a line). A record has `instruction`, `output` and,
if it likes, `input`, all text. Knows no tokens.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.data import hub
from core.data.template import Example
from core.errors import UserError

EMBEDDED = {"primer": Path(__file__).parent.parent / "assets" / "primer.json"}


@dataclass(frozen=True)
class Split:
    """A data set in three parts, in file order: training, test, validation."""

    train: list[Example]
    test: list[Example]
    validation: list[Example]

    @property
    def first_test_item(self) -> int:
        """The place in the data set of the first test example."""
        return len(self.train)


def load(dataset: str, max_examples: int | None = None, download: bool = True) -> list[Example]:
    """The examples of a data set: `primer`, `alpaca`, `owner/name` on the hub, or a file.

    Args:
        download: fetch from the hub what is not cached; else raise NotDownloadedError.

    Raises:
        UserError: there is no such data set, or it is not in Alpaca format; says where.
    """
    on_hub = hub.repository(dataset) is not None
    paths = hub.files(dataset, download) if on_hub else [_local(dataset)]
    records = (record for path in paths for record in _records(path, dataset))
    chosen = itertools.islice(records, max_examples)
    examples = [_example(record, place, dataset) for place, record in chosen]
    if not examples:
        raise UserError(f"dataset = {dataset!r}: it holds no examples")
    return examples


def split(examples: list[Example], config: RunConfig) -> Split:
    """Cut a data set by `train_fraction` and `test_fraction`, in file order.

    Raises:
        UserError: a part is empty.
    """
    n = len(examples)
    train = int(n * config.train_fraction)
    test = int(n * config.test_fraction)
    parts = Split(examples[:train], examples[train : train + test], examples[train + test :])
    sizes = {"train": parts.train, "test": parts.test, "validation": parts.validation}
    if empty := [name for name, part in sizes.items() if not part]:
        message = f"dataset = {config.dataset!r}: {n} examples leave none for {' and '.join(empty)} with train_fraction = {config.train_fraction} and test_fraction = {config.test_fraction}; use more examples or other fractions"
        raise UserError(message)
    return parts


def stamps(dataset: str) -> tuple[tuple[str, int, int], ...]:
    """Path, time and size of the files of a data set, to tell versions apart; empty where there are none."""
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


def _local(dataset: str) -> Path:
    path = EMBEDDED.get(dataset) or _file(dataset)
    if path is None:
        message = f"dataset = {dataset!r}: there is no such file; it should be primer, alpaca, a data set on the hub as owner/name, or the path of a JSON or JSONL file"
        raise UserError(message)
    return path


def _file(dataset: str) -> Path | None:
    try:
        path = Path(dataset).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a name too long, or in the home of an unknown user
        return None


def _records(path: Path, dataset: str) -> Iterator[tuple[str, Any]]:
    """Records with the words for their place. A file whose first sign is `[` is JSON, any other JSONL."""
    if path.suffix == ".parquet":
        from pyarrow import parquet  # 60 MB, which no other format needs

        try:
            rows = parquet.ParquetFile(path).read().to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
            reason = " ".join(str(error).split())
            raise UserError(
                f"dataset = {dataset!r}: {path.name} cannot be read ({reason})"
            ) from None
        yield from ((f"record {i}", row) for i, row in enumerate(rows, 1))
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
        yield from ((f"record {i}", record) for i, record in enumerate(records, 1))
        return
    for i, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"dataset = {dataset!r}: line {i} is not valid JSON ({error}); the file should be a JSON list or one JSON object a line"
            raise UserError(message) from None
        yield f"line {i}", record


def _example(record: Any, place: str, dataset: str) -> Example:
    if not isinstance(record, dict):
        message = f"dataset = {dataset!r}: {place} is a {type(record).__name__}; it should be an object with instruction and output"
        raise UserError(message)
    values = {"input": "", **{k: v for k, v in record.items() if v is not None or k != "input"}}
    for key in ("instruction", "input", "output"):
        if key not in values:
            raise UserError(f"dataset = {dataset!r}: {place} has no {key!r}")
        if not isinstance(values[key], str):
            kind = type(values[key]).__name__
            raise UserError(
                f"dataset = {dataset!r}: {place}: {key!r} is a {kind}; it should be text"
            )
    for key in ("instruction", "output"):
        if not values[key].strip():
            raise UserError(f"dataset = {dataset!r}: {place}: {key!r} is empty")
    return Example(*(_whole(values[key]) for key in ("instruction", "input", "output")))


def _whole(text: str) -> str:
    """Without the half characters that JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
