"""Scores with confidence intervals: a judge's verdicts on stored answers, and what they show."""

import streamlit as st

from core.views import report
from pages.scoring_order import order_form, show_progress
from pages.scoring_results import SHOWN_JUDGE_KEY, show_judges, show_pairs, show_scores, show_two
from pages.ui import runtime
from pages.ui.selection import show_cut

DEFAULT_RUNS = 6
PROPOSED_FROM = "scored_runs_proposed_from"
"""Session key: number of runs from which the default selection was taken, until the user changes it."""
SYNCED_JOB = "synced_job"
"""Session key: the last scoring after whose end the index was synced."""

lab = runtime.lab()
st.title("Scoring")
results = lab.runs()
answered = results[results["exact"].notna()]
if answered.empty:
    st.info("No run has answered its test set yet. A run does so at its end.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()
if "scored_runs" not in st.session_state:
    alike = report.same_test_set(answered)
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
job = lab.scoring.job
if job and not job.is_running and st.session_state.get(SYNCED_JOB) is not job:
    lab.refresh()  # shows its last verdicts before the next sync
    st.session_state[SYNCED_JOB] = job
judged = lab.scoring.answers(names)
if order_form(lab, judged):
    st.session_state.pop(SHOWN_JUDGE_KEY, None)
show_progress(lab)
views = {"Scores": show_scores, "Compare two": show_two, "Pairs": show_pairs, "Judges": show_judges}
view = st.segmented_control("Show", list(views), default="Scores", label_visibility="collapsed")
views[view or "Scores"](lab, judged)
