"""Fuzzy search over test prompts, and a word-level diff of two answers."""

import difflib
import functools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

MIN_WORD_SIMILARITY = 82
"""Minimum similarity, from 0 to 100, for a word to count as another form of a query word."""
MIN_TYPO_SIMILARITY = 0.75
"""Minimum edit similarity, from 0 to 1, for a query word that occurs in no text. Allows one typo in four letters."""
LATER_SENTENCE_WEIGHT = 0.7
"""Weight of words after the first sentence. The instruction comes first and matters more than the reference."""
SYNONYM_WEIGHT = 0.9
"""Weight of synonyms for a phrase in a text, relative to words that occur in the text."""
MIN_RELATIVE_SCORE = 0.25
"""Minimum share of the best score. Texts below it have only words such as `for` or `what` in common with the query."""
PREFIX_SIMILARITY = 0.8
"""Similarity, from 0 to 1, between a query word and the words that start with it."""
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
"""Groups of phrases that ask for the same task. A text with one phrase also matches the words in the others."""
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
SENTENCE_END = re.compile(r"[.?!]\s")
Index = Mapping[str, Mapping[int, float]]
"""Weight of a word in each text that contains it, by word and text index."""


def search(texts: Sequence[str], query: str) -> list[int]:
    """Return the indices of the documents that match a query, best match first. An empty query returns all indices in order.

    A matching word is weighted by its rarity among the documents, its similarity to the query word, and whether it is in
    the first sentence of the text. Typos therefore still match, rare words outweigh common ones, and instructions
    outweigh references.
    """
    query_words = dict.fromkeys(_words(query))
    if not query_words:
        return list(range(len(texts)))
    index = _index(tuple(texts))
    scores: dict[int, float] = defaultdict(float)
    for word in query_words:
        best: dict[int, float] = defaultdict(float)
        for match, similarity in _similar_words(word, index).items():
            for i, text_weight in index[match].items():
                best[i] = max(best[i], similarity * text_weight)
        weight = math.log(1 + len(texts) / (1 + len(best)))
        for i, value in best.items():
            scores[i] += weight * value
    min_score = MIN_RELATIVE_SCORE * max(scores.values(), default=0.0)
    matches = [i for i in scores if scores[i] >= min_score]
    phrase_similarity = {i: fuzz.WRatio(query.lower(), texts[i].lower()) for i in matches}
    return sorted(matches, key=lambda i: (-round(scores[i], 9), -phrase_similarity[i], i))


def differing_words(text: str, other: str) -> list[tuple[str, bool]]:
    """Split a text into words and flag those that differ from the other text.

    Words include the surrounding whitespace, so that joining them restores the text. Case and surrounding
    punctuation are ignored when comparing.
    """
    words, other_words = re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", text), other.split()
    matcher = difflib.SequenceMatcher(
        None, [_normalized(w) for w in words], [_normalized(w) for w in other_words], False
    )
    matched = {
        i for block in matcher.get_matching_blocks() for i in range(block.a, block.a + block.size)
    }
    return [(word, i not in matched and not word.isspace()) for i, word in enumerate(words)]


def normalized_words(text: str) -> list[str]:
    """Split a text into words in lower case and without surrounding punctuation."""
    return [_normalized(word) for word in text.split()]


def _normalized(word: str) -> str:
    """Normalize a word for comparison: lower case, without surrounding punctuation."""
    return word.strip().strip(".,;:!?\"'()").lower()


def _words(text: str) -> list[str]:
    return [word.removesuffix("'s") for word in WORD.findall(text.lower())]


@functools.lru_cache(maxsize=4)
def _index(texts: tuple[str, ...]) -> Index:
    """Return, for each word, the documents that contain it and its weight in each document, from 0 to 1."""
    index: dict[str, dict[int, float]] = defaultdict(dict)
    for i, text in enumerate(texts):
        first_sentence, *remainder = SENTENCE_END.split(text, maxsplit=1)
        for word in _words(first_sentence):
            index[word].setdefault(i, 1.0)
        for word in _words(" ".join(remainder)):
            index[word].setdefault(i, LATER_SENTENCE_WEIGHT)
        for word in _synonym_words(text.lower()):
            index[word].setdefault(i, SYNONYM_WEIGHT)
    return dict(index)


def _synonym_words(text: str) -> set[str]:
    """Return the words in all phrases that ask for the same task as the text."""
    groups = (group for group in TASK_SYNONYMS if any(phrase in text for phrase in group))
    return {
        word for group in groups for phrase in group for word in phrase.split() if len(word) > 3
    }


def _similar_words(word: str, index: Index) -> dict[str, float]:
    """Return the indexed words that match a query word, with their similarity from 0 to 1."""
    forms = process.extract(
        word, index.keys(), scorer=fuzz.ratio, score_cutoff=MIN_WORD_SIMILARITY, limit=None
    )
    similarities = {match: score / 100 for match, score, _ in forms}
    if len(word) > 3:
        similarities |= {
            match: PREFIX_SIMILARITY
            for match in index
            if match.startswith(word) and match not in similarities
        }
    if word not in similarities:
        typo_matches = process.extract(
            word,
            index.keys(),
            scorer=OSA.normalized_similarity,
            score_cutoff=MIN_TYPO_SIMILARITY,
            limit=None,
        )
        similarities |= {
            match: max(score, similarities.get(match, 0)) for match, score, _ in typo_matches
        }
    return similarities
