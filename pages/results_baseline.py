"""Differences from the baseline on the Results page: columns, gray cells and the note below the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.config import NOISE_FIELDS
from core.lab import Lab
from core.views import differences, journal
from core.views.tables import records
from pages import results_columns as columns
from pages.ui import baseline
from pages.ui.run_links import run_link
from pages.ui.run_pair import show_losses
from pages.ui.text import escape_markdown

if TYPE_CHECKING:  # imports SciPy
    from core.studies.noise import Noise

MAX_LISTED_FLOORS = 4
GRAY_HELP = "Gray: within the noise of two single runs."


@dataclass(frozen=True)
class Comparison:
    """Differences from the baseline.

    Args:
        name: the baseline; None if no run is pinned.
        is_noise: whether each difference is within the noise. Has the columns of differences and the table's index.
        help: tooltips of the difference columns.
        has_floor: whether the noise is known for runs like the baseline.
    """

    name: str | None = None
    is_noise: pd.DataFrame = field(default_factory=pd.DataFrame)
    help: Mapping[str, str] = field(default_factory=dict)
    has_floor: bool = False


def add_columns(
    table: pd.DataFrame,
    results: pd.DataFrame,
    run_scores: Mapping[str, Mapping[str, Any]],
    judges: Sequence[str],
    lab: Lab,
) -> tuple[pd.DataFrame, Comparison]:
    """For each result, add a column with the differences from the baseline, if a run is pinned.

    Args:
        run_scores: the scores of runs.
        judges: judges in the table. They include the journal's judge, whose scores are not compared.
    """
    name = baseline.current(lab, {*results["name"]})
    if name is None:
        return table, Comparison()
    [reference] = records(results[results["name"] == name])
    own_judges = {judge for scores in run_scores.values() for judge in scores}
    metrics = [*differences.RESULTS, *(judge for judge in judges if judge in own_judges)]
    floors = baseline.noise(lab, metrics, results)
    is_noise = pd.DataFrame(index=table.index)
    help = {}
    names = table["name"].where(table["status"] != journal.JOURNAL_STATUS)
    for metric in metrics:
        noise = floors[metric]
        values = _values(metric, results, run_scores)
        found = differences.differences(results, reference, noise, values)
        found.index = results["name"]
        added = columns.DELTA + metric
        table[added] = names.map(found["difference"])
        is_noise[added] = names.map(found["is_noise"]).fillna(False).astype(bool)
        compared = results[found["difference"].notna().to_numpy()]
        help[added] = _help(noise, reference, compared, columns.label(metric))
    has_floor = any(noise.is_known(reference, reference) for noise in floors.values())
    return table, Comparison(name, is_noise, help, has_floor)


def default_columns(
    default: Sequence[str], judges: Sequence[str], comparison: Comparison
) -> list[str]:
    """Return the default columns, with differences next to the results if a run is pinned."""
    if comparison.name is None:
        return [*default]
    shown = []
    for name in default:
        shown.append(name)
        is_compared = columns.DELTA + name in comparison.is_noise
        if is_compared and name in ("val_loss", "exact", *judges[:1]):
            shown.append(columns.DELTA + name)
    return shown


def show_note(
    lab: Lab, comparison: Comparison, results: pd.DataFrame, selected: Sequence[str]
) -> None:
    """Show the baseline, and whether the difference between two runs is noise.

    Args:
        selected: the selected runs. Two runs are compared with each other, and a single one with the baseline.
    """
    others = [name for name in selected if name != comparison.name]
    pair = [comparison.name, *others] if comparison.name and len(others) == 1 else others
    if comparison.name is not None:
        with st.container(horizontal=True, vertical_alignment="center", key="baseline"):
            _show_baseline(lab, comparison, results, has_pair=len(pair) == 2)
    if len(pair) == 2:
        rows = {row["name"]: row for row in records(results[results["name"].isin(pair)])}
        a, b = (rows[str(name)] for name in pair)
        show_losses(lab, a, b, baseline.noise(lab, differences.RESULTS, results))


def _show_baseline(lab: Lab, comparison: Comparison, results: pd.DataFrame, has_pair: bool) -> None:
    name = str(comparison.name)
    st.caption("Baseline", width="content")
    color = results.set_index("name")["color"][name]
    run_link(name, color, "baseline")
    st.button(
        "Unpin", icon=baseline.UNPIN_ICON, type="tertiary", on_click=baseline.pin, args=(lab, ""),
        disabled=lab.read_only is not None,
    )  # fmt: skip
    texts = ["\u0394 is the value minus the baseline's."]
    if comparison.has_floor:
        texts.append(GRAY_HELP)
    elif not has_pair:
        texts.append(f"{differences.ONE_PAIR} Select a run to plan repeats.")
    st.caption(" ".join(texts), width="content")


def _values(
    metric: str, results: pd.DataFrame, run_scores: Mapping[str, Mapping[str, Any]]
) -> pd.Series:
    """Return a metric for each run: a column of the results, or a judge's score."""
    if metric in differences.RESULTS:
        return results[metric]
    scores = [run_scores.get(name, {}).get(metric) for name in results["name"]]
    means = [None if score is None else score.mean for score in scores]
    return pd.Series(means, index=results.index, dtype=float)


def _help(noise: "Noise", reference: Mapping[str, Any], compared: pd.DataFrame, title: str) -> str:
    """Return the tooltip of a difference column: its meaning, and the noise for each kind of run in it."""
    rows = [reference, *records(compared.drop_duplicates([*NOISE_FIELDS]))]
    kinds = {tuple(row[n] for n in NOISE_FIELDS): row for row in rows}
    known = [
        differences.floor_text(noise.metric, noise.pooled(row), kind)
        for kind, row in kinds.items()
        if noise.pooled(row).sd > 0
    ]
    lines = known[:MAX_LISTED_FLOORS] or [
        "The noise is unknown, because no settings were repeated with several seeds."
    ]
    gray = f" {GRAY_HELP}" if known else ""
    lines = [f"{title} minus that of {reference['name']}.{gray}", *lines]
    return "\n\n".join(escape_markdown(line) for line in lines)
