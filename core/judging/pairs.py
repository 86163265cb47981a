"""Compare runs pairwise: build the pairs of answers to judge, and compute win rates and ratings from the verdicts."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from core.judging.answers import ANSWER_COLUMNS, EXAMPLE_COLUMNS
from core.judging.judge import Item
from core.statistics.intervals import win_rate
from core.statistics.ratings import rating_intervals


def answer_pairs(answers: pd.DataFrame) -> pd.DataFrame:
    """Return all pairs of answers from different runs to the same test example, in both orders.

    Columns: run (shown first), other, EXAMPLE_COLUMNS, answer, other_answer, is_tie (whether the answers are
    identical), and subject (a hash of the pair).

    Args:
        answers: table with the columns `run` and ANSWER_COLUMNS.
    """
    columns = answers[["run", *ANSWER_COLUMNS]]
    others = columns.rename(columns={"run": "other", "answer": "other_answer"})
    pairs = columns.merge(others, on=EXAMPLE_COLUMNS)
    pairs = pairs[pairs["run"] != pairs["other"]]
    texts = pairs[[*ANSWER_COLUMNS, "other_answer"]].itertuples(index=False, name=None)
    return pairs.assign(
        is_tie=pairs["answer"] == pairs["other_answer"],
        subject=pd.Series([Item(*row).subject for row in texts], pairs.index, dtype=object),
    )


def pair_items(answers: pd.DataFrame) -> list[Item]:
    """Return the pairs to judge. Identical answers count as a tie without being judged."""
    pairs = answer_pairs(answers)
    texts = pairs.loc[~pairs["is_tie"], [*ANSWER_COLUMNS, "other_answer"]]
    return [Item(*row) for row in texts.itertuples(index=False, name=None)]


def win_rates(verdicts: pd.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per pair of runs with the keys run, other, rate, low, high, scored and flips.

    The rate is how often `run` wins, in percent. Pairs that were not judged in both orders are omitted.

    Args:
        verdicts: verdicts from one judge, from `Scoring.pair_verdicts`.
    """
    rows = []
    for run, other, both in _both_orders(verdicts, runs):
        result = win_rate(both["forward"], both["backward"])
        rate = {"rate": result.rate, "low": result.low, "high": result.high}
        rows.append({"run": run, "other": other, **rate, "scored": result.n, "flips": result.flips})
    return rows


def tournament(verdicts: pd.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return Bradley-Terry ratings in Elo points, best first, with the keys run, mean, low and high.

    The mean over all rated runs is 0. Runs that were never compared in both orders are omitted.
    """
    pairings = list(_both_orders(verdicts, runs))
    runs = [r for r in runs if any(r in (a, b) and len(both) for a, b, both in pairings)]
    run_index = {run: i for i, run in enumerate(runs)}
    outcomes = []
    for run, other, both in pairings:
        for example, forward, backward in both[["forward", "backward"]].itertuples():
            for points in (forward, 100 - backward):
                outcomes.append((example, run_index[run], run_index[other], points))
    if not outcomes:
        return []
    ratings = rating_intervals(outcomes, len(runs))
    rows = [
        {"run": run, "mean": rating.rating, "low": rating.low, "high": rating.high}
        for run, rating in zip(runs, ratings, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["mean"])


def _both_orders(
    verdicts: pd.DataFrame, runs: Sequence[str]
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield each pair of runs with its mean scores (forward, backward) on the examples judged in both orders."""
    scored = verdicts.dropna(subset=["score"])
    means = scored.groupby(["run", "other", *EXAMPLE_COLUMNS])["score"].mean()
    grouped = means.reset_index().groupby(["run", "other"])
    tables = {pair: part.set_index(EXAMPLE_COLUMNS)["score"] for pair, part in grouped}
    for run, other in combinations(runs, 2):
        if (run, other) in tables and (other, run) in tables:
            both = pd.DataFrame({"forward": tables[run, other], "backward": tables[other, run]})
            yield run, other, both.dropna()
