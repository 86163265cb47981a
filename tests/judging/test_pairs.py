"""Pairwise comparison: the pairs to judge, win rates, ratings, and verdicts from the index."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from core.config import RunConfig
from core.judging.answers import EXAMPLE_COLUMNS
from core.judging.judge import Item, Verdict, verdict_key
from core.judging.ledger import Ledger
from core.judging.pairs import pair_items, tournament, win_rates
from core.judging.reference import ReferenceJudge
from core.judging.scoring import Scoring
from core.run.directory import RunDirectory, list_runs
from core.run.event_files import event_files
from core.tracking.index import Index
from core.tracking.sync import Sync


def answers(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Build a table like the one from `queries.answers` from rows of (run, question, answer)."""
    records = [(run, question, "", "right", text) for run, question, text in rows]
    return pd.DataFrame(records, columns=["run", *EXAMPLE_COLUMNS, "answer"])


def verdicts(*rows: tuple[str, str, str, float | None]) -> pd.DataFrame:
    """Build a table like `Scoring.pair_verdicts` from rows of (run shown first, other run, question, score)."""
    records = [
        (run, opponent, question, "", "right", score) for run, opponent, question, score in rows
    ]
    frame = pd.DataFrame(records, columns=["run", "other", *EXAMPLE_COLUMNS, "score"])
    return frame.astype({"score": float}).assign(id="judge-1", model="m")


def games(
    run: str, other: str, scores: Iterable[tuple[float | None, float | None]]
) -> list[tuple[str, str, str, float | None]]:
    """Return verdicts in both orders.

    Each pair in `scores` belongs to one question and holds the score of the first-shown answer in each order.
    """
    rows = []
    for example_index, (forward, backward) in enumerate(scores):
        rows += [
            (run, other, f"q{example_index}", forward),
            (other, run, f"q{example_index}", backward),
        ]
    return rows


def item_answers(items: list[Item]) -> list[tuple[str, str, str | None]]:
    return [(item.instruction, item.answer, item.other) for item in items]


def test_every_pair_is_judged_in_both_orders() -> None:
    items = pair_items(answers(("a", "q", "1"), ("b", "q", "2"), ("c", "q", "3")))
    expected = [("1", "2"), ("1", "3"), ("2", "1"), ("2", "3"), ("3", "1"), ("3", "2")]
    assert item_answers(items) == [("q", *expected_pair) for expected_pair in expected]
    assert {item.reference for item in items} == {"right"}


def test_equal_answers_are_not_judged() -> None:
    items = pair_items(answers(("a", "q", "1"), ("b", "q", "1"), ("c", "q", "2")))
    assert set(item_answers(items)) == {("q", "1", "2"), ("q", "2", "1")}


def test_run_is_not_judged_against_itself() -> None:
    assert pair_items(answers(("a", "q", "1"), ("a", "q", "2"))) == []


def test_only_answers_to_the_same_example_are_paired() -> None:
    frame = answers(("a", "q", "1"), ("b", "p", "2"), ("a", "r", "3"), ("b", "r", "4"))
    assert item_answers(pair_items(frame)) == [("r", "3", "4"), ("r", "4", "3")]
    other_inputs = frame.assign(input=["", "", "x", "y"])
    assert pair_items(other_inputs) == []
    assert pair_items(frame.head(0)) == []


def test_win_rates_match_a_hand_calculation() -> None:
    # a wins in both orders; wins one and ties one; wins one and loses one; ties in both
    scores = [(100, 0), (100, 50), (0, 0), (50, 50)]
    [row] = win_rates(verdicts(*games("a", "b", scores)), ["a", "b"])
    assert (row["run"], row["other"], row["scored"]) == ("a", "b", 4)
    assert row["rate"] == pytest.approx((100 + 75 + 50 + 50) / 4)
    assert row["low"] <= row["rate"] <= row["high"]
    assert row["flips"] == pytest.approx((0 + 0.5 + 1 + 0) / 4)
    [reversed_row] = win_rates(verdicts(*games("a", "b", scores)), ["b", "a"])
    assert (reversed_row["run"], reversed_row["rate"]) == ("b", pytest.approx(100 - row["rate"]))
    assert reversed_row["flips"] == row["flips"]


def test_position_biased_judge_gives_equal_win_rates() -> None:
    [row] = win_rates(verdicts(*games("a", "b", [(100, 100)] * 5)), ["a", "b"])
    assert (row["rate"], row["flips"]) == (50, 1)
    assert row["low"] < 50 < row["high"]


def test_repeats_of_one_order_are_averaged_first() -> None:
    rows = [("a", "b", "q", 100.0), ("a", "b", "q", 0.0), ("b", "a", "q", 0.0)]
    [row] = win_rates(verdicts(*rows), ["a", "b"])
    assert (row["rate"], row["scored"]) == (75.0, 1)


def test_item_without_a_verdict_in_one_order_is_excluded() -> None:
    scores = [(100, 0), (0, None), (None, 100)]
    rows = [*games("a", "b", scores), ("a", "b", "one-order", 0.0)]
    [row] = win_rates(verdicts(*rows), ["a", "b"])
    assert (row["rate"], row["scored"]) == (100, 1)
    with_partial_item = tournament(verdicts(*rows), ["a", "b"])
    complete_items_only = tournament(verdicts(*games("a", "b", scores[:1])), ["a", "b"])
    assert [r["mean"] for r in with_partial_item] == [r["mean"] for r in complete_items_only]


def test_runs_without_common_examples_are_not_compared() -> None:
    rows = [*games("a", "b", [(100, 0)]), ("a", "c", "elsewhere", 100.0)]
    assert [(r["run"], r["other"]) for r in win_rates(verdicts(*rows), ["a", "b", "c"])] == [
        ("a", "b")
    ]
    for frame in (verdicts(), verdicts(("a", "c", "q", 100.0)), verdicts(*games("a", "c", [(None, None)]))):  # fmt: skip
        assert win_rates(frame, ["a", "c"]) == []
        assert tournament(frame, ["a", "c"]) == []


def test_tournament_ranks_by_strength() -> None:
    wins = [(100, 0)] * 6 + [(0, 100)] * 2
    rows = games("mid", "weak", wins) + games("strong", "mid", wins) + games("strong", "weak", wins)
    result = tournament(verdicts(*rows), ["weak", "strong", "mid"])
    assert [row["run"] for row in result] == ["strong", "mid", "weak"]
    assert sum(row["mean"] for row in result) == pytest.approx(0, abs=1e-6)
    assert all(row["low"] <= row["mean"] <= row["high"] for row in result)
    # 12 wins in 16 games are odds of 3, or 400 * log10(3) Elo points, slightly less with regularization.
    rows = games("a", "b", wins)
    first, second = tournament(verdicts(*rows), ["a", "b"])
    assert first["mean"] - second["mean"] == pytest.approx(400 * math.log10(3), rel=0.05)


def test_unpaired_run_has_no_rating() -> None:
    result = tournament(verdicts(*games("a", "b", [(100, 0), (50, 0)])), ["alone", "b", "a"])
    assert [row["run"] for row in result] == ["a", "b"]


@pytest.fixture
def index() -> Iterator[Index]:
    opened = Index(None)
    yield opened
    opened.close()


def write_run(runs_dir: Path, name: str, *texts: str) -> None:
    run = RunDirectory.create(runs_dir, RunConfig(name=name))
    for example_index, text in enumerate(texts):
        prompt_fields = {"instruction": f"q{example_index}", "input": "", "reference": "right"}
        run.append("generation", item=example_index, answer=text, **prompt_fields)


def judged(
    runs_dir: Path, index: Index, items: Iterable[Item], *points: float | None
) -> pd.DataFrame:
    """Write verdicts with these points to the ledger. Return the verdicts on runs a and b from the index."""
    spec = ReferenceJudge("pair").spec
    with Ledger(runs_dir, spec) as ledger:
        for item, score in zip(items, points, strict=True):
            verdict = Verdict(score, missing=None if score is not None else "blocked")
            ledger.write(verdict_key(spec, "", item, 0), item, 0, verdict)
    Sync(index.new_cursor()).run([*list_runs(runs_dir), *event_files(runs_dir)])
    scoring = Scoring(runs_dir, lambda query, *arguments: query(index.cursor(), *arguments))
    return scoring.pair_verdicts(scoring.answers(["a", "b"]))


def test_index_returns_pairwise_verdicts(tmp_path: Path, index: Index) -> None:
    write_run(tmp_path, "a", "1", "same", "5")
    write_run(tmp_path, "b", "2", "same", "6")
    write_run(tmp_path, "c", "2", "other")
    items = pair_items(answers(("a", "q0", "1"), ("b", "q0", "2"), ("a", "q2", "5"), ("b", "q2", "6")))  # fmt: skip
    frame = judged(tmp_path, index, items, 100.0, 50.0, None, 0.0)
    rows = frame[["run", "other", "instruction", "score"]].astype(object)
    rows = rows.where(rows.notna(), None).sort_values(["instruction", "run"])
    assert rows.to_numpy().tolist() == [
        ["a", "b", "q0", 100.0],
        ["b", "a", "q0", 50.0],
        ["a", "b", "q1", 50.0],
        ["b", "a", "q1", 50.0],
        ["a", "b", "q2", None],
        ["b", "a", "q2", 0.0],
    ]
    assert set(frame["model"]) == {ReferenceJudge("pair").spec["model"]}
    [row] = win_rates(frame, ["a", "b"])
    assert (row["scored"], row["rate"], row["flips"]) == (2, (75 + 50) / 2, 0.25)


def test_newest_pairwise_verdict_wins_and_scores_are_ignored(tmp_path: Path, index: Index) -> None:
    write_run(tmp_path, "a", "1")
    write_run(tmp_path, "b", "2")
    spec = ReferenceJudge("score").spec
    with Ledger(tmp_path, spec) as ledger:
        item = Item("q0", "", "right", "1")
        ledger.write(verdict_key(spec, "", item, 0), item, 0, Verdict(7.0))
    [forward, backward] = pair_items(answers(("a", "q0", "1"), ("b", "q0", "2")))
    assert judged(tmp_path, index, [forward], 100.0).empty, (
        "the other order has not been judged yet"
    )
    frame = judged(tmp_path, index, [forward, backward], 0.0, 30.0)
    assert sorted(frame[["run", "score"]].to_numpy().tolist()) == [["a", 0.0], ["b", 30.0]]
