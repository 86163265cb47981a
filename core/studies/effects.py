"""Effects: the difference in a metric between groups of runs that differ in exactly one change.

DataFrames in, DataFrames out; runs are read elsewhere. Runs with the same learning settings form a group, with one run
for each seed. Two groups are compared if they differ in one setting, or in several that were changed together, such as
`lora_rank=lora_alpha`. The statistics are in `core.statistics.comparisons`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from core.config import LEARNING_FIELDS, RunConfig, condition
from core.errors import UserError
from core.statistics import comparisons
from core.statistics.comparisons import Direction

DEFAULT_TIES = (("lora_rank", "lora_alpha"),)
"""Settings that count as one change if they are equal to each other on both sides, as with alpha = rank."""
EFFECT_COLUMNS = (
    "field", "from", "to", "context", "metric", "direction", "seeds", "n", "difference", "low", "high", "p", "q",
    "margin", "verdict", "diverged",
)  # fmt: skip


@dataclass(frozen=True)
class EffectMetric:
    """Direction, default margin and scale for comparing a metric.

    Args:
        direction: which values are better.
        margin: smaller differences count as equivalent by default: a fraction of the value for metrics on a log
            scale, otherwise in the unit of the metric.
        is_log: compare logarithms, whose differences are relative.
    """

    direction: Direction
    margin: float
    is_log: bool = False


EFFECT_METRICS = {
    **dict.fromkeys(("val_loss", "best_val_loss", "subset_loss", "perplexity"), EffectMetric("lower", 0.01, True)),
    **dict.fromkeys(("seconds", "peak_memory_mb"), EffectMetric("lower", 0.05, True)),
    "exact": EffectMetric("higher", 0.02),
}  # fmt: skip
"""Metrics by name. Any other metric is a judge with scores from 0 to 100."""
WHOLE_SET_METRICS = ("val_loss", "perplexity")
"""Metrics that are compared only if they were measured on the whole validation set."""
JUDGE_METRIC = EffectMetric("higher", 2.0)


@dataclass(frozen=True)
class Group:
    """Runs with the same learning settings.

    Args:
        settings: learning settings by name; None without an effect.
        values: the metric by seed, without diverged runs.
        items: the metric of each test item, (seeds, items), if it is measured on test items.
        diverged: number of runs whose loss became infinite or rose above the base model's.
    """

    settings: Mapping[str, Any]
    values: Mapping[int, float]
    items: Mapping[int, pd.Series]
    diverged: int


def effects(
    runs: pd.DataFrame,
    metric: str,
    items: pd.DataFrame | None = None,
    margin: float | None = None,
    ties: Sequence[tuple[str, ...]] = (),
) -> pd.DataFrame:
    """Return one row per pair of groups that differ in one change; see EFFECT_COLUMNS.

    `context` holds the values of the settings that vary among the runs and that this pair shares. `low` and `high` are
    the bounds of the 95% interval of `difference` = to - from, in the unit of the metric. `q` is `p`, adjusted for the
    number of rows. `diverged` counts the diverged runs on both sides, which are excluded from the difference.

    Args:
        runs: rows of `queries.results` with the column `base_loss`, the loss before the first step.
        metric: a key of EFFECT_METRICS, or a judge.
        items: scores of test items, for `exact` and judges: run, example, score.
        margin: differences below this count as equivalent; see `EffectMetric`.
        ties: settings that were varied together.
    """
    compared = EFFECT_METRICS.get(metric, JUDGE_METRIC)
    margin = compared.margin if margin is None else margin
    if not margin > 0:
        raise UserError(f"margin = {margin:g}: must be greater than 0")
    groups = _groups(runs, metric, items)
    varied = _varied([group.settings for group in groups])
    rows, estimates = [], []
    for before, after, fields in _pairs(groups, [*ties, *DEFAULT_TIES]):
        estimate = _compare(before, after, compared.is_log)
        seeds = len(before.values.keys() & after.values.keys())
        rows.append({
            "field": "=".join(fields),
            "from": before.settings[fields[0]],
            "to": after.settings[fields[0]],
            "context": {n: before.settings[n] for n in varied if n not in fields and before.settings[n] == after.settings[n]},
            "metric": metric,
            "direction": compared.direction,
            "seeds": seeds if estimate.is_paired else min(len(before.values), len(after.values)),
            "n": estimate.n,
            **_in_units(estimate, before, compared.is_log),
            "p": estimate.p,
            "margin": margin,
            "diverged": [before.diverged, after.diverged],
        })  # fmt: skip
        estimates.append(estimate)
    q_values = comparisons.adjusted([row["p"] for row in rows])
    for row, estimate, q in zip(rows, estimates, q_values, strict=True):
        row["q"] = q
        row["verdict"] = comparisons.verdict(estimate, q, margin, compared.direction)
    table = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
    # Otherwise pandas would turn 16 into 16.0 next to other settings.
    ends = {name: pd.Series([row[name] for row in rows], dtype=object) for name in ("from", "to")}
    return table.assign(**ends)


def _groups(runs: pd.DataFrame, metric: str, items: pd.DataFrame | None) -> list[Group]:
    """Group finished and diverged runs by their learning settings. Of several runs with one seed, the newest counts.

    Runs whose config.json is damaged have no settings, so they are left out.
    """
    runs = runs[runs["seed"].notna()]
    if runs.empty:
        return []
    has_diverged = diverged(runs)
    ended = runs[(runs["status"] == "finished") | has_diverged]
    ended = ended.assign(diverged=has_diverged[ended.index])
    scores = {} if items is None else dict(tuple(items.groupby("run", sort=False)))
    settings = ended[list(LEARNING_FIELDS)].astype(object)
    settings = settings.where(settings.notna(), None)
    relevant = pd.DataFrame({n: condition(n)(ended) for n in LEARNING_FIELDS}, index=ended.index)
    keys = [tuple(row) for row in settings.itertuples(index=False, name=None)]
    members: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    groups = []
    for key, rows in members.items():
        seen: set[int] = set()
        values: dict[int, float] = {}
        item_scores: dict[int, pd.Series] = {}
        lost = 0
        for row in rows:  # newest first
            run = ended.iloc[row]
            seed = int(run["seed"])
            if seed in seen:
                continue
            seen.add(seed)
            if run["diverged"]:
                lost += 1
            elif items is not None:
                if (scored := scores.get(run["name"])) is not None:
                    item_scores[seed] = scored.groupby("example")["score"].mean()
                    values[seed] = float(item_scores[seed].mean())
            elif pd.notna(run[metric]) and (
                metric not in WHOLE_SET_METRICS or run["val_set"] == "whole set"
            ):
                values[seed] = float(run[metric])
        is_relevant = relevant.iloc[rows[0]]
        named = {
            name: value if bool(is_relevant[name]) else IRRELEVANT
            for name, value in zip(LEARNING_FIELDS, key, strict=True)
        }
        groups.append(Group(named, values, item_scores, lost))
    return groups


class _Irrelevant:
    """Sentinel for a setting that has no effect. Unlike None, it is never a valid value."""

    def __repr__(self) -> str:
        return "none"


IRRELEVANT = _Irrelevant()


def diverged(runs: pd.DataFrame) -> pd.Series:
    """Return a mask of the runs whose loss became infinite, or ended above the loss of the base model."""
    failed = (runs["status"] == "failed") & runs["reason"].fillna("").str.contains("finite")
    loss = runs["subset_loss"].fillna(runs["val_loss"])
    worse = (runs["status"] == "finished") & (loss > runs["base_loss"])
    never = (runs["status"] == "finished") & loss.isna() & (runs["step"] > 0)
    return failed | worse | never


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in LEARNING_FIELDS if len({repr(s[name]) for s in settings}) > 1]


def _pairs(
    groups: Sequence[Group], ties: Sequence[tuple[str, ...]]
) -> Iterator[tuple[Group, Group, tuple[str, ...]]]:
    """Yield pairs of groups that differ in one change, the smaller or default value first, with the changed settings."""
    codes = np.array(
        [
            [-1 if group.settings[n] is IRRELEVANT else hash(group.settings[n]) for n in LEARNING_FIELDS]
            for group in groups
        ],
        dtype=np.int64,
    ).reshape(len(groups), len(LEARNING_FIELDS))  # fmt: skip
    longest = max([1, *(len(tie) for tie in ties)])
    for i in range(len(groups)):
        # Ignore settings that have no effect on one side: another setting that differs turns them off.
        differs = (codes[i] != codes[i + 1 :]) & (codes[i] != -1) & (codes[i + 1 :] != -1)
        for offset in np.flatnonzero(differs.sum(axis=1) <= longest):
            fields = tuple(itertools.compress(LEARNING_FIELDS, differs[offset]))
            pair = (groups[i], groups[i + 1 + int(offset)])
            if change := _one_change(fields, pair, ties):
                first, second = sorted(pair, key=lambda group: _order(change[0], group))
                yield first, second, change


def _one_change(
    fields: tuple[str, ...], pair: tuple[Group, Group], ties: Sequence[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Return the changed settings if they are one change, or None."""
    if len(fields) == 1:
        return fields
    for tie in ties:
        if set(fields) == {*tie} and all(
            len({group.settings[name] for name in tie}) == 1 for group in pair
        ):
            return tie
    return None


def _order(field: str, group: Group) -> tuple[bool, bool, Any]:
    """Sort key: numbers by size with None first, other values with the default first."""
    value = group.settings[field]
    if value is None:
        return False, False, 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return True, False, float(value)
    return True, value != RunConfig.model_fields[field].default, str(value)


def _compare(before: Group, after: Group, is_log: bool) -> comparisons.Effect:
    """Compare two groups, by test items if there are any."""
    common = sorted(before.items.keys() & after.items.keys())
    if common:
        shared = before.items[common[0]].index
        for side, seed in itertools.product((before, after), common):
            shared = shared.intersection(side.items[seed].dropna().index)
        if len(shared):
            first, second = (
                np.stack([side.items[seed].loc[shared].to_numpy(float) for seed in common])
                for side in (before, after)
            )
            return comparisons.compare_items(first, second)
    sides = [
        {seed: math.log(value) if is_log else value for seed, value in side.values.items() if not is_log or value > 0}
        for side in (before, after)
    ]  # fmt: skip
    return comparisons.compare(*sides)


def _in_units(estimate: comparisons.Effect, before: Group, is_log: bool) -> dict[str, float]:
    """Return the difference and its interval in the unit of the metric."""
    low, high = estimate.interval()
    bounds = {"difference": estimate.difference, "low": low, "high": high}
    if not is_log or not before.values:
        return bounds
    typical = math.exp(np.mean(np.log([v for v in before.values.values() if v > 0])))
    return {name: typical * math.expm1(min(value, 700.0)) for name, value in bounds.items()}
