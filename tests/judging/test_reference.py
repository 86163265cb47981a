"""The reference judge, compared with sacrebleu's chrF and a textbook longest common subsequence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import CHRF  # type: ignore[attr-defined]

from core.judging.judge import Item, Verdict
from core.judging.reference import ReferenceJudge, measures, normalized

PAIRS = [
    ("The sun is hot.", "The sun is very hot."),
    ("A banana", "Red."),
    ("1, 2, 3", "1 2 4"),
    ("größer als ein Haus", "Größer als Häuser"),
    ("cat " * 30, "cat"),
    ("日本語", "日本"),
]


def judge_answer(answer: str, reference: str, other: str | None = None) -> Verdict:
    return ReferenceJudge("score" if other is None else "pair").judge(
        Item("Do it.", "", reference, answer, other)
    )


def longest_common(first: list[str], second: list[str]) -> int:
    """Return the length of the longest common subsequence, found by dynamic programming."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            diagonal = lengths[i][j] + 1 if a == b else 0
            lengths[i + 1][j + 1] = max(diagonal, lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("C++", "C#"), ("-5", "5"), ("1.5", "1 5"), ("+", "-"), ("", "?"), ("50 %", "50")],
)
def test_significant_characters_prevent_an_exact_match(answer: str, reference: str) -> None:
    assert measures(answer, reference)["exact"] == 0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Red.", "Red."),
        ("  red", "RED!"),
        ("It's a   well-known\nfact", "it s a well known fact."),
        ("STRASSE", "straße"),
        ("\ufb01ne \uff21", "fine a"),  # a ligature and a full-width letter
        ("snake_case", "snake case"),
        ("", ""),
    ],
)
def test_equal_texts_score_100(answer: str, reference: str) -> None:
    assert measures(answer, reference) == {"exact": 100, "chrf": 100, "rouge_l": 100}
    verdict = judge_answer(answer, reference)
    assert (verdict.score, verdict.reason) == (100, "ROUGE-L 100, exact match 100")


@given(st.text())
def test_every_text_scores_100_against_itself(text: str) -> None:
    assert judge_answer(text.upper().lower(), text.upper().lower()).score == 100
    assert normalized(normalized(text)) == normalized(text)


@pytest.mark.parametrize(("answer", "reference"), PAIRS)
def test_score_matches_sacrebleu(answer: str, reference: str) -> None:
    expected = CHRF().sentence_score(answer.strip(), [reference]).score
    assert 0 <= expected < 100
    verdict = judge_answer(answer, reference)
    assert verdict.score == pytest.approx(expected, abs=1e-4)
    assert verdict.reason.endswith(", exact match 0")
    assert json.loads(verdict.raw)["chrf"] == verdict.score


@pytest.mark.parametrize(
    ("answer", "reference", "rouge_l"),
    [
        ("the cat sat", "the cat sat down there", 200 * 3 / 8),
        ("the dog sat down", "the cat sat", 200 * 2 / 7),
        ("b a", "a b", 50),
        ("red", "blue", 0),
        ("", "blue", 0),
        ("red", "", 0),
    ],
)
def test_rouge_l_matches_a_hand_calculation(answer: str, reference: str, rouge_l: float) -> None:
    assert measures(answer, reference)["rouge_l"] == pytest.approx(rouge_l, abs=1e-4)


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))  # fmt: skip
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(
    answer: list[str], reference: list[str]
) -> None:
    result = measures(" ".join(answer), " ".join(reference))["rouge_l"]
    if answer == reference:
        assert result == 100
        return
    common = longest_common(answer, reference)
    precision, recall = common / max(1, len(answer)), common / max(1, len(reference))
    expected = 200 * precision * recall / (precision + recall) if common else 0.0
    assert result == pytest.approx(expected, abs=1e-4)


@given(st.text(), st.text())
def test_any_two_texts_have_a_score(answer: str, reference: str) -> None:
    verdict = judge_answer(answer, reference)
    assert verdict.score is not None
    assert 0 <= verdict.score <= 100
    assert verdict.missing is None
    assert judge_answer(answer, reference) == verdict


def test_empty_answer_scores_zero() -> None:
    verdict = judge_answer("", "Red.")
    assert (verdict.score, verdict.missing) == (0, None)


def test_closer_answer_is_preferred() -> None:
    near_answer, far_answer, reference = "the cat sat", "a dog", "The cat sat down."
    assert judge_answer(near_answer, reference, far_answer).score == 100
    assert judge_answer(far_answer, reference, near_answer).score == 0
    assert judge_answer(near_answer, reference, near_answer).score == 50
    assert judge_answer("Red", "red.", "RED!").score == 50
    verdict = judge_answer(near_answer, reference, far_answer)
    first, second = json.loads(verdict.raw)
    assert verdict.reason == f"chrF {first['chrf']:.0f} and {second['chrf']:.0f}"
    assert (first, second) == (measures(near_answer, reference), measures(far_answer, reference))


@given(st.text(), st.text(), st.text())
def test_swapped_order_gives_the_opposite_score(first: str, other: str, reference: str) -> None:
    forward_score, backward_score = (
        judge_answer(first, reference, other).score,
        judge_answer(other, reference, first).score,
    )
    assert forward_score is not None
    assert backward_score == 100 - forward_score


def test_reference_judge_has_no_prompt_and_names_its_version() -> None:
    score_judge, pair_judge = ReferenceJudge("score"), ReferenceJudge("pair")
    assert score_judge.prompt(Item("i", "", "r", "a")) == ""
    assert score_judge.spec["model"].startswith("chrF 2.")
    assert score_judge.spec | {"kind": "pair"} == pair_judge.spec != score_judge.spec
