"""Cost estimates: arithmetic and wording. Price table: storage and fallback to the built-in prices."""

from pathlib import Path

import pytest

from core.errors import UserError
from core.judging import prices
from core.judging.judge import Item
from core.judging.limits import TYPICAL_REPLY_TOKENS
from core.judging.prices import (
    DEFAULT_PRICES,
    PRICES_FILE,
    Estimate,
    estimate,
    load_prices,
    save_prices,
)
from core.judging.scorer import Task


def tasks(*prompt_tokens: int) -> list[Task]:
    item = Item("i", "", "r", "a")
    return [Task(str(i), item, 0, n + TYPICAL_REPLY_TOKENS) for i, n in enumerate(prompt_tokens)]


def test_input_and_output_tokens_have_separate_prices() -> None:
    requested = tasks(1000, 2000, 3000)
    result = estimate(requested, requested[1:], "m", {"m": (2.0, 50.0), "n": (1.0, 1.0)})
    assert (result.requested, result.requests, result.tokens) == (
        3,
        2,
        5000 + 2 * TYPICAL_REPLY_TOKENS,
    )
    assert result.dollars == pytest.approx((5000 * 2 + 2 * TYPICAL_REPLY_TOKENS * 50) / 1e6)


def test_cached_verdicts_cost_nothing() -> None:
    assert estimate(tasks(1000), [], "m", {"m": (2.0, 50.0)}) == Estimate(1, 0, 0, 0.0)


def test_total_is_unknown_if_a_price_is_missing() -> None:
    assert estimate(tasks(1000), tasks(1000), "m", {}).dollars is None


def test_judge_without_prompts_does_not_use_tokens() -> None:
    result = estimate(tasks(0, 0), tasks(0, 0), "m", {"m": (2.0, 50.0)})
    assert (result.requests, result.tokens, result.dollars) == (2, 0, 0)


@pytest.mark.parametrize(
    ("cost_estimate", "expected_text"),
    [
        (Estimate(1100, 0, 0, 0.0), "Already scored: 1,100 verdicts cached."),
        (Estimate(156, 0, 0, 0.0, shared=440), "Already scored: 440 answers share 156 cached verdicts."),
        (Estimate(1100, 1100, 250_000, 1.234), "1,100 verdicts: 1,100 requests, about 250,000 tokens, about $1.23. Reasoning tokens are not included."),
        (Estimate(1100, 1100, 250_000, 1.234, measured=True), "1,100 verdicts: 1,100 requests, about 250,000 tokens, about $1.23. Assumes replies as long as this judge's earlier ones."),
        (Estimate(1100, 50, 9000, None), "1,100 verdicts (1,050 cached): 50 requests, about 9,000 tokens, price unknown."),
        (Estimate(110, 110, 0, None), "110 verdicts: 110 to compute, at no cost."),
        (Estimate(1, 1, 100, None), "1 verdict: 1 request, about 100 tokens, price unknown."),
    ],
)  # fmt: skip
def test_estimate_is_described_in_a_sentence(cost_estimate: Estimate, expected_text: str) -> None:
    assert cost_estimate.sentence() == expected_text


def test_estimate_counts_base_answers_and_shared_verdicts() -> None:
    assert not Estimate(5, 0, 0, None).is_needed
    assert Estimate(5, 0, 0, None, unanswered=3).is_needed
    cost = Estimate(5, 2, 0, None, shared=6, unanswered=3)
    assert cost.is_needed
    assert cost.sentence() == (
        "5 verdicts (3 cached): 2 to compute, at no cost. "
        "The 6 answers include duplicates, which share a verdict. "
        "Not included: the pretrained base model must answer 3 examples first."
    )


def test_prices_are_saved_in_the_runs_directory(tmp_path: Path) -> None:
    assert load_prices(tmp_path) == DEFAULT_PRICES
    save_prices(tmp_path, {"m": (0.5, 1.5)})
    save_prices(tmp_path, {"größer": (1, 2.5)})
    assert load_prices(tmp_path) == {"größer": (1.0, 2.5)}
    assert [path.name for path in tmp_path.iterdir()] == [PRICES_FILE]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"m": 3}', b'{"m": [1]}', b'{"m": [1, "x"]}', b'{"m": [1, null]}', b"[" * 100_000, b'{"m": [1, 1' + b"0" * 400 + b"]}"],
    ids=range(12),
)  # fmt: skip
def test_damaged_file_falls_back_to_the_built_in_prices(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PRICES_FILE).write_bytes(content)
    loaded_prices = load_prices(tmp_path)
    assert loaded_prices == DEFAULT_PRICES
    loaded_prices.clear()
    assert prices.DEFAULT_PRICES


def test_save_failure_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write to"):
        save_prices(tmp_path / "none", DEFAULT_PRICES)
