"""The content of a study report: everything about one study, read from the index and its file.

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
    """One study.

    Args:
        study: its plan and texts.
        metrics: the metrics of the report. The first is that of the summary.
        runs: see `core.studies.analysis.study_runs`, for the first metric.
        tables: the combinations of settings by metric; see `core.studies.summary`.
        effects: the effects by metric; see `core.studies.effects`.
        noise: the spread of the validation loss between seeds; see `core.studies.noise`.
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
    """Read a study. The report also has the share of exact answers and the scores, if they were measured.

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
