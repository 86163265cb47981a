"""The judge without a network, against sacrebleu's chrF and a subsequence counted the slow way."""

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


def judged(answer: str, reference: str, other: str | None = None) -> Verdict:
    return ReferenceJudge("score" if other is None else "pair").judge(
        Item("Do it.", "", reference, answer, other)
    )


def longest_common(first: list[str], second: list[str]) -> int:
    """The table of the textbook."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            same = lengths[i][j] + 1 if a == b else 0
            lengths[i + 1][j + 1] = max(same, lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("C++", "C#"), ("-5", "5"), ("1.5", "1 5"), ("+", "-"), ("", "?"), ("50 %", "50")],
)
def test_signs_that_matter(answer: str, reference: str) -> None:
    assert measures(answer, reference)["exact"] == 0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Red.", "Red."),
        ("  red", "RED!"),
        ("It's a   well-known\nfact", "it s a well known fact."),
        ("STRASSE", "straße"),
        ("\ufb01ne \uff21", "fine a"),  # a ligature, a wide letter
        ("snake_case", "snake case"),
        ("", ""),
    ],
)
def test_equal_texts_score_100(answer: str, reference: str) -> None:
    assert measures(answer, reference) == {"exact": 100, "chrf": 100, "rouge_l": 100}
    verdict = judged(answer, reference)
    assert (verdict.score, verdict.reason) == (100, "ROUGE-L 100, exact match 100")


@given(st.text())
def test_every_text_equals_itself(text: str) -> None:
    assert judged(text.upper().lower(), text.upper().lower()).score == 100
    assert normalized(normalized(text)) == normalized(text)


@pytest.mark.parametrize(("answer", "reference"), PAIRS)
def test_the_score_is_sacrebleus(answer: str, reference: str) -> None:
    expected = CHRF().sentence_score(answer.strip(), [reference]).score
    assert 0 <= expected < 100
    verdict = judged(answer, reference)
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
def test_rouge_l_by_hand(answer: str, reference: str, rouge_l: float) -> None:
    assert measures(answer, reference)["rouge_l"] == pytest.approx(rouge_l, abs=1e-4)


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))  # fmt: skip
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(
    answer: list[str], reference: list[str]
) -> None:
    found = measures(" ".join(answer), " ".join(reference))["rouge_l"]
    if answer == reference:
        assert found == 100
        return
    common = longest_common(answer, reference)
    precision, recall = common / max(1, len(answer)), common / max(1, len(reference))
    expected = 200 * precision * recall / (precision + recall) if common else 0.0
    assert found == pytest.approx(expected, abs=1e-4)


@given(st.text(), st.text())
def test_any_two_texts_have_a_score(answer: str, reference: str) -> None:
    verdict = judged(answer, reference)
    assert verdict.score is not None
    assert 0 <= verdict.score <= 100
    assert verdict.missing is None
    assert judged(answer, reference) == verdict


def test_an_empty_answer_is_no_missing_verdict() -> None:
    verdict = judged("", "Red.")
    assert (verdict.score, verdict.missing) == (0, None)


def test_of_two_answers_the_closer_one_is_better() -> None:
    near, far, reference = "the cat sat", "a dog", "The cat sat down."
    assert judged(near, reference, far).score == 100
    assert judged(far, reference, near).score == 0
    assert judged(near, reference, near).score == 50
    assert judged("Red", "red.", "RED!").score == 50
    verdict = judged(near, reference, far)
    first, other = json.loads(verdict.raw)
    assert verdict.reason == f"chrF {first['chrf']:.0f} and {other['chrf']:.0f}"
    assert (first, other) == (measures(near, reference), measures(far, reference))


@given(st.text(), st.text(), st.text())
def test_the_other_order_is_the_opposite(first: str, other: str, reference: str) -> None:
    forth, back = judged(first, reference, other).score, judged(other, reference, first).score
    assert forth is not None
    assert back == 100 - forth


def test_it_reads_no_prompt_and_names_its_version() -> None:
    score, pair = ReferenceJudge("score"), ReferenceJudge("pair")
    assert score.prompt(Item("i", "", "r", "a")) == ""
    assert score.spec["model"].startswith("chrF 2.")
    assert score.spec | {"kind": "pair"} == pair.spec != score.spec
