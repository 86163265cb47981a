"""Effects: the difference in a metric between groups of runs that differ by exactly one change.

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
from numpy.typing import NDArray

from core.config import LEARNING_FIELDS, condition
from core.errors import UserError
from core.statistics import comparisons
from core.statistics.comparisons import Direction
from core.studies.pruning import PRUNED
from core.studies.spacing import value_order
from core.studies.sweep import MIN_SEEDS, Axes

DEFAULT_TIES = (("lora_rank", "lora_alpha"),)
"""Settings that count as one change if they are equal to each other on both sides, as with alpha = rank."""
EFFECT_COLUMNS = (
    "field", "from", "to", "context", "metric", "direction", "seeds", "n", "difference", "low", "high", "p", "q",
    "margin", "verdict", "diverged", "pruned",
)  # fmt: skip
DOUBLE_CHANGE_COLUMNS = ("changes", "context", "metric", "seeds", "difference", "diverged")


@dataclass(frozen=True)
class EffectMetric:
    """The direction, default margin and scale for comparing a metric.

    Args:
        direction: which values are better.
        margin: default below which differences count as equivalent. A fraction of the value for metrics on a log
            scale, otherwise in the unit of the metric.
        is_log: whether logarithms are compared, so that differences are relative.
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
"""Metrics that count only if they were measured on the whole validation set."""
JUDGE_METRIC = EffectMetric("higher", 2.0)


@dataclass(frozen=True)
class Group:
    """Runs with the same learning settings.

    Args:
        settings: learning settings and varied ones by name; IRRELEVANT for those without an effect.
        runs: the names of the runs, newest first.
        values: the metric by seed, without diverged runs.
        items: scores of all test items by seed, if the metric is measured on test items; nan for those without a score.
        diverged: number of runs whose loss became infinite or rose above the base model's.
        pruned: number of pruned runs.
    """

    settings: Mapping[str, Any]
    runs: Sequence[str]
    values: Mapping[int, float]
    items: Mapping[int, NDArray]
    diverged: int
    pruned: int


def effects(
    runs: pd.DataFrame,
    metric: str,
    items: pd.DataFrame | None = None,
    margin: float | None = None,
    axes: Axes = (),
) -> pd.DataFrame:
    """Return one row per pair of groups that differ by one change; see EFFECT_COLUMNS.

    `context` holds the values of the settings that vary among the runs and that this pair shares. `low` and `high` are
    the bounds of the 95% interval of `difference` = to - from, in the unit of the metric. `q` is `p`, adjusted for the
    number of rows. `verdict` is undecided with fewer than MIN_SEEDS seeds. `diverged` and `pruned` count the runs on both
    sides that are excluded from the difference for these reasons. Pruning removes the worse runs, so the differences
    between pruned groups are biased.

    Args:
        runs: rows of `queries.results` with the column `base_loss`, the loss before the first step.
        metric: a key of EFFECT_METRICS, or a judge.
        items: scores of test items, for `exact` and judges: run, example, score.
        margin: differences below this count as equivalent; see `EffectMetric`.
        axes: settings that a study varies. Settings that do not affect learning are compared only if they are varied.
    """
    groups = grouped(runs, metric, items, axes)
    rows = [row for _, _, row in compared_pairs(groups, metric, margin, axes)]
    table = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
    # Otherwise pandas would turn 16 into 16.0 next to other settings.
    ends = {name: pd.Series([row[name] for row in rows], dtype=object) for name in ("from", "to")}
    return table.assign(**ends)


def compared_pairs(
    groups: Sequence[Group],
    metric: str,
    margin: float | None = None,
    axes: Axes = (),
) -> list[tuple[Group, Group, dict[str, Any]]]:
    """Return the pairs of groups that differ by one change, each with its row of `effects`."""
    compared = EFFECT_METRICS.get(metric, JUDGE_METRIC)
    margin = compared.margin if margin is None else margin
    if not margin > 0:
        raise UserError(f"margin = {margin:g}: must be greater than 0")
    varied = _varied([group.settings for group in groups])
    pairs, rows, estimates = [], [], []
    for before, after, fields in _pairs(groups, _ties(axes)):
        pairs.append((before, after))
        estimate = compare(before, after, compared.is_log)
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
            **in_units(estimate, before, compared.is_log),
            "p": estimate.p,
            "margin": margin,
            "diverged": [before.diverged, after.diverged],
            "pruned": [before.pruned, after.pruned],
        })  # fmt: skip
        estimates.append(estimate)
    q_values = comparisons.adjusted([row["p"] for row in rows])
    for row, estimate, q in zip(rows, estimates, q_values, strict=True):
        row["q"] = q
        has_seeds = row["seeds"] >= MIN_SEEDS
        verdict = comparisons.verdict(estimate, q, margin, compared.direction)
        row["verdict"] = verdict if has_seeds else "undecided"
    return [(*pair, row) for pair, row in zip(pairs, rows, strict=True)]


def double_changes(
    runs: pd.DataFrame,
    metric: str,
    items: pd.DataFrame | None = None,
    axes: Axes = (),
) -> pd.DataFrame:
    """Return one row per pair of groups that differ by exactly two changes; see DOUBLE_CHANGE_COLUMNS.

    Such a difference cannot be attributed to one of the changes, so it has no interval and no verdict. `changes` holds
    the two changes as (field, from, to), and the other columns are those of `effects`.
    """
    is_log = EFFECT_METRICS.get(metric, JUDGE_METRIC).is_log
    groups = grouped(runs, metric, items, axes)
    varied = _varied([group.settings for group in groups])
    rows = []
    for before, after, *changes in _double_pairs(groups, _ties(axes)):
        fields = {field for change in changes for field in change}
        estimate = compare(before, after, is_log, by_item=False)
        rows.append({
            "changes": [("=".join(c), before.settings[c[0]], after.settings[c[0]]) for c in changes],
            "context": {n: before.settings[n] for n in varied if n not in fields and before.settings[n] == after.settings[n]},
            "metric": metric,
            "seeds": estimate.n if estimate.is_paired else min(len(before.values), len(after.values)),
            "difference": in_units(estimate, before, is_log)["difference"],
            "diverged": [before.diverged, after.diverged],
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(DOUBLE_CHANGE_COLUMNS))


def grouped(
    runs: pd.DataFrame, metric: str, items: pd.DataFrame | None = None, axes: Axes = ()
) -> list[Group]:
    """Group ended runs by their learning settings and the varied ones. Of several with the same seed, the newest counts.

    Pruned runs do not form a group of their own. Runs whose config.json is damaged have no settings, so they are left out.
    """
    runs = runs[runs["seed"].notna()]
    if runs.empty:
        return []
    is_diverged, is_pruned = has_diverged(runs), has_been_pruned(runs)
    ended = runs[(runs["status"] == "finished") | is_diverged | is_pruned]
    ended = ended.assign(diverged=is_diverged[ended.index], pruned=is_pruned[ended.index])
    scores = _scores_by_run(items)
    fields = compared_fields(axes)
    relevant = pd.DataFrame({n: condition(n)(ended) for n in fields}, index=ended.index).to_numpy(
        bool
    )
    columns = ["name", "seed", "diverged", "pruned", *({metric, "val_set"} & {*ended.columns})]
    measured = ended[columns].to_dict("records")
    run_names = ended["name"].tolist()
    members: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(setting_keys(ended, fields)):
        members.setdefault(key, []).append(row)
    groups = []
    for key, rows in members.items():
        seen: set[int] = set()
        values: dict[int, float] = {}
        item_scores: dict[int, NDArray] = {}
        diverged_runs = pruned_runs = 0
        for row in rows:  # newest first
            run = measured[row]
            seed = int(run["seed"])
            if seed in seen:
                continue
            seen.add(seed)
            if run["diverged"]:
                diverged_runs += 1
            elif run["pruned"]:
                pruned_runs += 1
            elif items is not None:
                if (scored := scores.get(run["name"])) is not None:
                    item_scores[seed] = scored
                    values[seed] = float(np.nanmean(scored))
            elif (
                pd.notna(run[metric])
                and math.isfinite(run[metric])
                and (metric not in WHOLE_SET_METRICS or run["val_set"] == "whole set")
            ):
                values[seed] = float(run[metric])
        if not values and not diverged_runs and pruned_runs:
            continue
        named = {
            name: value if is_relevant else IRRELEVANT
            for name, value, is_relevant in zip(fields, key, relevant[rows[0]], strict=True)
        }
        groups.append(
            Group(
                named, [run_names[r] for r in rows], values, item_scores, diverged_runs, pruned_runs
            )
        )
    return groups


def _scores_by_run(items: pd.DataFrame | None) -> dict[str, NDArray]:
    """Return the scores of each run for the same test items; nan for items without a score."""
    if items is None or items.empty:
        return {}
    table = items.groupby(["run", "example"])["score"].mean().dropna().unstack()
    return dict(zip(table.index, table.to_numpy(float), strict=True))


def compared_fields(axes: Axes) -> tuple[str, ...]:
    """Return the settings by which groups differ: LEARNING_FIELDS, and any others that a study varies."""
    varied = [name for axis in axes for name in axis]
    return (*LEARNING_FIELDS, *(name for name in varied if name not in LEARNING_FIELDS))


def setting_keys(runs: pd.DataFrame, fields: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the values of some settings for each run. Missing values are None."""
    settings = runs[list(fields)].astype(object)
    settings = settings.where(settings.notna(), None)
    return [tuple(row) for row in settings.itertuples(index=False, name=None)]


class _Irrelevant:
    """Sentinel for a setting without an effect. Unlike None, it is never a valid value."""

    def __repr__(self) -> str:
        return "none"


IRRELEVANT = _Irrelevant()


def has_diverged(runs: pd.DataFrame) -> pd.Series:
    """Return a mask of the runs whose loss became infinite, or ended above the loss of the base model."""
    failed = (runs["status"] == "failed") & runs["reason"].fillna("").str.contains("finite")
    loss = runs["subset_loss"].fillna(runs["val_loss"])
    worse = (runs["status"] == "finished") & (loss > runs["base_loss"])
    never = (runs["status"] == "finished") & loss.isna() & (runs["step"] > 0)
    return failed | worse | never


def has_been_pruned(runs: pd.DataFrame) -> pd.Series:
    """Return a mask of the pruned runs; see `core.studies.pruning`."""
    return (runs["status"] == "stopped") & runs["reason"].fillna("").str.startswith(PRUNED)


def _ties(axes: Axes) -> list[tuple[str, ...]]:
    return [*(axis for axis in axes if len(axis) > 1), *DEFAULT_TIES]


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    fields = settings[0] if settings else ()
    return [name for name in fields if len({repr(s[name]) for s in settings}) > 1]


def _pairs(
    groups: Sequence[Group], ties: Sequence[tuple[str, ...]]
) -> Iterator[tuple[Group, Group, tuple[str, ...]]]:
    """Yield pairs of groups that differ by one change, smaller or default values first, and the changed settings."""
    for pair, fields in _differing_pairs(groups, max([1, *(len(tie) for tie in ties)])):
        if change := _one_change(fields, pair, ties):
            first, second = sorted(
                pair, key=lambda group: value_order(change[0], group.settings[change[0]])
            )
            yield first, second, change


def _double_pairs(
    groups: Sequence[Group], ties: Sequence[tuple[str, ...]]
) -> Iterator[tuple[Group, Group, tuple[str, ...], tuple[str, ...]]]:
    """Yield pairs of groups that differ by exactly two changes, and the changed settings; see `_pairs`."""
    for pair, fields in _differing_pairs(groups, 2 * max([1, *(len(tie) for tie in ties)])):
        if _one_change(fields, pair, ties):
            continue
        for change in (fields[:1], *ties):
            if not {*change} < {*fields} or not _one_change(change, pair, ties):
                continue
            rest = tuple(field for field in fields if field not in change)
            if other := _one_change(rest, pair, ties):
                first, second = sorted(
                    pair, key=lambda group: value_order(change[0], group.settings[change[0]])
                )
                yield first, second, change, other
                break


def _differing_pairs(
    groups: Sequence[Group], most: int
) -> Iterator[tuple[tuple[Group, Group], tuple[str, ...]]]:
    """Yield pairs of groups that differ in one to `most` settings, and these settings."""
    names = [*groups[0].settings] if groups else []
    codes = np.array(
        [
            [-1 if group.settings[n] is IRRELEVANT else hash(group.settings[n]) for n in names]
            for group in groups
        ],
        dtype=np.int64,
    ).reshape(len(groups), len(names))  # fmt: skip
    for i in range(len(groups)):
        # Ignore settings that have no effect on one side: another setting that differs turns them off.
        differs = (codes[i] != codes[i + 1 :]) & (codes[i] != -1) & (codes[i + 1 :] != -1)
        counts = differs.sum(axis=1)
        for offset in np.flatnonzero((counts > 0) & (counts <= most)):
            fields = tuple(itertools.compress(names, differs[offset]))
            yield (groups[i], groups[i + 1 + int(offset)]), fields


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


def compare(before: Group, after: Group, is_log: bool, by_item: bool = True) -> comparisons.Effect:
    """Compare two groups, by test items if there are any and `by_item` is true."""
    common = sorted(before.items.keys() & after.items.keys()) if by_item else []
    if common:
        first, second = (
            np.stack([side.items[seed] for seed in common]) for side in (before, after)
        )  # (seeds, items) each
        shared = ~np.isnan(first + second).any(axis=0)
        if shared.any():
            return comparisons.compare_items(first[:, shared], second[:, shared])
    sides = [
        {seed: math.log(value) if is_log else value for seed, value in side.values.items() if not is_log or value > 0}
        for side in (before, after)
    ]  # fmt: skip
    return comparisons.compare(*sides)


def in_units(estimate: comparisons.Effect, before: Group, is_log: bool) -> dict[str, float]:
    """Return the difference and its interval in the unit of the metric."""
    low, high = estimate.interval()
    bounds = {"difference": estimate.difference, "low": low, "high": high}
    if not is_log or not before.values:
        return bounds
    typical = math.exp(np.mean(np.log([v for v in before.values.values() if v > 0])))
    return {name: typical * math.expm1(min(value, 700.0)) for name, value in bounds.items()}
