"""The ledger: persistence, locking, torn lines, a full disk, and verdicts in the index."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.config import RunConfig
from core.errors import UserError
from core.judging.judge import Item, Verdict, judge_id, verdict_key
from core.judging.ledger import MAX_RAW_CHARACTERS, Ledger, known_verdicts
from core.judging.reference import ReferenceJudge
from core.lab import Lab
from core.operations import open_scoring
from core.run.directory import RunDirectory
from core.run.event_files import EVENT_FOLDERS, PRETRAINED_FOLDER, VERDICTS_FOLDER
from core.run.events import EventWriter
from core.tracking import queries, sync

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = {
    "judge": "gemini",
    "kind": "score",
    "model": "g",
    "temperature": 0.5,
    "prompt": "Grade {answer}.",
}
FULL_DISK_SCRIPT = """
import resource, sys
from pathlib import Path
from core.errors import UserError
from core.judging.judge import Item, Verdict
from core.judging.ledger import Ledger

def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def print_error(action):
    try:
        action()
    except UserError as error:
        print(error)

runs_dir, spec, item = Path(sys.argv[1]), {"judge": "gemini", "kind": "score"}, Item("i", "", "r", "a")
limit_file_size(20)
print_error(lambda: Ledger(runs_dir, spec))
limit_file_size(resource.RLIM_INFINITY)
with Ledger(runs_dir, spec) as ledger:
    ledger.write("a", item, 0, Verdict(1.0))
    limit_file_size(ledger.path.stat().st_size + 20)
    print_error(lambda: ledger.write("b", item, 0, Verdict(2.0)))
    limit_file_size(resource.RLIM_INFINITY)
    ledger.write("c", item, 0, Verdict(3.0))
"""
"""A script that prints the errors raised on a full disk, simulated by limiting the file size."""


def item(answer: str, instruction: str = "Say it.") -> Item:
    return Item(instruction, "", "it", answer)


def write(ledger: Ledger, answer: Item, score: float | None, repeat: int = 0) -> str:
    key = verdict_key(SPEC, "p", answer, repeat)
    ledger.write(key, answer, repeat, Verdict(score, missing="blocked" if score is None else None))
    return key


def write_run(runs_dir: Path, name: str, *answers: Item) -> None:
    """Write a finished run with these answers."""
    run = RunDirectory.create(runs_dir, RunConfig(name=name))
    with run.lock(), contextlib.closing(EventWriter(run.events_path)) as writer:
        for i, answer in enumerate(answers):
            fields = {k: v for k, v in vars(answer).items() if k != "other"}
            writer.append("generation", item=i, **fields, tokens=1, cut=False, prompt_cut=False)
        writer.append("status", status="finished")


def query_index(runs_dir: Path, query: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
    with contextlib.closing(sync.read_index(runs_dir)) as index:
        return query(index.cursor())


def verdicts(runs_dir: Path, *runs: str) -> pd.DataFrame:
    with open_scoring(runs_dir, runs) as scoring:
        return scoring.verdicts(scoring.answers(runs))


def test_verdicts_persist_after_reopening(tmp_path: Path) -> None:
    with Ledger(tmp_path, SPEC) as ledger:
        assert ledger.scores_by_key == {}
        keys = [write(ledger, item("a"), 40.0), write(ledger, item("b"), None)]
        keys.append(write(ledger, item("a"), 0.0, repeat=1))
        assert ledger.scores_by_key == dict(zip(keys, [40.0, None, 0.0], strict=True))
    with Ledger(tmp_path, SPEC) as ledger:
        assert ledger.scores_by_key == dict(zip(keys, [40.0, None, 0.0], strict=True))
    assert known_verdicts(tmp_path, SPEC) == ledger.scores_by_key
    assert known_verdicts(tmp_path, SPEC | {"model": "h"}) == {}
    events = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [e["event"] for e in events] == ["judge", "verdict", "verdict", "verdict"]
    assert events[0] | {"id": judge_id(SPEC), **SPEC} == events[0]


def test_every_judge_has_a_separate_ledger(tmp_path: Path) -> None:
    specs = [SPEC, SPEC | {"temperature": 0.0}, SPEC | {"prompt": "Rate {answer}."}]
    for spec in specs:
        with Ledger(tmp_path, spec) as ledger:
            write(ledger, item("a"), 1.0)
    assert len(list((tmp_path / VERDICTS_FOLDER).glob("gemini-*.jsonl"))) == len(specs)


def test_verdict_is_stored_in_full_except_a_long_reply(tmp_path: Path) -> None:
    verdict = Verdict(55.5, "größer \ud800\n", None, "x" * (MAX_RAW_CHARACTERS + 1), 7, 3, 0.25)
    with Ledger(tmp_path, SPEC) as ledger:
        ledger.write("k", item("a"), 2, verdict)
    event = json.loads(ledger.path.read_text().splitlines()[-1])
    stored_fields = {k: v for k, v in event.items() if k not in ("seq", "time", "event")}
    assert stored_fields == {
        "key": "k", "id": ledger.id, "subject": item("a").subject, "repeat": 2, "score": 55.5,
        "reason": "größer ?\n", "raw": "x" * MAX_RAW_CHARACTERS, "tokens_in": 7, "tokens_out": 3, "seconds": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    "torn", [b'{"seq":4,"time":1,"event":"verdict","key":"k"', b"\xff\x00", b"{"]
)
def test_torn_last_line_is_truncated(tmp_path: Path, torn: bytes) -> None:
    with Ledger(tmp_path, SPEC) as ledger:
        first = write(ledger, item("a"), 40.0)
    with ledger.path.open("ab") as file:
        file.write(torn)
    assert known_verdicts(tmp_path, SPEC) == {first: 40.0}
    with Ledger(tmp_path, SPEC) as ledger:
        second = write(ledger, item("b"), 50.0)
    assert known_verdicts(tmp_path, SPEC) == {first: 40.0, second: 50.0}
    assert [json.loads(line)["seq"] for line in ledger.path.read_bytes().splitlines()] == [1, 2, 3]


def test_torn_first_line_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / VERDICTS_FOLDER / f"{judge_id(SPEC)}.jsonl"
    path.parent.mkdir()
    path.write_bytes(b'{"seq":1,"time":1,"event":"jud')
    with Ledger(tmp_path, SPEC):
        pass
    assert json.loads(path.read_text())["event"] == "judge"


def test_invalid_lines_are_skipped(tmp_path: Path) -> None:
    with Ledger(tmp_path, SPEC) as ledger:
        key = write(ledger, item("a"), 40.0)
    with ledger.path.open("ab") as file:
        file.write(
            b'\n[]\nnonsense\n{"seq":9,"event":"verdict","key":[1]}\n{"seq":10,"event":"x"}\n'
        )
    with Ledger(tmp_path, SPEC) as ledger:
        assert ledger.scores_by_key == {key: 40.0}


def test_ledger_allows_one_writer(tmp_path: Path) -> None:
    expected_message = rf"Another scoring job is using the judge {judge_id(SPEC)}\. Wait"
    with Ledger(tmp_path, SPEC):
        with pytest.raises(UserError, match=expected_message):
            Ledger(tmp_path, SPEC)
        with Ledger(tmp_path, SPEC | {"model": "h"}):
            pass
    with Ledger(tmp_path, SPEC):
        pass


def test_later_verdict_with_the_same_key_wins(tmp_path: Path) -> None:
    other_item = item("b", "Say it again.")
    write_run(tmp_path, "mine", item("a"), other_item)
    with Ledger(tmp_path, SPEC) as ledger:
        for score in (None, 40.0, 60.0):
            key = write(ledger, item("a"), score)
        for score in (10.0, None):
            write(ledger, other_item, score)
    assert known_verdicts(tmp_path, SPEC)[key] == 60.0
    frame = verdicts(tmp_path, "mine")
    assert frame["answer"].tolist() == ["a", "b"]
    assert frame["score"].tolist()[0] == 60.0
    assert frame["score"].isna().tolist() == frame["missing"].isin(["blocked"]).tolist() == [False, True]  # fmt: skip
    scores = query_index(tmp_path, queries.scores)
    assert sorted(scores["score"].fillna(-1)) == [-1.0, 60.0]
    assert scores["examples"].tolist() == [2, 2]


def test_full_disk_is_reported_and_only_unwritten_verdicts_are_lost(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", FULL_DISK_SCRIPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    open_error, write_error = completed.stdout.splitlines()
    folder = tmp_path / VERDICTS_FOLDER
    assert open_error.startswith(f"Cannot write to {folder}: ")
    assert write_error.startswith(f"Cannot write to {folder}/gemini-")
    assert known_verdicts(tmp_path, {"judge": "gemini", "kind": "score"}) == {"a": 1.0, "c": 3.0}


def test_verdict_directory_failure_is_reported(tmp_path: Path) -> None:
    (tmp_path / VERDICTS_FOLDER).write_text("a file")
    with pytest.raises(UserError, match=f"Cannot write to {tmp_path / VERDICTS_FOLDER}"):
        Ledger(tmp_path, SPEC)


def test_equal_answers_from_two_runs_share_a_verdict(tmp_path: Path) -> None:
    write_run(tmp_path, "one", item("a"), item("b"))
    write_run(tmp_path, "two", item("c"), item("a"))
    write_run(tmp_path, "other", item("a", "Say something else."))
    with Ledger(tmp_path, SPEC) as ledger:
        write(ledger, item("a"), 40.0)
        write(ledger, item("a"), 60.0, repeat=1)
    frame = verdicts(tmp_path, "one", "two", "other")
    columns = ["run", "item", "answer", "id", "judge", "model", "repeat", "score"]
    assert frame[columns].to_numpy().tolist() == [
        ["one", 0, "a", ledger.id, "gemini", "g", 0, 40.0],
        ["one", 0, "a", ledger.id, "gemini", "g", 1, 60.0],
        ["two", 1, "a", ledger.id, "gemini", "g", 0, 40.0],
        ["two", 1, "a", ledger.id, "gemini", "g", 1, 60.0],
    ]
    assert verdicts(tmp_path, "two")["run"].unique().tolist() == ["two"]


def test_unusual_texts_survive_the_index(tmp_path: Path) -> None:
    odd_texts = [
        "",
        " ",
        "ä\n\t'\"\\",
        "a\x00b",
        "\x1f",
        "\ud800",
        "\U0001d518\u200d",
        "NULL",
        "x" * 70_000,
    ]
    write_run(tmp_path, "mine", *(item(text) for text in odd_texts))
    answers = query_index(tmp_path, lambda db: queries.answers(db, ["mine"]))
    fields = ["instruction", "input", "reference", "answer"]
    with Ledger(tmp_path, SPEC) as ledger:
        for i, row in enumerate(answers[fields].itertuples(index=False)):
            write(ledger, Item(*row), float(i))
    frame = verdicts(tmp_path, "mine")
    assert frame["score"].tolist() == [float(i) for i in range(len(odd_texts))]


def test_index_stores_the_subject_hash_of_each_answer(tmp_path: Path) -> None:
    texts = ["", "ä\n", "\ud800", "x"]
    write_run(tmp_path, "mine", *(item(text) for text in texts))
    frame = query_index(tmp_path, lambda db: queries.judged_answers(db, ["mine"]))
    assert frame["subject"].tolist() == [item(text).subject for text in texts]
    assert frame["example"].nunique() == 1


def test_incomplete_answer_is_skipped(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, RunConfig(name="mine"))
    run.append(
        "generation", item=0, instruction="Say it.", reference="it", answer="it", subject="x"
    )
    assert query_index(tmp_path, lambda db: queries.judged_answers(db, ["mine"])).empty


def test_partially_judged_run_has_no_score(tmp_path: Path) -> None:
    items = [item("a", f"Say {i}.") for i in range(8)]
    write_run(tmp_path, "whole", *items, item("b", "Say 8."), item("b", "Say 9."))
    write_run(tmp_path, "nearly", *items, item("b", "Say 8."), item("c", "Say 9."))
    write_run(tmp_path, "part", *items, item("c", "Say 8."), item("c", "Say 9."))
    write_run(tmp_path, "none", item("d"))
    with Ledger(tmp_path, SPEC) as ledger:
        for judged_item in items:
            write(ledger, judged_item, 40.0)
            write(ledger, judged_item, 60.0, repeat=1)
        write(ledger, item("b", "Say 8."), None)
        write(ledger, item("b", "Say 9."), 10.0)
    frame = query_index(tmp_path, queries.scores)
    counts = frame.groupby("run")["score"].agg(["size", "count", "sum"])
    assert counts.to_dict("index") == {
        "whole": {"size": 10, "count": 9, "sum": 410.0},
    }


def test_duplicate_example_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path, "mine", item("a"), item("b"), item("a", "Say more."))
    with Ledger(tmp_path, SPEC) as ledger:
        for answer, score in ((item("a"), 20.0), (item("b"), 40.0), (item("a", "Say more."), 60.0)):
            write(ledger, answer, score)
    frame = query_index(tmp_path, queries.scores)
    assert sorted(frame["score"]) == [30.0, 60.0]
    assert frame["examples"].tolist() == [2, 2]


def test_comparisons_do_not_count_as_scores(tmp_path: Path) -> None:
    write_run(tmp_path, "mine", item("a"))
    spec = ReferenceJudge("pair").spec
    with Ledger(tmp_path, spec) as ledger:
        ledger.write("k", item("a"), 0, Verdict(50.0))
    assert verdicts(tmp_path, "mine").empty
    assert query_index(tmp_path, queries.scores).empty


def test_open_index_syncs_new_verdicts_and_deleted_ledgers(tmp_path: Path) -> None:
    write_run(tmp_path, "mine", item("a"), item("b"))
    with contextlib.closing(Lab(tmp_path, "thread")) as opened:

        def indexed_scores() -> list[float]:
            opened.refresh()
            assert opened.fault is None
            frame = opened.scoring.verdicts(opened.scoring.answers(["mine"]))
            return [float(score) for score in frame["score"]]

        with Ledger(tmp_path, SPEC) as ledger:
            write(ledger, item("a"), 40.0)
            assert indexed_scores() == [40.0]
            write(ledger, item("b"), 50.0)
            assert indexed_scores() == [40.0, 50.0]
        ledger.path.unlink()
        assert indexed_scores() == []
        assert opened.scores().empty
        assert opened.runs()["name"].tolist() == ["mine"]


@pytest.mark.parametrize(
    "name", [*EVENT_FOLDERS, VERDICTS_FOLDER.upper(), f" {PRETRAINED_FOLDER} "]
)
def test_reserved_directory_names_are_not_run_names(tmp_path: Path, name: str) -> None:
    run = RunDirectory.create(tmp_path, RunConfig(name=name))
    assert run.name == f"run-{name.strip().lower()}"
    write_run(tmp_path, "mine", item("a"))
    with Ledger(tmp_path, SPEC) as ledger:
        write(ledger, item("a"), 40.0)
    assert verdicts(tmp_path, "mine")["score"].tolist() == [40.0]
