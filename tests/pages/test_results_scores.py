"""Judge scores in the results table: means, intervals, and the scores reported in the journal."""

import json

import pandas as pd
import pytest

from core.judging.job import items_of
from core.judging.judge import Item, Verdict, verdict_key
from core.judging.ledger import Ledger
from core.statistics.intervals import mean_interval
from pages.ui import runtime

GEMINI = {"judge": "gemini", "kind": "score", "model": "m", "temperature": 0.0, "prompt": "p"}
SCORES = {"12": 12.0, "55": 55.0, "90": 90.0, "71": 71.0, "34": 34.0}


@pytest.fixture
def write_answers(write_run, answer):
    """Return a function that writes a run with the given numbers as answers."""

    def write(name, *texts):
        answer_events = [answer(item, f"Say {item}.", "x", text) for item, text in enumerate(texts)]
        return write_run(name, answers=answer_events)

    return write


@pytest.fixture
def judge(runs_dir):
    """Return a function that gives each answer its own number as its score, or None if it is listed in `missing`."""

    def write(run, spec=GEMINI, max_items=None, missing=()):
        lab = runtime.lab()
        lab.refresh()
        items: list[Item] = items_of(lab.answers([run]))[:max_items]
        with Ledger(runs_dir, spec) as ledger:
            for item in items:
                score = None if item.answer in missing else SCORES[item.answer]
                verdict = Verdict(score, missing=None if score is not None else "blocked")
                ledger.write(verdict_key(spec, "", item, 0), item, 0, verdict)
        lab.refresh()

    return write


def cells(page, name):
    frame = page.dataframe[0].value
    return frame[frame["name"] == name].iloc[0]


def show_intervals(page, judge="gemini"):
    """Add the column with the interval as text."""
    return page.choose("columns", ["status", "exact", judge, f"{judge} interval", f"{judge} 95%"])


def test_score_columns_are_absent_without_verdicts(write_answers, open_page):
    write_answers("one", "12")
    assert not [c for c in open_page("results").dataframe[0].value if "95%" in c]


def test_judge_mean_and_interval_are_columns(write_answers, judge, open_page):
    write_answers("one", "12", "55", "90", "71")
    write_answers("two", "34")
    page = open_page("results")
    judge("one")
    page.run()
    columns = page.dataframe[0].value.columns.tolist()
    assert columns[columns.index("exact") + 1 :][:2] == ["gemini", "gemini interval"]
    bar = cells(page, "one")["gemini interval"]
    assert bar.startswith("data:image/svg+xml;utf8,<svg ")
    assert "<circle cx='50.6'" in bar, (
        "57 on a scale from 0 to 100 of 80 pixels, after a margin of 5"
    )
    show_intervals(page)
    expected = mean_interval([12, 55, 90, 71])
    assert cells(page, "one")["gemini"] == expected.mean == 57.0
    assert cells(page, "one")["gemini 95%"] == f"{expected.low:.1f} to {expected.high:.1f}, n = 4"
    assert cells(page, "two")[["gemini", "gemini 95%"]].isna().all(), "not judged"


def test_headings_are_not_markdown(write_answers, judge, open_page):
    write_answers("one", "12")
    judge("one", {**GEMINI, "judge": "my-judge_2"})
    columns = json.loads(open_page("results").dataframe[0].proto.columns)
    assert columns["my-judge_2"]["label"] == "My-judge_2"


def test_single_answer_has_a_mean_without_an_interval(write_answers, judge, open_page):
    write_answers("one", "34")
    page = open_page("results")
    judge("one")
    assert cells(page.run(), "one")["gemini"] == 34.0
    assert cells(show_intervals(page), "one")["gemini 95%"] == "n = 1"


def test_only_fully_judged_runs_have_a_score(write_answers, judge, open_page):
    write_answers("one", "12", "55")
    write_answers("two", "12", "90")
    page = open_page("results")
    judge("one")
    assert pd.isna(cells(page.run(), "two")["gemini"]), (
        "only one of its two answers has a shared verdict"
    )
    judge("two", max_items=1)
    assert pd.isna(cells(page.run(), "two")["gemini"])
    judge("two", missing=["90"])  # judged, but without a score
    assert cells(page.run(), "two")["gemini"] == 12.0
    assert cells(page, "one")["gemini"] == 33.5


def test_judge_with_most_scores_is_shown_and_others_can_be_added(write_answers, judge, open_page):
    write_answers("one", "12", "55")
    write_answers("two", "90")
    page = open_page("results")
    judge("one")
    judge("two")
    judge("one", GEMINI | {"model": "other"}, missing=["12"])
    most, other = "gemini m", "gemini other"
    row = cells(page.run(), "one")
    names = [c for c in row.index if c.startswith("gemini ")]
    assert names == ["gemini m", "gemini m interval"]
    assert row[most] == 33.5
    page.choose("columns", [most, other, f"{other} 95%"])
    row = cells(page, "one")
    assert (row[most], row[other], row[f"{other} 95%"]) == (33.5, 55.0, "n = 1, 1 missing")


def test_journal_scores_share_the_gemini_column(write_answers, judge, open_page):
    write_answers("one", "12", "55")
    page = open_page("results").choose("results_journal", True)
    frame = page.dataframe[0].value
    assert (frame.loc[frame["status"] == "journal", "gemini"].dropna() > 0).any()
    judge("one")
    show_intervals(page.run())
    frame = page.dataframe[0].value.set_index("name")
    journal_rows = frame[frame["status"] == "journal"]
    assert journal_rows["gemini"].notna().any()
    assert journal_rows["gemini 95%"].isna().all(), "the journal does not report intervals"
    assert frame.loc["one", "gemini"] == 33.5
    assert frame.loc["one", "gemini 95%"].split(" to ")[0] < "33.5"
