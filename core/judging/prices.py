"""What a scoring will cost: requests, tokens and money, from a table of prices that a user may edit.

The built-in prices are a start, not a promise: services change theirs.
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
"""US dollars a million tokens, read and written."""


@dataclass(frozen=True)
class Estimate:
    """What a scoring would request, and what that costs.

    Args:
        requested: verdicts in total.
        requests: verdicts that are not stored yet.
        tokens: of the requests and their replies.
        dollars: None if the price is unknown.
        measured: whether the length of replies is the mean of this judge's earlier ones, thoughts included.
        shared: answers of which some are equal and share a verdict; 0 if none are.
        unanswered: examples that the pretrained base has to answer first.
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
        """Whether a scoring would do anything."""
        return bool(self.requests or self.unanswered)

    def sentence(self) -> str:
        """Return the estimate in words."""
        text = self._cost()
        if self.unanswered:
            text += f" The pretrained base has to answer {self.unanswered:,} examples first; they come on top."
        if self.shared:
            text += f" Of {self.shared:,} answers, equal ones share a verdict."
        return text

    def _cost(self) -> str:
        if not self.requests:
            return f"All {self.requested:,} verdicts are there already: nothing is asked."
        stored = self.requested - self.requests
        text = f"{self.requested:,} verdicts" + (
            f", {stored:,} are there already" if stored else ""
        )
        if not self.tokens:
            return f"{text}: {self.requests:,} to make, at no cost."
        price = "price unknown" if self.dollars is None else f"about ${self.dollars:.2f}"
        price = "less than $0.01" if self.dollars is not None and self.dollars < 0.005 else price
        suffix = "; what a model thinks before it answers comes on top"
        suffix = ", with replies as long as its own so far" if self.measured else suffix
        suffix = "" if self.dollars is None else suffix
        return f"{text}: {self.requests:,} requests, about {self.tokens:,} tokens, {price}{suffix}."


def estimate(
    requested: Sequence[Task],
    remaining: Sequence[Task],
    model: str,
    prices: Mapping[str, tuple[float, float]],
    reply_tokens: float | None = None,
) -> Estimate:
    """Cost of the tasks that are left, of those wanted. A judge that reads no prompt costs nothing.

    Args:
        reply_tokens: mean of the judge's replies so far, where there are any.
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
    """The prices kept beside the runs, or the built-in ones where there are none that can be read."""
    try:
        stored_prices = json.loads((runs_dir / PRICES_FILE).read_text(encoding="utf-8"))
        return {
            str(model): (float(input_price), float(output_price))
            for model, (input_price, output_price) in stored_prices.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return dict(DEFAULT_PRICES)


def save_prices(runs_dir: Path, prices: Mapping[str, tuple[float, float]]) -> None:
    """Keep prices for next time. Raises UserError where they cannot be written."""
    partial = runs_dir / f"{PRICES_FILE}.partial"
    try:
        partial.write_text(json.dumps(prices, indent=2), encoding="utf-8")
        partial.replace(runs_dir / PRICES_FILE)
    except OSError as error:
        raise UserError(f"{partial} cannot be written to ({error})") from None
