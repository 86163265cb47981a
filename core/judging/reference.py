"""The reference judge: scores answers by their similarity to the reference, without network access.

The measures are chrF (Popovic 2015, as implemented by sacrebleu), ROUGE-L (Lin 2004, the F-measure of the longest
common subsequence of words) and exact match, which ignores case, punctuation and spacing. Each is 100 for an exact
match.
"""

import json
from functools import cached_property
from typing import Any

from rapidfuzz.distance import LCSseq

from core.data.exact_match import exact_match, normalized
from core.judging.judge import Item, Verdict
from core.judging.order import MEASURE_TITLES, Kind, Measure

MEASURE_VERSION = 2
"""Part of the judge's spec. Increase it whenever `measures` changes, so that cached verdicts are not reused."""


class ReferenceJudge:
    """A deterministic judge that scores by one measure and reports the others in the verdict's reason."""

    def __init__(self, kind: Kind = "score", measure: Measure = "chrf") -> None:
        self._kind, self._measure = kind, measure

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The judge's identity.

        For chrF, it includes the sacrebleu version, because the last digits of the score may depend on it.
        """
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
        """Return an empty string, because this judge does not use prompts."""
        return ""

    def judge(self, item: Item) -> Verdict:
        """Score an answer, or compare two answers by their similarity to the reference."""
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
    """Return all measures for an answer, each from 0 to 100."""
    from sacrebleu.metrics import CHRF  # type: ignore[attr-defined]

    words, reference_words = normalized(answer).split(), normalized(reference).split()
    exact = exact_match(answer, reference)
    chrf = 100.0 if exact else CHRF().sentence_score(answer.strip(), [reference.strip()]).score
    length = len(words) + len(reference_words)
    rouge_l = 100.0 if exact else 200.0 * LCSseq.similarity(words, reference_words) / max(1, length)
    return {"exact": 100.0 * exact, "chrf": round(chrf, 4), "rouge_l": round(rouge_l, 4)}
