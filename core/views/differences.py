"""Differences in results between a run and others, and which of them noise alone can explain.

The noise floors come from `core.studies.noise`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.views.formats import DASH, setting_text
from core.views.report import LOSS_FIELDS, TEST_SET_FIELDS
from core.views.tables import is_missing

if TYPE_CHECKING:  # imports SciPy
    from core.statistics.comparisons import NoiseFloor
    from core.studies.noise import Noise

LOSSES = ("val_loss", "best_val_loss")
EXACT = "exact"
RESULTS = (*LOSSES, EXACT)
"""Results whose differences are shown, besides judges' scores."""
ONE_PAIR = "One pair of runs proves nothing: runs that differ only in their seed differ too."


def differences(
    runs: pd.DataFrame, reference: Mapping[str, Any], noise: "Noise", values: pd.Series
) -> pd.DataFrame:
    """Return the difference of each run from the reference: difference, is_noise.

    The difference is nan for the reference itself and for runs whose results are not comparable with it: those with
    other data, or with another validation set.

    Args:
        runs: rows of `Lab.runs`.
        reference: one of them.
        values: the metric of each run.
    """
    position = runs["name"] == reference["name"]
    base = float(values[position].iloc[0])
    gaps = (values.astype(float) - base).where(_comparable(runs, reference, noise.metric))
    kinds = runs[["method", "base_model", "dataset"]].astype(object)
    limits = {
        kind: noise.limit(reference, dict(zip(kinds, kind, strict=True)))
        for kind in {*kinds.itertuples(index=False, name=None)}
    }
    is_noise = [
        noise.size(base, base + gap) <= limits[kind] if math.isfinite(gap) else False
        for gap, kind in zip(gaps, kinds.itertuples(index=False, name=None), strict=True)
    ]
    return pd.DataFrame({"difference": gaps, "is_noise": is_noise}, index=runs.index)


def _comparable(runs: pd.DataFrame, reference: Mapping[str, Any], metric: str) -> pd.Series:
    """Return a mask of the runs whose metric was measured like the reference's. Excludes the reference."""
    names = [*(LOSS_FIELDS if metric in LOSSES else TEST_SET_FIELDS)]
    names += {"val_loss": ["val_set"], "best_val_loss": ["eval_examples"]}.get(metric, [])
    mask = runs["name"] != reference["name"]
    for name in names:
        value = reference[name]
        mask &= runs[name].isna() if is_missing(value) else runs[name].eq(value).fillna(False)
    return mask


def difference_text(metric: str, value: float | None) -> str:
    """Format a difference, such as `+0.0123` for a loss, `-1.5 pp` (percentage points) for exact answers, or `+2.0`."""
    if is_missing(value):
        return DASH
    if metric in LOSSES:
        return f"{value:+.4f}"
    return f"{100 * value:+.1f} pp" if metric == EXACT else f"{value:+.1f}"


def size_text(metric: str, value: float) -> str:
    """Format a deviation or a limit on the scale of the noise floor, such as `0.31%`, `1.5 pp` or `2.0 points`."""
    if metric in LOSSES:
        return f"{value:.2%}" if value < 0.1 else f"{value:.0%}"
    return f"{100 * value:.1f} pp" if metric == EXACT else f"{value:.1f} points"


def floor_text(metric: str, floor: "NoiseFloor", kind: Iterable[Any] = ()) -> str:
    """Describe a noise floor, such as `Seed-to-seed sd 0.31% (95% interval 0.24% to 0.43%), from 24 repeats`."""
    sd, low, high = (size_text(metric, value) for value in (floor.sd, floor.low, floor.high))
    of = ", ".join(setting_text(value) for value in kind)
    repeats = "1 repeat" if floor.df == 1 else f"{floor.df:,} repeats"
    return f"Seed-to-seed sd {sd} (95% interval {low} to {high}), from {repeats}" + (
        f" ({of})." if of else "."
    )


def seeds_text(expected: int, low: int, high: int, most: int) -> str:
    """Describe a number of seeds and its range, such as `4 seeds (2 to 9)`."""
    texts = [f"{n:,}" if n < most else f"{most:,} or more" for n in (expected, low, high)]
    range_text = texts[1] if low == high else f"{texts[1]} to {texts[2]}"
    return f"{texts[0]} seeds ({range_text})" if low != high else f"{texts[0]} seeds"
