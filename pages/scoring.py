"""Scores one can trust: verdicts of a judge on stored answers, with intervals, and what stands behind them."""

import streamlit as st

from core.tracking import queries
from core.views import report
from pages.scoring_order import order_form, show_progress
from pages.scoring_results import show_judges, show_pairs, show_scores, show_two
from pages.ui import runtime
from pages.ui.selection import show_cut

DEFAULT_RUNS = 6
PROPOSED_FROM = "scored_runs_proposed_from"
"""Session key: number of runs from which the default selection was taken, until the user changes it."""

lab = runtime.lab()
st.title("Scoring")
results = queries.results(lab.db)
answered = results[results["exact"].notna()]
if answered.empty:
    st.info("No run has answered its test set yet. A run does so at its end.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()
if "scored_runs" not in st.session_state:
    alike = report.tested_alike(answered)
    st.session_state["scored_runs"] = alike[:DEFAULT_RUNS]
    st.session_state[PROPOSED_FROM] = len(alike)
answered_names = answered["name"].tolist()
st.session_state["scored_runs"] = [
    n for n in st.session_state["scored_runs"] if n in answered_names
]
names = st.multiselect(
    "Runs",
    answered_names,
    key="scored_runs",
    on_change=st.session_state.pop,
    args=(PROPOSED_FROM, None),
)
show_cut(len(names), st.session_state.get(PROPOSED_FROM, 0), "runs tested on the same examples")
if (job := runtime.scoring()) and not job.going:
    lab.refresh()  # its last verdicts, rather than at the index's next turn
hashes = dict(zip(results["name"], results["base_hash"], strict=True))
order_form(lab, names, hashes)
show_progress()
views = {"Scores": show_scores, "Compare two": show_two, "Pairs": show_pairs, "Judges": show_judges}
view = st.segmented_control("Show", list(views), default="Scores", label_visibility="collapsed")
views[view or "Scores"](lab, names, hashes)
