"""Questions for a judge model: the prompt template, the JSON schema for replies, and verdict parsing.

This module does not depend on any service.
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
    """A prompt template with placeholders for the fields of an item, and the expected form of the reply.

    Raises:
        UserError: the template has an unknown placeholder, or lacks the placeholder for an answer.
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
                raise UserError(f"prompt: unknown placeholder {{{name}}}; must be one of {names}")
        for name in required:
            if name not in placeholders:
                raise UserError(f"prompt: must contain the placeholder {{{name}}}")

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema for the reply."""
        return SCORE_SCHEMA if self.kind == "score" else PAIR_SCHEMA

    def fill(self, item: Item) -> str:
        """Return the prompt for an item. Text in the item that looks like a placeholder is not replaced."""
        values = {name: value or "(none)" for name, value in vars(item).items()}
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.template)

    def read(
        self, text: str, item: Item, cut: str | None = None, from_reasoning: bool = False
    ) -> Verdict:
        """Parse the verdict in a reply. Its score is None if the reply has no clear verdict; see `replies`.

        Args:
            item: the judged item, which the reply may quote.
            cut: why the reply is incomplete, or None if it is complete.
            from_reasoning: whether the text is the model's reasoning.
        """
        judged = [value for value in vars(item).values() if value]
        return read_verdict(text, self.kind, judged, cut, from_reasoning)
