"""The Explore tab of a study: importance, a setting against a metric, parallel coordinates and the Pareto front."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.studies.analysis import MEASURED_METRICS, scale
from core.studies.effects import EFFECT_METRICS
from core.studies.pareto import pareto_front
from core.studies.study import Study
from core.views import explore_charts
from core.views.explore_charts import metric_title
from core.views.formats import axis_title
from pages.ui.figures import show_figure
from pages.ui.page_state import PageState
from pages.ui.text import escape_markdown

SETTING, MEASURE, COLOR, COST = "by", "measure", "color", "cost"
PARAMETERS = (SETTING, MEASURE, COLOR, COST)
"""URL parameters of the controls."""
COSTS = ("seconds", "peak_memory_mb")
NO_COLOR = "run"
"""Option that gives dots the colors of their runs."""


def show(lab: Lab, study: Study, metric: str, state: PageState | None = None) -> None:
    """Draw the charts of a study.

    Args:
        metric: a key of EFFECT_METRICS, or a judge.
        state: the state of the page, if its parameters include PARAMETERS. Otherwise, the controls are not in the URL.
    """
    runs, table = (
        _runs(lab, repr(lab), study.name, metric, lab.changed_at),
        _means(lab, repr(lab), study.name, metric, lab.changed_at),
    )
    axes = [
        axis.fields for axis in study.sweep.axes if runs[axis.fields[0]].nunique(dropna=False) > 1
    ]
    measured = runs["value"].notna() | runs["diverged"]
    if not axes or not measured.any():
        st.caption("These charts appear after the first run with this metric has finished.")
        return
    _show_setting(lab, study.name, metric, axes, state)
    _show_parallel(runs, axes, metric, int((~measured).sum()))
    _show_pareto(runs, table, metric, state)
    _show_importance(lab, study.name, runs, metric)


def _show_importance(lab: Lab, name: str, runs: pd.DataFrame, metric: str) -> None:
    st.subheader("Importance")
    results = tuple(zip(runs["name"], runs["value"].fillna(0), runs["diverged"], strict=True))
    table = _importance(lab, repr(lab), name, metric, results)
    if isinstance(table, str):
        st.caption(escape_markdown(table))
        return
    show_figure(explore_charts.importance_bars(table), key="study-importance")
    count = int(table["n"].iloc[0])
    clear = table["above_chance"].any()
    st.caption(
        f"How much each setting decides whether a run is among the best third of {count} runs (PED-ANOVA), with 95% "
        "intervals. Gray settings are no more important than they would be in shuffled results. "
        + ("" if clear else "**Here, no setting stands out.** ")
        + "Each setting is considered alone: one that matters only in combination with another can look unimportant, "
        "which its effects per context show."
    )


def _show_setting(
    lab: Lab, name: str, metric: str, axes: Sequence[tuple[str, ...]], state: PageState | None
) -> None:
    st.subheader("Setting and metric")
    names = ["=".join(fields) for fields in axes]
    metrics = list(dict.fromkeys([metric, *EFFECT_METRICS, *MEASURED_METRICS]))
    with st.container(horizontal=True):
        x = _select(state, "Setting", names, SETTING, names[0], axis_title)
        y = _select(state, "Metric", metrics, MEASURE, metric, metric_title)
        others = [NO_COLOR, *(other for other in names if other != x)]
        default = others[min(1, len(others) - 1)]
        color = _select(
            state, "Color by", others, COLOR, default,
            lambda option: "Run" if option == NO_COLOR else axis_title(option),
        )  # fmt: skip
    runs, table = (
        _runs(lab, repr(lab), name, y, lab.changed_at),
        _means(lab, repr(lab), name, y, lab.changed_at),
    )
    figure = explore_charts.setting_effect(
        runs, table, x, y, scale(y), None if color == NO_COLOR else color
    )
    show_figure(figure, key="study-setting")
    st.caption(
        "Small dots are runs. Large dots are means over the seeds of a combination, with 95% intervals. Lines join "
        "combinations that differ only in this setting. Crosses are diverged runs."
    )


def _show_parallel(
    runs: pd.DataFrame, axes: Sequence[tuple[str, ...]], metric: str, unmeasured: int
) -> None:
    st.subheader("Parallel coordinates")
    show_figure(
        explore_charts.parallel_coordinates(runs, axes, metric, scale(metric)), key="study-parallel"
    )
    missing = f" {unmeasured:,} runs without a result are not shown." if unmeasured else ""
    st.caption(
        "Each line is a run; blue is best. Drag along an axis to select runs, and click it to clear the selection. Drag a "
        f"title to move its axis.{missing}"
    )


def _show_pareto(
    runs: pd.DataFrame, table: pd.DataFrame, metric: str, state: PageState | None
) -> None:
    st.subheader("Quality and cost")
    options = [cost for cost in COSTS if cost != metric]
    cost = _select(state, "Cost", options, COST, options[0], metric_title)
    directions = {
        "mean": scale(metric).direction,
        "cost": scale(cost).direction,
    }
    measured = runs[runs["value"].notna()].set_index("name")[cost]
    costs = [float(measured.reindex(names).mean()) for names in table["runs"]]
    front = pareto_front(table.assign(cost=costs), "mean", "cost", directions)
    figure = explore_charts.pareto(table, front, metric, cost, costs, scale(metric).is_log)
    show_figure(figure, key="study-pareto")
    machine = " Time also depends on what else the machine was doing." if cost == "seconds" else ""
    st.caption(
        "Each dot is a combination of settings, averaged over its seeds without diverged runs. No other combination is "
        f"better in both than those on the front. Intervals are not considered.{machine}"
    )


def _select(
    state: PageState | None,
    label: str,
    options: Sequence[str],
    parameter: str,
    default: str,
    title: Callable[[str], str],
) -> str:
    """Draw a select box whose value is kept in the page's state, or in the session if there is none."""
    arguments: dict[str, Any] = {"format_func": title, "width": 260}
    if state is not None:
        return state.select(
            label, options, parameter, default, problem=f"Unknown {label.lower()}", **arguments
        )
    key = f"study_explore_{parameter}"
    if st.session_state.get(key) not in options:
        st.session_state[key] = default
    return str(st.selectbox(label, options, key=key, **arguments))


@st.cache_resource(max_entries=16, show_spinner=False)
def _runs(_lab: Lab, lab_id: str, study: str, metric: str, changed_at: int) -> pd.DataFrame:
    return _lab.study_runs(study, metric)


@st.cache_resource(max_entries=16, show_spinner=False)
def _means(_lab: Lab, lab_id: str, study: str, metric: str, changed_at: int) -> pd.DataFrame:
    return _lab.study_means(study, metric)


@st.cache_resource(max_entries=16, show_spinner=False)
def _importance(
    _lab: Lab, lab_id: str, study: str, metric: str, results: tuple[tuple[Any, ...], ...]
) -> pd.DataFrame | str:
    """Return the importance of each setting, or why it is unknown. It does not change until a run ends."""
    try:
        return _lab.importance(study, metric)
    except UserError as error:
        return str(error)
