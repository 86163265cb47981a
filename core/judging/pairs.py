"""Runs against each other: which pairs of answers a judge is asked about, in both orders, and what comes of it."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from core.judging.judge import Item
from core.judging.scores import EXAMPLE_COLUMNS
from core.statistics.intervals import win_rate
from core.statistics.ratings import rating_intervals


def pair_items(answers: pd.DataFrame) -> list[Item]:
    """Every two runs at every test example that both answered, each of the two first once.

    Equal answers are left out: they are a tie without asking.
    """
    items = []
    for _, group in answers.groupby(EXAMPLE_COLUMNS, sort=False):
        instruction, input, reference = (str(group[name].iloc[0]) for name in EXAMPLE_COLUMNS)
        for a, b in combinations(group["answer"], 2):
            if a != b:
                items += [Item(instruction, input, reference, *order) for order in ((a, b), (b, a))]
    return items


def win_rates(verdicts: pd.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """For each two runs: run, other, rate (of the run, in percent), low, high, scored, flips.

    Args:
        verdicts: of one judge, as `verdict_queries.pair_verdicts` gives them.
    """
    rows = []
    for run, other, both in _both_orders(verdicts, runs):
        result = win_rate(both["forward"], both["backward"])
        rate = {"rate": result.rate, "low": result.low, "high": result.high}
        rows.append({"run": run, "other": other, **rate, "scored": result.n, "flips": result.flips})
    return rows


def tournament(verdicts: pd.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Bradley-Terry ratings, best first: run, mean, low, high in Elo points around 0; of runs that met another."""
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
    """Each two runs with the scores at examples that were judged in both orders: forward, backward."""
    scored = verdicts.dropna(subset=["score"])
    means = scored.groupby(["run", "other", *EXAMPLE_COLUMNS])["score"].mean()
    grouped = means.reset_index().groupby(["run", "other"])
    tables = {pair: part.set_index(EXAMPLE_COLUMNS)["score"] for pair, part in grouped}
    for run, other in combinations(runs, 2):
        if (run, other) in tables and (other, run) in tables:
            both = pd.DataFrame({"forward": tables[run, other], "backward": tables[other, run]})
            yield run, other, both.dropna()
