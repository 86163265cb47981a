"""Thousands of files that somebody or something wrote wrongly: settings, data sets, names, queries.
Each is read rightly or told in a sentence; nothing else is ever raised, and nothing is made outside its place."""

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

EXAMPLES = settings.default.max_examples  # more with the profile `long`
few_examples = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck),
               phases=(Phase.explicit, Phase.generate))  # fmt: skip
some_examples, many_examples = (
    settings(few_examples, max_examples=2 * EXAMPLES),
    settings(few_examples, max_examples=10 * EXAMPLES),
)
any_text = st.text(st.characters(exclude_categories=[]), max_size=12)
"""With lone surrogates, which JSON can spell and UTF-8 cannot."""
odd_words = st.sampled_from(
    ["", "none", "NaN", "1e999", "\0", "\u202egnp", "x" * 300, "../x", "lora"]
)
numbers = st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from([10**300, -0.0, 2**63])
scalars = st.none() | st.booleans() | numbers | odd_words | any_text
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


def to_json_bytes(value: Any) -> bytes:
    """JSON as Python writes it, NaN and halves of letters included."""
    return json.dumps(value).encode()


def deep(sign: str, depth: int) -> bytes:
    return (sign * depth).encode()


broken = st.binary(max_size=40) | st.sampled_from(
    [deep("[", 3000), deep('{"a":', 3000), deep("[", 990) + deep("]", 990), b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0",
     b"9" * 5000, b"[1, 2", b'{"a": 1}{"b": 2}']
)  # fmt: skip


@pytest.fixture(scope="module")
def db() -> Iterator[Any]:
    """One index for all examples; a poll of other runs forgets those before."""
    index = Index(None)
    yield index.cursor()
    index.close()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "runs"


class Refused(str):
    """A sentence about a mistake."""


def attempt(action: Callable[[], Any]) -> Any:
    """What it gives, or the sentence of a user's error, which can be printed and is one line."""
    try:
        return action()
    except UserError as error:
        sentence = str(error)
    sentence.encode(errors="strict")
    assert sentence.strip()
    return Refused(sentence)


def mapping_of(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | any_text, anything, max_size=6)


@some_examples
@given(broken | (anything | mapping_of(sorted(RunConfig.model_fields))).map(to_json_bytes))
def test_any_settings_file_is_read_or_reported_and_keeps_the_table(db: Any, content: bytes) -> None:  # fmt: skip
    with folder() as runs_dir:
        RunDirectory.create(runs_dir, RunConfig(name="sound", notes="mine"))
        (runs_dir / "odd").mkdir()
        odd_run = RunDirectory(runs_dir / "odd")
        odd_run.config_path.write_bytes(content)
        config = attempt(odd_run.config)
        assert isinstance(config, RunConfig | Refused)
        index_sync = Sync(db)
        index_sync.run([])  # forget the previous example
        index_sync.run(list_runs(runs_dir))
        assert index_sync.fault is None
        table = queries.results(db).set_index("name")
        assert set(table.index) == {"sound", "odd"}
        assert table.loc["sound", "notes"] == "mine"
        if (
            isinstance(config, RunConfig)
            and type(json.loads(content.decode("utf-8-sig")).get("seed")) is int
        ):
            assert table.loc["odd", "seed"] == config.seed


FIELDS = ["instruction", "input", "output", "text", "Instruction"]
GOOD = {"instruction": "Say hi.", "input": "", "output": "hi"}
near_records = st.just(GOOD) | st.dictionaries(
    st.sampled_from(FIELDS), st.just("hi") | anything, max_size=4
)
doubled = st.tuples(any_text, any_text).map(
    lambda two: (
        b'{"instruction": %s, "instruction": %s, "output": "x"}' % tuple(map(to_json_bytes, two))
    )
)
piece = near_records.map(to_json_bytes) | doubled | anything.map(to_json_bytes) | broken
joined = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf", b"[", b" \n["]),
    st.lists(piece, max_size=4),
    st.sampled_from([b"\n", b",", b"\r\n", b",\n", b"\n\n"]),
    st.sampled_from([b"", b"]", b"\n", b"]\n[]", b"]]"]),
).map(lambda parts: parts[0] + parts[2].join(parts[1]) + parts[3])


@many_examples
@given(joined)
@example(to_json_bytes([{"instruction": "half \ud800", "input": "\udfff", "output": "x"}]))
@example(b'[{"instruction": "a", "output": NaN}]')
def test_any_data_set_is_reported_or_encoded_and_shown(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "data.json"
    path.write_bytes(content)
    loaded = attempt(lambda: dataset.load(str(path)))
    if isinstance(loaded, Refused):
        assert loaded.startswith(f"dataset = {str(path)!r}: ")
        return
    assert len(encode_all(loaded, 64, False)) == len(loaded)
    for text in (text for loaded_example in loaded for text in vars(loaded_example).values()):
        assert text.encode().decode() == text  # else no page and no index can hold it


@few_examples
@given(st.binary(max_size=200).map(lambda tail: b"PAR1" + tail) | broken)
def test_parquet_file_of_any_bytes_is_reported(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "data.parquet"
    path.write_bytes(content)
    assert isinstance(attempt(lambda: dataset.load(str(path))), Refused)


ODD_NAMES = ["../", "../../etc/passwd", "CON", "con.txt", "x" * 200, "\u202erun\u200f", "a\0b", "/etc", "~", ".", "..",
             "lab.duckdb", "queue.json", "verdicts", "PRETRAINED", "settings.json", "-rf", "a/b\\c", "ﷺ" * 60, "İ"]  # fmt: skip


@many_examples
@given(st.sampled_from(ODD_NAMES) | any_text | st.text(min_size=150, max_size=310))
def test_any_name_gives_one_directory_or_a_user_error(name: str) -> None:
    with folder() as runs_dir:
        config = attempt(lambda: RunConfig.parse({"name": name}))
        if isinstance(config, Refused):
            assert "name" in config
        else:
            runs = [RunDirectory.create(runs_dir, config) for _ in range(2)]
            assert sorted(p.name for p in runs_dir.parent.iterdir()) == ["runs"]
            assert {p.name for p in runs_dir.iterdir()} == {run.name for run in runs}
            assert [run.path.resolve().parent for run in runs] == [runs_dir.resolve()] * 2
            assert [run.config().name for run in runs] == [run.name for run in runs]
        result = attempt(lambda: RunDirectory.find(runs_dir, name))
        assert isinstance(result, Refused) or result.path.parent == runs_dir


@some_examples
@given(st.lists(any_text, max_size=5), any_text | st.text(min_size=500, max_size=900) | odd_words)
def test_lone_surrogates_and_long_queries_are_searchable(texts: list[str], query: str) -> None:
    matches = search(texts, query)
    assert len(set(matches)) == len(matches)
    assert set(matches) <= set(range(len(texts)))
    assert "".join(piece for piece, _ in differing_words(query, "".join(texts))) == query
