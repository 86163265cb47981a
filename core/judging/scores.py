"""Compute run scores and their confidence intervals from verdicts, and summarize the verdicts in sentences.

The unit of analysis is the test example: repeated verdicts are averaged first. Means exclude missing verdicts.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from core.judging.answers import ANSWER_COLUMNS, EXAMPLE_COLUMNS, is_base
from core.statistics.intervals import Interval, components, mean_intervals, within_scale
from core.tracking.queries import MIN_JUDGED_SHARE

MIN_SCALE_SCORES = 2
"""Minimum number of scores needed to infer the judge's scale."""


@dataclass(frozen=True)
class Score:
    """A run's mean score from one judge with its 95% confidence interval, in points.

    The mean is None if the score is not shown, and the bounds are nan if there is only one score.

    Args:
        scored: number of test examples with a score.
        missing: number of test examples without one.
    """

    mean: float | None
    low: float | None
    high: float | None
    scored: int
    missing: int


def by_example(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return each run's mean score on each example, with the columns `run`, EXAMPLE_COLUMNS and `score`.

    Examples without a score are omitted.
    """
    scored = verdicts.dropna(subset=["score"])
    return scored.groupby(["run", *EXAMPLE_COLUMNS], sort=False)["score"].mean().reset_index()


def leaderboard(
    verdicts: pd.DataFrame, answers: pd.DataFrame, judge: str, partial: bool
) -> list[dict[str, Any]]:
    """Return one judge's leaderboard with the keys run, judge, mean, low, high, scored and missing.

    Base models come first, followed by the runs in descending order of score.

    Args:
        verdicts: verdicts from one judge, from `Scoring.verdicts`.
        answers: all answers that should be scored, with the columns `run` and EXAMPLE_COLUMNS.
        partial: also show the score of a run that has not been fully judged. Such a score may be biased, because the
            only judged answers may be those that the run shares with another run.
    """
    intervals = _intervals(by_example(verdicts))
    judged_counts = _example_counts(verdicts)
    rows = []
    for run, count in _example_counts(answers).items():
        show_mean = partial or judged_counts.get(run, 0) >= MIN_JUDGED_SHARE * count
        score = _score(intervals.get(str(run)), int(count), show_mean)
        rows.append({"run": str(run), "judge": judge, **asdict(score)})
    return sorted(rows, key=lambda row: (not is_base(row["run"]), -(row["mean"] or 0), row["run"]))


def judge_labels(scores: pd.DataFrame) -> dict[str, str]:
    """Return a label for each judge ID in `queries.scores`.

    Judges are labeled by name, with the model added if names are ambiguous, or by full ID if that is not enough.
    """
    ids = scores.drop_duplicates("id").set_index("id")
    labels = ids["judge"]
    for finer in (labels + " " + ids["model"], ids.index.to_series()):
        labels = labels.where(~labels.duplicated(keep=False), finer)
    return {str(id): str(label) for id, label in labels.items()}


def by_run(scores: pd.DataFrame) -> dict[str, dict[str, Score]]:
    """Return each run's scores by judge, computed from `queries.scores`.

    Judges are named by `judge_labels`.
    """
    scores_by_run: dict[str, dict[str, Score]] = {}
    for id, label in judge_labels(scores).items():
        judge_scores = scores[scores["id"] == id]
        examples = judge_scores.groupby("run")["examples"].first()
        for run, interval in _intervals(judge_scores.dropna(subset=["score"])).items():
            scores_by_run.setdefault(run, {})[label] = _score(interval, int(examples[run]))
    return scores_by_run


def last_pair(scored: pd.DataFrame, runs: Sequence[str]) -> tuple[str, str]:
    """Return the last two runs that have scores on a common example, or the last two runs if there is no such pair.

    Args:
        scored: mean scores from `by_example`.
        runs: at least two names.
    """
    parts = {str(run): part[EXAMPLE_COLUMNS] for run, part in scored.groupby("run")}
    examples = {run: set(part.itertuples(index=False, name=None)) for run, part in parts.items()}
    pairs = (
        (a, b) for position, b in reversed(list(enumerate(runs))) for a in reversed(runs[:position])
    )
    return next(
        (pair for pair in pairs if examples[pair[0]] & examples[pair[1]]), (runs[-2], runs[-1])
    )


def missing_sentence(verdicts: pd.DataFrame) -> str | None:
    """Return how many verdicts (including repeats) have no score, and why; None if all have one."""
    unique_verdicts = verdicts.drop_duplicates([*ANSWER_COLUMNS, "repeat"])
    reasons = Counter(
        unique_verdicts.loc[unique_verdicts["score"].isna(), "missing"].fillna("no score")
    )
    if not reasons:
        return None
    reason_list = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(4))
    have, are = ("has", "is") if reasons.total() == 1 else ("have", "are")
    counts = f"{reasons.total():,} of {len(unique_verdicts):,} verdicts"
    return f"{counts} {have} no score and {are} excluded from means: {reason_list}."


def scale_sentence(verdicts: pd.DataFrame) -> str | None:
    """Return a warning if the judge does not seem to have used the full scale of 0 to 100, otherwise None.

    Args:
        verdicts: verdicts from one judge, from `Scoring.verdicts`.
    """
    scored = verdicts.dropna(subset=["score"]).drop_duplicates([*ANSWER_COLUMNS, "repeat"])
    highest = scored["score"].max()
    if len(scored) < MIN_SCALE_SCORES or (scored["judge"] == "reference").any():
        return None
    for top in (1, 10):
        if 0 < highest <= top:
            return (
                f"All {len(scored):,} scores are at most {top}. The judge may have used a scale of 0 to {top} "
                "instead of 0 to 100. Scores are not rescaled; check the prompt."
            )
    return None


def noise_sentence(verdicts: pd.DataFrame) -> str | None:
    """Describe how much of the score variance is judge noise. Return None if no answer was judged twice."""
    scored = verdicts.dropna(subset=["score"]).drop_duplicates([*ANSWER_COLUMNS, "repeat"])
    repeated: dict[Hashable, list[float]] = {
        answer: part.tolist() for answer, part in scored.groupby(ANSWER_COLUMNS)["score"]
    }
    variance = components(repeated)
    if variance is None:
        return None
    return (
        f"Standard deviation: {variance.judge**0.5:.1f} points between repeated scores for an answer (judge noise), "
        f"{variance.items**0.5:.1f} points between answers. With {variance.repeats:.1f} verdicts per answer, "
        f"judge noise accounts for {variance.share:.0%} of the variance of a mean."
    )


def _score(interval: Interval | None, examples: int, show_mean: bool = True) -> Score:
    """Return a Score for a run with this many test examples. Its mean is None unless `show_mean` is set."""
    n = interval.n if interval else 0
    if interval is None or not show_mean:
        return Score(None, None, None, n, examples - n)
    return Score(interval.mean, interval.low, interval.high, n, examples - n)


def _example_counts(frame: pd.DataFrame) -> pd.Series:
    """Return the number of distinct test examples for each run."""
    return frame.drop_duplicates(["run", *EXAMPLE_COLUMNS]).groupby("run").size()


def _intervals(scores: pd.DataFrame) -> dict[str, Interval]:
    intervals = mean_intervals(
        {str(r): part.tolist() for r, part in scores.groupby("run")["score"]}
    )
    return {run: within_scale(interval) for run, interval in intervals.items()}


def judge_description(judge: Mapping[str, Any]) -> str:
    """Describe a judge by its name, model, temperature and the beginning of its prompt."""
    text = f"{judge['judge']}: {judge['model']}"
    if not judge["prompt"]:
        return f"{text}. An exact match scores 100."
    is_set = judge["temperature"] is not None
    temperature = f"temperature {judge['temperature']:g}" if is_set else "default temperature"
    return f"{text}, {temperature}, prompt: {str(judge['prompt'])[:90]}…"
