"""Finding test prompts by what they ask, and showing where two answers differ, word by word."""

import difflib
import math
import re
from collections.abc import Sequence

from rapidfuzz import fuzz, process

ALIKE = 82
"""Least similarity, 0 to 100, at which a typed word is taken for a word of a prompt."""
SAME_TASK = (
    (
        "synonym",
        "alternate word",
        "alternative word",
        "another word",
        "similar word",
        "same meaning",
        "means the same",
    ),
    ("antonym", "opposite"),
    ("plural", "more than one"),
    ("past tense", "past form"),
    ("capital", "capital city"),
    ("translate", "translation", "in french", "into french"),
    ("spelling", "misspelled", "correct the word", "spell"),
    ("passive", "passive voice"),
    ("convert", "conversion", "how many"),
    ("classify", "categorize", "odd one out", "which of these"),
    ("summarize", "summary", "shorten"),
)
"""Ways to ask for the same thing. A text with one of them is found by the others' words too."""
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def search(texts: Sequence[str], query: str) -> list[int]:
    """Indices of the texts that match a query, best first; all in order for an empty one.

    Each word of the query counts by how rare it is among the texts and how closely a word of the text
    resembles it, so a typing error still finds and a rare word outweighs common ones.
    """
    wanted = list(dict.fromkeys(_words(query)))
    if not wanted:
        return list(range(len(texts)))
    documents = [set(_words(text)) | _other_words(text) for text in texts]
    vocabulary = sorted(set().union(*documents)) if documents else []
    scores = [0.0] * len(texts)
    for word in wanted:
        alike = process.extract(word, vocabulary, scorer=fuzz.ratio, score_cutoff=ALIKE, limit=None)
        likeness = {match: score / 100 for match, score, _ in alike}
        best = [
            max((likeness.get(w, 0.0) for w in document), default=0.0) for document in documents
        ]
        found = sum(value > 0 for value in best)
        weight = math.log(1 + len(texts) / (1 + found))
        scores = [score + weight * value for score, value in zip(scores, best, strict=True)]
    whole = [fuzz.WRatio(query.lower(), text.lower()) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-round(scores[i], 9), -whole[i], i))
    return [i for i in order if scores[i] > 0]


def differing_words(text: str, other: str) -> list[tuple[str, bool]]:
    """The words of a text with their white space, each with whether it is missing from the other there."""
    mine, theirs = re.findall(r"\s*\S+\s*?", text), other.split()
    matcher = difflib.SequenceMatcher(
        None, [_plain(w) for w in mine], [_plain(w) for w in theirs], False
    )
    same = {
        i for block in matcher.get_matching_blocks() for i in range(block.a, block.a + block.size)
    }
    return [(word, i not in same) for i, word in enumerate(mine)]


def _plain(word: str) -> str:
    """A word without case and the punctuation around it."""
    return word.strip().strip(".,;:!?\"'()").lower()


def _words(text: str) -> list[str]:
    return [word.removesuffix("'s") for word in WORD.findall(text.lower())]


def _other_words(text: str) -> set[str]:
    """Words of the other ways to ask for what this text asks for."""
    lowered = text.lower()
    groups = (group for group in SAME_TASK if any(phrase in lowered for phrase in group))
    return {
        word for group in groups for phrase in group for word in phrase.split() if len(word) > 3
    }
