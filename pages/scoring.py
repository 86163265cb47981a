"""The Scoring page: have a judge score stored answers, and view scores with confidence intervals."""

import streamlit as st

from core.views import report
from pages.scoring_order import order_form, show_progress
from pages.scoring_results import SHOWN_JUDGE_KEY, show_judges, show_pairs, show_scores, show_two
from pages.ui import runtime
from pages.ui.selection import show_cut

MAX_DEFAULT_RUNS = 6
"""Maximum number of runs selected by default."""
CANDIDATE_COUNT_KEY = "scored_runs_proposed_from"
"""Session key: number of candidates for the default selection. Removed when the user changes the selection."""
SYNCED_JOB_KEY = "synced_job"
"""Session key: the last finished scoring job after which the index was synced."""

lab = runtime.lab()
st.title("Scoring")
results = lab.runs()
answered = results[results["exact"].notna()]
if answered.empty:
    st.info("No answers yet. A run answers its test set when training finishes.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()
if "scored_runs" not in st.session_state:
    comparable_names = report.same_test_set(answered)
    st.session_state["scored_runs"] = comparable_names[:MAX_DEFAULT_RUNS]
    st.session_state[CANDIDATE_COUNT_KEY] = len(comparable_names)
answered_names = answered["name"].tolist()
st.session_state["scored_runs"] = [
    n for n in st.session_state["scored_runs"] if n in answered_names
]
names = st.multiselect(
    "Runs",
    answered_names,
    key="scored_runs",
    on_change=st.session_state.pop,
    args=(CANDIDATE_COUNT_KEY, None),
)
show_cut(
    len(names), st.session_state.get(CANDIDATE_COUNT_KEY, 0), "runs tested on the same examples"
)
job = lab.scoring.job
if job and not job.is_running and st.session_state.get(SYNCED_JOB_KEY) is not job:
    lab.refresh()  # show its last verdicts without waiting for the next sync
    st.session_state[SYNCED_JOB_KEY] = job
judged = lab.scoring.answers(names)
if order_form(lab, judged):
    st.session_state.pop(SHOWN_JUDGE_KEY, None)
show_progress(lab)
views = {
    "Scores": show_scores,
    "Compare two": show_two,
    "Win rates": show_pairs,
    "Judges": show_judges,
}
view = st.segmented_control("Show", list(views), default="Scores", label_visibility="collapsed")
views[view or "Scores"](lab, judged)
