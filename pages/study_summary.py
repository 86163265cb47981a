"""The Summary tab of a study: one row for each combination of the varied settings."""

from typing import Any

import pandas as pd
import streamlit as st

from core.views.formats import DASH, axis_title, difference_text, plural
from pages.study_view import (
    StudyView,
    heading,
    interval_text,
    metric_noun,
    metric_text,
    number_text,
    settings_label,
    value_text,
)
from pages.ui.run_links import dot_image, run_link
from pages.ui.selection import preselect, select_rows
from pages.ui.status import badge
from pages.ui.text import escape_markdown

ROW = "row"
PARAMETERS = (ROW,)
"""`row` holds the label of each selected combination."""
HEADER_HEIGHT_PX, ROW_HEIGHT_PX, MAX_HEIGHT_PX = 36, 34, 640
VERDICT_TEXTS = {
    "better": "\u2713 better",
    "worse": "\u2717 worse",
    "equivalent": "\u2248 equivalent",
    "undecided": "? undecided",
}
HELP = {
    "mean": "Mean over seeds, without diverged runs. For losses, time and memory, the mean is geometric.",
    "sd": "Standard deviation between seeds.",
    "interval": "95% interval of the mean over seeds. Needs at least two seeds.",
    "difference": "Difference from the best mean so far.",
    "verdict": "How this combination compares with the best one, corrected for multiple comparisons. Only for combinations that differ from it in exactly one change, with at least two seeds.",
    "diverged": "Runs whose loss became infinite or ended above the base model's. They are excluded from the mean.",
    "pruned": "Runs that the search stopped early. They are excluded from the mean.",
    "other": "Runs that are queued, running, stopped or failed.",
}  # fmt: skip


def show(view: StudyView) -> None:
    """Draw the table, and the runs of the selected rows."""
    groups = view.groups()
    if not groups:
        st.info("This study has no runs.")
        return
    _show_best(view, groups)
    frame = _frame(groups, view)
    key, labels = f"study_summary:{view.name}", [group["label"] for group in groups]
    if f"{key}:selected" not in st.session_state and (linked := view.state.values(ROW)):
        preselect(key, linked)
    with st.container(key="study-summary-table"):
        selected = select_rows(
            _styled(frame, view),
            labels,
            key,
            multiple=True,
            placeholder=DASH,
            row_height=ROW_HEIGHT_PX,
            height=min(MAX_HEIGHT_PX, HEADER_HEIGHT_PX + ROW_HEIGHT_PX * len(frame)),
            column_config=_columns(frame, view),
        )
    view.state.check(ROW, labels, "Unknown combination")
    view.state.set(ROW, *selected)
    view.state.show(ROW, *selected)
    if not selected:
        st.caption("Select rows to see their runs. Click a column heading to sort.")
    for group in groups:
        if group["label"] in selected:
            _show_runs(group, view)


def _show_best(view: StudyView, groups: list[dict[str, Any]]) -> None:
    best = next((group for group in groups if group["is_best"]), None)
    if best is None:
        st.caption(f"No finished run has a value for {metric_noun(view.metric)} yet.")
        return
    interval = interval_text(view.metric, best["low"], best["high"])
    interval = f", 95% interval {interval}" if interval != DASH else ""
    st.markdown(
        escape_markdown(
            f"Best mean so far: {metric_text(view.metric, best['mean'])} with "
            f"{settings_label(best['settings'])} ({plural(best['n'], 'seed')}{interval})."
        )
    )


def _frame(groups: list[dict[str, Any]], view: StudyView) -> pd.DataFrame:
    """Return the table with numbers, so that columns sort by size."""
    table: dict[str, list[Any]] = {"dot": [dot_image(group["color"]) for group in groups]}
    for axis in view.axes:
        table[axis] = [group["settings"][axis] for group in groups]
    table |= {name: [group[name] for group in groups] for name in ("n", "mean", "sd")}
    table["interval"] = [interval_text(view.metric, g["low"], g["high"]) for g in groups]
    table["difference"] = [group["difference"] for group in groups]
    table["verdict"] = ["best" if g["is_best"] else VERDICT_TEXTS.get(g["verdict"], DASH) for g in groups]  # fmt: skip
    table["diverged"] = [group["diverged"] for group in groups]
    table["pruned"] = [group["pruned"] for group in groups]
    table["other"] = [group["failed"] + group["unfinished"] for group in groups]
    for name in ("pruned", "other"):
        if not any(table[name]):
            del table[name]
    return pd.DataFrame(table)


def _styled(frame: pd.DataFrame, view: StudyView) -> Any:
    """Return the table with numbers formatted as text, which still sort as numbers."""
    metric = view.metric
    formatters: dict[str, Any] = {
        "mean": lambda value: number_text(metric, value),
        "sd": lambda value: number_text(metric, value),
        "difference": lambda value: difference_text(metric, value),
    }
    for axis in view.axes:
        formatters[axis] = _axis_formatter(axis)
    return frame.style.format(formatters, na_rep=DASH)


def _axis_formatter(axis: str) -> Any:
    return lambda value: value_text(axis, None if value != value else value)


def _columns(frame: pd.DataFrame, view: StudyView) -> dict[str, Any]:
    """Return the headings and tooltips."""
    titles = {
        **{axis: axis_title(axis) for axis in view.axes},
        "n": "Seeds", "mean": heading("Mean", view.metric), "sd": heading("SD", view.metric),
        "interval": heading("95% interval", view.metric),
        "difference": heading("Difference from best", view.metric),
        "verdict": "Verdict", "diverged": "Diverged", "pruned": "Pruned", "other": "Not finished",
    }  # fmt: skip
    columns: dict[str, Any] = {
        name: st.column_config.Column(titles[name], help=HELP.get(name))
        for name in frame
        if name in titles
    }
    columns["dot"] = st.column_config.ImageColumn("", width=30, pinned=True)
    return columns


def _show_runs(group: dict[str, Any], view: StudyView) -> None:
    """List the runs of a combination as links."""
    runs = view.runs.set_index("name").loc[group["runs"]]
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(
                f"**{escape_markdown(settings_label(group['settings']))}**", width="stretch"
            )
            for page, label, icon in (
                ("live", "Live", ":material/show_chart:"),
                ("compare", "Compare", ":material/compare:"),
            ):
                st.page_link(
                    f"pages/{page}.py", label=label, icon=icon, query_params={"run": group["runs"]}
                )
        for name, run in runs.iterrows():
            with st.container(horizontal=True, vertical_alignment="center"):
                run_link(str(name), run["color"], key="summary")
                st.markdown(badge(run["status"]), width="content")
                value = run[view.metric] if view.metric in runs else None
                text = f" · {metric_noun(view.metric)} {metric_text(view.metric, value)}"
                shown = text if view.metric in runs else ""
                st.caption(escape_markdown(f"seed {run['seed']}{shown}"), width="content")
