"""The content of an export: everything about one run, read from the index and the run directory.

Independent of file formats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from core.config import RunConfig
from core.errors import UserError
from core.judging.answers import ANSWER_COLUMNS, EXAMPLE_COLUMNS, is_base
from core.judging.scoring import Scoring
from core.metrics import CURVES
from core.run.directory import RunDirectory
from core.tracking import queries
from core.views.tables import records

CURVE_BUCKETS = 500
"""Resolution of exported curves. The extremes of each bucket are kept."""
SMOOTHED_SHARE = 0.02
"""Moving-average window for the loss, as a fraction of the steps."""
LOG_BYTES = 200_000
"""Number of bytes exported from the end of the log."""
Read = Callable[..., Any]
"""Runs a query from `core.tracking.queries` on the index, with the given arguments."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run.

    Args:
        row: its row in `queries.results`.
        config: its settings.
        parent: the settings of the run from which it was cloned; None if there is none or it cannot be read.
        evaluations: see `queries.evaluations`.
        curves: see `queries.curves`.
        smooth_loss: moving average of the training loss per step, in the format of a curve.
        samples: see `queries.samples`.
        warnings: see `queries.warnings`.
        answers: columns item, instruction, input, reference, answer, cut, exact, `pretrained` (the base model's answer
            or None), and each judge's mean score in a column named by the judge's ID.
        scores: one row per judge and model; see `_scores`.
        log: the end of the trainer's log.
    """

    row: Mapping[str, Any]
    config: RunConfig
    parent: RunConfig | None
    evaluations: pd.DataFrame
    curves: Mapping[str, pd.DataFrame]
    smooth_loss: pd.DataFrame
    samples: pd.DataFrame
    warnings: pd.DataFrame
    answers: pd.DataFrame
    scores: list[dict[str, Any]]
    log: str


def collect(runs_dir: Path, name: str, read: Read) -> RunRecord:
    """Read a run. Raises UserError if it does not exist or its settings cannot be read."""
    run = RunDirectory.find(runs_dir, name)
    config = run.config()
    results = read(queries.results)
    row = next(iter(records(results[results["name"] == run.name])), None)
    if row is None:
        raise UserError(f"{run.name} is not in the index yet; try again in a moment")
    metrics = [*CURVES]
    window = max(1, round(SMOOTHED_SHARE * row["step"]))
    options = {"buckets": CURVE_BUCKETS}
    answers, scores = _answers_and_scores(runs_dir, run.name, read)
    return RunRecord(
        row=row,
        config=config,
        parent=_config_or_none(runs_dir, config.parent),
        evaluations=read(queries.evaluations, [run.name]),
        curves=read(queries.curves, [run.name], metrics, **options),
        smooth_loss=read(queries.curves, [run.name], ["loss"], window=window, **options)["loss"],
        samples=read(queries.samples, [run.name]),
        warnings=read(queries.warnings, [run.name]),
        answers=answers,
        scores=scores,
        log=run.log_tail(LOG_BYTES),
    )


def _config_or_none(runs_dir: Path, name: str | None) -> RunConfig | None:
    """Return a run's settings, or None if it was deleted or is damaged."""
    if not name:
        return None
    try:
        return RunDirectory.find(runs_dir, name).config()
    except UserError:
        return None


def _answers_and_scores(
    runs_dir: Path, name: str, read: Read
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the run's answers with their scores and the base model's answers, and the mean scores of both."""
    scoring = Scoring(runs_dir, read)
    judged = scoring.answers([name])
    verdicts = scoring.verdicts(judged)
    base = judged.answers[judged.answers["run"].map(is_base).astype(bool)].drop_duplicates(
        EXAMPLE_COLUMNS
    )
    answers = read(queries.answers, [name]).drop(columns="run")
    answers = answers.merge(
        base[[*EXAMPLE_COLUMNS, "answer"]].rename(columns={"answer": "pretrained"}),
        on=EXAMPLE_COLUMNS,
        how="left",
    )
    scores: list[dict[str, Any]] = []
    for id, part in verdicts.groupby("id", sort=True):
        own = part[part["run"] == name].groupby(ANSWER_COLUMNS)["score"].mean().rename(str(id))
        answers = answers.merge(own.reset_index(), on=ANSWER_COLUMNS, how="left")
        scores += _scores(scoring, judged, part)
    return answers, scores


def _scores(scoring: Scoring, judged: Any, verdicts: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one judge's scores for the run and its base model.

    Keys: id, judge and model of the judge, run (display name), is_base, mean, low, high, scored, missing, and
    `difference`, which is the run's mean minus the base model's, with its interval, as text.
    """
    judge = verdicts.iloc[0]
    by_example = scoring.example_scores(verdicts).pivot(
        index=EXAMPLE_COLUMNS, columns="run", values="score"
    )
    rows = scoring.leaderboard(judged, verdicts, str(judge["judge"]))
    base = next((row["run"] for row in rows if is_base(row["run"])), None)
    result = []
    for row in rows:
        difference = ""
        if row["run"] != base and {row["run"], base} <= {*by_example.columns}:
            both = by_example[[row["run"], base]].dropna()
            gap = scoring.difference(both[row["run"]], both[base])
            difference = gap.gap() if gap.n > 1 else ""
        result.append({
            **row, "id": str(judge["id"]), "judge": str(judge["judge"]), "model": str(judge["model"]),
            "run": judged.title(row["run"]), "is_base": is_base(row["run"]), "difference": difference,
        })  # fmt: skip
    return result
