"""From verdicts to what people read: a score a run with its interval, and what stands behind it.

The unit is the test example: the repeats of one are averaged first. A missing verdict enters no mean.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from core.judging.statistics import Interval, mean_intervals
from core.tracking.sources import PRETRAINED

EXAMPLE = ["instruction", "input", "reference"]
"""What makes a test example; its place in a data set does not."""


def by_example(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each run at each example: run, instruction, input, reference, score; those without are left out."""
    scored = verdicts.dropna(subset=["score"])
    return scored.groupby(["run", *EXAMPLE], sort=False)["score"].mean().reset_index()


def of_runs(frame: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """A frame without what bases answered to examples that none of the chosen runs has.

    Args:
        answers: of the runs, as `queries.answers` gives them.
    """
    own = set(answers[EXAMPLE].itertuples(index=False, name=None))
    kept = [
        not is_base(run) or example in own
        for run, example in zip(
            frame["run"], frame[EXAMPLE].itertuples(index=False, name=None), strict=True
        )
    ]
    return frame[pd.Series(kept, index=frame.index, dtype=bool)]


def same_test(answers: pd.DataFrame) -> bool:
    """Whether all runs, bases aside, answered the same test examples."""
    runs = answers[[not is_base(run) for run in answers["run"]]]
    parts = (part[EXAMPLE] for _, part in runs.groupby("run"))
    return len({frozenset(part.itertuples(index=False, name=None)) for part in parts}) <= 1


def leaderboard(
    verdicts: pd.DataFrame, answers: pd.DataFrame, judge: str, partial: bool = True
) -> list[dict[str, Any]]:
    """One judge's rows: run, judge, mean, low, high, scored, missing; bases first, then by score.

    Args:
        verdicts: of one judge, as `queries.verdicts` gives them.
        answers: all that should be scored, as `queries.answers` gives them.
        partial: give a score also where the judge has not seen all answers. It may have seen only those that
            another run gave too, which are no fair part.
    """
    intervals = _intervals(by_example(verdicts))
    seen = _examples(verdicts)
    rows = []
    for run, count in _examples(answers).items():
        found = intervals.get(str(run))
        scored = found.n if found else 0
        found = found if partial or seen.get(run) == count else None
        interval = {k: getattr(found, k) if found else None for k in ("mean", "low", "high")}
        rows.append({"run": str(run), "judge": judge, **interval, "scored": scored, "missing": int(count) - scored})  # fmt: skip
    return sorted(rows, key=lambda row: (not is_base(row["run"]), -(row["mean"] or 0), row["run"]))


def _examples(frame: pd.DataFrame) -> pd.Series:
    """How many test examples each run has in a frame."""
    return frame.drop_duplicates(["run", *EXAMPLE]).groupby("run").size()


def by_run(scores: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """Each run's score by judge, from `queries.scores`. A judge of several settings goes by its whole name."""
    ids = scores.drop_duplicates("id")
    names = ids["id"].where(ids["judge"].duplicated(keep=False), ids["judge"])
    found: dict[str, dict[str, Interval]] = {}
    for id, label in zip(ids["id"], names, strict=True):
        of_judge = scores[scores["id"] == id].dropna(subset=["score"])
        for run, interval in _intervals(of_judge).items():
            found.setdefault(run, {})[str(label)] = interval
    return found


def _intervals(scores: pd.DataFrame) -> dict[str, Interval]:
    return mean_intervals({str(r): part.tolist() for r, part in scores.groupby("run")["score"]})


def described(judge: Mapping[str, Any]) -> str:
    """A judge with all that its verdicts depend on."""
    text = f"{judge['judge']}: {judge['model']}"
    if not judge["prompt"]:
        return f"{text}. Equal texts score 100."
    return f"{text}, temperature {judge['temperature']:g}, prompt: {str(judge['prompt'])[:90]}…"


def is_base(run: str) -> bool:
    """Whether a name stands for an untuned base model."""
    return run.startswith(PRETRAINED + "/")


def shown_names(runs: list[str]) -> dict[str, str]:
    """Names for people: a base is `pretrained`, or `pretrained gpt2` where there are several."""
    bases = [run for run in runs if is_base(run)]
    if len(bases) == 1:
        return {bases[0]: PRETRAINED}
    short = [run.removeprefix(PRETRAINED + "/") for run in bases]
    models = [name.rpartition("-")[0] for name in short]
    return {  # with their hash where one model answers in two ways
        run: f"{PRETRAINED} {model if models.count(model) == 1 else name}"
        for run, model, name in zip(bases, models, short, strict=True)
    }
