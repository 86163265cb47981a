"""The header of a study's page: name, actions, question, progress and notes."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.studies.effects import has_been_pruned
from core.studies.study import Study
from core.views.formats import duration, plural
from pages.study_actions import show_actions
from pages.study_view import PAGE, StudyView
from pages.ui import runtime
from pages.ui.copy_link import copy_link
from pages.ui.notes import edit_text
from pages.ui.status import ACTIVE_STATUSES, states
from pages.ui.text import escape_markdown

REFRESH_INTERVAL_S = 2.0
MAX_LISTED_NAMES = 8
RECENT_RUNS = 5
"""Number of recent runs used to estimate the remaining time."""


@dataclass(frozen=True)
class Counts:
    """Number of runs by outcome. `missing` runs are planned but do not exist."""

    total: int
    finished: int
    running: int
    queued: int
    failed: int
    pruned: int
    stopped: int
    missing: int

    def text(self) -> str:
        """Return the counts as text, without those that are 0."""
        parts = [f"{self.finished:,} of {self.total:,} finished"]
        for name in ("running", "queued", "failed", "pruned", "stopped"):
            if number := getattr(self, name):
                parts.append(f"{number:,} {name}")
        return " · ".join(parts)


def count(runs: pd.DataFrame, planned: int) -> Counts:
    """Count the runs of a study.

    Args:
        planned: number of planned runs; 0 if the study's file is damaged.
    """
    pruned = has_been_pruned(runs)
    status = runs["status"].where(~pruned, "pruned")
    number = {str(name): int(n) for name, n in status.value_counts().items()}
    return Counts(
        total=max(planned, len(runs)),
        finished=number.get("finished", 0),
        running=number.get("running", 0),
        queued=number.get("queued", 0),
        failed=number.get("failed", 0),
        pruned=number.get("pruned", 0),
        stopped=number.get("stopped", 0) + number.get("interrupted", 0),
        missing=max(0, planned - len(runs)),
    )


def show_header(view: StudyView) -> None:
    """Draw the header."""
    lab, study = view.lab, view.study
    with st.container(horizontal=True, vertical_alignment="center", key="study-header"):
        st.page_link(PAGE, label="All studies", icon=":material/arrow_back:", width="content")
        st.title(escape_markdown(view.name), width="content")
        st.space("stretch")
        show_actions(view)
        if study is not None:
            _show_notes(view, study)
        copy_link()
    if study is not None:
        edit_text(
            "Question", f"question:{view.name}", study.question,
            lambda: lab.study(view.name).question,
            lambda text: lab.edit_study(view.name, question=text), lab, one_line=True,
        )  # fmt: skip
    _show_progress(view)
    if study is not None:
        _show_missing(study, view.runs)


def _show_notes(view: StudyView, study: Study) -> None:
    icon = ":material/sticky_note_2:" if study.notes else ":material/note_add:"
    with st.popover("Notes", icon=icon):
        edit_text(
            "Notes", f"study_notes:{view.name}", study.notes,
            lambda: view.lab.study(view.name).notes,
            lambda text: view.lab.edit_study(view.name, notes=text), view.lab,
        )  # fmt: skip


def _show_missing(study: Study, runs: pd.DataFrame) -> None:
    """Say which planned runs do not exist."""
    missing = [member.name for member in study.members if member.name not in {*runs["name"]}]
    if not missing:
        return
    if not study.is_complete:
        st.caption(
            f"{plural(len(missing), 'planned run')} not created yet. "
            "The next start of the dashboard creates them."
        )
        return
    listed = ", ".join(missing[:MAX_LISTED_NAMES])
    more = f" and {len(missing) - MAX_LISTED_NAMES} more" if missing[MAX_LISTED_NAMES:] else ""
    st.caption(
        f"{plural(len(missing), 'run')} of this study deleted: {escape_markdown(listed)}{more}. "
        "The results below are from the other runs."
    )


def _show_progress(view: StudyView) -> None:
    """Draw the progress, updated while runs are active."""
    lab, name = view.lab, view.name
    counts = count(view.runs, len(view.study.members) if view.study else 0)
    active = view.runs.loc[view.runs["status"].isin(ACTIVE_STATUSES), "name"].tolist()
    statuses = dict(zip(view.runs["name"], view.runs["status"], strict=True))
    per_run = seconds_per_run(view.runs)
    is_paused = bool(view.study and view.study.is_paused)

    @st.fragment(run_every=REFRESH_INTERVAL_S if active else None)
    def draw() -> None:
        if not runtime.is_open(lab):  # another session took over from a read-only Lab
            runtime.rerun()
        found = states(lab, lab.changed_at, active) if active else []
        if {run["name"]: run["status"] for run in found} != {n: statuses[n] for n in active}:
            runtime.rerun()
        done = [min(1.0, run["step"] / run["steps"]) if run["steps"] else 0.0 for run in found]
        text = counts.text()
        if per_run is not None and active:
            text += f" · about {duration(per_run * (len(active) - sum(done)))} left"
        if is_paused:
            text += " · paused"
        ended = counts.finished + counts.failed + counts.pruned
        share = (ended + sum(done)) / counts.total if counts.total else 0.0
        with st.container(key=f"study-progress:{name}"):
            if share < 1:
                st.progress(share, text)
            else:
                st.caption(text)

    draw()


def seconds_per_run(runs: pd.DataFrame) -> float | None:
    """Return the typical time from the end of one run to the end of the next; None if no run has finished.

    The median over the last runs is robust against pauses. With a single finished run, this is its training time.
    """
    finished = runs[runs["status"] == "finished"]
    gaps = finished["changed"].astype(float).sort_values().diff().dropna()
    if len(gaps):
        return float(gaps.tail(RECENT_RUNS).median())
    seconds = finished["seconds"].dropna()
    return float(seconds.mean()) if len(seconds) else None
