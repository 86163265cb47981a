"""Interfaces and value types for judges, which give verdicts on individual answers or pairs of answers.

This module does not depend on any service, ledger or statistics. To add a service, implement `Service`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from core.data.content_hash import content_hash
from core.errors import UserError


@dataclass(frozen=True)
class Item:
    """A test example with one answer to score, or with two answers to compare."""

    instruction: str
    input: str
    reference: str
    answer: str
    other: str | None = None

    @property
    def subject(self) -> str:
        """Hash of all of the text. Identical answers to identical examples share a verdict."""
        texts = (self.instruction, self.input, self.reference, self.answer)
        return content_hash(*texts) if self.other is None else content_hash(*texts, self.other)


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on an item.

    Args:
        score: 0 to 100; None if the verdict is missing. For a pair: 100 if the first answer is better, 0 if the second
            is better, 50 for a tie.
        reason: the judge's reason, usually one sentence.
        missing: why there is no score, such as `blocked (SAFETY)`.
        raw: the unparsed reply.
        tokens_in, tokens_out: token counts reported by the service.
        seconds: duration of the request.
    """

    score: float | None
    reason: str = ""
    missing: str | None = None
    raw: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Reply:
    """A reply from a service.

    Args:
        text: the reply text, or the whole response as JSON if there is none.
        missing: why there is no text.
        tokens_in, tokens_out: token counts reported by the service.
        cut: why the text is incomplete, such as `cut off by its limit of 256 tokens`.
        from_reasoning: whether the text is the model's reasoning, used because its answer was empty.
    """

    text: str
    missing: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cut: str | None = None
    from_reasoning: bool = False


class Service(Protocol):
    """A language model accessed over a network."""

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """Return one reply, as JSON that follows this schema if the service supports schemas.

        Raises:
            BusyError: the request failed temporarily and may be retried.
            RefusedError: the request failed permanently.
        """
        ...


class Judge(Protocol):
    """Gives verdicts on items. Must be thread-safe."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """Everything other than the item that affects a verdict, such as the model and the prompt.

        Must not contain the API key.
        """
        ...

    def prompt(self, item: Item) -> str:
        """Return the prompt for an item, or an empty string if the judge does not use prompts."""
        ...

    def judge(self, item: Item) -> Verdict:
        """Return the verdict on an item; its score may be missing. Raises BusyError or RefusedError."""
        ...


class BusyError(Exception):
    """A temporary failure of a service, such as a rate limit, a server error or a lost connection.

    Args:
        reason: message for users; must not contain API keys.
        wait: retry delay in seconds, if the service asked for one.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RefusedError(UserError):
    """A permanent failure of a service, such as an invalid key, an unknown model or an exhausted daily quota."""


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value as a hex digest."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def judge_id(spec: Mapping[str, Any]) -> str:
    """Return a short name for a judge with these settings, such as `gemini-1f0c9a3b`."""
    return f"{spec['judge']}-{digest(dict(spec))[:8]}"


def verdict_key(spec: Mapping[str, Any], prompt: str, item: Item, repeat: int) -> str:
    """Return the cache key for a verdict. `repeat` counts requests for the same item, starting at 0."""
    return digest([dict(spec), prompt, item.subject, repeat])
