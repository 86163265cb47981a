"""The list of studies."""

from typing import Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.views.formats import DASH, axis_title, plural
from pages.study_header import count
from pages.study_view import PAGE, STUDY, metric_text, settings_label
from pages.ui.selection import clicked_row
from pages.ui.text import escape_markdown

KEY = "open_study"
METRIC = "val_loss"
"""Metric of the best combination."""
OUTCOMES = ("Running", "Failed", "Pruned")
"""Columns that are shown only if some study has such runs."""
HEADER_HEIGHT_PX, ROW_HEIGHT_PX = 36, 35


def show_list(lab: Lab) -> None:
    """Draw all studies, newest first."""
    studies = lab.studies()
    if not studies:
        st.markdown(
            "No studies yet. A study trains every combination of several settings, with several seeds."
        )
        if st.button("Launch", icon=":material/rocket_launch:", type="primary"):
            st.switch_page("pages/launch.py")
        return
    for study in studies:
        if "error" in study:
            st.warning(escape_markdown(f"Study {study['name']}: {study['error']}."))
    runs = lab.runs()
    best = _best(repr(lab), lab.changed_at, lab)
    newest = runs.groupby("study")["created"].max().to_dict()
    studies = sorted(studies, key=lambda study: -newest.get(study["name"], 0.0))
    names = [study["name"] for study in studies]
    rows = [_row(study, runs, best.get(study["name"])) for study in studies]
    table = pd.DataFrame(rows)
    table = table.drop(columns=[name for name in OUTCOMES if not table[name].any()])
    st.dataframe(
        table, hide_index=True, key="studies", placeholder=DASH, row_height=ROW_HEIGHT_PX,
        height=HEADER_HEIGHT_PX + ROW_HEIGHT_PX * len(table),
        column_config={
            "Study": st.column_config.ButtonColumn(
                "Study", type="tertiary", key=KEY, pinned=True, alignment="left"
            ),
            "Progress": st.column_config.ProgressColumn(
                "Progress", format="percent", min_value=0, max_value=1, width=120,
                help="Share of the planned runs that have finished.",
            ),
            "Best": st.column_config.Column(
                "Best so far", help="Combination with the lowest mean validation loss. A few seeds do not prove that it is the best; see Effects."
            ),
        },
    )  # fmt: skip
    if name := clicked_row(KEY, names):
        st.switch_page(PAGE, query_params={STUDY: name})


@st.cache_resource(max_entries=2, show_spinner=False)
def _best(lab_id: str, changed_at: int, _lab: Lab) -> dict[str, dict[str, Any]]:
    return _lab.best_combinations(METRIC)


def _row(study: dict[str, Any], runs: pd.DataFrame, best: dict[str, Any] | None) -> dict[str, Any]:
    """Return a row of the table. A damaged study has no plan."""
    own = runs[runs["study"] == study["name"]]
    counts = count(own, study.get("runs", 0))
    axes: dict[str, list[Any]] = study.get("axes", {})
    return {
        "Study": study["name"],
        "Question": study.get("question") or "",
        "Progress": counts.finished / counts.total if counts.total else None,
        "Finished": f"{counts.finished:,} of {counts.total:,}" if counts.total else DASH,
        "Running": counts.running,
        "Failed": counts.failed,
        "Pruned": counts.pruned,
        "Seeds": study.get("seeds"),
        "Varied": ", ".join(f"{axis_title(a)} ({len(v)})" for a, v in axes.items()) or DASH,
        "Best": _best_text(best),
    }


def _best_text(best: dict[str, Any] | None) -> str:
    if best is None:
        return DASH
    seeds = plural(int(best["n"]), "seed")
    return f"{metric_text(METRIC, best['mean'])} with {settings_label(best['settings'])} ({seeds})"
