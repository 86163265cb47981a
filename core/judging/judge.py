"""What a judge is: something that looks at one answer, or at two, and gives a verdict.

Knows no service, no ledger and no statistics. A new service is one file with a `Service`.
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
    """A test example with an answer to it; with a second one where two are compared."""

    instruction: str
    input: str
    reference: str
    answer: str
    other: str | None = None

    @property
    def subject(self) -> str:
        """Hash of all that is judged. Equal answers to equal examples are judged once."""
        texts = (self.instruction, self.input, self.reference, self.answer)
        return content_hash(*texts) if self.other is None else content_hash(*texts, self.other)


@dataclass(frozen=True)
class Verdict:
    """What a judge said of an item.

    Args:
        score: 0 to 100; None where the verdict is missing. Of two answers: 100 where the first is
            better, 0 where the other is, 50 where neither.
        reason: the judge's, in a sentence.
        missing: why there is no score, such as `blocked (SAFETY)`.
        raw: the reply as it came.
        tokens_in, tokens_out: as the service counts them.
        seconds: that the request took.
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
    """A language model behind a network."""

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """One reply, as JSON of that schema where the service can be held to it.

        Raises:
            BusyError: asking again later may help.
            RefusedError: it will not help.
        """
        ...


class Judge(Protocol):
    """Gives verdicts. Used from several threads at once."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """All that a verdict depends on besides the item: judge, kind, model, parameters, prompt; no key."""
        ...

    def prompt(self, item: Item) -> str:
        """What the judge reads; empty where it reads the item itself."""
        ...

    def judge(self, item: Item) -> Verdict:
        """A verdict, perhaps a missing one. Raises what `Service.ask` raises."""
        ...


class BusyError(Exception):
    """The service cannot answer now: too many requests a minute, a fault of its own, a broken connection.

    Args:
        reason: for people; holds no key.
        wait: seconds after which it wants to be asked again, where it says so.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RefusedError(UserError):
    """The service will not answer: a wrong key, an unknown model, a quota that is used up for today."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def judge_id(spec: Mapping[str, Any]) -> str:
    """A short name of a judge with its settings, such as `gemini-1f0c9a3b`."""
    return f"{spec['judge']}-{digest(dict(spec))[:8]}"


def verdict_key(spec: Mapping[str, Any], prompt: str, item: Item, repeat: int) -> str:
    """The hash under which a verdict is kept. `repeat` counts from 0 the times that the same is asked."""
    return digest([dict(spec), prompt, item.subject, repeat])
