"""The questions put to a judge model: template, JSON schema of the reply, and parsing of the verdict.

Does not know any service.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.judging.judge import Item, Verdict
from core.judging.order import Kind
from core.judging.replies import read_verdict

REASON_SCHEMA = {"type": "string", "description": "one short sentence"}
SCORE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
        "reason": REASON_SCHEMA,
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}
PAIR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "better": {"type": "string", "enum": ["first", "second", "tie"]},
        "reason": REASON_SCHEMA,
    },
    "required": ["better", "reason"],
    "additionalProperties": False,
}
PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Question:
    """A template with places for an item's fields, and the shape of the reply.

    Raises:
        UserError: the template has a place that no item fills, or none for an answer.
    """

    kind: Kind
    template: str

    def __post_init__(self) -> None:
        required = ["answer"] if self.kind == "score" else ["answer", "other"]
        allowed = ["instruction", "input", "reference", *required]
        placeholders = PLACEHOLDER.findall(self.template)
        for name in placeholders:
            if name not in allowed:
                names = ", ".join(f"{{{n}}}" for n in allowed)
                raise UserError(f"prompt: {{{name}}} is no field of an answer; it should be one of {names}")  # fmt: skip
        for name in required:
            if name not in placeholders:
                raise UserError(f"prompt: it should have a place for {{{name}}}")

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of the reply."""
        return SCORE_SCHEMA if self.kind == "score" else PAIR_SCHEMA

    def fill(self, item: Item) -> str:
        """The prompt; what stands in an item's fields is not looked at for places again."""
        values = {name: value or "(none)" for name, value in vars(item).items()}
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.template)

    def read(
        self, text: str, item: Item, cut: str | None = None, from_reasoning: bool = False
    ) -> Verdict:
        """Return the verdict of a reply; missing if it has none. See `replies` for the rules.

        Args:
            item: the judged item; the reply may quote its texts.
            cut: why the reply is incomplete, or None if it is complete.
            from_reasoning: whether the text is the model's reasoning.
        """
        judged = [value for value in vars(item).values() if value]
        return read_verdict(text, self.kind, judged, cut, from_reasoning)
