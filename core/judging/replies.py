"""Parse verdicts from the replies of language models.

A reply is parsed in five steps. An ambiguous reply results in a missing verdict with a reason, never in a guess.

1. Drop quotes: Markdown quotes, and copies of the judged text that look like a verdict or like reasoning.
2. Drop reasoning: `<think>` and similar blocks, closed or not, and all channels except the final one.
3. Take the last complete top-level JSON object with the expected key. Malformed objects are accepted: single quotes,
   unquoted keys, trailing commas, Python literals, a missing brace. Objects that are copied from a judged text, or
   introduced as a draft or an example, are ignored. If objects conflict, the last one is used only if it is
   introduced as final. An object with another final value, such as `final_score`, is ambiguous.
4. If there is no object, take a plain statement: `Score: 85`, `85/100`, `85 out of 100` or a bare number; for pairs
   `first`, `second`, `tie` or `Better: first`. If statements conflict, the last one is used only if it is marked as
   final.
5. If the text after the verdict contains another value, in any wording, the verdict is missing. Only a line that starts
   with `Reason:` or a similar label may contain other values.

If a reply consists only of reasoning, its verdict must be at the end. If it was cut off, its verdict must also be at the start,
because any text before it could be reasoning whose tag the server removed.

This module does not depend on any service or prompt.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.judging.judge import Verdict
from core.judging.order import Kind

VERDICT_KEYS: dict[Kind, str] = {"score": "score", "pair": "better"}
"""The key that holds the verdict in a JSON reply."""
POINTS_BY_SIDE = {"first": 100.0, "second": 0.0, "tie": 50.0}
UNREADABLE = "unreadable reply"
QUOTE = "[copied text]"
QUOTED_VALUE = "[quoted value]"
"""Replaces a Markdown quote that could be the judge's own verdict."""
MAX_SHOWN_VALUE_CHARS = 20
"""Longer values are not quoted in the reason for a missing verdict."""
MAX_TEXT_CHARS = 10_000
"""Longer replies (excluding reasoning) are not parsed, because some patterns take quadratic time."""
MAX_STATEMENT_CHARS = 300
"""Longer lines are not searched for a statement."""

# Reasoning.
TAGS = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad)"
REASONING = re.compile(
    rf"[<\[◁](?P<close>/?){TAGS}(?:\s[^<>\]]*)?[>\]▷]|<\|(?:(?P<end>end)|begin)_of_thought\|>",
    re.IGNORECASE,
)
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
"""Start of a gpt-oss message."""
CHANNEL_END = re.compile(r"<\|(?:end|return|start|channel|call)\|>")
BARE_CHANNELS = re.compile(r"\A\s*analysis.*assistant\s*final", re.DOTALL)
"""gpt-oss channels whose special tokens were removed by the server."""

# JSON objects.
STRING = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
OBJECT_START = re.compile(r"""\{\s*(?:"[^"\n]*"|'[^'\n]*'|\w+)\s*:""")
OBJECT_KEY = re.compile(rf"\s*({STRING}|\w+)\s*:\s*", re.DOTALL)
LITERAL = re.compile(
    rf"(?P<string>{STRING})|(?P<number>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?:\s*/\s*100\b|\s*%)?|(?:true|false|null|none)\b",
    re.DOTALL | re.IGNORECASE,
)
DELIMITER = re.compile(
    r"\s*(,)\s*(?://[^\d\n]*\n\s*)?|\s*(?=\})|[ \t]*(?://[^\d\n]*)?\n\s*|\s*(?=`{3})"
)
"""Follows a complete value: a comma, a closing brace, a line break or the end of a code block.

A comment may precede a line break, unless it contains digits, which could be another score.
"""

# Words around a verdict.
FINAL = re.compile(
    r"\b(?:final(?:ly)?|revis\w+|corrected|correction|reconsider\w*|on reflection|second thoughts?|actually)\b",
    re.IGNORECASE,
)
"""Introduces a verdict that replaces an earlier one."""
RETRACTION = re.compile(
    r"\b(?:wait|hmm+|revis\w+|correction|reconsider\w*|on reflection|second (?:thoughts?|look|glance)|scratch that|"
    r"chang\w+ my mind|(?:i would|i['\u2019]d) rather|too (?:high|low|harsh|strict|generous|lenient))\b",
    re.IGNORECASE,
)
"""Retracts the verdict that it follows."""
SAYS = re.compile(
    r"\b(?:says?|said|wrote|(?:claim|contain|include|state|read|output|ask|demand|quote|return|write|print)(?:e?[sd])?)\W*$",
    re.IGNORECASE,
)
"""Introduces a quotation from a judged answer."""
NO_VERDICT = re.compile(
    r"\b(?:drafts?|initial(?:ly)?|tentative(?:ly)?|preliminary|first (?:guess|thought|impression|pass|attempt)|"
    r"examples?|for instance|e\.g|formats?|template|schema)\b|" + SAYS.pattern,
    re.IGNORECASE,
)
"""Introduces a draft, an example, or a quotation from a judged answer."""
AT_START = re.compile(r"(?:\W|`{3}\w+|json)*")
"""What may precede the verdict in a reply that was cut off."""
AT_END = re.compile(
    r"[\s`\]\"'*.]*(?:<[|/]?\w+\|?>\s*)*(?:\W*(?:reason|reasoning|explanation|justification|rationale|because)\b.*)?",
    re.DOTALL | re.IGNORECASE,
)
"""What may follow the verdict in a reply that was cut off."""

# Statements.
DASHES = r"\-\u2010-\u2015\u2212\ufe63\uff0d"
NUMBER = rf"(?<![.{DASHES}])(\d{{1,6}}(?:\.\d+)?)"
NUMBER_WORDS = r"(?:zero|ten|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)"
OF_100 = r"(?:/\s*100\b|out\s+of\s+100\b)"
SCALE = re.compile(r"(?<![\d.])0\s*(?:[-\u2013]|to)\s*100\b(?!\.?\d)", re.IGNORECASE)
"""A mention of the scale, which is not a score."""
PUNCTUATION = r"[^\w{}?]*"
BEFORE_NUMBER = rf"[^\w{{}}?{DASHES}]*"
"""Excludes dashes, which could be a minus sign."""
REMARK = (
    rf"(?:[,;:(\u2013\u2014-](?:(?!\b(?:but|if|unless|were|minus|{NUMBER_WORDS})\b)[^\d{{}}?])*)?"
)
"""May follow a statement on the same line. Excludes conditions, and numbers that could be another score."""
BARE_SCORE = re.compile(
    rf"\s*(?:-\s+)?[^\w{{}}{DASHES}]*(?:score{BEFORE_NUMBER})?{NUMBER}{PUNCTUATION}(?:{OF_100}{PUNCTUATION})?",
    re.IGNORECASE,
)
"""May be a Markdown list item. Excludes braces, because truncated JSON may end in the middle of a number."""
SUBJECT = r"(?:\s+(?:for|of)\s+(?:this|the)\s+(?:answer|response))?"
NAMED_SCORE = re.compile(
    rf"{PUNCTUATION}(?:(?:my|the|overall|final|total)\W+)*(?:score|rating|grade){SUBJECT}(?:\W+(?:is|of))?"
    rf"{BEFORE_NUMBER}{NUMBER}[\s*_]*{OF_100}?{PUNCTUATION}{REMARK}",
    re.IGNORECASE,
)
I_GIVE = r"\bi(?:['\u2019]d| would)? (?:give|rate|grade|score)\b"
GIVEN_SCORE = re.compile(
    rf"{PUNCTUATION}{I_GIVE}(?: (?:it|this|the|answer|response|an?|as|at|of|score|rating))*"
    rf"{BEFORE_NUMBER}{NUMBER}[\s*_]*{OF_100}?{PUNCTUATION}{REMARK}",
    re.IGNORECASE,
)
SCORE_OF_100 = re.compile(
    rf"{BEFORE_NUMBER}{NUMBER}[\s*_]*{OF_100}{PUNCTUATION}{REMARK}", re.IGNORECASE
)
SIDE = r"(first|second|tie)(?:\s+(?:answer|response|one))?"
NO_SIDE = r"(?:(?!\b(?:first|second|tied?|neither|equal(?:ly)?|former|latter|if|unless)\b)[^{}?])*"
BARE_SIDE = re.compile(
    rf"{PUNCTUATION}(?:the\s+)?{SIDE}(?:\s+(?:is|was)\s+better|\s+wins)?{PUNCTUATION}",
    re.IGNORECASE,
)
NAMED_SIDE = re.compile(
    rf"{PUNCTUATION}(?:(?:my|the|overall|final)\W+)*(?:better|best|winner|verdict|decision)(?:\W+(?:answer|is))*"
    rf"{PUNCTUATION}(?:the\s+)?{SIDE}{PUNCTUATION}(?:[,;:(\u2013\u2014-]{NO_SIDE})?",
    re.IGNORECASE,
)
BETTER_SIDE = re.compile(
    rf"{PUNCTUATION}(?:the\s+)?{SIDE}\s+(?:is\s+(?:(?:much|clearly|slightly)\s+)?better|wins)"
    rf"(?:\s+than\s+the\s+(?:first|second|other)(?:\s+(?:answer|response|one))?)?"
    rf"(?:,?\s+(?:because|since){NO_SIDE})?{PUNCTUATION}",
    re.IGNORECASE,
)
STATEMENTS: dict[Kind, tuple[re.Pattern[str], ...]] = {
    "score": (BARE_SCORE, NAMED_SCORE, GIVEN_SCORE, SCORE_OF_100),
    "pair": (BARE_SIDE, NAMED_SIDE, BETTER_SIDE),
}
"""The first pattern must match a whole text; the others match a line or a sentence."""
MENTIONS: dict[Kind, re.Pattern[str]] = {
    "score": re.compile(
        rf"\b(?:scored?|rating|grade)\b{SUBJECT}\W{{0,8}}(?:(?:of|is|be|to|as|at)\b\W{{0,4}})?(\d+(?:\.\d+)?)|"
        rf"{I_GIVE}(?: [a-z]+){{0,5}}\W{{1,4}}(\d+(?:\.\d+)?)|(?<![\d.])(\d+(?:\.\d+)?)\W{{0,4}}?{OF_100}",
        re.IGNORECASE,
    ),
    "pair": re.compile(
        r"\b(?:better|best|winner|verdict)\b\W{0,8}(?:(?:is|answer|the)\W+)*(first|second|tie)\b|"
        r"\b(first|second)(?:\s+(?:answer|response|one))?\s+(?:(?:is|was)(?:\s+\w+)?\s+better|wins)\b",
        re.IGNORECASE,
    ),
}
"""A verdict in a sentence. A mention that differs from the verdict makes the reply ambiguous."""
VALUE_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "score": re.compile(r"(?<![\w.])\d+(?:\.\d+)?"),
    "pair": re.compile(r"\b(?:first|second|tie)\b", re.IGNORECASE),
}
"""Anything that could be a value. If it follows the verdict and differs from it, the reply is ambiguous."""
OTHER_VALUES: dict[Kind, re.Pattern[str]] = {
    "score": re.compile(rf"\b{NUMBER_WORDS}\b", re.IGNORECASE),
    "pair": re.compile(
        r"\b(?:other|neither|equal(?:ly)?|tied|draw|former|latter|[12]|1st|2nd|(?:answer|response) [ab])\b",
        re.IGNORECASE,
    ),
}
"""Other words for values. If one follows the verdict, the reply is ambiguous."""
REVISED_KEY = re.compile(r"final|total|overall|revised|adjusted|corrected")
"""Keys whose value may replace the verdict in the same object."""
REASON = re.compile(
    r"^[^\w\n]*(?:reasons?|reasoning|explanation|justification|rationale)\b[^\w\n]*:"
    rf"(?:(?!{FINAL.pattern}|\b(?:total|overall|instead|wait|hmm+)\b)[^\n])*",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that may contain other values, up to a word that could introduce a new verdict."""
OTHER_SCALE = re.compile(
    r"(?<![\d.])\d+(?:\.\d+)?\s*(?:/|out\s+of)\s*(?!100\b)\d+(?:\.\d+)?", re.IGNORECASE
)
SENTENCE_END = re.compile(r"\n+|(?<=[.!?])\s+")


class _UnclearError(Exception):
    """The reply has no verdict, or conflicting ones. The message is the reason for the missing verdict."""


@dataclass(frozen=True)
class _Object:
    """A JSON object with lower-case keys, and its position in the text."""

    entries: Mapping[str, Any]
    start: int
    end: int


def message_text(message: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the text of a chat message, and whether it comes from the reasoning field because the content is empty.

    Servers send the content as a string, a list of parts, a number, an object or null.
    """
    for name in ("content", "reasoning_content", "reasoning"):
        text = _content_text(message.get(name))
        if text.strip():
            return text, name != "content"
    return "", False


def read_verdict(
    text: str,
    kind: Kind,
    judged: Sequence[str] = (),
    cut: str | None = None,
    from_reasoning: bool = False,
) -> Verdict:
    """Parse the verdict in a reply. If there is none, or if several conflict, return a missing verdict with the reason.

    Args:
        judged: parts of the prompt that the reply may quote.
        cut: why the reply is incomplete, or None if it is complete.
        from_reasoning: whether the text is the model's reasoning.
    """
    try:
        if cut and from_reasoning:
            raise _UnclearError(UNREADABLE)
        value, reason = _find_verdict(text, kind, judged, cut is not None, from_reasoning)
    except _UnclearError as error:
        missing = cut if cut and str(error) == UNREADABLE else str(error)
        return Verdict(None, missing=missing, raw=text)
    points = _points(value, kind)
    if points is not None:
        reason = f"{reason} ({cut})".strip() if cut else reason
        return Verdict(points, reason, raw=text)
    if value is None or kind == "pair":
        return Verdict(None, reason, cut or UNREADABLE, text)
    shown = repr(value) if len(repr(value)) < MAX_SHOWN_VALUE_CHARS else "the value"
    return Verdict(None, reason, f"{shown} is not a score from 0 to 100", text)


def without_reasoning(text: str) -> str:
    """Remove reasoning blocks. An unclosed block extends to the end, an unopened one to the start."""
    if channels := list(CHANNEL.finditer(text)):
        last = channels[-1]
        body = CHANNEL_END.split(text[last.end() :], maxsplit=1)[0]
        return body if last[1] == "final" else ""
    text = BARE_CHANNELS.sub("", text, count=1)
    parts: list[str] = []
    depth = position = 0
    for tag in REASONING.finditer(text):
        if depth == 0:
            parts.append(text[position : tag.start()])
        if not (tag["close"] or tag["end"]):
            depth += 1
        elif depth:
            depth -= 1
        else:
            parts.clear()
        position = tag.end()
    if depth == 0:
        parts.append(text[position:])
    return "".join(parts)


def _content_text(content: Any) -> str:
    """Return the text of a message's content, which may be a string or a list of parts. Skips reasoning."""
    if content is None or content == {}:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(_content_text, content))
    if isinstance(content, Mapping) and ("type" in content or "text" in content):
        is_text = content.get("type", "text") in ("text", "output_text")
        return str(content.get("text") or "") if is_text else ""
    return json.dumps(content)


def _find_verdict(
    text: str, kind: Kind, judged: Sequence[str], is_cut: bool, from_reasoning: bool
) -> tuple[Any, str]:
    """Return the verdict's value and reason. Raises _UnclearError if there is none or if several conflict."""
    key = VERDICT_KEYS[kind]
    must_end = is_cut or from_reasoning
    cleaned = _decoded(text)
    if not _is_json(cleaned):  # a reason may contain tags
        cleaned = without_reasoning(_without_quotes(cleaned, kind, judged))
    if len(cleaned) > MAX_TEXT_CHARS:
        raise _UnclearError(UNREADABLE)
    objects = _objects(cleaned, key)
    copied = [candidate.entries for part in judged for candidate in _objects(part, key)]
    verdicts, ignored = [], []
    for candidate in objects:
        is_copy = any(candidate.entries.items() <= other.items() for other in copied)
        if is_copy or NO_VERDICT.search(_introduction(cleaned, candidate.start)):
            ignored.append(candidate)
        else:
            verdicts.append(candidate)
    if not verdicts:
        plain = cleaned
        for candidate in reversed(ignored):
            plain = plain[: candidate.start] + plain[candidate.end :]
        if plain.strip() in [part.strip() for part in judged]:
            raise _UnclearError("the reply repeats the answer")
        return _find_statement(plain, kind, is_cut, must_end), ""

    last = verdicts[-1]
    value = last.entries[key]
    previous_end = max((o.end for o in objects if o.end <= last.start), default=0)
    is_final = FINAL.search(cleaned[previous_end : last.start])
    earlier = [] if is_final else [o.entries[key] for o in verdicts[:-1]]
    # A copy that is not introduced as a quote could be a final verdict that happens to equal the answer's.
    quoted = [
        o for o in ignored if o.entries in copied and SAYS.search(_introduction(cleaned, o.start))
    ]
    later = [o.entries[key] for o in ignored if o.start > last.start and o not in quoted]
    tail = cleaned[last.end :]
    for candidate in reversed(objects):
        if candidate.start > last.start:
            tail = tail[: candidate.start - last.end] + tail[candidate.end - last.end :]
    revised = [v for name, v in last.entries.items() if name != key and REVISED_KEY.search(name)]
    _check_agreement([*earlier, *revised, *later, *_values_after(tail, kind), value], kind)
    if _may_be_replaced(tail, kind) or (must_end and not AT_END.fullmatch(tail)):
        raise _UnclearError(UNREADABLE)
    if is_cut and not AT_START.fullmatch(cleaned[: last.start]):
        raise _UnclearError(UNREADABLE)
    return value, str(last.entries.get("reason") or "").strip()


def _may_be_replaced(tail: str, kind: Kind) -> bool:
    """Whether the text after a verdict retracts it, or may contain another verdict that was not parsed."""
    prose = REASON.sub("", tail)
    if RETRACTION.search(prose) or OTHER_VALUES[kind].search(prose) or QUOTED_VALUE in prose:
        return True
    copies = (_introduction(prose, copy.start()) for copy in re.finditer(re.escape(QUOTE), prose))
    return any(not SAYS.search(line) for line in copies)


def _find_statement(text: str, kind: Kind, is_cut: bool, must_end: bool) -> Any:
    """Return the verdict stated in plain text. Raises _UnclearError if there is none or if several conflict."""
    text = SCALE.sub("", text)
    whole_text_pattern, *patterns = STATEMENTS[kind]
    if not must_end and (match := whole_text_pattern.fullmatch(text)):
        return match[1]
    lines = text.splitlines()
    if must_end and lines and not text.endswith("\n"):
        lines.pop()  # the last line may end in the middle of a number
    segments = [s for line in lines for s in SENTENCE_END.split(line) if s.strip()]
    stated: list[tuple[Any, str]] = []
    for segment in segments:
        if len(segment) > MAX_STATEMENT_CHARS or OTHER_SCALE.search(segment):
            continue
        match = next(filter(None, (p.fullmatch(segment) for p in patterns)), None)
        if match and not RETRACTION.search(segment):
            stated.append((match[1], segment))
    if not stated:
        if kind == "score" and (other := OTHER_SCALE.search(text)) and "{" not in text:
            raise _UnclearError(f"'{other[0]}' is not a score from 0 to 100")
        raise _UnclearError(UNREADABLE)
    value, segment = stated[-1]
    following = text[text.rindex(segment) + len(segment) :]
    before = [] if FINAL.search(segment) else _mentions(text, kind)
    _check_agreement([*before, *_values_after(following, kind), value], kind)
    if _may_be_replaced(following, kind) or (must_end and not AT_END.fullmatch(following)):
        raise _UnclearError(UNREADABLE)
    if is_cut and segment != segments[0]:
        raise _UnclearError(UNREADABLE)
    key = VERDICT_KEYS[kind] if "{" in text else rf"[\"']{VERDICT_KEYS[kind]}[\"']"
    if re.search(rf"{key}[\"']?\s*:", text, re.IGNORECASE):  # JSON too malformed to parse
        raise _UnclearError(UNREADABLE)
    return value


def _check_agreement(values: Sequence[Any], kind: Kind) -> None:
    """Raise _UnclearError if a valid value differs from the last one."""
    points = [p for v in values[:-1] if (p := _points(v, kind)) is not None]
    last = _points(values[-1], kind)
    if any(p != last for p in points):
        known = [v for v in values if v is not None]
        listed = list(dict.fromkeys(str(v).strip()[:MAX_SHOWN_VALUE_CHARS] for v in known))
        if len(listed) < 2:
            raise _UnclearError(UNREADABLE)
        raise _UnclearError(f"conflicting verdicts ({', '.join(listed)})")


def _mentions(text: str, kind: Kind) -> list[str]:
    return [next(filter(None, match.groups())) for match in MENTIONS[kind].finditer(text)]


def _values_after(tail: str, kind: Kind) -> list[str]:
    """Return everything in the text after a verdict that could be another value."""
    prose = re.sub(OF_100, "", SCALE.sub("", REASON.sub("", tail)), flags=re.IGNORECASE)
    return [*_mentions(tail, kind), *VALUE_PATTERNS[kind].findall(prose)]


def _points(value: Any, kind: Kind) -> float | None:
    """Convert a verdict to a score from 0 to 100; None if it is invalid."""
    if kind == "pair":
        side = BARE_SIDE.fullmatch(value) if isinstance(value, str) else None
        return POINTS_BY_SIDE[side[1].lower()] if side else None
    if isinstance(value, str):
        number = BARE_SCORE.fullmatch(value)
        value = number[1] if number else None
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        score = float(value)
    except OverflowError:
        return None
    return score if 0 <= score <= 100 else None


def _introduction(text: str, start: int) -> str:
    """Return the text before a position on the same line, or the line above if a code block starts there."""
    preceding = re.sub(r"`{3}\w*\Z", "", text[:start].rstrip()).rstrip()
    return re.split(r"[\n}]", preceding)[-1]


def _without_quotes(text: str, kind: Kind, judged: Sequence[str]) -> str:
    """Replace copies of judged text, literal or JSON-escaped, and Markdown quotes."""
    for part in sorted(judged, key=len, reverse=True):
        if not any(p.search(part) for p in (MENTIONS[kind], REASONING, CHANNEL)):
            continue  # replacing a text such as 8 would damage the verdict itself
        for ascii_only in (None, False, True):
            copy = part if ascii_only is None else json.dumps(part, ensure_ascii=ascii_only)[1:-1]
            words = copy.split()
            if not all(word in text for word in words):
                continue  # compiling the pattern takes longer than the rest of the function
            left_boundary = r"(?<!\w)" if re.match(r"\w", words[0]) else ""
            right_boundary = r"(?!\w|[.,]\d)" if re.search(r"\w\Z", words[-1]) else ""
            text = re.sub(
                left_boundary + r"\s+".join(map(re.escape, words)) + right_boundary, QUOTE, text
            )
    return re.sub(
        r"^[ \t]*>.*$",
        lambda quote: QUOTED_VALUE if VALUE_PATTERNS[kind].search(quote[0]) else "",
        text,
        flags=re.MULTILINE,
    )


def _decoded(text: str) -> str:
    """Decode text that is a JSON string; return other text unchanged."""
    if text.lstrip().startswith('"'):
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return text
        return value if isinstance(value, str) else text
    return text


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except (ValueError, RecursionError):
        return False


def _objects(text: str, key: str) -> list[_Object]:
    """Return the top-level JSON objects that have the key."""
    objects: list[_Object] = []
    position = 0
    while start := OBJECT_START.search(text, position):
        entries, position = _parse(text, start.start(), key)
        if key in entries:
            objects.append(_Object(entries, start.start(), position))
    return objects


def _parse(text: str, start: int, key: str) -> tuple[Mapping[str, Any], int]:
    """Parse an object that is valid or nearly valid JSON. Return its entries and its end position.

    A malformed object ends at the next brace. The value of `key` is None if it cannot be parsed reliably.
    """
    try:
        value, end = DECODER.raw_decode(text, start)
        return value, end
    except (ValueError, RecursionError):
        pass
    entries: dict[str, Any] = {}
    position = start + 1
    while name := OBJECT_KEY.match(text, position):
        try:
            value, end = _parse_value(text, name.end())
        except (ValueError, RecursionError):
            break
        delimiter = DELIMITER.match(text, end)
        is_closed_string = end == len(text) and text[end - 1] in "\"'"
        if not (delimiter or is_closed_string):
            break
        entry_key = name[1].strip("\"'").strip().lower()
        entries[entry_key] = value if entries.get(entry_key, value) == value else None
        position = delimiter.end() if delimiter else end
        if text[position : position + 1] == "}":
            return entries, position + 1
    broken_part = re.compile(r"[^{}]*").match(text, position)
    end = broken_part.end() if broken_part else position
    end = end + 1 if text[end : end + 1] == "}" else len(text)
    if re.search(rf"{key}[\"']?\s*:", text[position:end], re.IGNORECASE):
        entries[key] = None
    return entries, end


def _parse_value(text: str, position: int) -> tuple[Any, int]:
    """Parse a value in a malformed JSON object. Return it and its end position. Raises ValueError if there is none."""
    if text[position : position + 1] in ("[", "{"):
        return DECODER.raw_decode(text, position)
    literal = LITERAL.match(text, position)
    if literal is None:
        raise ValueError("not a value")
    if literal["string"]:
        return re.sub(r"\\(.)", r"\1", literal[0][1:-1], flags=re.DOTALL), literal.end()
    if literal["number"]:
        return float(literal["number"]), literal.end()
    return {"true": True, "false": False}.get(literal[0].lower()), literal.end()


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the entries with lower-case keys. Raises ValueError if a key has two different values."""
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if entries.setdefault(key.strip().lower(), value) != value:
            raise ValueError("duplicate key")
    return entries


DECODER = json.JSONDecoder(object_pairs_hook=_entries, strict=False)
