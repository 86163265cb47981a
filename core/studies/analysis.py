"""Read runs from the index and compute the effects in a study."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from core.errors import UserError
from core.judging.scores import judge_labels
from core.studies.effects import EFFECT_METRICS, effects
from core.studies.noise import Noise, measure
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
    runs = runs_with_base_loss(read)
    ties: list[tuple[str, ...]] = []
    if study is not None:
        runs = runs[runs["study"] == study.name]
        ties = [axis.fields for axis in study.sweep.axes if len(axis.fields) > 1]
    items = _item_scores(read, metric)
    table = effects(runs, metric, items, margin, ties)
    return table.assign(exploratory=study is not None and study.is_exploratory)


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


def runs_with_base_loss(read: Read, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return all runs; see `queries.results`. `base_loss` is the validation loss before the first step."""
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
