"""Text comparison that ignores case, punctuation and spacing.

The only definition of an exact match, shared by the results table and the reference judge.
"""

import re
import unicodedata

IGNORED_PUNCTUATION = re.compile(r"[^\w\s+#%./<>=*-]|_|(?<!\d)[./*]|[./*](?!\d)|(?<=\w)-|-(?!\d)")
"""Punctuation ignored when comparing. Characters in a number (minus, decimal point) or a name such as C++ are kept."""


def exact_match(answer: str, reference: str) -> bool:
    """Whether two texts are equal after normalization. Texts without words must be equal character by character."""
    normalized_answer = normalized(answer)
    return normalized_answer == normalized(reference) and (
        bool(normalized_answer) or answer.strip() == reference.strip()
    )


def normalized(text: str) -> str:
    """Return a text in lower case, without punctuation or repeated spaces."""
    return " ".join(
        IGNORED_PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()
    )
