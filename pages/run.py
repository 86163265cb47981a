"""The run page, `/run?name=...`. Every run name in the dashboard links to it."""

import streamlit as st

from core.views.tables import records
from pages import run_charts, run_reference, run_tabs
from pages.run_header import show_header
from pages.ui import baseline, runtime
from pages.ui.page_state import PageState
from pages.ui.status import ACTIVE_STATUSES, show_run, states
from pages.ui.text import escape_markdown

PARAMETERS = ("name", "tab", "step", "log", "system", "answer", "kind", "all")

lab = runtime.lab()
state = PageState("run", PARAMETERS)


def show_missing(name: str) -> None:
    """Show that the run in the link does not exist, with a link to Results."""
    st.title("Run")
    if name:
        st.warning(f"Unknown run: {escape_markdown(name)}. It may have been renamed or deleted.")
    else:
        st.warning("This link doesn't specify a run.")
    st.page_link("pages/results.py", label="Results", icon=":material/table_chart:")


name = state.value("name") or ""
results = lab.runs()
runs = {run["name"]: run for run in records(results)}
if name not in runs:
    show_missing(name)
    st.stop()
state.show_all()
run = runs[name]
pinned = baseline.current(lab, runs)
reference = run_reference.choose(lab, run, runs, results, pinned)
show_header(run, runs, lab, is_baseline=name == pinned)
notices = st.container()
was_active = run["status"] in ACTIVE_STATUSES


@st.fragment(run_every=1.0 if was_active else None)
def show_training() -> None:
    """Draw the parts that change while the run is active: progress, tiles, charts and the selected batch."""
    runtime.lower_priority()
    if not runtime.is_open(lab):  # another session took over from a read-only Lab
        runtime.rerun()
    progress = next(iter(states(lab, lab.changed_at, [name])), None)
    if progress is None or was_active != (progress["status"] in ACTIVE_STATUSES):
        runtime.rerun()
    show_run(progress, lab, named=False)
    run_charts.show_tiles(run, progress, lab, reference)
    run_reference.show_note(lab, run, reference)
    run_charts.show_charts(run, progress, state, lab)
    state.write()
    runtime.freeze_garbage_collection("Run")


@st.fragment(run_every=3.0 if was_active else None)
def show_tabs() -> None:
    """Draw the tabs. Only the open one is computed."""
    if not runtime.is_open(lab):
        runtime.rerun()
    parent = runs.get(run["parent"] or "")
    run_tabs.show_tabs(run, parent, state, lab)
    state.write()


show_training()
show_tabs()
with notices:
    state.show_notices()
