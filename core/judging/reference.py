"""The judge that needs no network: how close an answer is to the reference, letter by letter and word by word.

chrF (Popovic 2015, as sacrebleu computes it) is the score. Beside it: whether the two are the same but for
case, punctuation and spaces, and ROUGE-L (Lin 2004), the F-measure of the longest common subsequence of words.
"""

import json
from functools import cached_property
from typing import Any

from rapidfuzz.distance import LCSseq

from core.data.exact_match import exact_match, normalized
from core.judging.judge import Item, Verdict
from core.judging.order import MEASURE_TITLES, Kind, Measure

MEASURE_VERSION = 2
"""Of what follows here: another way to compare is another judge."""


class ReferenceJudge:
    """Deterministic; equal texts score 100. The reason tells the other measures."""

    def __init__(self, kind: Kind = "score", measure: Measure = "chrf") -> None:
        self._kind, self._measure = kind, measure

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The measure, with its library's version where its last digits may depend on that."""
        import sacrebleu

        model = MEASURE_TITLES[self._measure]
        model += f" {sacrebleu.__version__}" if self._measure == "chrf" else ""
        return {
            "judge": "reference",
            "kind": self._kind,
            "model": model,
            "version": MEASURE_VERSION,
        }

    def prompt(self, item: Item) -> str:
        """It reads the item itself."""
        return ""

    def judge(self, item: Item) -> Verdict:
        """Of two answers, the better is the one that is closer to the reference."""
        first = measures(item.answer, item.reference)
        if item.other is None:
            other_measures = [
                f"{MEASURE_TITLES[name]} {first[name]:.0f}"
                for name in MEASURE_TITLES
                if name != self._measure
            ]
            return Verdict(first[self._measure], ", ".join(other_measures), raw=json.dumps(first))
        other = measures(item.other, item.reference)
        first_score, other_score = first[self._measure], other[self._measure]
        difference = first_score - other_score
        reason = f"{MEASURE_TITLES[self._measure]} {first_score:.0f} and {other_score:.0f}"
        score = 50.0 if difference == 0 else 100.0 if difference > 0 else 0.0
        return Verdict(score, reason, raw=json.dumps([first, other]))


def measures(answer: str, reference: str) -> dict[Measure, float]:
    """Each measure of an answer, 0 to 100."""
    from sacrebleu.metrics import CHRF  # type: ignore[attr-defined]

    words, reference_words = normalized(answer).split(), normalized(reference).split()
    exact = exact_match(answer, reference)
    chrf = 100.0 if exact else CHRF().sentence_score(answer.strip(), [reference.strip()]).score
    length = len(words) + len(reference_words)
    rouge_l = 100.0 if exact else 200.0 * LCSseq.similarity(words, reference_words) / max(1, length)
    return {"exact": 100.0 * exact, "chrf": round(chrf, 4), "rouge_l": round(rouge_l, 4)}
