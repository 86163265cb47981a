"""The judge that needs no network: how close an answer is to the reference, letter by letter and word by word.

chrF (Popovic 2015, as sacrebleu computes it) is the score. Beside it: whether the two are the same but for
case, punctuation and spaces, and ROUGE-L (Lin 2004), the F-measure of the longest common subsequence of words.
"""

import json
import re
import unicodedata
from functools import cached_property
from typing import Any

from rapidfuzz.distance import LCSseq

from core.judging.judge import Item, Verdict
from core.judging.questions import Kind

VERSION = 1
"""Of what follows here: another way to compare is another judge."""
QUIET = re.compile(r"[^\w\s+#%./<>=*-]|_|(?<!\d)[./*]|[./*](?!\d)|(?<=\w)-|-(?!\d)")
"""Signs that make no difference: no part of a number, as a minus or a decimal point are, nor of a name like C++."""


class ReferenceJudge:
    """Deterministic; equal texts score 100."""

    def __init__(self, kind: Kind = "score") -> None:
        self._kind = kind

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The measure with its library's version, on which its last digits may depend."""
        import sacrebleu

        model = f"chrF {sacrebleu.__version__}"
        return {"judge": "reference", "kind": self._kind, "model": model, "version": VERSION}

    def prompt(self, item: Item) -> str:
        """It reads the item itself."""
        return ""

    def judge(self, item: Item) -> Verdict:
        """Of two answers, the better is the one that is closer to the reference."""
        first = measures(item.answer, item.reference)
        if item.other is None:
            reason = f"exact {'yes' if first['exact'] else 'no'}, ROUGE-L {first['rouge_l']:.0f}"
            return Verdict(first["chrf"], reason, raw=json.dumps(first))
        other = measures(item.other, item.reference)
        ahead = first["chrf"] - other["chrf"]
        reason = f"chrF {first['chrf']:.0f} and {other['chrf']:.0f}"
        score = 50.0 if ahead == 0 else 100.0 if ahead > 0 else 0.0
        return Verdict(score, reason, raw=json.dumps([first, other]))


def measures(answer: str, reference: str) -> dict[str, float]:
    """exact, chrf and rouge_l of an answer, each 0 to 100."""
    from sacrebleu.metrics import CHRF  # type: ignore[attr-defined]

    words, wanted = normalised(answer).split(), normalised(reference).split()
    exact = words == wanted and (bool(words) or answer.strip() == reference.strip())
    chrf = 100.0 if exact else CHRF().sentence_score(answer.strip(), [reference.strip()]).score
    length = len(words) + len(wanted)
    rouge_l = 100.0 if exact else 200.0 * LCSseq.similarity(words, wanted) / max(1, length)
    return {"exact": 100.0 * exact, "chrf": round(chrf, 4), "rouge_l": round(rouge_l, 4)}


def normalised(text: str) -> str:
    """In lower case, without punctuation and repeated spaces."""
    return " ".join(QUIET.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())
