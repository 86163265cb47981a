"""Convert records to examples with a column mapping.

The mapping is detected from the column names or set with `columns`. This module does not read files or tokenize.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from core.config import EmptyOutputs
from core.data.files import MAX_LISTED_KEYS, display_key, join, valid_unicode
from core.data.template import (
    RESPONSE_MARKER,
    Example,
    Turn,
    format_next_prompt,
    format_prompt,
)
from core.errors import UserError

PAIRS = (
    ("instruction", "output"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "response"),
    ("query", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("instruction", "answer"),
    ("query", "answer"),
    ("input", "output"),
)
"""Column names for instruction and output, in order of precedence."""
INPUTS = ("input", "context")
"""Column names for the input, in order of precedence. In Alpaca format, only the first is used."""
CONVERSATIONS = ("messages", "conversations", "conversation")
"""Column names for a list of messages, in order of precedence."""
ROLES = {"user": "User", "human": "User", "assistant": "Assistant", "gpt": "Assistant",
         "model": "Assistant", "system": "System"}  # fmt: skip
"""Message roles in OpenAI's and ShareGPT's formats, and their labels in the input of an example."""
MESSAGE_KEYS = (("role", "content"), ("from", "value"))
"""Keys of a message in OpenAI's and ShareGPT's formats."""
COMPLETE = [
    frozenset(roles.split())
    for roles in ("instruction output", "instruction input output", "messages", "text")
]
"""Valid combinations of roles."""
COMBINATIONS = "instruction and output (and optionally input), messages, or text"
ALPACA_PROMPT = re.compile(
    rf".*?### Instruction:\n(.*?)(?:\n\n### Input:\n(.*?))?\n\n{RESPONSE_MARKER}", re.DOTALL
)
JSON_TYPES = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    str: "text",
    type(None): "null",
}


class UnusableRecordError(ValueError):
    """A record that is skipped. The message is the reason, such as `no output`."""


@dataclass(frozen=True)
class Columns:
    """A column mapping.

    Args:
        sources: column names by role. The roles are instruction, input and output; or messages; or text.
        detected: whether the mapping was detected rather than set.
    """

    sources: dict[str, str]
    detected: bool = True

    def __str__(self) -> str:
        parts = [
            role if role == column else f"{role} ← {display_key(column)}"
            for role, column in self.sources.items()
        ]
        return f"{', '.join(parts)} ({'detected' if self.detected else 'set'})"

    @property
    def requirement(self) -> str:
        """The requirement for a usable record, shown if no record meets it."""
        if "messages" in self.sources:
            column = display_key(self.sources["messages"])
            return f"a record must be an object with {column} as a list of messages, each with role and content"
        required = [display_key(c) for role, c in self.sources.items() if role != "input"]
        return f"a record must be an object with {' and '.join(required)} as text"


ALPACA = Columns({"instruction": "instruction", "input": "input", "output": "output"})


def parse_columns(text: str) -> Columns | None:
    """Parse the `columns` setting. Returns None if it is empty. Raises UserError."""
    pairs = [part.partition("=")[::2] for part in text.split(",") if part.strip()]
    sources = {role.strip(): column.strip() for role, column in pairs}
    if not sources:
        return None
    roles = frozenset(sources)
    is_unique = len(pairs) == len(roles) == len(set(sources.values()))
    if roles not in COMPLETE or not is_unique or "" in sources.values():
        raise UserError(
            f"columns = {text!r}: must name the columns for {COMBINATIONS}, each once, such as "
            "instruction=question, output=answer"
        )
    order = [
        role for role in ("instruction", "input", "output", "messages", "text") if role in roles
    ]
    return Columns({role: sources[role] for role in order}, detected=False)


def detect(columns: Collection[str]) -> Columns | None:
    """Return the mapping for these columns, ignoring case; None if they match no known format."""
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(column.strip().casefold(), column)
    names.update({column: column for column in columns if column in names})  # exact names win
    if {"instruction", "output"} <= names.keys():
        sources = {role: names.get(role, role) for role in ALPACA.sources}
        return Columns(sources)
    for column in CONVERSATIONS:
        if column in names:
            return Columns({"messages": names[column]})
    for instruction, output in PAIRS:
        if {instruction, output} <= names.keys():
            free = [names[c] for c in INPUTS if c in names and c != instruction]
            sources = {"instruction": names[instruction]}
            sources |= {"input": free[0]} if free else {}
            return Columns({**sources, "output": names[output]})
    return Columns({"text": names["text"]}) if "text" in names else None


def is_record(value: dict[str, Any]) -> bool:
    """Return whether a JSON object is a record rather than a wrapper around a list of records."""
    if value.keys() & ALPACA.sources.keys():
        return True
    columns = detect(value.keys())
    if columns is None or "text" in columns.sources:
        return False
    if "messages" not in columns.sources:
        return all(isinstance(value[column], str) for column in columns.sources.values())
    messages = value[columns.sources["messages"]]
    return isinstance(messages, list) and any(
        isinstance(messages[0], dict) and keys[0] in messages[0]
        for keys in MESSAGE_KEYS
        if messages
    )


def unknown_format(columns: Collection[str]) -> str:
    """Return the error message for columns that match no known format."""
    names = [display_key(column) for column in columns]
    first = f"instruction={names[0]}, output={names[1]}" if names[1:] else f"text={names[0]}"
    return (
        f"its columns ({join(names, MAX_LISTED_KEYS)}) match no known format; "
        f"set the ones to use, such as columns = '{first}'"
    )


def convert(record: Any, columns: Columns, empty_outputs: EmptyOutputs) -> Example:
    """Convert a record to an example. Raises UnusableRecordError."""
    if not isinstance(record, dict):
        raise UnusableRecordError("not an object")
    if "messages" in columns.sources:
        return _conversation(record, columns.sources["messages"], empty_outputs)
    if "text" in columns.sources:
        return _text(record, columns.sources["text"], empty_outputs)
    return _pair(record, columns.sources, empty_outputs)


def _pair(record: dict[str, Any], sources: dict[str, str], empty_outputs: EmptyOutputs) -> Example:
    _require_texts(record, sources)
    required = ["instruction"] if empty_outputs == "keep" else ["instruction", "output"]
    _require_content(
        [sources[role] for role in required if not _value(record, sources[role]).strip()]
    )
    texts = {role: _value(record, column) for role, column in sources.items()}
    return Example(texts["instruction"], texts.get("input", ""), texts["output"])


def _require_texts(record: dict[str, Any], sources: dict[str, str]) -> None:
    """Raise UnusableRecordError if a required column is missing or a value is not text."""
    required = [column for role, column in sources.items() if role != "input"]
    if missing := [display_key(column) for column in required if column not in record]:
        raise UnusableRecordError(f"no {' or '.join(missing)}")
    for column in sources.values():
        value = record.get(column)
        if value is not None and not isinstance(value, str):
            raise UnusableRecordError(f"{display_key(column)} is {_json_type(value)}")


def _require_content(empty: list[str]) -> None:
    if empty:
        raise UnusableRecordError(f"empty {' and '.join(map(display_key, empty))}")


def _value(record: dict[str, Any], column: str) -> str:
    return valid_unicode(record.get(column) or "")


def _conversation(record: dict[str, Any], column: str, empty_outputs: EmptyOutputs) -> Example:
    """Convert a list of messages to an example.

    Ignores messages after the last assistant message, and empty system messages, which many data sets contain.
    """
    name = display_key(column)
    messages = [
        (role, text)
        for role, text in _messages(record.get(column), name)
        if role != "System" or text.strip()
    ]
    last = max((i for i, (role, _) in enumerate(messages) if role == "Assistant"), default=-1)
    if last < 0:
        raise UnusableRecordError(f"{name} has no assistant message")
    messages = messages[: last + 1]
    if messages[0][0] == "Assistant":
        raise UnusableRecordError(f"{name} starts with an assistant message")
    users = [i for i, (role, _) in enumerate(messages) if role == "User"]
    if not users:
        raise UnusableRecordError(f"{name} has no user message")
    for role, text in messages:
        if not text.strip() and not (role == "Assistant" and empty_outputs == "keep"):
            raise UnusableRecordError(f"empty {role.lower()} message")
    merged = _alternating(messages)
    first = Turn(format_prompt(merged[0].prompt), merged[0].response)
    later = [Turn(format_next_prompt(turn.prompt), turn.response) for turn in merged[1:]]
    return Example(
        messages[users[-1]][1],
        "\n\n".join(f"{role}: {text}" for role, text in messages[: users[-1]]),
        merged[-1].response,
        (first, *later),
        "responses",
    )


def _messages(value: Any, column: str) -> list[tuple[str, str]]:
    """Return each message as (role, text), where the role is a label from ROLES. Raises UnusableRecordError."""
    if isinstance(value, str):  # CSV files store lists as JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableRecordError(f"{column} is text") from None
    if not isinstance(value, list):
        raise UnusableRecordError(
            f"no {column}" if value is None else f"{column} is {_json_type(value)}"
        )
    messages = []
    for message in value:
        if not isinstance(message, dict):
            raise UnusableRecordError(f"a message is {_json_type(message)}")
        keys = [keys for keys in MESSAGE_KEYS if message.get(keys[0]) is not None]
        if not keys:
            raise UnusableRecordError("a message has no role")
        role, text = (message.get(key) for key in keys[0])
        if not isinstance(role, str) or role.casefold() not in ROLES:
            raise UnusableRecordError(f"a message has the role {display_key(str(role))}")
        if not isinstance(text, str):
            raise UnusableRecordError(f"the {keys[0][1]} of a message is {_json_type(text)}")
        messages.append((ROLES[role.casefold()], valid_unicode(text)))
    return messages


def _alternating(messages: list[tuple[str, str]]) -> list[Turn]:
    """Merge messages into turns without headings. Consecutive messages from one side are joined by a blank line."""
    turns: list[tuple[list[str], list[str]]] = []
    for role, text in messages:
        if role == "Assistant":
            turns[-1][1].append(text)
        elif not turns or turns[-1][1]:
            turns.append(([text], []))
        else:
            turns[-1][0].append(text)
    return [Turn("\n\n".join(prompts), "\n\n".join(responses)) for prompts, responses in turns]


def _text(record: dict[str, Any], column: str, empty_outputs: EmptyOutputs) -> Example:
    """Convert a text to an example, splitting it at the template's response marker or, without one, near the middle."""
    _require_texts(record, {"text": column})
    text = _value(record, column)
    prompt, marker, output = text.partition(RESPONSE_MARKER)
    if marker:
        _require_content([column] if empty_outputs == "drop" and not output.strip() else [])
        prompt += marker
        parts = ALPACA_PROMPT.fullmatch(prompt)
        instruction, input = (parts[1], parts[2] or "") if parts else (prompt, "")
        is_template = prompt == format_prompt(instruction, input)
        return Example(instruction, input, output, () if is_template else (Turn(prompt, output),))
    _require_content([] if text.strip() else [column])
    if len(text.strip()) < 2:
        raise UnusableRecordError(f"{display_key(column)} has a single character")
    start, end = _halves(text)
    return Example(start, "", end, (Turn(start, end),), "all")


def _halves(text: str) -> tuple[str, str]:
    """Split a text before the space nearest its middle. Together, the halves have the same tokens as the text."""
    content = text.strip()
    middle = text.index(content) + len(content) // 2
    spaces = [match.start() + 1 for match in re.finditer(r"\S (?=\S)", text)]
    position = min(spaces, key=lambda i: abs(i - middle), default=middle)
    return text[:position], text[position:]


def _json_type(value: Any) -> str:
    return JSON_TYPES.get(type(value), f"of type {type(value).__name__}")
