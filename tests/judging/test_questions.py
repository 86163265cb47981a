"""Prompts, and parsing of replies. Each reply gives a score or the reason why there is none."""

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import UserError
from core.judging.judge import Item, Verdict
from core.judging.order import Kind
from core.judging.prompts import PAIR_TEMPLATE, SCORE_TEMPLATE
from core.judging.questions import Question

ITEM = Item("Name a color.", "a warm one", "Red.", "Orange.")
SCORE = Question("score", SCORE_TEMPLATE)
PAIR = Question("pair", PAIR_TEMPLATE)


def read(text: str) -> Verdict:
    verdict = SCORE.read(text, ITEM)
    assert verdict.raw == text
    assert (verdict.score is None) == bool(verdict.missing)
    return verdict


@pytest.mark.parametrize(
    ("kind", "template", "expected_message"),
    [
        ("score", "Grade {answr}.", r"prompt: unknown placeholder \{answr\}; must be one of \{instruction\}, \{input\}, \{reference\}, \{answer\}$"),
        ("score", "Grade {answer} or {other}.", r"unknown placeholder \{other\}"),
        ("score", "Grade {0} {answer}.", r"unknown placeholder \{0\}"),
        ("score", "Grade it.", r"prompt: must contain the placeholder \{answer\}"),
        ("score", "", r"must contain the placeholder \{answer\}"),
        ("pair", "Compare {answer}.", r"must contain the placeholder \{other\}"),
        ("pair", "Compare {other}.", r"must contain the placeholder \{answer\}"),
    ],
)  # fmt: skip
def test_invalid_template_is_reported(kind: Kind, template: str, expected_message: str) -> None:
    with pytest.raises(UserError, match=expected_message):
        Question(kind, template)


def test_prompt_contains_every_field() -> None:
    filled = SCORE.fill(ITEM)
    assert all(text in filled for text in ("Name a color.", "a warm one", "Red.", "Orange."))
    pair_prompt = PAIR.fill(replace(ITEM, other="Blue."))
    assert pair_prompt.index("Orange.") < pair_prompt.index("Blue.")
    for text in (filled, pair_prompt):
        assert not re.search(r"\{\w+\}", text)


@pytest.mark.parametrize(
    ("template", "key"), [(SCORE_TEMPLATE, "score"), (PAIR_TEMPLATE, "better")]
)
def test_builtin_prompts_ask_for_json(template: str, key: str) -> None:
    assert "JSON object" in template
    assert re.search(rf'\{{"{key}": <.*>, "reason": "<.*>"\}}$', template)


@pytest.mark.parametrize("question", [SCORE, PAIR])
def test_echoed_prompt_is_not_a_verdict(question: Question) -> None:
    item = replace(ITEM, other="Blue.")
    echo = question.fill(item)
    final = '{"score": 85}' if question.kind == "score" else '{"better": "first"}'
    assert question.read(echo, item).score is None
    assert question.read(echo + "\n\n" + final, item).score == (
        85 if question.kind == "score" else 100
    )


def test_braces_that_are_not_placeholders_are_kept() -> None:
    question = Question("score", 'Reply as {"score": 5}, {}, { answer } or {{x y}}: {answer}')
    assert question.fill(ITEM) == 'Reply as {"score": 5}, {}, { answer } or {{x y}}: Orange.'


@given(st.text() | st.sampled_from(["{reference}", "{answer}", "{{input}}", r"\1 \g<0>", "%s {0}"]))
def test_placeholders_in_an_answer_are_not_filled(text: str) -> None:
    question = Question("score", "[{answer}|{reference}|{instruction}]")
    assert question.fill(Item(text, "", "R", text)) == f"[{text or '(none)'}|R|{text or '(none)'}]"


def test_empty_field_is_marked_as_empty() -> None:
    question = Question("score", "{input}/{answer}")
    assert question.fill(Item("i", "", "r", "")) == "(none)/(none)"


READABLE: list[tuple[str, float, str]] = [
    ('{"score": 85, "reason": " close "}', 85, "close"),
    ('{"reason": "close", "score": 85.5}', 85.5, "close"),
    ('{"score": 0}', 0, ""),
    ('{"score": 100, "reason": null}', 100, ""),
    ('{"score": "85"}', 85, ""),
    ('{"score": 85, "reason": 7}', 85, "7"),
    ('{"score": 85, "more": {"score": 3}}', 85, ""),
    ('Sure!\n```json\n{"score": 85, "reason": "a } in it"}\n```\nBye {you}.', 85, "a } in it"),
    ('{"thought": "hm"} {"score": 85} {"done": true}', 85, ""),
    ('{"score": "85/100"}', 85, ""),
    ('{"verdict": {"score": 3}} {"score": 85}', 85, ""),
    ('[{"score": 85}]', 85, ""),
    ('{broken {"score": 85}', 85, ""),
    ("85", 85, ""),
    (" 85.\n", 85, ""),
    ("**85**", 85, ""),
    ("- 85", 85, ""),
    ("I give it 85.", 85, ""),
    ("85.5", 85.5, ""),
    ("85/100", 85, ""),
    ("Score: 85/100", 85, ""),
    ("score = 85 / 100.", 85, ""),
    ("**Score:** 0", 0, ""),
    ('"85"', 85, ""),
    ("[[85]]", 85, ""),
]


@pytest.mark.parametrize(("text", "score", "reason"), READABLE)
def test_score_is_parsed(text: str, score: float, reason: str) -> None:
    verdict = read(text)
    assert (verdict.score, verdict.reason) == (score, reason)


MISSING: list[tuple[str, str]] = [
    ('{"score": 140, "reason": "very good"}', "140 is not a score from 0 to 100"),
    ('{"score": -5}', "-5 is not a score"),
    ('{"score": 100.01}', "100.01 is not a score"),
    ('{"score": NaN}', "unreadable reply"),
    ('{"score": Infinity}', "inf is not a score"),
    ('{"score": 1e999}', "inf is not a score"),
    ('{"score": true}', "True is not a score"),
    ('{"score": null}', "unreadable reply"),
    ('{"score": "good"}', "'good' is not a score"),
    ('{"score": "8/10"}', "'8/10' is not a score"),
    ('{"score": [85]}', "[85] is not a score"),
    ('{"score": {"value": 85, "of": 100}}', "the value is not a score"),
    ('{"score": ' + "9" * 400 + "}", "the value is not a score"),
    ('{"score": ' + "9" * 5000 + "}", "inf is not a score"),
    ("140", "'140' is not a score"),
    ("Score: 101/100", "'101' is not a score"),
    ("-5", "unreadable reply"),
    ("Score: -5", "unreadable reply"),
    ("\u22125", "unreadable reply"),
    (".5", "unreadable reply"),
    ("4/5", "'4/5' is not a score"),
    ("1,000", "unreadable reply"),
    ("85 or 90", "unreadable reply"),
    ('{"score": 85} {"points": 20}', "conflicting verdicts (20, 85)"),
    ("I would rather not give a number.", "unreadable reply"),
    ("", "unreadable reply"),
    ("nan", "unreadable reply"),
    ('{"points": 85}', "unreadable reply"),
    ('{"score": 8', "unreadable reply"),
    ('```json\n{"score": 85', "unreadable reply"),
    ("[85]]}{", "unreadable reply"),
]


@pytest.mark.parametrize(("text", "missing"), MISSING, ids=lambda text: text[:30])
def test_reply_without_a_score_is_missing_and_not_zero(text: str, missing: str) -> None:
    verdict = read(text)
    assert verdict.score is None
    assert verdict.missing
    assert missing in verdict.missing


def test_reason_is_kept_without_a_score() -> None:
    assert read('{"score": 140, "reason": "very good"}').reason == "very good"


@pytest.mark.parametrize("depth", [10, 300, 900, 950, 960, 970, 980, 990, 1000, 100_000])
@pytest.mark.parametrize(
    ("head", "open", "close", "tail"),
    [
        ("", '{"a":', "}", ""),
        ('{"score": ', "[", "]", "}"),
        ('{"score": 85, "reason": ', "[", "]", "}"),
        ('{"score": 85, "reason": ', '{"a":', "}", "}"),
        ('{"better": ', "[", "]", "}"),
    ],
)
def test_deeply_nested_json_does_not_raise(
    head: str, open: str, close: str, tail: str, depth: int
) -> None:
    if depth == 100_000 and open != "[":
        depth = 10_000
    bomb = head + open * depth + "1" + close * depth + tail
    start = time.monotonic()
    verdict = read(bomb)
    assert verdict.score in (None, 85)
    assert PAIR.read(bomb, ITEM).missing == "unreadable reply"
    assert read(bomb[: len(bomb) // 2]).score in (None, 85)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        ('{"better": "first", "reason": "shorter"}', 100, "shorter"),
        ('{"better": "second"}', 0, ""),
        ('{"better": " Tie\\n"}', 50, ""),
        ('I say {"reason": "x"} and {"better": "neither"} and {"better": "FIRST"}.', 100, ""),
    ],
)
def test_comparison_is_parsed(text: str, score: float, reason: str) -> None:
    assert PAIR.read(text, ITEM) == Verdict(score, reason, raw=text)


@pytest.mark.parametrize(
    "text",
    ["", "the former", "85", '{"better": "third"}', '{"better": null}', '{"score": 85}', "{"],
)
def test_unreadable_comparison_is_missing(text: str) -> None:
    assert PAIR.read(text, ITEM) == Verdict(None, missing="unreadable reply", raw=text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["score", "reason", "better"]) | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
REPLIES = (
    st.text()
    | JSON.map(json.dumps)
    | st.tuples(st.text(), JSON.map(json.dumps), st.text()).map("".join)
    | st.text(alphabet='{}[]":,scoreian0189.-+ /\n')
    | st.floats().map(lambda n: f'{{"score": {n}}}')
)


@given(REPLIES)
@example('{"score": "\ud800"}')
@example("\u0968\u0967")
@example("\x00")
def test_any_text_gives_a_score_or_a_missing_verdict(text: str) -> None:
    for question in (SCORE, PAIR):
        verdict = question.read(text, ITEM)
        assert isinstance(verdict.reason, str)
        if verdict.score is None:
            assert verdict.missing
        else:
            assert verdict.missing is None
            assert type(verdict.score) is float
            assert 0 <= verdict.score <= 100


@given(st.floats(0, 100), st.text(), st.text(alphabet="ab \n`"), st.text(alphabet="cd \n`"))
def test_requested_json_is_parsed_exactly(
    score: float, reason: str, before: str, after: str
) -> None:
    value: dict[str, Any] = {"score": score, "reason": reason}
    verdict = read(f"{before}{json.dumps(value)}{after}")
    assert (verdict.score, verdict.reason) == (score, reason.strip())
