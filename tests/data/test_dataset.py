"""Data sets: all formats give the same examples, unusable records are listed, and other files raise a clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from core.config import EmptyOutputs, RunConfig
from core.data import dataset
from core.data.batches import encode_all
from core.data.template import Example
from core.data.tokenizer import END_OF_TEXT
from core.errors import UserError

RECORDS = [
    {"instruction": "Double it.", "input": "4", "output": "8"},
    {"instruction": "Say hi.", "output": "hi \u00fc \u2028 there"},
    {"instruction": "No input.", "input": None, "output": "x", "id": 7},
    {"instruction": "Empty input.", "input": "", "output": "y"},
]
EXAMPLES = [
    Example("Double it.", "4", "8"),
    Example("Say hi.", "", "hi \u00fc \u2028 there"),
    Example("No input.", "", "x"),
    Example("Empty input.", "", "y"),
]
T = TypeVar("T")
GOOD = {"instruction": "Say hi.", "output": "hi"}


def write_file(path: Path, data: bytes | str) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def lines(records: list[Any], ascii_only: bool = False) -> str:
    return "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(RECORDS).encode(),
        json.dumps(RECORDS, ensure_ascii=False, indent=1).encode("utf-8-sig"),
        b"\n  " + json.dumps(RECORDS).encode(),
        lines(RECORDS).encode(),
        lines(RECORDS).encode("utf-8-sig") + b"\n\n",
        lines(RECORDS).replace("\n", "\r\n").encode(),
        lines(RECORDS).replace("\n", "\n\n").encode(),
    ],
    ids=["json", "json, bom", "json, blank start", "jsonl", "jsonl, bom", "crlf", "blank lines"],
)
def test_every_file_format_reads_the_same(tmp_path: Path, data: bytes) -> None:
    assert dataset.load(write_file(tmp_path / "data", data)) == EXAMPLES


@pytest.mark.parametrize("key", ["data", "examples", "instances", "train", "rows"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n  "])
def test_object_with_one_list_of_records_is_read(
    tmp_path: Path, key: str, indent: int | None, start: str
) -> None:
    text = start + json.dumps({"version": "1.0", key: RECORDS}, indent=indent)
    assert dataset.load(write_file(tmp_path / "data.json", text)) == EXAMPLES


def test_indented_single_record_is_read(tmp_path: Path) -> None:
    record = {**RECORDS[0], "history": ["earlier"]}
    path = write_file(tmp_path / "data.json", json.dumps(record, indent=2))
    assert dataset.load(path) == EXAMPLES[:1]


EMPTY_RECORDS = [
    {**GOOD, "output": ""},
    {**GOOD, "output": " \n\t"},
    {**GOOD, "output": None},
    {**GOOD, "instruction": " "},
    {**GOOD, "instruction": None},
    {"instruction": "", "output": ""},
]


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_empty_records_are_skipped_and_listed(tmp_path: Path, form: str) -> None:
    records = [RECORDS[0], *EMPTY_RECORDS, RECORDS[1]]
    path = tmp_path / f"data.{form}"
    if form == "parquet":
        pd.DataFrame(records).to_parquet(path)
    else:
        path.write_text(json.dumps(records) if form == "json" else lines(records))
    loaded = dataset.read(str(path))
    assert loaded.examples == EXAMPLES[:2]
    unit = "line" if form == "jsonl" else "record"
    reasons = ["empty output"] * 3 + ["empty instruction"] * 2 + ["empty instruction and output"]
    assert [(each.source_row, each.reason) for each in loaded.skipped] == [
        (f"{unit} {i}", reason) for i, reason in enumerate(reasons, 2)
    ]
    assert dataset.skipped_summary(loaded) == (
        f"6 of 8 records are skipped: empty output ({unit} 2, {unit} 3, {unit} 4), "
        f"empty instruction ({unit} 5, {unit} 6), empty instruction and output ({unit} 7)"
    )


def test_empty_outputs_can_be_kept(tmp_path: Path) -> None:
    path = write_file(tmp_path / "data", lines([RECORDS[0], *EMPTY_RECORDS]))
    loaded = dataset.read(path, empty_outputs="keep")
    assert [example.output for example in loaded.examples] == ["8", "", " \n\t", ""]
    assert [skipped.source_row for skipped in loaded.skipped] == ["line 5", "line 6", "line 7"]
    encoded = encode_all(loaded.examples, 96, mask_prompt=True)
    assert [len(each.ids) - each.prompt_length for each in encoded] == [2, 1, 4, 1]
    assert encoded[1].ids[-1] == END_OF_TEXT


def test_file_without_usable_records_is_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / "data", lines(EMPTY_RECORDS[:2]))
    with pytest.raises(UserError) as caught:
        dataset.load(path)
    assert str(caught.value) == (
        f"dataset = {path!r}: none of its 2 records is usable: empty output (line 1, line 2); "
        "a record must be an object with instruction and output as text"
    )


def test_max_examples_counts_usable_records(tmp_path: Path) -> None:
    path = write_file(tmp_path / "data", lines([RECORDS[0], *EMPTY_RECORDS, *RECORDS[1:]]))
    loaded = dataset.read(path, 3)
    assert loaded.examples == EXAMPLES[:3]
    assert len(loaded.skipped) == 6
    assert dataset.read(path, 1).skipped == []


def test_summary_lists_a_limited_number_of_records(tmp_path: Path) -> None:
    path = write_file(tmp_path / "data", lines([GOOD, *EMPTY_RECORDS[:1] * 5000]))
    summary = dataset.skipped_summary(dataset.read(path))
    assert summary is not None
    assert summary.startswith("5,000 of 5,001 records are skipped: empty output (line 2, line 3,")
    assert summary.endswith(", line 31 and 4,970 more)")


def test_unused_keys_are_listed_with_record_counts(tmp_path: Path) -> None:
    records = [
        {**GOOD, "system": "Be brief.", "history": [["a", "b"]], "id": 0},
        {**GOOD, "system": "", "history": []},
        {**GOOD, "system": "Be long.", "x\n" * 50 + "\ud800": "y"},
        {**EMPTY_RECORDS[0], "system": "Not counted."},
    ]
    loaded = dataset.read(write_file(tmp_path / "data", lines(records, ascii_only=True)))
    summary = dataset.unused_summary(loaded)
    assert summary is not None
    assert summary.startswith(
        "unused keys (with record counts): system (2), history (1), id (1), x x"
    )
    assert "\n" not in summary
    assert len(summary) < 150
    assert dataset.unused_summary(dataset.read("primer")) is None


def test_reading_stops_at_max_examples(tmp_path: Path) -> None:
    path = write_file(tmp_path / "data", lines([*RECORDS, {"broken": 1}]) + "\nnot JSON")
    assert dataset.load(path, 2) == EXAMPLES[:2]
    assert dataset.load(path, 4) == EXAMPLES
    with pytest.raises(UserError, match="line 6"):
        dataset.load(path, 5)


UNUSABLE = [
    ({"output": "hi"}, "no instruction"),
    ({"instruction": "hi"}, "no output"),
    ({"prompt": "hi", "completion": "x"}, "no instruction or output"),
    ({"Instruction": "hi", "output": "x"}, "no instruction"),
    ({**GOOD, "instruction": 3}, "instruction is a number"),
    ({**GOOD, "output": 5}, "output is a number"),
    ({**GOOD, "output": ["hi"]}, "output is a list"),
    ({**GOOD, "input": {}}, "input is an object"),
    ("hi", "not an object"),
    (None, "not an object"),
    ([GOOD], "not an object"),
]


DETECTED = UNUSABLE[2:4]
"""Records that are usable if the file has no Alpaca records."""


@pytest.mark.parametrize("empty_outputs", ["drop", "keep"])
@pytest.mark.parametrize(("record", "reason"), UNUSABLE)
@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_unusable_records_are_skipped_with_a_reason(
    tmp_path: Path, record: Any, reason: str, form: str, empty_outputs: EmptyOutputs
) -> None:
    records = [RECORDS[0], record, RECORDS[1]]
    text = json.dumps(records) if form == "json" else lines(records)
    loaded = dataset.read(
        write_file(tmp_path / "data", text), max_examples=2, empty_outputs=empty_outputs
    )
    unit = "record" if form == "json" else "line"
    assert loaded.examples == EXAMPLES[:2]
    assert loaded.source_rows == [f"{unit} 1", f"{unit} 3"]
    assert [(each.source_row, each.reason) for each in loaded.skipped] == [(f"{unit} 2", reason)]


@pytest.mark.parametrize(("record", "reason"), [u for u in UNUSABLE if u not in DETECTED])
def test_file_with_only_unusable_records_is_refused_with_the_format(
    tmp_path: Path, record: Any, reason: str
) -> None:
    path = write_file(tmp_path / "data", json.dumps([record, None]))
    with pytest.raises(UserError) as caught:
        dataset.load(path)
    is_detected = record is None or isinstance(record, str | list) or len(record) > 1
    if not is_detected:
        [column] = record
        assert f": its columns ({column}) match no known format" in str(caught.value)
        return
    assert str(caught.value).startswith(
        f"dataset = {path!r}: none of its 2 records is usable: {reason} (record 1"
    )
    assert str(caught.value).endswith(
        "; a record must be an object with instruction and output as text"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it contains no examples"),
        (b" \n\n", "it contains no examples"),
        (b"[]", "it contains no examples"),
        (b"[{]", "it is not valid JSON"),
        (b'[{"instruction": "a", "output": "b"}', "it is not valid JSON"),
        (b'{"instruction": "a", "output": "b"}\n{"instr', "line 2 is not valid JSON"),
        (b'{"instruction": "a" "b"}', "line 1 is not valid JSON .*one JSON object per line"),
        (
            b'{\n "instruction": "a"\n}',
            r"its columns \(instruction\) match no known format",
        ),
        (b'{\n "instruction": "a",\n', "it is not valid JSON"),
        (b'{"data": []}', "it contains no examples"),
        (b'{\n "data": [1]\n}', r"not an object \(record 1\)"),
        (b'{\n "data": {}\n}', r"its columns \(data\) match no known format"),
        (
            b'{"train": [], "test": []}',
            r"several lists \(train, test\); put all records in one list",
        ),
        (b'{\n "a": 1\n}\n{\n "a": 2\n}', "several multi-line JSON objects"),
        (b"instruction,output\na,b\n", "line 1 is not valid JSON"),
        (b"\xff\xfe[\x00]\x00", "it cannot be read as UTF-8 text"),
        (b"[" * 100_000, "it is not valid JSON"),
        (b'{"instruction": ' + b"[" * 100_000, "line 1 is not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", "it is not valid JSON"),
    ],
)
def test_files_in_other_formats_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataset.load(write_file(tmp_path / "data", data))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "nowhere.json",
            "data/none.json.gz",
            "data/none.JSON",
            "data/none.zip",
            "data/none.arrow",
        ),
        *("~nobody-of-that-name/data.json", "x" * 5000, "\u00fc" * 200, "a\0b", "", "."),
    ],
)
def test_missing_file_is_reported_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match="file not found; use primer"):
        dataset.load(name)


def value_or_error(action: Callable[[], T]) -> T | UserError:
    try:
        return action()
    except UserError as error:
        return error


near_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just(GOOD),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["instruction", "input", "output"]), inner)
    ),
)


@given(
    st.binary(max_size=60)
    | near_json.map(lambda value: json.dumps(value).encode())
    | st.lists(near_json, max_size=4).map(lambda values: lines(values).encode())
    | st.lists(near_json, max_size=4).map(lambda values: json.dumps(values).encode())
)
@example(b'[{"instruction": "\\ud800", "output": "\\udfff"}]')
def test_any_bytes_give_examples_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = write_file(tmp_path_factory.getbasetemp() / "arbitrary", data)
    result = value_or_error(lambda: dataset.load(path))
    if isinstance(result, UserError):
        assert str(result).startswith(f"dataset = {path!r}: ")
        return
    assert result
    assert all(e.instruction.strip() and e.output.strip() for e in result)


def numbered(n: int) -> list[Example]:
    return [Example(f"{i}", "", f"{i}") for i in range(n)]


def test_split_is_85_10_5_in_file_order() -> None:
    examples = numbered(1100)
    parts = dataset.split(examples, RunConfig())
    assert (len(parts.train), len(parts.test), len(parts.validation)) == (935, 110, 55)
    assert [*parts.train, *parts.test, *parts.validation] == examples
    assert examples[parts.first_test_item] == parts.test[0]


@given(st.integers(1, 300), st.floats(0.01, 0.9), st.floats(0.01, 0.9))
def test_split_keeps_every_example(n: int, train: float, test: float) -> None:
    assume(train + test < 1)
    config = RunConfig(train_fraction=train, test_fraction=test)
    parts = value_or_error(lambda: dataset.split(numbered(n), config))
    if isinstance(parts, UserError):
        assert int(n * train) == 0 or int(n * test) == 0
        assert f"would be empty with {n} example" in str(parts)
        return
    assert [*parts.train, *parts.test, *parts.validation] == numbered(n)
    assert (len(parts.train), len(parts.test)) == (int(n * train), int(n * test))


def test_empty_split_is_reported() -> None:
    expected = r"the test split would be empty with 9 examples, .*0\.85.*0\.1;"
    with pytest.raises(UserError, match=expected):
        dataset.split(numbered(9), RunConfig())
    with pytest.raises(UserError, match="the train and test splits would be empty with 1 example,"):
        dataset.split(numbered(1), RunConfig())


def test_every_split_of_primer_is_nonempty() -> None:
    parts = dataset.split(dataset.load("primer"), RunConfig())
    assert len(parts.train) > len(parts.test) > 0
