"""Fuzz tests for settings files, data sets, run names and search queries.

Malformed input is either read correctly or rejected with a UserError. No other exception is raised, and nothing
is written outside the runs directory.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from core.config import RunConfig
from core.data import dataset
from core.data.batches import encode_all
from core.errors import UserError
from core.run.directory import RunDirectory, list_runs
from core.tracking import queries
from core.tracking.index import Index
from core.tracking.sync import Sync
from core.views.search import differing_words, search

EXAMPLES = settings.default.max_examples  # the `long` profile runs more
few_examples = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck),
               phases=(Phase.explicit, Phase.generate))  # fmt: skip
some_examples, many_examples = (
    settings(few_examples, max_examples=2 * EXAMPLES),
    settings(few_examples, max_examples=10 * EXAMPLES),
)
any_text = st.text(st.characters(exclude_categories=[]), max_size=12)
"""Text that may contain lone surrogates, which JSON can represent but UTF-8 cannot."""
odd_strings = st.sampled_from(
    ["", "none", "NaN", "1e999", "\0", "\u202egnp", "x" * 300, "../x", "lora"]
)
numbers = st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from([10**300, -0.0, 2**63])
scalars = st.none() | st.booleans() | numbers | odd_strings | any_text
any_json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


def to_json_bytes(value: Any) -> bytes:
    """Encode a value with Python's JSON encoder, which allows NaN and lone surrogates."""
    return json.dumps(value).encode()


def repeated(text: str, times: int) -> bytes:
    return (text * times).encode()


malformed = st.binary(max_size=40) | st.sampled_from(
    [repeated("[", 3000), repeated('{"a":', 3000), repeated("[", 990) + repeated("]", 990), b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0",
     b"9" * 5000, b"[1, 2", b'{"a": 1}{"b": 2}']
)  # fmt: skip


@pytest.fixture(scope="module")
def db() -> Iterator[Any]:
    """An index shared by all examples. Syncing an empty list of runs removes the previous example's rows."""
    index = Index(None)
    yield index.cursor()
    index.close()


@contextlib.contextmanager
def temporary_runs_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "runs"


class Rejection(str):
    """The message of a UserError."""


def result_or_rejection(action: Callable[[], Any]) -> Any:
    """Return the result of an action, or a Rejection if it raises UserError.

    The message must not be blank and must be encodable as UTF-8.
    """
    try:
        return action()
    except UserError as error:
        message = str(error)
    message.encode(errors="strict")
    assert message.strip()
    return Rejection(message)


def json_objects(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | any_text, any_json, max_size=6)


@some_examples
@given(malformed | (any_json | json_objects(sorted(RunConfig.model_fields))).map(to_json_bytes))
def test_malformed_settings_do_not_break_the_results_table(db: Any, content: bytes) -> None:  # fmt: skip
    with temporary_runs_dir() as runs_dir:
        RunDirectory.create(runs_dir, RunConfig(name="valid", notes="mine"))
        (runs_dir / "odd").mkdir()
        odd_run = RunDirectory(runs_dir / "odd")
        odd_run.config_path.write_bytes(content)
        config = result_or_rejection(odd_run.config)
        assert isinstance(config, RunConfig | Rejection)
        index_sync = Sync(db)
        index_sync.run([])  # remove the previous example's rows
        index_sync.run(list_runs(runs_dir))
        assert index_sync.fault is None
        table = queries.results(db).set_index("name")
        assert set(table.index) == {"valid", "odd"}
        assert table.loc["valid", "notes"] == "mine"
        if (
            isinstance(config, RunConfig)
            and type(json.loads(content.decode("utf-8-sig")).get("seed")) is int
        ):
            assert table.loc["odd", "seed"] == config.seed


RECORD_FIELDS = ["instruction", "input", "output", "text", "Instruction"]
VALID_RECORD = {"instruction": "Say hi.", "input": "", "output": "hi"}
nearly_valid_records = st.just(VALID_RECORD) | st.dictionaries(
    st.sampled_from(RECORD_FIELDS), st.just("hi") | any_json, max_size=4
)
duplicate_keys = st.tuples(any_text, any_text).map(
    lambda pair: (
        b'{"instruction": %s, "instruction": %s, "output": "x"}' % tuple(map(to_json_bytes, pair))
    )
)
record_bytes = (
    nearly_valid_records.map(to_json_bytes)
    | duplicate_keys
    | any_json.map(to_json_bytes)
    | malformed
)
data_files = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf", b"[", b" \n["]),
    st.lists(record_bytes, max_size=4),
    st.sampled_from([b"\n", b",", b"\r\n", b",\n", b"\n\n"]),
    st.sampled_from([b"", b"]", b"\n", b"]\n[]", b"]]"]),
).map(lambda parts: parts[0] + parts[2].join(parts[1]) + parts[3])


@many_examples
@given(data_files)
@example(to_json_bytes([{"instruction": "half \ud800", "input": "\udfff", "output": "x"}]))
@example(b'[{"instruction": "a", "output": NaN}]')
def test_any_data_set_is_encoded_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "data.json"
    path.write_bytes(content)
    loaded = result_or_rejection(lambda: dataset.load(str(path)))
    if isinstance(loaded, Rejection):
        assert loaded.startswith(f"dataset = {str(path)!r}: ")
        return
    assert len(encode_all(loaded, 64, False)) == len(loaded)
    for text in (text for e in loaded for text in (e.instruction, e.input, e.output)):
        assert text.encode().decode() == text  # lone surrogates would break pages and the index


@few_examples
@given(st.binary(max_size=200).map(lambda tail: b"PAR1" + tail) | malformed)
def test_malformed_parquet_file_is_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "data.parquet"
    path.write_bytes(content)
    assert isinstance(result_or_rejection(lambda: dataset.load(str(path))), Rejection)


ODD_NAMES = ["../", "../../etc/passwd", "CON", "con.txt", "x" * 200, "\u202erun\u200f", "a\0b", "/etc", "~", ".", "..",
             "lab.duckdb", "queue.json", "verdicts", "PRETRAINED", "settings.json", "-rf", "a/b\\c", "ﷺ" * 60, "İ"]  # fmt: skip


@many_examples
@given(st.sampled_from(ODD_NAMES) | any_text | st.text(min_size=150, max_size=310))
def test_any_name_creates_one_directory_or_is_rejected(name: str) -> None:
    with temporary_runs_dir() as runs_dir:
        config = result_or_rejection(lambda: RunConfig.parse({"name": name}))
        if isinstance(config, Rejection):
            assert "name" in config
        else:
            runs = [RunDirectory.create(runs_dir, config) for _ in range(2)]
            assert sorted(p.name for p in runs_dir.parent.iterdir()) == ["runs"]
            assert {p.name for p in runs_dir.iterdir()} == {run.name for run in runs}
            assert [run.path.resolve().parent for run in runs] == [runs_dir.resolve()] * 2
            assert [run.config().name for run in runs] == [run.name for run in runs]
        result = result_or_rejection(lambda: RunDirectory.find(runs_dir, name))
        assert isinstance(result, Rejection) or result.path.parent == runs_dir


@some_examples
@given(st.lists(any_text, max_size=5), any_text | st.text(min_size=500, max_size=900) | odd_strings)
def test_search_accepts_lone_surrogates_and_long_queries(texts: list[str], query: str) -> None:
    matches = search(texts, query)
    assert len(set(matches)) == len(matches)
    assert set(matches) <= set(range(len(texts)))
    assert "".join(piece for piece, _ in differing_words(query, "".join(texts))) == query
