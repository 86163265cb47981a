"""What a scoring will cost: the arithmetic, the sentence, and prices that are kept."""

from pathlib import Path

import pytest

from core.errors import UserError
from core.judging import prices
from core.judging.judge import Item
from core.judging.limits import TYPICAL_REPLY_TOKENS
from core.judging.prices import DEFAULT_PRICES, PRICES_FILE, Estimate, estimate, load, save
from core.judging.scorer import Task


def tasks(*prompt_tokens: int) -> list[Task]:
    item = Item("i", "", "r", "a")
    return [Task(str(i), item, 0, n + TYPICAL_REPLY_TOKENS) for i, n in enumerate(prompt_tokens)]


def test_what_is_read_and_what_is_written_have_their_prices() -> None:
    wanted = tasks(1000, 2000, 3000)
    found = estimate(wanted, wanted[1:], "m", {"m": (2.0, 50.0), "n": (1.0, 1.0)})
    assert (found.wanted, found.requests, found.tokens) == (3, 2, 5000 + 2 * TYPICAL_REPLY_TOKENS)
    assert found.dollars == pytest.approx((5000 * 2 + 2 * TYPICAL_REPLY_TOKENS * 50) / 1e6)


def test_what_is_there_already_costs_nothing() -> None:
    assert estimate(tasks(1000), [], "m", {"m": (2.0, 50.0)}) == Estimate(1, 0, 0, 0.0)


def test_without_a_price_there_is_no_sum() -> None:
    assert estimate(tasks(1000), tasks(1000), "m", {}).dollars is None


def test_a_judge_without_prompts_reads_no_tokens() -> None:
    found = estimate(tasks(0, 0), tasks(0, 0), "m", {"m": (2.0, 50.0)})
    assert (found.requests, found.tokens, found.dollars) == (2, 0, 0)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Estimate(1100, 0, 0, 0.0), "All 1,100 verdicts are there already: nothing is asked."),
        (Estimate(1100, 1100, 250_000, 1.234), "1,100 verdicts: 1,100 requests, about 250,000 tokens, about $1.23; what a model thinks before it answers comes on top."),
        (Estimate(1100, 50, 9000, None), "1,100 verdicts, 1,050 are there already: 50 requests, about 9,000 tokens, price unknown."),
        (Estimate(110, 110, 0, None), "110 verdicts: 110 to make, at no cost."),
    ],
)  # fmt: skip
def test_the_sentence(found: Estimate, said: str) -> None:
    assert found.sentence() == said


def test_prices_are_kept_beside_the_runs(tmp_path: Path) -> None:
    assert load(tmp_path) == DEFAULT_PRICES
    save(tmp_path, {"m": (0.5, 1.5)})
    save(tmp_path, {"größer": (1, 2.5)})
    assert load(tmp_path) == {"größer": (1.0, 2.5)}
    assert [path.name for path in tmp_path.iterdir()] == [PRICES_FILE]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"m": 3}', b'{"m": [1]}', b'{"m": [1, "x"]}', b'{"m": [1, null]}', b"[" * 100_000, b'{"m": [1, 1' + b"0" * 400 + b"]}"],
    ids=range(12),
)  # fmt: skip
def test_a_damaged_file_gives_the_built_in_prices(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PRICES_FILE).write_bytes(content)
    found = load(tmp_path)
    assert found == DEFAULT_PRICES
    found.clear()
    assert prices.DEFAULT_PRICES


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written to"):
        save(tmp_path / "none", DEFAULT_PRICES)
