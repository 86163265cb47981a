"""The Pareto front of two metrics. DataFrames in, masks out."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from core.statistics.comparisons import Direction


def pareto_front(
    frame: pd.DataFrame, quality: str, cost: str, directions: Mapping[str, Direction]
) -> pd.Series:
    """Return a mask of the rows that no other row dominates.

    A row dominates another if it is at least as good in both columns and better in one. Equal rows do not dominate
    each other, and rows with a missing value are never part of the front.

    Args:
        directions: which values are better, for both columns.
    """
    points = np.stack(
        [
            frame[name].to_numpy(float, na_value=np.nan) * (1 if directions[name] == "lower" else -1)
            for name in (cost, quality)
        ],
        axis=1,
    )  # fmt: skip
    front = np.zeros(len(frame), bool)
    best = math.inf  # of all rows with a lower cost
    usable = np.flatnonzero(np.isfinite(points).all(axis=1))
    order = usable[np.lexsort((points[usable, 1], points[usable, 0]))]
    for value in dict.fromkeys(points[order, 0].tolist()):
        rows = order[points[order, 0] == value]
        lowest = points[rows, 1].min()
        if lowest < best:
            front[rows[points[rows, 1] == lowest]] = True
            best = lowest
    return pd.Series(front, index=frame.index)
