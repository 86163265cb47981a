"""Files in every format, written by pandas, pyarrow, csv and json, contain the same records."""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from core.data import dataset
from core.data.template import Example
from core.errors import UserError

RECORDS = [
    {"instruction": "Double it.", "input": "4", "output": "8"},
    {"instruction": 'Say "hi", twice.', "input": "", "output": "hi,\nhi \u00fc \u2028"},
    {"instruction": "Is it NA?", "input": "null", "output": "NaN"},
    {"instruction": "Keep  007\tand 1e5.", "input": "0.10", "output": "-0"},
]
EXAMPLES = [Example(**record) for record in RECORDS]
FIELDS = list(RECORDS[0])


def csv_bytes(delimiter: str, **options: object) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, FIELDS, delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(RECORDS)
    return file.getvalue().encode()


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(RECORDS), sink)
    return sink.getvalue()


FRAME = pd.DataFrame(RECORDS)
WRITERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "json": ("json", lambda: json.dumps(RECORDS).encode()),
    "json, pandas": ("json", lambda: FRAME.to_json(orient="records").encode()),
    "jsonl, pandas": ("jsonl", lambda: FRAME.to_json(orient="records", lines=True).encode()),
    "json, object": ("json", lambda: json.dumps({"version": 1, "data": RECORDS}).encode()),
    "csv": ("csv", lambda: csv_bytes(",")),
    "csv, all quoted": ("csv", lambda: csv_bytes(",", quoting=csv.QUOTE_ALL)),
    "csv, newline": ("csv", lambda: csv_bytes(",", lineterminator="\n")),
    "csv, byte-order mark": ("csv", lambda: b"\xef\xbb\xbf" + csv_bytes(",")),
    "csv, pandas": ("csv", lambda: FRAME.to_csv(index=False).encode()),
    "csv, pandas with index": ("csv", lambda: FRAME.to_csv().encode()),
    "tsv": ("tsv", lambda: csv_bytes("\t")),
    "tsv, pandas": ("tsv", lambda: FRAME.to_csv(index=False, sep="\t").encode()),
    "parquet, pandas": ("parquet", FRAME.to_parquet),
    "parquet, pyarrow": ("parquet", parquet_bytes),
}


@pytest.mark.parametrize("kind", ["plain", "gzipped", "gzipped without suffix", "upper case"])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_examples(tmp_path: Path, writer: str, kind: str) -> None:
    suffix, write = WRITERS[writer]
    data = gzip.compress(write(), mtime=0) if "gzipped" in kind else write()
    name = f"data.{suffix}.gz" if kind == "gzipped" else f"data.{suffix}"
    path = tmp_path / (name.upper() if kind == "upper case" else name)
    path.write_bytes(data)
    loaded = dataset.read(str(path))
    assert loaded.examples == EXAMPLES
    assert loaded.columns.sources == {name: name for name in FIELDS}


def test_missing_trailing_fields_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("instruction,output,note\nSay red.,red\nSay blue.\n\nSay two.,two,x\n")
    loaded = dataset.read(str(path))
    assert [e.output for e in loaded.examples] == ["red", "two"]
    assert [(s.source_row, s.reason) for s in loaded.skipped] == [("record 2", "empty output")]
    assert loaded.unused_keys == {"note": 1}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "it contains no examples"),
        ("a.csv", b"instruction,output\n", "it contains no examples"),
        ("a.csv", b"instruction,output\na,b\na,b,c\n", "it is not a valid table .*line 3"),
        ("a.csv", b"instruction,output\na,b,c\na,b,c\n", "more fields than the header"),
        ("a.csv", b'instruction,output\n"a,b\n', "it is not a valid table"),
        ("a.csv", "instruction,output\n\u00fc,b\n".encode("latin-1"), "cannot be read as UTF-8"),
        ("a.csv", "instruction,output\na,b\n".encode("utf-16"), "cannot be read as UTF-8"),
        ("a.tsv", b"instruction,output\na,b\n", "its columns .* match no known format"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read"),
        ("a.parquet.gz", gzip.compress(b"x", mtime=0), "a.parquet.gz cannot be read"),
        (
            "a.json.gz",
            gzip.compress(b"[{}]" * 500, mtime=0)[:-12],
            "a.json.gz cannot be decompressed",
        ),
        ("a.json.gz", b"\x1f\x8b" + b"x" * 50, "a.json.gz cannot be decompressed"),
    ],
)
def test_damaged_file_raises_a_one_line_error(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        dataset.read(str(path))
    assert str(caught.value).startswith(f"dataset = {str(path)!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet", "csv.gz"])
def test_random_bytes_are_refused(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(suffix)
    for size in (1, 7, 100, 3000):
        path = tmp_path / f"data.{suffix}"
        path.write_bytes(b"\x1f\x8b" * suffix.endswith("gz") + rng.randbytes(size))
        with pytest.raises(UserError, match="dataset = ") as caught:
            dataset.read(str(path))
        assert "\n" not in str(caught.value)
