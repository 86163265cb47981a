"""Finding test prompts by what they ask, and showing where two answers differ, word by word."""

import difflib
import functools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

MIN_WORD_SIMILARITY = 82
"""Least similarity, 0 to 100, at which a word of a text is taken for another form of a typed word."""
MIN_TYPO_SIMILARITY = 0.75
"""The same, 0 to 1 and by edits, for a typed word that is in no text: one slip in four letters."""
LATER_SENTENCE_WEIGHT = 0.7
"""What a word counts after the first sentence: instructions come before references."""
SYNONYM_WEIGHT = 0.9
"""What a word counts that is not in a text but in another way to ask for the same."""
MIN_RELATIVE_SCORE = 0.25
"""Texts that reach less than this share of the best score only have `for` or `what` in common."""
PREFIX_SIMILARITY = 0.8
"""How like a word its beginning is."""
TASK_SYNONYMS = (
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
SENTENCE_END = re.compile(r"[.?!]\s")
Index = Mapping[str, Mapping[int, float]]


def search(texts: Sequence[str], query: str) -> list[int]:
    """Indices of the texts that match a query, best first; all in order for an empty one.

    Each word of the query counts by how rare it is among the texts, how closely a word of the text
    resembles it and whether the text begins with it, so a typing error still finds, a rare word outweighs common
    ones, and what is asked outweighs what is answered.
    """
    query_words = dict.fromkeys(_words(query))
    if not query_words:
        return list(range(len(texts)))
    index = _index(tuple(texts))
    scores: dict[int, float] = defaultdict(float)
    for word in query_words:
        best: dict[int, float] = defaultdict(float)
        for match, likeness in _alike(word, index).items():
            for i, prominence in index[match].items():
                best[i] = max(best[i], likeness * prominence)
        weight = math.log(1 + len(texts) / (1 + len(best)))
        for i, value in best.items():
            scores[i] += weight * value
    min_score = MIN_RELATIVE_SCORE * max(scores.values(), default=0.0)
    matches = [i for i in scores if scores[i] >= min_score]
    text_similarity = {i: fuzz.WRatio(query.lower(), texts[i].lower()) for i in matches}
    return sorted(matches, key=lambda i: (-round(scores[i], 9), -text_similarity[i], i))


def differing_words(text: str, other: str) -> list[tuple[str, bool]]:
    """The words of a text with their white space, each with whether it is missing from the other there.

    Joined, the words are the text.
    """
    words, other_words = re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", text), other.split()
    matcher = difflib.SequenceMatcher(
        None, [_plain(w) for w in words], [_plain(w) for w in other_words], False
    )
    matched = {
        i for block in matcher.get_matching_blocks() for i in range(block.a, block.a + block.size)
    }
    return [(word, i not in matched and not word.isspace()) for i, word in enumerate(words)]


def _plain(word: str) -> str:
    """A word without case and the punctuation around it."""
    return word.strip().strip(".,;:!?\"'()").lower()


def _words(text: str) -> list[str]:
    return [word.removesuffix("'s") for word in WORD.findall(text.lower())]


@functools.lru_cache(maxsize=4)
def _index(texts: tuple[str, ...]) -> Index:
    """Of each word, the texts that have it, and how prominent it is in them, 0 to 1."""
    index: dict[str, dict[int, float]] = defaultdict(dict)
    for i, text in enumerate(texts):
        first_sentence, *remainder = SENTENCE_END.split(text, maxsplit=1)
        for word in _words(first_sentence):
            index[word].setdefault(i, 1.0)
        for word in _words(" ".join(remainder)):
            index[word].setdefault(i, LATER_SENTENCE_WEIGHT)
        for word in _implied(text.lower()):
            index[word].setdefault(i, SYNONYM_WEIGHT)
    return dict(index)


def _implied(text: str) -> set[str]:
    """Words of the other ways to ask for what this text asks for."""
    groups = (group for group in TASK_SYNONYMS if any(phrase in text for phrase in group))
    return {
        word for group in groups for phrase in group for word in phrase.split() if len(word) > 3
    }


def _alike(word: str, index: Index) -> dict[str, float]:
    """Words of the texts that may be meant by a typed one, and how like it they are, 0 to 1."""
    forms = process.extract(
        word, index.keys(), scorer=fuzz.ratio, score_cutoff=MIN_WORD_SIMILARITY, limit=None
    )
    alike = {match: score / 100 for match, score, _ in forms}
    if len(word) > 3:
        alike |= {
            match: PREFIX_SIMILARITY
            for match in index
            if match.startswith(word) and match not in alike
        }
    if word not in alike:
        typo_matches = process.extract(
            word,
            index.keys(),
            scorer=OSA.normalized_similarity,
            score_cutoff=MIN_TYPO_SIMILARITY,
            limit=None,
        )
        alike |= {match: max(score, alike.get(match, 0)) for match, score, _ in typo_matches}
    return alike
