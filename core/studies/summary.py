"""The summary of a study: one row for each combination of the varied settings.

DataFrames in, DataFrames out; runs are read elsewhere. Groups, diverged runs and pairs are defined in
`core.studies.effects`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from core.colors import PALETTE
from core.config import LEARNING_FIELDS
from core.statistics import comparisons
from core.studies.effects import (
    DEFAULT_TIES,
    EFFECT_METRICS,
    JUDGE_METRIC,
    Group,
    compare,
    compared_fields,
    compared_pairs,
    grouped,
    has_been_pruned,
    has_diverged,
    in_units,
    setting_keys,
)
from core.studies.spacing import value_order
from core.studies.sweep import MIN_SEEDS, Axes

SUMMARY_COLUMNS = (
    "settings", "runs", "number", "color", "n", "mean", "sd", "low", "high", "is_best",
    "difference", "difference_low", "difference_high", "verdict",
    "diverged", "diverged_runs", "pruned", "failed", "unfinished", "relative_update",
)  # fmt: skip
OPPOSITE = {"better": "worse", "worse": "better"}
LIMITS = {"exact": (0.0, 1.0)}
"""Smallest and largest value of a metric. Judges score from 0 to 100."""
JUDGE_LIMITS = (0.0, 100.0)


def summary(
    runs: pd.DataFrame,
    metric: str,
    axes: Axes,
    items: pd.DataFrame | None = None,
    margin: float | None = None,
    with_verdicts: bool = True,
) -> pd.DataFrame:
    """Return one row for each combination of settings; see SUMMARY_COLUMNS. Rows are in the order of the settings.

    - `settings`: the varied settings by axis, such as `lora_rank=lora_alpha`; None if they have no effect.
    - `runs`: names, newest first. Of several runs with the same seed, the newest counts.
    - `number`: position in the order of creation, from which `color` derives.
    - `n`, `mean`, `sd`, `low`, `high`: number of seeds with a value, their mean, standard deviation and the 95% interval
      of the mean, in the unit of the metric. Metrics on a log scale have a geometric mean. Diverged runs are excluded.
    - `is_best`: whether the mean is the best. Groups with diverged runs are best only if there is no other.
    - `difference`: the difference from the best group, with its 95% interval.
    - `verdict`: how the group compares with the best, as in `effects`. None if the two do not differ in exactly one
      change, or have fewer than two seeds in common.
    - `relative_update`: mean over all runs that measured it.

    Args:
        runs: rows of `queries.results` with the column `base_loss`; see `effects`.
        metric: a key of EFFECT_METRICS, or a judge.
        axes: the settings varied by the study. Settings that vary together are one axis.
        items: scores of test items, for `exact` and judges.
        margin: see `effects`.
        with_verdicts: whether to compare all pairs, which takes time.
    """
    runs = runs[runs["seed"].notna()]
    groups = grouped(runs, metric, items, axes)
    by_run = {name: group for group in groups for name in group.runs}
    rows = _rows(runs, axes, by_run, metric)
    best = _best(rows, metric)
    if best is not None:
        verdicts = _verdicts(groups, best["group"], metric, margin, axes) if with_verdicts else {}
        for row in rows:
            _compare_to_best(row, best, metric, verdicts)
    rows.sort(
        key=lambda row: [value_order(axis[0], row["settings"]["=".join(axis)]) for axis in axes]
    )
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    # Otherwise pandas would turn None into nan.
    return table.assign(verdict=pd.Series([row["verdict"] for row in rows], dtype=object))


def varied_axes(runs: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the settings that differ between runs as axes, for a study whose file is damaged."""
    keys = setting_keys(runs[runs["seed"].notna()], LEARNING_FIELDS)
    columns = dict(zip(LEARNING_FIELDS, zip(*keys, strict=True), strict=True)) if keys else {}
    varied = [name for name, values in columns.items() if len({*map(repr, values)}) > 1]
    ties = [t for t in DEFAULT_TIES if {*t} <= {*varied} and len({columns[n] for n in t}) == 1]
    tied = {name for tie in ties for name in tie}
    return [*ties, *((name,) for name in varied if name not in tied)]


def _rows(
    runs: pd.DataFrame, axes: Axes, by_run: Mapping[str, Group], metric: str
) -> list[dict[str, Any]]:
    """Return the rows in the order of creation, each with its group, without comparisons."""
    fields = compared_fields(axes)
    members: dict[tuple[Any, ...], list[int]] = {}
    for position, key in enumerate(setting_keys(runs, fields)):
        members.setdefault(key, []).append(position)
    names, seeds = runs["name"].tolist(), runs["seed"].tolist()
    outcomes = _outcomes(runs)
    updates = runs.get("relative_update", pd.Series(math.nan, runs.index)).astype(float).tolist()
    oldest_first = sorted(members.items(), key=lambda item: -item[1][-1])
    rows = []
    for number, (key, positions) in enumerate(oldest_first):
        values = dict(zip(fields, key, strict=True))
        newest = {seeds[position]: position for position in reversed(positions)}
        found = sorted(newest.values())
        counts = Counter(outcomes[position] for position in found)
        group = next((by_run[names[p]] for p in found if names[p] in by_run), None)
        finite = [updates[p] for p in found if math.isfinite(updates[p])]
        rows.append({
            "settings": {"=".join(axis): values[axis[0]] for axis in axes},
            "runs": [names[position] for position in found],
            "number": number,
            "color": PALETTE[number % len(PALETTE)],
            "group": group,
            **_mean(group, metric),
            "is_best": False,
            "difference": math.nan, "difference_low": math.nan, "difference_high": math.nan,
            "verdict": None,
            **{outcome: counts[outcome] for outcome in ("diverged", "pruned", "failed", "unfinished")},
            "diverged_runs": [names[p] for p in found if outcomes[p] == "diverged"],
            "relative_update": float(np.mean(finite)) if finite else math.nan,
        })  # fmt: skip
    return rows


def _outcomes(runs: pd.DataFrame) -> list[str]:
    """Return `pruned`, `diverged`, `failed`, `finished` or `unfinished` for each run."""
    status, pruned = runs["status"], has_been_pruned(runs)
    known = status.where(status.isin(["failed", "finished"]), "unfinished")
    outcomes: list[str] = known.mask(has_diverged(runs), "diverged").mask(pruned, "pruned").tolist()
    return outcomes


def _mean(group: Group | None, metric: str) -> dict[str, float]:
    """Return n, mean, sd and the bounds of the interval, in the unit of the metric."""
    if group is None or not group.values:
        return {"n": 0, **dict.fromkeys(("mean", "sd", "low", "high"), math.nan)}
    compared = EFFECT_METRICS.get(metric, JUDGE_METRIC)
    values = np.array([*group.values.values()], float)
    if compared.is_log:
        values = np.log(values[values > 0])
    estimate = comparisons.average(values.tolist())
    seeds = len(values)
    sd = float(values.std(ddof=1)) if seeds > 1 else math.nan
    if group.items and seeds > 1:
        estimate = _mean_over_items(group)
    mean, (low, high) = estimate.difference, estimate.interval()
    if compared.is_log:
        mean, low, high = (math.exp(min(value, 700.0)) for value in (mean, low, high))
        return {"n": seeds, "mean": mean, "sd": sd * mean, "low": low, "high": high}
    if group.items:
        smallest, largest = LIMITS.get(metric, JUDGE_LIMITS)
        low, high = max(low, smallest), min(high, largest)
    return {"n": seeds, "mean": mean, "sd": sd, "low": low, "high": high}


def _mean_over_items(group: Group) -> comparisons.Effect:
    """Return the mean over seeds and over the test items that all of them answered."""
    scores = pd.DataFrame(dict(group.items)).dropna()
    table = scores.to_numpy(float).T  # (seeds, items)
    return comparisons.compare_items(np.zeros_like(table), table)


def _best(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """Return the row with the best mean."""
    sign = 1 if EFFECT_METRICS.get(metric, JUDGE_METRIC).direction == "lower" else -1
    measured = [row for row in rows if not math.isnan(row["mean"])]
    candidates = [row for row in measured if not row["diverged"]] or measured
    return min(candidates, key=lambda row: sign * row["mean"], default=None)


def _verdicts(
    groups: Sequence[Group],
    best: Group,
    metric: str,
    margin: float | None,
    axes: Axes,
) -> dict[int, str]:
    """Return the verdicts on the groups that differ from the best one in one change, by the group's ID."""
    verdicts: dict[int, str] = {}
    for before, after, row in compared_pairs(groups, metric, margin, axes):
        if row["seeds"] < MIN_SEEDS:
            continue
        verdict = row["verdict"]
        if before is best:
            verdicts[id(after)] = verdict
        elif after is best:
            verdicts[id(before)] = OPPOSITE.get(verdict, verdict)
    return verdicts


def _compare_to_best(
    row: dict[str, Any], best: dict[str, Any], metric: str, verdicts: Mapping[int, str]
) -> None:
    """Add the difference from the best group."""
    if row is best:
        row |= {"is_best": True, "difference": 0.0}
    elif row["group"] is not None and row["n"]:
        is_log = EFFECT_METRICS.get(metric, JUDGE_METRIC).is_log
        bounds = in_units(compare(best["group"], row["group"], is_log), best["group"], is_log)
        row |= {
            "difference": bounds["difference"],
            "difference_low": bounds["low"],
            "difference_high": bounds["high"],
            "verdict": verdicts.get(id(row["group"])),
        }
