"""The data for a study report: everything about one study, read from the index and the study's file.

Independent of file formats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from core.judging import scores
from core.studies import analysis
from core.studies.noise import measure
from core.studies.study import Study
from core.tracking import queries
from core.views import study_text

DEFAULT_METRIC = "val_loss"
Read = Callable[..., Any]
"""Runs a query from `core.tracking.queries` on the index, with the given arguments."""


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """The data of one study.

    Args:
        study: its plan, question, notes and summary.
        metrics: the metrics in the report. The summary uses the first.
        runs: see `core.studies.analysis.study_runs`, for the first metric.
        tables: the table of combinations for each metric; see `core.studies.summary`.
        effects: the table of effects for each metric; see `core.studies.effects`.
        noise: how much the validation loss varies between seeds; see `core.studies.noise`.
        evaluations: see `queries.evaluations`.
    """

    study: Study
    metrics: tuple[str, ...]
    runs: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    effects: Mapping[str, pd.DataFrame]
    noise: pd.DataFrame
    evaluations: pd.DataFrame


def collect(read: Read, study: Study, metric: str = DEFAULT_METRIC) -> StudyRecord:
    """Read a study. The report also includes the share of exact answers and the scores, if they were measured.

    Raises UserError if the metric does not exist.
    """
    runs = analysis.study_runs(read, study, metric)
    names = runs["name"].tolist()
    judged = scores.by_run(read(queries.scores))
    judges = sorted({judge for name in names for judge in judged.get(name, {})})
    exact = ["exact"] if runs["exact"].notna().any() else []
    metrics = tuple(dict.fromkeys([metric, *exact, *judges]))
    return StudyRecord(
        study=study,
        metrics=metrics,
        runs=runs,
        tables={name: analysis.study_summary(read, study.name, study, name) for name in metrics},
        effects={name: analysis.study_effects(read, name, study) for name in metrics},
        noise=measure(runs, DEFAULT_METRIC, runs[DEFAULT_METRIC]).table(),
        evaluations=read(queries.evaluations, names),
    )


def conclusions(read: Read, study: Study, metric: str = DEFAULT_METRIC) -> list[str]:
    """Return the generated summary of a study, one sentence per effect. Raises UserError if the metric does not exist."""
    effects = analysis.study_effects(read, metric, study)
    table = analysis.means(read, study, metric)
    return study_text.conclusions(
        effects, table, metric, analysis.scale(metric), study.sweep.fields
    )
