"""Prompts with the answers of several runs: differences, wins and losses, filters and order."""

import pandas as pd
import pytest

from core.views import comparison
from core.views.comparison import DATASET_ORDER, MOST_DIFFERENT, SCORE_DIFFERENCE

ANSWERS = {
    "Say red.": ("red", "Red.", "red"),
    "Say blue.": ("blue", "blue", "a pale blue"),
    "Say green.": ("green", "green", "grey"),
    "Say pink.": ("pink", "purple", "pink"),
    "Say gold.": ("gold", "silver", "bronze"),
}
"""Reference and the answers by runs a and b."""


@pytest.fixture
def answers():
    rows = [
        {"run": run, "item": item, "instruction": instruction, "input": "", "reference": reference,
         "answer": text, "exact": text.lower().strip(".") == reference}
        for item, (instruction, (reference, *texts)) in enumerate(ANSWERS.items(), 10)
        for run, text in zip("ab", texts, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def items(prompts):
    return [prompt.item for prompt in prompts]


def test_record_counts_wins_losses_and_ties(answers):
    record = comparison.record(comparison.prompts(answers), "a", "b")
    assert record == comparison.Record(wins=2, losses=1, ties=2)
    assert record.sentence("a", "b", "exact match") == (
        "a wins 2, loses 1 and ties 2 against b on 5 prompts (exact match)."
    )


def test_record_without_common_scores_is_a_sentence(answers):
    prompts = comparison.prompts(answers, {})
    assert comparison.record(prompts, "a", "b") == comparison.Record(0, 0, 0)
    assert "no scored prompts in common" in comparison.Record(0, 0, 0).sentence("a", "b", "chrF")


def test_judge_scores_replace_exact_matches(answers):
    scores = {("a", ("Say red.", "", "red")): 40.0, ("b", ("Say red.", "", "red")): 70.0}
    prompts = comparison.prompts(answers, scores)
    assert prompts[0].gap("a", "b") == -30
    assert prompts[1].gap("a", "b") is None
    assert items(comparison.matching(prompts, "B scores higher", "a", "b")) == [10]
    assert items(comparison.matching(prompts, "A scores higher", "a", "b")) == []


def test_rounding_errors_are_ties(answers):
    scores = {("a", ("Say red.", "", "red")): 0.1 + 0.2, ("b", ("Say red.", "", "red")): 0.3}
    assert comparison.record(comparison.prompts(answers, scores), "a", "b").ties == 1


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("All prompts", [10, 11, 12, 13, 14]),
        ("A right, B wrong", [11, 12]),
        ("B right, A wrong", [13]),
        ("Both wrong", [14]),
        ("A scores higher", [11, 12]),
        ("B scores higher", [13]),
    ],
)
def test_filter_compares_two_runs(answers, filter, expected):
    prompts = comparison.prompts(answers)
    assert items(comparison.matching(prompts, filter, "a", "b")) == expected


def test_filter_omits_prompts_that_one_run_did_not_answer(answers):
    partial = answers[(answers["run"] == "a") | (answers["item"] != 12)]
    prompts = comparison.prompts(partial)
    assert items(prompts)[-1] == 12, "prompts answered by most runs come first"
    assert items(comparison.matching(prompts, "A right, B wrong", "a", "b")) == [11]
    assert 12 in items(comparison.matching(prompts, "All prompts", "a", "b"))


def test_prompts_are_sorted_by_difference_between_answers(answers):
    prompts = comparison.arranged(comparison.prompts(answers), MOST_DIFFERENT, "a", "b")
    # The only word differs in 12, 13 and 14, two of three words are added in 11, and only punctuation differs in 10.
    assert items(prompts) == [12, 13, 14, 11, 10]
    assert [prompt.difference for prompt in prompts] == [1, 1, 1, 0.5, 0]


def test_a_single_run_is_compared_with_the_reference(answers):
    prompts = comparison.prompts(answers[answers["run"] == "b"])
    assert items(comparison.arranged(prompts, MOST_DIFFERENT, "b", "b"))[:2] == [12, 14]


def test_prompts_are_sorted_by_score_difference(answers):
    scores = {
        (run, (instruction, "", texts[0])): {"a": 50.0, "b": 50.0 + item}[run]
        for item, (instruction, texts) in enumerate(ANSWERS.items())
        for run in "ab"
    }
    prompts = comparison.prompts(answers, scores)
    assert items(comparison.arranged(prompts, SCORE_DIFFERENCE, "a", "b")) == [14, 13, 12, 11, 10]
    shuffled = comparison.arranged(prompts, SCORE_DIFFERENCE, "a", "b")
    assert items(comparison.arranged(shuffled, DATASET_ORDER, "a", "b")) == [10, 11, 12, 13, 14]


def test_prompt_id_distinguishes_prompts_at_the_same_index(answers):
    other = answers.assign(instruction="Another data set.")
    prompts = comparison.prompts(pd.concat([answers, other]))
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert prompts[0].id.startswith("10-")
