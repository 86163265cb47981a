"""Read the runs of a study from the index and compute its effects and summaries."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from core.errors import UserError
from core.judging.scores import judge_labels
from core.statistics import comparisons
from core.studies.effects import (
    EFFECT_METRICS,
    JUDGE_METRIC,
    WHOLE_SET_METRICS,
    EffectMetric,
    double_changes,
    effects,
    has_been_pruned,
    has_diverged,
)
from core.studies.noise import Noise, measure
from core.studies.study import Study
from core.studies.summary import SUMMARY_COLUMNS, summary, varied_axes
from core.tracking import queries

Read = Callable[..., Any]
"""Runs a query from `core.tracking.queries` on the index."""
MEASURED_METRICS = ("relative_update",)
"""Metrics that explain results. None of their values is better or worse, and diverged runs count."""


def study_effects(
    read: Read, metric: str = "val_loss", study: Study | None = None, margin: float | None = None
) -> pd.DataFrame:
    """Return the effects in a study, or in all runs; see `effects`.

    The column `exploratory` says whether seeds were added to the study after it was planned. Looking at the results
    before adding seeds makes false verdicts more likely.

    Raises UserError if the metric does not exist or the margin is not positive.
    """
    runs = runs_with_base_loss(read)
    axes: list[tuple[str, ...]] = []
    if study is not None:
        runs = runs[runs["study"] == study.name]
        axes = study.sweep.fields
    items = _item_scores(read, metric)
    table = effects(runs, metric, items, margin, axes)
    return table.assign(exploratory=study is not None and study.is_exploratory)


def study_summary(
    read: Read,
    name: str,
    study: Study | None,
    metric: str = "val_loss",
    margin: float | None = None,
) -> pd.DataFrame:
    """Return one row per combination of a study's settings; see `summary`.

    Raises UserError if the metric does not exist or the margin is not positive.

    Args:
        study: None if its file is damaged. The varied settings are then those that differ between its runs.
    """
    runs = runs_with_base_loss(read)
    runs = runs[runs["study"] == name]
    axes = study.sweep.fields if study else varied_axes(runs)
    return summary(runs, metric, axes, _item_scores(read, metric), margin)


def best_combinations(
    read: Read, studies: Sequence[Study], metric: str = "val_loss"
) -> dict[str, dict[str, Any]]:
    """Return the row of `summary` with the best mean, for each study that has one."""
    runs, items = runs_with_base_loss(read), _item_scores(read, metric)
    best: dict[str, dict[str, Any]] = {}
    for study in studies:
        own = runs[runs["study"] == study.name]
        table = summary(own, metric, study.sweep.fields, items, with_verdicts=False)
        if table["is_best"].any():
            row = table[table["is_best"]].iloc[0]
            best[study.name] = {name: row[name] for name in SUMMARY_COLUMNS}
    return best


def study_double_changes(read: Read, study: Study, metric: str = "val_loss") -> pd.DataFrame:
    """Return the pairs of a study's groups that differ by exactly two changes; see `double_changes`."""
    runs = runs_with_base_loss(read)
    runs = runs[runs["study"] == study.name]
    return double_changes(runs, metric, _item_scores(read, metric), study.sweep.fields)


def seeds_needed(
    read: Read, name: str, metric: str = "val_loss", margin: float | None = None
) -> tuple[int, int, int] | None:
    """Return how many seeds detect a difference of `margin` between two settings of a study with a power of 80%.

    Returns:
        The numbers for the lower bound of the noise floor's 95% interval, for its estimate and for its upper bound.
        None if no setting of the same kind has been trained with two seeds.
    """
    runs: pd.DataFrame = read(queries.results)
    noise = seed_noise(read, [metric], runs)[metric]
    own = runs[runs["study"] == name]
    floors = [
        noise.floor(dict(zip(own.columns, row, strict=True))) for row in own.itertuples(index=False)
    ]
    known = [floor for floor in floors if floor.sd > 0]
    if not known:
        return None
    difference = noise.compared.margin if margin is None else margin
    difference = math.log1p(difference) if noise.compared.is_log else difference
    likely, low, high = comparisons.seeds_range(max(known, key=lambda f: f.sd), difference)
    return low, likely, high


def seed_noise(
    read: Read, metrics: Sequence[str], runs: pd.DataFrame | None = None
) -> dict[str, Noise]:
    """Return the noise floors of some metrics; see `core.studies.noise`.

    Args:
        metrics: keys of EFFECT_METRICS, or names or IDs of judges.
        runs: rows of `queries.results`, if they have already been read.

    Raises:
        UserError: a metric does not exist.
    """
    runs = runs_with_base_loss(read, runs)
    floors = {}
    for metric in metrics:
        values = runs[metric] if metric in EFFECT_METRICS else None
        if values is None:
            scores = _item_scores(read, metric)
            assert scores is not None
            values = runs["name"].map(scores.groupby("run")["score"].mean())
        floors[metric] = measure(runs, metric, values)
    return floors


def scale(metric: str) -> EffectMetric:
    """Return the direction and the scale of a metric, including MEASURED_METRICS."""
    measured = EffectMetric("lower", 0.01, is_log=True)
    return measured if metric in MEASURED_METRICS else EFFECT_METRICS.get(metric, JUDGE_METRIC)


def study_runs(read: Read, study: Study, metric: str = "val_loss") -> pd.DataFrame:
    """Return the runs of a study as in `queries.results`, with the columns `value` and `diverged`.

    `value` is the metric, or NaN if the run has not finished, has diverged, was pruned or was not measured. Raises
    UserError for an unknown metric.
    """
    runs = runs_with_base_loss(read)
    runs = runs[runs["study"] == study.name].reset_index(drop=True)
    items = None if metric in MEASURED_METRICS else _item_scores(read, metric)
    if items is None:
        values = runs[metric].astype(float)
    else:
        by_example = items.groupby(["run", "example"])["score"].mean()
        values = runs["name"].map(by_example.groupby("run").mean()).astype(float)
    pruned = has_been_pruned(runs)
    is_diverged = has_diverged(runs) & ~pruned
    counts = (runs["status"] == "finished") & ~is_diverged & ~pruned
    if metric in MEASURED_METRICS:
        counts |= is_diverged
        values = values.where(np.isfinite(values))
    if metric in WHOLE_SET_METRICS:
        counts &= runs["val_set"] == "whole set"
    return runs.assign(value=values.where(counts), diverged=is_diverged)


def means(read: Read, study: Study, metric: str = "val_loss") -> pd.DataFrame:
    """Return one row per combination of a study's settings, without verdicts; see `summary`.

    Also accepts MEASURED_METRICS, whose means are geometric and include diverged runs.
    """
    runs = runs_with_base_loss(read)
    runs = runs[runs["study"] == study.name]
    compared = "val_loss" if metric in MEASURED_METRICS else metric
    items = _item_scores(read, compared)
    table = summary(runs, compared, study.sweep.fields, items, with_verdicts=False)
    if metric not in MEASURED_METRICS:
        return table
    by_name = study_runs(read, study, metric).set_index("name")["value"]
    columns: dict[str, list[float]] = {name: [] for name in ("n", "mean", "sd", "low", "high")}
    for names in table["runs"]:
        values = [value for name in names if (value := float(by_name[name])) > 0]
        estimate = comparisons.average([math.log(value) for value in values])
        bounds = (estimate.difference, *estimate.interval())
        for name, bound in zip(("mean", "low", "high"), bounds, strict=True):
            columns[name].append(math.exp(min(bound, 700.0)))
        columns["sd"].append(float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)
        columns["n"].append(len(values))
    return table.assign(**columns)


def field_importance(read: Read, study: Study, metric: str = "val_loss") -> pd.DataFrame:
    """Return the importance of each varied setting; see `importance`. Raises UserError."""
    from core.studies.importance import importance  # imports Optuna

    direction = EFFECT_METRICS.get(metric, JUDGE_METRIC).direction
    return importance(study_runs(read, study, metric), study.sweep.fields, direction)


def runs_with_base_loss(read: Read, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return all runs; see `queries.results`. `base_loss` is the validation loss before the first step.

    Args:
        runs: the result of `queries.results`, if it has already been read.
    """
    runs = read(queries.results) if runs is None else runs
    return runs.merge(read(queries.base_losses), left_on="name", right_on="run", how="left")


def _item_scores(read: Read, metric: str) -> pd.DataFrame | None:
    """Return the scores of test items if the metric has them. Raises UserError for an unknown metric."""
    if metric == "exact":
        answers: pd.DataFrame = read(queries.exact_answers)
        return answers
    if metric in EFFECT_METRICS:
        return None
    scores = read(queries.scores)
    labels = judge_labels(scores)
    by_label = {label: id for id, label in labels.items()}
    if metric not in {**by_label, **labels}:
        available = ", ".join([*EFFECT_METRICS, *by_label])
        raise UserError(f"metric = {metric!r}: unknown metric. Available: {available}.")
    judged: pd.DataFrame = scores[scores["id"] == by_label.get(metric, metric)]
    return judged[["run", "example", "score"]]
