"""Agreement between two judges, and the consistency of one judge.

Scores range from 0 to 100. A missing score is nan; items that lack a score from either judge are excluded.
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
    """Spearman's rank correlation over n items, from -1 to 1; nan if either judge's scores are constant."""

    correlation: float
    n: int


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation between two aligned sequences; nan if either is constant.

    Ties get their mean rank.
    """
    first, second = (pd.Series(values).rank() for values in aligned(a, b))
    if min(first.nunique(), second.nunique()) < 2:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def agreement(a: pd.Series, b: pd.Series) -> Agreement:
    """Return the rank correlation between two judges over the items that both scored. Series are indexed by item."""
    both = _common_items(a, b)
    return Agreement(spearman(both["a"], both["b"]), len(both))


def disagreements(a: pd.Series, b: pd.Series, top: int = 10) -> pd.DataFrame:
    """Return the items that two judges rank most differently, largest difference first, indexed by item.

    The columns are the scores `a` and `b`, their percentile ranks `rank_a` and `rank_b` among the items that both
    scored, and `gap`, which is rank_a - rank_b. Ranks make a lenient and a strict judge comparable.

    Args:
        a: the first judge's scores, indexed by item.
        b: the second judge's scores.
        top: maximum number of items.
    """
    both = _common_items(a, b)
    for name in ("a", "b"):
        both[f"rank_{name}"] = 100 * both[name].rank(pct=True)
    both["gap"] = both["rank_a"] - both["rank_b"]
    order = both["gap"].abs().sort_values(ascending=False, kind="stable").index
    return both.loc[order].query("gap != 0").head(top)


def inconsistent(frame: pd.DataFrame, by: Sequence[str] = ("item", "answer")) -> pd.DataFrame:
    """Return identical answers with different scores, largest spread first.

    The columns are those in `by`, followed by `min`, `max` and `spread` in points, and `count`, the number of scores.

    Args:
        frame: scores, with the columns in `by` and `score`.
        by: columns that identify an answer.
    """
    scores = frame.groupby(list(by), sort=False)["score"]
    summary = scores.agg(["min", "max", "count"]).reset_index()
    summary.insert(len(by) + 2, "spread", summary["max"] - summary["min"])
    differing = summary[summary["spread"] > 0]
    return differing.sort_values("spread", ascending=False, kind="stable", ignore_index=True)


def _common_items(a: pd.Series, b: pd.Series) -> pd.DataFrame:
    """Return columns `a` and `b` for the items that both scored, in the first judge's order."""
    return pd.concat({"a": a, "b": b}, axis=1, join="inner").dropna()
