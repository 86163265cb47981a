"""Differences between a run and the baseline or, if there is none, its parent, on the run page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.views import differences
from core.views.formats import difference_text
from core.views.tables import is_missing
from pages.ui import baseline
from pages.ui.run_links import run_link
from pages.ui.run_pair import show_losses

if TYPE_CHECKING:  # imports SciPy
    from core.studies.noise import Noise

CLEAR_COLOR = "blue"
"""Not green or red: one pair of runs supports no verdict."""


@dataclass(frozen=True)
class Reference:
    """The run that another run is compared with.

    Args:
        run: its row in `Lab.runs`.
        is_baseline: whether it is the baseline rather than the parent.
        floors: the noise floors of the results and of judges.
    """

    run: Mapping[str, Any]
    is_baseline: bool
    floors: "Mapping[str, Noise]"


def choose(
    lab: Lab,
    run: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
    results: pd.DataFrame,
    pinned: str | None,
) -> Reference | None:
    """Return the baseline or, if none is pinned or it is the run itself, the parent.

    Returns None if neither exists, or if one of the two runs has not finished.

    Args:
        runs: all runs by name.
        results: all runs as a table.
    """
    name = pinned if pinned and pinned != run["name"] else run["parent"]
    if name not in runs or {run["status"], runs[name]["status"]} != {differences.FINISHED}:
        return None
    judges = [] if is_missing(run["exact"]) else lab.scores_by_run().get(run["name"], {})
    floors = baseline.noise(lab, [*differences.RESULTS, *judges], results)
    return Reference(runs[name], name == pinned, floors)


def delta(
    run: Mapping[str, Any],
    reference: Reference | None,
    metric: str,
    values: tuple[float | None, float | None],
) -> dict[str, Any]:
    """Return the arguments for `st.metric` that show a difference. It is gray if it is within the noise.

    Args:
        metric: a result, or a judge.
        values: the metric of the reference, and that of the run.
    """
    if reference is None or metric not in reference.floors or None in values:
        return {}
    pair = pd.DataFrame([reference.run, run])
    noise = reference.floors[metric]
    table = differences.differences(pair, reference.run, noise, pd.Series(values))
    difference, is_noise = table.iloc[1]
    if is_missing(difference):
        return {}
    return {
        "delta": difference_text(metric, difference),
        "delta_color": "gray" if is_noise else CLEAR_COLOR,
        "delta_arrow": "off",
    }


def show_note(lab: Lab, run: Mapping[str, Any], reference: Reference | None) -> None:
    """Show which run the tiles are compared with, and whether the difference in loss is within the noise."""
    if reference is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="reference"):
        role = "the baseline" if reference.is_baseline else "the parent"
        st.caption(f"Differences from {role}", width="content")
        run_link(reference.run["name"], reference.run["color"], "reference")
        show_losses(lab, reference.run, run, reference.floors, with_names=False)
