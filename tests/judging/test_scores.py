"""Scores from verdicts: the leaderboard, missing verdicts, repeats, and display names."""

import math
from typing import Any

import pandas as pd
import pytest

from core.judging.answers import display_names, is_base
from core.judging.scores import by_example, by_run, leaderboard, scale_sentence
from core.statistics.intervals import mean_interval

BASE = "pretrained/gpt2-nano-1f0c9a3b"


def answers(counts: dict[str, int]) -> pd.DataFrame:
    """Return a table with the given number of answers from each run."""
    rows = [(run, f"do {i}", "", f"done {i}") for run, n in counts.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["run", "instruction", "input", "reference"])


def verdicts(scores_by_run: dict[str, list[list[float | None]]]) -> pd.DataFrame:
    """Return a table of verdicts. Each run has a list of examples, and each example a list of repeated scores."""
    rows = [
        (run, f"do {i}", "", f"done {i}", repeat, score)
        for run, examples in scores_by_run.items()
        for i, repeats in enumerate(examples)
        for repeat, score in enumerate(repeats)
    ]
    frame = pd.DataFrame(rows, columns=["run", "instruction", "input", "reference", "repeat", "score"])  # fmt: skip
    return frame.astype({"score": float})


def board(scores_by_run: dict[str, list[list[float | None]]], counts: dict[str, int]) -> Any:
    return leaderboard(verdicts(scores_by_run), answers(counts), "gemini", partial=True)


def test_leaderboard_lists_bases_first_then_runs_by_score() -> None:
    scores_by_run: dict[str, list[list[float | None]]] = {
        "poor": [[10], [20]],
        "good": [[80], [90]],
        "b-same": [[50], [50]],
        "a-same": [[40], [60]],
        BASE: [[1], [2]],
    }
    rows = board(scores_by_run, dict.fromkeys([*scores_by_run, "unscored"], 2))
    assert [row["run"] for row in rows] == [BASE, "good", "a-same", "b-same", "poor", "unscored"]
    assert [row["mean"] for row in rows] == [1.5, 85, 50, 50, 15, None]
    assert list(rows[0]) == ["run", "judge", "mean", "low", "high", "scored", "missing"]
    assert {row["judge"] for row in rows} == {"gemini"}
    assert rows[-1] | {"low": None, "high": None, "scored": 0, "missing": 2} == rows[-1]


def test_missing_verdict_is_counted_and_excluded_from_the_mean() -> None:
    [row] = board({"mine": [[80], [None], [60]]}, {"mine": 4})  # the fourth answer was never judged
    assert (row["mean"], row["scored"], row["missing"]) == (70, 2, 2)
    [row] = board({"mine": [[0], [0]]}, {"mine": 2})
    assert (row["mean"], row["low"], row["missing"]) == (0, 0, 0)
    assert row["high"] == pytest.approx(84.19, abs=0.01), "exact binomial interval for n = 2"
    [row] = board({"mine": [[None], [None]]}, {"mine": 2})
    assert (row["mean"], row["scored"], row["missing"]) == (None, 0, 2)


def test_repeats_of_an_example_are_averaged_first() -> None:
    scores_by_run: dict[str, list[list[float | None]]] = {
        "mine": [[90, 90, 90, 90], [10], [20, None, 40]]
    }
    frame = by_example(verdicts(scores_by_run))
    assert frame["score"].tolist() == [90, 10, 30]
    [row] = board(scores_by_run, {"mine": 3})
    expected = mean_interval([90, 10, 30])
    assert (row["mean"], row["scored"], row["missing"]) == (pytest.approx(130 / 3), 3, 0)
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    assert row["low"] < row["mean"] < row["high"]


def test_example_answered_twice_counts_once() -> None:
    doubled = pd.concat([answers({"mine": 2})] * 2)
    [row] = leaderboard(verdicts({"mine": [[80], [None]]}), doubled, "gemini", partial=True)
    assert (row["scored"], row["missing"]) == (1, 1)


def test_single_score_has_no_interval() -> None:
    [row] = board({"mine": [[80]]}, {"mine": 1})
    assert row["mean"] == 80
    assert all(math.isnan(row[name]) or row[name] == 80 for name in ("low", "high"))


def judge_scores(*rows: tuple[str, str, str, float | None]) -> pd.DataFrame:
    """Return a table like `queries.scores` from rows of (run, id, judge, score). `gemini-3` has a different model."""
    frame = pd.DataFrame(rows, columns=["run", "id", "judge", "score"])
    models = ["pro" if id == "gemini-3" else "flash" for id in frame["id"]]
    return frame.assign(model=models, examples=2).astype({"score": float})


def test_each_run_has_a_score_by_judge() -> None:
    result = by_run(
        judge_scores(
            ("a", "reference-1", "reference", 40.0),
            ("a", "reference-1", "reference", 60.0),
            ("a", "gemini-1", "gemini", 80.0),
            ("a", "gemini-2", "gemini", 20.0),
            ("a", "gemini-3", "gemini", 10.0),
            ("b", "gemini-2", "gemini", None),
            ("c", "gemini-2", "gemini", 30.0),
        )
    )
    assert list(result) == ["a", "c"]
    assert {label: i.mean for label, i in result["a"].items()} == {"reference": 50, "gemini-1": 80, "gemini-2": 20, "gemini pro": 10}  # fmt: skip
    assert {label: (i.scored, i.missing) for label, i in result["c"].items()} == {
        "gemini-2": (1, 1)
    }


def test_single_judge_configuration_uses_its_short_name() -> None:
    assert list(by_run(judge_scores(("a", "gemini-1", "gemini", 80.0)))["a"]) == ["gemini"]


def test_without_scores_there_are_no_runs() -> None:
    assert by_run(judge_scores()) == {}
    assert leaderboard(verdicts({}), answers({}), "gemini", partial=True) == []


def test_base_model_has_a_display_name() -> None:
    small, medium = "pretrained/gpt2-0a", "pretrained/gpt2-medium-0b"
    assert display_names(["mine", BASE]) == {BASE: "pretrained"}
    assert display_names([small, medium, "mine"]) == {
        small: "pretrained gpt2",
        medium: "pretrained gpt2-medium",
    }
    assert display_names(["mine"]) == {}
    assert is_base(small)
    assert not any(map(is_base, ["pretrained", "pretrained-2", "mine"]))


@pytest.mark.parametrize(
    ("scores", "top"),
    [
        ([0.8, 0.5, 1.0], 1),
        ([0.0, 1.0, None], 1),
        ([7, 8, 10], 10),
        ([7, 8, 10.5], None),
        ([0, 0, 0], None),
        ([10], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_scores_on_a_different_scale_cause_a_warning(
    scores: list[float | None], top: int | None
) -> None:
    frame = verdicts({"mine": [[score] for score in scores]}).assign(answer="a", judge="openai")
    sentence = scale_sentence(frame)
    if top is None:
        assert sentence is None
    else:
        scored = len([score for score in scores if score is not None])
        assert f"All {scored} scores are at most {top}." in str(sentence)
        assert "not rescaled" in str(sentence)
    assert scale_sentence(frame.assign(judge="reference")) is None
