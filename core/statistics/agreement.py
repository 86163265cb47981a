"""Whether two judges agree on the same answers, and whether one agrees with itself.

Knows tables of points from 0 to 100. A missing score is nan and is left out together with its partner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from core.statistics.intervals import aligned


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation, -1 to 1, over n items; nan where one of the two never varies."""

    correlation: float
    n: int


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of two aligned sequences, ties at their mean rank; nan where one never varies."""
    first, second = (pd.Series(values).rank() for values in aligned(a, b))
    if min(first.nunique(), second.nunique()) < 2:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def agreement(a: pd.Series, b: pd.Series) -> Agreement:
    """How alike two judges order the items that both scored. The index is the item."""
    both = _both(a, b)
    return Agreement(spearman(both["a"], both["b"]), len(both))


def disagreements(a: pd.Series, b: pd.Series, top: int = 10) -> pd.DataFrame:
    """The items that two judges rank most differently, largest difference first. The index is the item.

    Columns are the scores `a` and `b`, their percentile ranks `rank_a` and `rank_b` among the items that
    both scored, so that a lenient and a strict judge compare, and `gap`, which is rank_a - rank_b.
    """
    both = _both(a, b)
    for name in ("a", "b"):
        both[f"rank_{name}"] = 100 * both[name].rank(pct=True)
    both["gap"] = both["rank_a"] - both["rank_b"]
    order = both["gap"].abs().sort_values(ascending=False, kind="stable").index
    return both.loc[order].query("gap != 0").head(top)


def inconsistent(frame: pd.DataFrame, by: Sequence[str] = ("item", "answer")) -> pd.DataFrame:
    """Equal answers to equal items that got different scores, largest spread first.

    Columns are those of `by`, then `min`, `max` and `spread` in points, and `count` of scores.
    """
    scores = frame.groupby(list(by), sort=False)["score"]
    summary = scores.agg(["min", "max", "count"]).reset_index()
    summary.insert(len(by) + 2, "spread", summary["max"] - summary["min"])
    differing = summary[summary["spread"] > 0]
    return differing.sort_values("spread", ascending=False, kind="stable", ignore_index=True)


def _both(a: pd.Series, b: pd.Series) -> pd.DataFrame:
    """Two series side by side where both have a score, in the order of the first."""
    return pd.concat({"a": a, "b": b}, axis=1, join="inner").dropna()
