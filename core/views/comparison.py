"""Test prompts with several runs' answers: how the answers differ, and which run scores higher.

This module does not know where scores come from or how prompts are shown.
"""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rapidfuzz.distance import Indel

from core.views.search import normalized_words
from core.views.tables import records

PROMPT_COLUMNS = ["item", "instruction", "input", "reference"]
"""Columns that identify a prompt. The data set index alone cannot, because runs may use different data sets."""
TIE_TOLERANCE = 1e-9
"""Tolerance when comparing scores, in points. Means of repeated verdicts have rounding errors."""
Example = tuple[str, str, str]
"""Instruction, input and reference."""


@dataclass(frozen=True)
class Prompt:
    """A test prompt with its answers.

    Args:
        item: index of the example in the data set.
        answers: rows of `Lab.answers` by run; runs without an answer are omitted.
        scores: points from 0 to 100 by run; runs without a score are omitted.
    """

    item: int
    instruction: str
    input: str
    reference: str
    answers: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, float]

    @property
    def id(self) -> str:
        """The index followed by a hash of the text. Contains only digits, letters and a hyphen."""
        texts = "\0".join((self.instruction, self.input, self.reference))
        return f"{self.item}-{zlib.crc32(texts.encode('utf-8', 'replace')):08x}"

    @property
    def text(self) -> str:
        """The text to search."""
        return f"{self.instruction} {self.input} {self.reference}"

    @property
    def difference(self) -> float:
        """The largest difference between two answers, as a fraction of their words (0 to 1).

        A single answer is compared with the reference.
        """
        texts = [row["answer"] for row in self.answers.values()]
        if len(texts) == 1:
            texts.append(self.reference)
        words = [normalized_words(text) for text in dict.fromkeys(texts)]
        pairs = itertools.combinations(words, 2)
        return max((Indel.normalized_distance(a, b) for a, b in pairs), default=0.0)

    def gap(self, a: str, b: str) -> float | None:
        """Return A's score minus B's, or None if one is missing."""
        if a not in self.scores or b not in self.scores:
            return None
        gap = self.scores[a] - self.scores[b]
        return 0.0 if abs(gap) < TIE_TOLERANCE else gap

    def is_right(self, run: str) -> bool:
        """Return whether a run's answer matches the reference."""
        return run in self.answers and bool(self.answers[run]["exact"])


@dataclass(frozen=True)
class Record:
    """Number of prompts on which A scores higher than, lower than, or the same as B."""

    wins: int
    losses: int
    ties: int

    def sentence(self, a: str, b: str, measure: str) -> str:
        """Return the record as a sentence."""
        total = self.wins + self.losses + self.ties
        if not total:
            return f"{a} and {b} have no scored prompts in common."
        prompts = "1 prompt" if total == 1 else f"{total:,} prompts"
        counts = f"wins {self.wins:,}, loses {self.losses:,} and ties {self.ties:,}"
        return f"{a} {counts} against {b} on {prompts} ({measure})."


def prompts(
    answers: pd.DataFrame, scores: Mapping[tuple[str, Example], float] | None = None
) -> list[Prompt]:
    """Return the prompts of a test set. Those answered by the most runs come first; ties are in data set order.

    Args:
        answers: rows of `Lab.answers`.
        scores: points from 0 to 100 by run and example. By default, 100 for an answer that matches the reference,
            otherwise 0.
    """
    rows_by_prompt: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in records(answers):
        key = tuple(row[column] for column in PROMPT_COLUMNS)
        rows_by_prompt.setdefault(key, {}).setdefault(row["run"], row)
    result = []
    for (item, *texts), rows in rows_by_prompt.items():
        example: Example = (texts[0], texts[1], texts[2])
        if scores is None:
            points = {run: 100.0 * bool(row["exact"]) for run, row in rows.items()}
        else:
            points = {run: scores[run, example] for run in rows if (run, example) in scores}
        result.append(Prompt(item, *example, rows, points))
    return sorted(result, key=lambda prompt: -len(prompt.answers))


def record(prompts: Sequence[Prompt], a: str, b: str) -> Record:
    """Count A's wins, losses and ties against B. Prompts without a score for either run are omitted."""
    gaps = [gap for prompt in prompts if (gap := prompt.gap(a, b)) is not None]
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    return Record(wins, losses, len(gaps) - wins - losses)


def mean_scores(prompts: Sequence[Prompt], a: str, b: str) -> tuple[float, float] | None:
    """Return the mean scores of A and B on the prompts with a score for both, or None if there are none."""
    pairs = [(p.scores[a], p.scores[b]) for p in prompts if a in p.scores and b in p.scores]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return sum(first) / len(pairs), sum(second) / len(pairs)


FILTERS: dict[str, Callable[[Prompt, str, str], bool]] = {
    "All prompts": lambda prompt, a, b: True,
    "A right, B wrong": lambda prompt, a, b: prompt.is_right(a) and not prompt.is_right(b),
    "B right, A wrong": lambda prompt, a, b: prompt.is_right(b) and not prompt.is_right(a),
    "Both wrong": lambda prompt, a, b: not prompt.is_right(a) and not prompt.is_right(b),
    "A scores higher": lambda prompt, a, b: (prompt.gap(a, b) or 0) > 0,
    "B scores higher": lambda prompt, a, b: (prompt.gap(a, b) or 0) < 0,
}
"""Filters on prompts, given runs A and B. All but the first require answers from both."""
MOST_DIFFERENT, SCORE_DIFFERENCE, DATASET_ORDER = (
    "Most different",
    "Score difference",
    "Data set order",
)
SORTS = (MOST_DIFFERENT, SCORE_DIFFERENCE, DATASET_ORDER)


def matching(prompts: Sequence[Prompt], filter: str, a: str, b: str) -> list[Prompt]:
    """Return the prompts that pass one of FILTERS."""
    test = FILTERS[filter]
    is_any = filter == next(iter(FILTERS))
    return [
        prompt
        for prompt in prompts
        if is_any or (a in prompt.answers and b in prompt.answers and test(prompt, a, b))
    ]


def arranged(prompts: Sequence[Prompt], sort: str, a: str, b: str) -> list[Prompt]:
    """Sort prompts by one of SORTS. Those answered by the most runs still come first, and ties keep their order."""
    if sort == DATASET_ORDER:
        return sorted(prompts, key=lambda prompt: (-len(prompt.answers), prompt.item))
    if sort == SCORE_DIFFERENCE:
        return sorted(
            prompts, key=lambda prompt: (-len(prompt.answers), -abs(prompt.gap(a, b) or 0))
        )
    return sorted(prompts, key=lambda prompt: (-len(prompt.answers), -prompt.difference))
