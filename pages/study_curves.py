"""The Curves tab of a study: the mean over seeds of each combination, with a band."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.metrics import CURVES
from core.views import study_charts
from core.views.formats import axis_title, plural
from core.views.study_charts import MAX_SEEDS_FOR_RANGE, Curve
from pages.study_view import StudyView
from pages.ui.figures import show_figure
from pages.ui.selection import show_cut

CURVE, GROUP, LOG = "curve", "group", "log"
PARAMETERS = (CURVE, GROUP, LOG)
EVALUATED = "val_loss"
"""Key for the validation loss at each evaluation. The others are keys of CURVES."""
TITLES = {
    EVALUATED: "Validation loss (subset)",
    **{name: CURVES[name].label for name in ("loss", "relative_update", "grad_norm", "lr")},
}
MAX_CURVES = 8
SMOOTHING_STEPS = 10
"""Steps in the moving average of curves that are measured at each step."""


def show(view: StudyView) -> None:
    """Draw the curves of the selected combinations."""
    groups = {group["label"]: group for group in view.groups() if _measured(group, view)}
    if not groups:
        st.caption("Curves appear after the first evaluation of a run.")
        return
    state = view.state
    with st.container(horizontal=True, vertical_alignment="bottom"):
        curve = state.select(
            "Curve", list(TITLES), CURVE, format_func=TITLES.__getitem__, width=240
        )
        is_log = state.toggle("Log scale", LOG)
    chosen = _select_groups(view, groups)
    if not chosen:
        st.caption("Choose at least one combination.")
        return
    curves = [_curve(groups[label], view.runs) for label in chosen]
    names = [name for c in curves for name in (*c.runs, *c.diverged)]
    points = _points(view.lab, view.key, curve, names)
    title = TITLES[curve]
    if curve == "loss":
        title += f", mean of {SMOOTHING_STEPS} steps"
    figure = study_charts.seed_curves(points, curves, title, "Step", is_log)
    show_figure(figure, key="study_curves")
    most = max(len(c.runs) for c in curves)
    band = (
        "smallest to largest value" if most <= MAX_SEEDS_FOR_RANGE else "mean ± standard deviation"
    )
    diverged = " Dotted lines: diverged runs, which are not part of a mean." if any(c.diverged for c in curves) else ""  # fmt: skip
    st.caption(f"Line: mean over seeds. Band: {band}.{diverged}")


def _measured(group: dict[str, Any], view: StudyView) -> bool:
    steps = view.runs.loc[view.runs["name"].isin(group["runs"]), "step"]
    return bool((steps > 0).any())


def _select_groups(view: StudyView, groups: dict[str, dict[str, Any]]) -> list[str]:
    """Let the user select combinations. By default, the best ones are shown."""
    state = view.state
    ranked = sorted(groups, key=lambda label: (groups[label]["mean"] != groups[label]["mean"], abs(groups[label]["difference"])))  # fmt: skip
    default = [label for label in groups if label in ranked[:MAX_CURVES]]
    requested = state.values(GROUP)
    matches = default if requested is None else [label for label in requested if label in groups]
    order = " · ".join(axis_title(axis) for axis in view.axes)
    chosen = state.widget(
        st.multiselect, f"Combinations ({order})", GROUP, matches[:MAX_CURVES],
        options=list(groups), max_selections=MAX_CURVES,
    )  # fmt: skip
    state.check(GROUP, groups, "Unknown combination")
    state.show(GROUP, *(chosen if requested is not None else []))
    show_cut(len(chosen), len(groups), "combinations")
    return list(chosen)


def _curve(group: dict[str, Any], runs: pd.DataFrame) -> Curve:
    """Return the curve of a combination. Unfinished runs count only if none has finished."""
    own = runs[runs["name"].isin(group["runs"]) & ~runs["name"].isin(group["diverged_runs"])]
    finished = own.loc[own["status"] == "finished", "name"].tolist()
    names = finished or own.loc[own["step"] > 0, "name"].tolist()
    label = f"{group['label']} ({plural(len(names), 'seed')}"
    label += f", {group['diverged']} diverged)" if group["diverged"] else ")"
    return Curve(label, group["color"], group["number"], names, group["diverged_runs"])


@st.cache_resource(max_entries=16, show_spinner=False)
def _points(_lab: Lab, key: str, curve: str, names: Sequence[str]) -> pd.DataFrame:
    """Return the points of each run: run, x, y."""
    if curve == EVALUATED:
        evaluations = _lab.evaluations(names)
        loss = evaluations["subset_loss"].fillna(evaluations["val_loss"])
        return evaluations.assign(y=loss)[["run", "x", "y"]]
    window = SMOOTHING_STEPS if curve == "loss" else 1
    return _lab.curves(names, [curve], window=window)[curve]
