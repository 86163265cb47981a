"""Actions on a study: extend, pause, continue and stop it, and score its answers."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.studies import study as studies_on_disk
from core.studies.study import Study
from core.studies.sweep import MAX_RUNS, parse_values
from core.views.formats import axis_title, plural
from pages.study_view import StudyView
from pages.ui.errors import attempt, toast_errors
from pages.ui.status import ACTIVE_STATUSES
from pages.ui.text import escape_markdown

MAX_ADDED_SEEDS = 10
"""Largest number of seeds that one click adds."""
EXPLORATORY = (
    "Verdicts are then exploratory: adding seeds after looking at the results makes false verdicts "
    "more likely."
)


def show_actions(view: StudyView) -> None:
    """Draw the buttons that act on the whole study."""
    lab, study = view.lab, view.study
    is_read_only = lab.read_only is not None
    active = view.runs["status"].isin(ACTIVE_STATUSES)
    answered = view.runs.loc[view.runs["exact"].notna(), "name"].tolist()
    if st.button(
        "Score study", icon=":material/grading:", disabled=not answered,
        help="Opens Scoring with the answers of all runs. It shows the cost before anything is sent.",
    ):  # fmt: skip
        st.switch_page("pages/scoring.py", query_params={"run": answered})
    if study is not None and not is_read_only:
        with st.popover("Extend", icon=":material/add:"):
            _show_extension(lab, study)
        if study.is_paused:
            st.button(
                "Continue", icon=":material/play_arrow:", key="continue_study",
                on_click=attempt, args=(lab, lab.continue_study, study.name),
            )  # fmt: skip
        elif (view.runs["status"] == "queued").any() or (
            study.sweep.mode == "search" and active.any()
        ):
            st.button(
                "Pause", icon=":material/pause:", key="pause_study",
                help="Removes the queued runs from the queue. A search creates no more runs. The current run continues.",
                on_click=attempt, args=(lab, lab.pause_study, study.name),
            )  # fmt: skip
    if active.any() and not is_read_only:
        stopped = view.runs[active]
        with st.popover("Stop all", icon=":material/stop:"):
            st.markdown(
                f"Stops {plural(len(stopped), 'run')}. A run in training saves a checkpoint first. "
                "You can resume stopped runs on their pages."
            )
            st.button(
                f"Stop {plural(len(stopped), 'run')}", type="primary", key="stop_study",
                on_click=_stop, args=(lab, study, stopped),
            )  # fmt: skip


def show_seeds_button(lab: Lab, study: Study, seeds: int, key: str) -> None:
    """Draw a button that adds seeds to a study after a confirmation."""
    seeds = min(seeds, MAX_ADDED_SEEDS)
    runs = _count(study, seeds)
    if not runs or lab.read_only is not None:
        return
    with st.popover(f"Add {plural(seeds, 'seed')}", icon=":material/add:"):
        st.markdown(f"Queues {plural(runs, 'run')}. {EXPLORATORY}")
        st.button(
            f"Queue {plural(runs, 'run')}", type="primary", key=key,
            on_click=_extend, args=(lab, study.name, seeds),
        )  # fmt: skip


def _show_extension(lab: Lab, study: Study) -> None:
    """Draw the form that adds seeds, or values of a setting."""
    seeds = int(st.number_input("More seeds", 1, MAX_ADDED_SEEDS, 2, key="more_seeds"))
    st.caption(EXPLORATORY)
    _show_add_button(
        lab, study, f"Add {plural(seeds, 'seed')}", "add_seeds", {"more_seeds": seeds}, (seeds,)
    )
    if study.sweep.mode == "search":
        st.divider()
        runs = int(
            st.number_input("More runs", 1, MAX_RUNS, 5 * len(study.sweep.seeds), key="more_runs")
        )
        st.button(
            f"Add {plural(runs, 'run')} to the search", key="add_runs",
            on_click=_extend, args=(lab, study.name, 0, "", (), runs),
        )  # fmt: skip
    if study.sweep.mode != "grid":
        return
    st.divider()
    axes = [axis.name for axis in study.sweep.axes]
    axis = st.selectbox("Setting to extend", axes, format_func=axis_title, key="more_values_axis")
    text = st.text_input("New values", placeholder="values separated by commas", key="more_values")
    values: list[Any] = []
    if text.strip():
        try:
            values = parse_values(axis.split("=")[0], text)
        except UserError as error:
            st.error(escape_markdown(str(error)))
            return
    _show_add_button(
        lab, study, "Add values", "add_values", {"axis": axis, "values": values}, (0, axis, values)
    )


def _show_add_button(
    lab: Lab, study: Study, label: str, key: str, plan: dict[str, Any], arguments: tuple[Any, ...]
) -> None:
    """Draw a button that extends the study. Its label includes the number of runs that it queues."""
    runs = 0
    if plan.get("more_seeds") or plan.get("values"):
        try:
            runs = _added(study, **plan)
        except UserError as error:
            st.error(escape_markdown(str(error)))
    suffix = f" ({plural(runs, 'run')})" if runs else ""
    st.button(
        f"{label}{suffix}", key=key, disabled=not runs,
        on_click=_extend, args=(lab, study.name, *arguments),
    )  # fmt: skip


def _added(study: Study, **plan: Any) -> int:
    """Return the number of runs that an extension adds. Raises UserError if the extension is not possible."""
    return len(studies_on_disk.extended(study, **plan).members) - len(study.members)


def _count(study: Study, seeds: int) -> int:
    """Return the number of runs that more seeds add, or 0 if that is not possible."""
    try:
        return _added(study, more_seeds=seeds)
    except UserError:
        return 0


def _extend(
    lab: Lab, name: str, seeds: int, axis: str = "", values: Sequence[Any] = (), runs: int = 0
) -> None:
    with toast_errors():
        added = lab.extend_study(name, seeds, axis, values, runs)
        st.session_state.pop("more_values", None)
        text = f"{plural(len(added), 'run')} queued."
        st.toast(text if added else "The search continues when its current runs have ended.")


def _stop(lab: Lab, study: Study | None, active: pd.DataFrame) -> None:
    """Stop the queued runs, then the current one, so that no other run of the study starts in between.

    A search is paused first, because it would replace the stopped runs.
    """
    if study is not None and study.sweep.mode == "search":
        with toast_errors():
            lab.pause_study(study.name)
        active = active[active["status"] == "running"]
    ordered = active.sort_values("status")  # queued before running
    for name in ordered["name"]:
        with toast_errors():
            lab.stop(name)
    lab.refresh()
