"""Cost estimates for scoring jobs (requests, tokens, US dollars), and the price table, which users can edit.

The built-in prices may be out of date.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.judging.limits import TYPICAL_REPLY_TOKENS
from core.judging.scorer import Task

PRICES_FILE = "prices.json"
DEFAULT_PRICES: dict[str, tuple[float, float]] = {
    "gemini-2.5-flash": (0.30, 2.50),
    "gemini-2.5-flash-lite": (0.10, 0.40),
    "gemini-2.5-pro": (1.25, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
}
"""US dollars per million input and output tokens, by model."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a scoring job.

    Args:
        requested: total number of verdicts.
        requests: number of verdicts that are not cached.
        tokens: total number of tokens in the requests and their replies.
        dollars: cost in US dollars; None if the price is unknown.
        measured: whether the assumed reply length is the mean over this judge's earlier replies, including reasoning.
        shared: total number of answers if some are identical and share a verdict, otherwise 0.
        unanswered: number of examples that the base models must answer before scoring.
    """

    requested: int
    requests: int
    tokens: int
    dollars: float | None
    measured: bool = False
    shared: int = 0
    unanswered: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to score."""
        return bool(self.requests or self.unanswered)

    def sentence(self) -> str:
        """Return the estimate in words."""
        text = self._cost_text()
        if self.shared and self.requests:
            text += f" The {self.shared:,} answers include duplicates, which share a verdict."
        if self.unanswered:
            examples = _counted(self.unanswered, "example")
            text += f" Not included: the pretrained base model must answer {examples} first."
        return text

    def _cost_text(self) -> str:
        if not self.requested:
            return "Nothing to score."
        verdicts = _counted(self.requested, "verdict")
        if not self.requests:
            if self.shared:
                verdicts = _counted(self.requested, "cached verdict")
                return f"Already scored: {self.shared:,} answers share {verdicts}."
            return f"Already scored: {verdicts} cached."
        cached = self.requested - self.requests
        text = verdicts + (f" ({cached:,} cached)" if cached else "")
        if not self.tokens:
            return f"{text}: {self.requests:,} to compute, at no cost."
        price = "price unknown" if self.dollars is None else f"about ${self.dollars:.2f}"
        price = "less than $0.01" if self.dollars is not None and self.dollars < 0.005 else price
        note = " Reasoning tokens are not included."
        note = " Assumes replies as long as this judge's earlier ones." if self.measured else note
        note = "" if self.dollars is None else note
        requests = _counted(self.requests, "request")
        return f"{text}: {requests}, about {self.tokens:,} tokens, {price}.{note}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def estimate(
    requested: Sequence[Task],
    remaining: Sequence[Task],
    model: str,
    prices: Mapping[str, tuple[float, float]],
    reply_tokens: float | None = None,
) -> Estimate:
    """Estimate the cost of the remaining tasks. A judge that does not use prompts costs nothing.

    Args:
        requested: all tasks of the scoring job.
        remaining: the tasks that have no cached verdict.
        reply_tokens: mean length of the judge's earlier replies; None if there are none.
    """
    prompted = [task for task in remaining if task.tokens > TYPICAL_REPLY_TOKENS]
    input_tokens = sum(task.tokens - TYPICAL_REPLY_TOKENS for task in prompted)
    output_tokens = round((reply_tokens or TYPICAL_REPLY_TOKENS) * len(prompted))
    price = prices.get(model)
    dollars = None if price is None else (price[0] * input_tokens + price[1] * output_tokens) / 1e6
    return Estimate(
        len(requested), len(remaining), input_tokens + output_tokens, dollars, bool(reply_tokens)
    )


def load_prices(runs_dir: Path) -> dict[str, tuple[float, float]]:
    """Return the prices stored in `runs_dir`, or the built-in ones if there is no valid file."""
    try:
        stored_prices = json.loads((runs_dir / PRICES_FILE).read_text(encoding="utf-8"))
        return {
            str(model): (float(input_price), float(output_price))
            for model, (input_price, output_price) in stored_prices.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return dict(DEFAULT_PRICES)


def save_prices(runs_dir: Path, prices: Mapping[str, tuple[float, float]]) -> None:
    """Store prices in `runs_dir`. Raises UserError if the file cannot be written."""
    partial = runs_dir / f"{PRICES_FILE}.partial"
    try:
        partial.write_text(json.dumps(prices, indent=2), encoding="utf-8")
        partial.replace(runs_dir / PRICES_FILE)
    except OSError as error:
        raise UserError(f"Cannot write to {partial}: {error}") from None
