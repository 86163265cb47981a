"""Read runs from the index and compute the effects in a study."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from core.errors import UserError
from core.judging.scores import judge_labels
from core.studies.effects import (
    EFFECT_METRICS,
    JUDGE_METRIC,
    WHOLE_SET_METRICS,
    has_diverged,
    effects,
    noise_floors,
)
from core.studies.study import Study
from core.tracking import queries

Read = Callable[..., Any]
"""Runs a query of `core.tracking.queries` on the index."""


def study_effects(
    read: Read, metric: str = "val_loss", study: Study | None = None, margin: float | None = None
) -> pd.DataFrame:
    """Return the effects in a study, or in all runs; see `effects`.

    The column `exploratory` says whether seeds were added to the study after it was planned. Looking at results before
    adding seeds makes false verdicts more likely.

    Raises UserError if the metric does not exist or the margin is not positive.
    """
    runs = _runs(read)
    ties: list[tuple[str, ...]] = []
    if study is not None:
        runs = runs[runs["study"] == study.name]
        ties = [axis.fields for axis in study.sweep.axes if len(axis.fields) > 1]
    items = _item_scores(read, metric)
    table = effects(runs, metric, items, margin, ties)
    return table.assign(exploratory=study is not None and study.is_exploratory)


def seed_noise(read: Read, metric: str = "val_loss") -> pd.DataFrame:
    """Return the spread of a metric between seeds; see `noise_floors`. Raises UserError for an unknown metric."""
    if metric not in EFFECT_METRICS or metric == "exact":
        available = ", ".join(name for name in EFFECT_METRICS if name != "exact")
        raise UserError(f"metric = {metric!r}: must be one of {available}")
    return noise_floors(_runs(read), metric)


def study_runs(read: Read, study: Study, metric: str = "val_loss") -> pd.DataFrame:
    """Return the runs of a study as in `queries.results`, with the columns `value` and `diverged`.

    `value` is the metric, or NaN if the run has not finished, has diverged or was not measured. Raises UserError for an
    unknown metric.
    """
    runs = _runs(read)
    runs = runs[runs["study"] == study.name].reset_index(drop=True)
    items = _item_scores(read, metric)
    if items is None:
        values = runs[metric].astype(float)
    else:
        by_example = items.groupby(["run", "example"])["score"].mean()
        values = runs["name"].map(by_example.groupby("run").mean()).astype(float)
    diverged = has_diverged(runs)
    counts = (runs["status"] == "finished") & ~diverged
    if metric in WHOLE_SET_METRICS:
        counts &= runs["val_set"] == "whole set"
    return runs.assign(value=values.where(counts), diverged=diverged)


def field_importance(read: Read, study: Study, metric: str = "val_loss") -> pd.DataFrame:
    """Return the importance of each varied setting; see `importance`. Raises UserError."""
    from core.studies.importance import importance  # imports Optuna

    direction = EFFECT_METRICS.get(metric, JUDGE_METRIC).direction
    axes = [axis.fields for axis in study.sweep.axes]
    return importance(study_runs(read, study, metric), axes, direction)


def _runs(read: Read) -> pd.DataFrame:
    runs: pd.DataFrame = read(queries.results)
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
    if metric not in by_label:
        available = ", ".join([*EFFECT_METRICS, *by_label])
        raise UserError(f"metric = {metric!r}: unknown metric. Available: {available}.")
    judged: pd.DataFrame = scores[scores["id"] == by_label[metric]]
    return judged[["run", "example", "score"]]
