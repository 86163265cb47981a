"""From verdicts to what people read: a score a run with its interval, and what stands behind it.

The unit is the test example: the repeats of one are averaged first. A missing verdict enters no mean.
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
"""Fewer scores are not enough to guess the judge's scale."""


@dataclass(frozen=True)
class Score:
    """What a judge gives a run: mean and 95 % interval in points, nan or None where too few answers tell.

    Args:
        scored: test examples that have a score.
        missing: test examples that have none.
    """

    mean: float | None
    low: float | None
    high: float | None
    scored: int
    missing: int


def by_example(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each run at each example: run, instruction, input, reference, score; those without are left out."""
    scored = verdicts.dropna(subset=["score"])
    return scored.groupby(["run", *EXAMPLE_COLUMNS], sort=False)["score"].mean().reset_index()


def leaderboard(
    verdicts: pd.DataFrame, answers: pd.DataFrame, judge: str, partial: bool
) -> list[dict[str, Any]]:
    """One judge's rows: run, judge, mean, low, high, scored, missing; bases first, then by score.

    Args:
        verdicts: verdicts of one judge, from `Scoring.verdicts`.
        answers: all answers that should be scored: run and EXAMPLE_COLUMNS.
        partial: give a score also where the judge has not seen all answers. It may have seen only those that
            another run gave too, which are no fair part.
    """
    intervals = _intervals(by_example(verdicts))
    seen = _examples(verdicts)
    rows = []
    for run, count in _examples(answers).items():
        show_mean = partial or seen.get(run, 0) >= MIN_JUDGED_SHARE * count
        score = _score(intervals.get(str(run)), int(count), show_mean)
        rows.append({"run": str(run), "judge": judge, **asdict(score)})
    return sorted(rows, key=lambda row: (not is_base(row["run"]), -(row["mean"] or 0), row["run"]))


def by_run(scores: pd.DataFrame) -> dict[str, dict[str, Score]]:
    """Each run's score by judge, from `queries.scores`.

    A judge with several models goes by its model too, and one with several settings of these by its whole name.
    """
    ids = scores.drop_duplicates("id").set_index("id")
    labels = ids["judge"]
    for finer in (labels + " " + ids["model"], ids.index.to_series()):
        labels = labels.where(~labels.duplicated(keep=False), finer)
    scores_by_run: dict[str, dict[str, Score]] = {}
    for id, label in labels.items():
        of_judge = scores[scores["id"] == id]
        examples = of_judge.groupby("run")["examples"].first()
        for run, interval in _intervals(of_judge.dropna(subset=["score"])).items():
            scores_by_run.setdefault(run, {})[str(label)] = _score(interval, int(examples[run]))
    return scores_by_run


def last_pair(scored: pd.DataFrame, runs: Sequence[str]) -> tuple[str, str]:
    """The last two of two or more runs that have a score at an example both answered; the last two if none have.

    Args:
        scored: as `by_example` gives it.
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
    """How many verdicts, repeats included, have no score and why; None where all have one."""
    unique_verdicts = verdicts.drop_duplicates([*ANSWER_COLUMNS, "repeat"])
    reasons = Counter(
        unique_verdicts.loc[unique_verdicts["score"].isna(), "missing"].fillna("no score")
    )
    if not reasons:
        return None
    reason_list = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(4))
    have = "has" if reasons.total() == 1 else "have"
    return f"{reasons.total():,} of {len(unique_verdicts):,} verdicts {have} no score and enter no mean: {reason_list}."


def scale_sentence(verdicts: pd.DataFrame) -> str | None:
    """Return a warning if the scores do not seem to use the scale from 0 to 100. They are never rescaled.

    Args:
        verdicts: verdicts of one judge, from `Scoring.verdicts`.
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
    """With repeats: how much of the scores' spread is the judge's own; None where nothing was judged twice."""
    scored = verdicts.dropna(subset=["score"]).drop_duplicates([*ANSWER_COLUMNS, "repeat"])
    repeated: dict[Hashable, list[float]] = {
        answer: part.tolist() for answer, part in scored.groupby(ANSWER_COLUMNS)["score"]
    }
    variance = components(repeated)
    if variance is None:
        return None
    return (
        f"With {variance.repeats:.1f} verdicts an answer, scores of one answer vary by {variance.judge**0.5:.1f} points "
        f"(standard deviation), those of different answers by {variance.items**0.5:.1f}; "
        f"{variance.share:.0%} of what is uncertain in a mean is the judge."
    )


def _score(interval: Interval | None, examples: int, show_mean: bool = True) -> Score:
    """Of a run with that many test examples; without a mean where it is not to be told."""
    n = interval.n if interval else 0
    if interval is None or not show_mean:
        return Score(None, None, None, n, examples - n)
    return Score(interval.mean, interval.low, interval.high, n, examples - n)


def _examples(frame: pd.DataFrame) -> pd.Series:
    """How many test examples each run has in a frame."""
    return frame.drop_duplicates(["run", *EXAMPLE_COLUMNS]).groupby("run").size()


def _intervals(scores: pd.DataFrame) -> dict[str, Interval]:
    intervals = mean_intervals(
        {str(r): part.tolist() for r, part in scores.groupby("run")["score"]}
    )
    return {run: within_scale(interval) for run, interval in intervals.items()}


def described(judge: Mapping[str, Any]) -> str:
    """A judge with all that its verdicts depend on."""
    text = f"{judge['judge']}: {judge['model']}"
    if not judge["prompt"]:
        return f"{text}. Equal texts score 100."
    sent = judge["temperature"] is not None
    temperature = f"temperature {judge['temperature']:g}" if sent else "default temperature"
    return f"{text}, {temperature}, prompt: {str(judge['prompt'])[:90]}…"
