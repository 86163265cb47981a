"""Fuzz tests for event files, queues, judge ledgers and base answers.

Lines may be torn, duplicated or reordered, or have invalid fields. Readable events are counted once and in order, every
score is None or between 0 and 100, and readers do not raise exceptions.
"""

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.config import RunConfig
from core.data.template import Example
from core.judging import prices, scores
from core.judging.answers import Base
from core.judging.base_answers import answer_missing
from core.judging.judge import Item
from core.judging.ledger import Ledger, known_verdicts
from core.judging.scoring import Scoring
from core.run.directory import RunDirectory, list_runs
from core.run.event_files import event_files
from core.run.events import parse
from core.scheduler.queue import read_order
from core.tracking import queries
from core.tracking.index import Index
from core.tracking.sync import Sync
from core.views.tables import records
from tests.test_fuzz import (
    any_json,
    any_text,
    few_examples,
    malformed,
    many_examples,
    some_examples,
    temporary_runs_dir,
    to_json_bytes,
)


@pytest.fixture(scope="module")
def db() -> Iterator[Any]:
    """An index shared by all examples. Syncing an empty list of runs removes the previous example's rows."""
    index = Index(None)
    yield index.cursor()
    index.close()


LINES = [to_json_bytes({"seq": n, "time": float(n), "event": "step", "step": n, "loss": n / 3}) + b"\n" for n in range(1, 9)]  # fmt: skip
lines_with_damage = st.lists(
    st.tuples(
        st.sampled_from(LINES), st.sampled_from(["none", "none", "torn", "duplicated", "garbage"])
    ),
    max_size=20,
)


@some_examples
@given(lines_with_damage, st.data())
def test_torn_duplicate_and_reordered_lines_count_once_in_order(
    db: Any, damaged_lines: list[tuple[bytes, str]], data: Any
) -> None:
    content = b""
    for line, damage in damaged_lines:
        cut_length = data.draw(st.integers(1, len(line) - 1)) if damage == "torn" else len(line)
        content += line[:cut_length] * (2 if damage == "duplicated" else 1) + (b"\0\xff\n" if damage == "garbage" else b"")  # fmt: skip
    expected: list[int] = []
    for event in map(parse, content[: content.rfind(b"\n") + 1].split(b"\n")):
        if event and event["seq"] > max(expected, default=0):
            expected.append(event["seq"])
    with temporary_runs_dir() as runs_dir:
        run = RunDirectory(runs_dir / "a")
        run.path.mkdir(parents=True)
        run.config_path.write_text("{}")
        split_offset = data.draw(st.integers(0, len(content)))
        Sync(db).run([])
        for part in (content[:split_offset], content[split_offset:]):
            with run.events_path.open("ab") as file:
                file.write(part)
            index_sync = Sync(db)
            index_sync.run([run])
            assert index_sync.fault is None
        rows = db.execute("select seq, step from step order by rowid").fetchall()
        assert rows == [(n, n) for n in expected]
        assert [state["step"] for state in queries.states(db, ["a"])] == [max(expected, default=0)]


@many_examples
@given(malformed | (any_json | st.lists(st.sampled_from(["a", "b", "../a", 1]))).map(to_json_bytes))
def test_any_queue_file_orders_only_existing_runs(content: bytes) -> None:
    with temporary_runs_dir() as runs_dir:
        for name in ("a", "b"):
            (runs_dir / name).mkdir(parents=True)
            (runs_dir / name / "config.json").write_text("{}")
        (runs_dir / "queue.json").write_bytes(content)
        order = read_order(runs_dir)
        assert len(order) == len(set(order))
        assert set(order) <= {"a", "b"}


ITEMS = [Item(f"Say {i}.", "", "it", f"answer {i}") for i in range(3)]
SPEC = {"judge": "gemini", "kind": "score", "model": "g", "temperature": 0.0, "prompt": "Grade it."}


def mostly_valid(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(valid, valid, valid, valid, any_json)


odd_verdict = st.fixed_dictionaries(
    {"key": mostly_valid(st.sampled_from(["a", "b", "c", "d"])), "id": mostly_valid(st.just("gemini-1")),
     "subject": mostly_valid(st.sampled_from([item.subject for item in ITEMS])), "repeat": mostly_valid(st.integers(0, 2)),
     "score": mostly_valid(st.floats(0, 100))},
    optional={key: mostly_valid(any_text) for key in ("reason", "missing", "raw")} | {"tokens_out": mostly_valid(st.integers(0, 9))},
)  # fmt: skip
odd_judge = st.fixed_dictionaries({}, optional={key: mostly_valid(st.just(value)) for key, value in SPEC.items()})  # fmt: skip


def write_ledger(runs_dir: Any, db: Any, events: list[Any]) -> None:
    """Write a run with answers and a judge's ledger with these events, and sync both to the index."""
    run = RunDirectory.create(runs_dir, RunConfig(name="mine"))
    for i, item in enumerate(ITEMS):
        fields = {k: v for k, v in vars(item).items() if v is not None}
        run.append("generation", item=i, **fields)
    with Ledger(runs_dir, SPEC) as ledger:
        path = ledger.path
    lines = [to_json_bytes({"seq": n, "time": 1.0, **event}) for n, event in enumerate(events, 1)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    index_sync = Sync(db)
    index_sync.run([])  # remove the previous example's rows
    index_sync.run([*list_runs(runs_dir), *event_files(runs_dir)])
    assert index_sync.fault is None


@some_examples
@given(odd_judge, st.lists(odd_verdict, max_size=8), st.booleans())
def test_any_ledger_is_read_by_every_reader(
    db: Any, judge: Any, verdict_events: Any, has_valid_spec: bool
) -> None:
    events = [{"event": "judge", "id": "gemini-1", **(SPEC if has_valid_spec else judge)}]
    events += [{"event": "verdict", **fields} for fields in verdict_events]
    with temporary_runs_dir() as runs_dir:
        write_ledger(runs_dir, db, events)
        known_verdicts(runs_dir, SPEC)
        with Ledger(runs_dir, SPEC) as ledger:
            assert all(isinstance(key, str) for key in ledger.scores_by_key)
        scoring = Scoring(runs_dir, lambda query, *arguments: query(db, *arguments))
        judged = scoring.answers(["mine"])
        frame = scoring.verdicts(judged)
        for id in frame["id"].unique():
            [row] = scoring.leaderboard(judged, frame[frame["id"] == id], str(id), partial=True)
            assert row["scored"] + row["missing"] == len(ITEMS)
        scoring.inconsistent_scores(frame)
        for note in scoring.notes(frame):
            assert note is None or note.strip()
        scores.by_run(queries.scores(db))
        scoring.pair_verdicts(judged)
        reply_tokens = queries.reply_tokens(db, "gemini-1")
        assert prices.estimate([], [], "m", prices.DEFAULT_PRICES, reply_tokens).sentence()


@few_examples
@given(st.lists(st.floats() | st.integers(-5, 10**20) | st.floats(0, 100), min_size=3, max_size=3))
@example([float("nan"), 50.0, 60.0])
@example([1e308, 1e308, 1e308])
@example([-5.0, 101.0, 50.0])
def test_score_outside_0_to_100_is_ignored(db: Any, score_values: list[float]) -> None:
    events: list[Any] = [{"event": "judge", "id": "gemini-1", **SPEC}]
    for i, (item, score) in enumerate(zip(ITEMS, score_values, strict=True)):
        verdict_fields = {"key": f"{i}", "id": "gemini-1", "subject": item.subject, "repeat": 0}
        events.append({"event": "verdict", **verdict_fields, "score": score})
    with temporary_runs_dir() as runs_dir:
        write_ledger(runs_dir, db, events)
        scoring = Scoring(runs_dir, lambda query, *arguments: query(db, *arguments))
        judged = scoring.answers(["mine"])
        [row] = scoring.leaderboard(judged, scoring.verdicts(judged), "gemini", partial=True)
        valid_scores = [score for score in score_values if 0 <= score <= 100]
        assert row["scored"] == len(valid_scores)
        if valid_scores:
            assert math.isclose(
                row["mean"], sum(valid_scores) / len(valid_scores), rel_tol=1e-9, abs_tol=1e-9
            )


odd_answer = st.fixed_dictionaries(
    {},
    optional={
        key: mostly_valid(any_text) for key in ("instruction", "input", "reference", "answer")
    },
)


@some_examples
@given(st.lists(odd_answer, max_size=4))
@example([{}])
@example([{"instruction": [], "input": "", "reference": "", "answer": ""}])
def test_any_base_answer_file_is_read(stored_records: list[Any]) -> None:
    base = Base("gpt2-nano", "ab", 3)
    complete_record = {"instruction": "Say it.", "input": "", "reference": "it", "answer": "that"}
    with temporary_runs_dir() as runs_dir:
        path = runs_dir / f"{base.name}.jsonl"
        path.parent.mkdir(parents=True)
        lines = [to_json_bytes({"seq": n, "time": 1.0, "event": "generation", **fields}) for n, fields in enumerate([*stored_records, complete_record], 1)]  # fmt: skip
        path.write_bytes(b"\n".join(lines) + b"\n")
        example = Example("Say it.", "", "it")
        answers = answer_missing(runs_dir, base, [(0, example)], _fail_if_called, threading.Event())
        assert answers[example] == "that"


def _fail_if_called() -> Any:
    raise AssertionError("every example already has an answer")


@few_examples
@given(odd_judge)
def test_any_judge_has_a_description(db: Any, judge: Any) -> None:
    with temporary_runs_dir() as runs_dir:
        write_ledger(runs_dir, db, [{"event": "judge", "id": "gemini-1", **judge}])
        for row in records(queries.judges(db)):
            assert scores.judge_description(row).strip()
