"""Whether two texts are the same but for case, punctuation and spaces.

The one definition, for the table of runs and for the judge that compares with the reference.
"""

import re
import unicodedata

IGNORED_PUNCTUATION = re.compile(r"[^\w\s+#%./<>=*-]|_|(?<!\d)[./*]|[./*](?!\d)|(?<=\w)-|-(?!\d)")
"""Signs that make no difference: no part of a number, as a minus or a decimal point are, nor of a name like C++."""


def exact_match(answer: str, reference: str) -> bool:
    """Two texts that have no words at all match only if they are the same sign for sign."""
    normalized_answer = normalized(answer)
    return normalized_answer == normalized(reference) and (
        bool(normalized_answer) or answer.strip() == reference.strip()
    )


def normalized(text: str) -> str:
    """In lower case, without punctuation and repeated spaces."""
    return " ".join(
        IGNORED_PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()
    )
