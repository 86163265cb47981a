"""The Scoring page: have a judge score stored answers, and view scores with confidence intervals."""

import streamlit as st

from core.views import report
from pages.scoring_order import order_form, show_progress
from pages.scoring_results import (
    forget_judges,
    select_judge,
    show_agreement,
    show_answers,
    show_distribution,
    show_pairs,
    show_scores,
    show_two,
)
from pages.scoring_verdict import show_verdict
from pages.ui import runtime
from pages.ui.compared_runs import select_runs
from pages.ui.selection import show_cut

MAX_DEFAULT_RUNS = 6
"""Maximum number of runs selected by default."""
SELECTION_KEY = "scored_runs"
"""Session key: the runs selected by the user, a link or another page."""
SYNCED_JOB_KEY = "synced_job"
"""Session key: the last finished scoring job after which the index was synced."""
TABS = {
    "Scores": show_scores,
    "Answers": show_answers,
    "Distribution": show_distribution,
    "Two runs": show_two,
    "Head-to-head": show_pairs,
    "Agreement": show_agreement,
}

lab = runtime.lab()
with st.container(horizontal=True, vertical_alignment="center"):
    st.title("Scoring", width="stretch")
results = lab.runs()
answered = results[results["exact"].notna()]
if answered.empty:
    st.info("No answers yet. A run answers its test set when training finishes.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()
top = st.container()
with st.container(key="scoring-columns"):
    shown, ordered = st.columns([5, 2], gap="large")
with shown:
    comparable_names = report.same_test_set(answered)
    names = select_runs(
        "scoring_runs",
        SELECTION_KEY,
        answered["name"].tolist(),
        results["name"].tolist(),
        comparable_names[:MAX_DEFAULT_RUNS],
        None,
        "have no answers yet",
    )
    if SELECTION_KEY not in st.session_state:
        show_cut(len(names), len(comparable_names), "runs tested on the same examples")
job = lab.scoring.job
if job and not job.is_running and st.session_state.get(SYNCED_JOB_KEY) is not job:
    lab.refresh()  # show its last verdicts without waiting for the next sync
    st.session_state[SYNCED_JOB_KEY] = job
judged = lab.scoring.answers(names)
with ordered, st.container(key="sticky-order", border=True):
    if order_form(lab, judged):
        forget_judges()
with shown:
    show_progress(lab)
    verdicts = lab.scoring.verdicts(judged)
    judge = select_judge(lab, verdicts)
    if len(names) == 2:
        with top:
            show_verdict(lab, judged, verdicts[verdicts["id"] == judge])
    tabs = st.tabs(list(TABS), key="tab", bind="query-params")
    for tab, show in zip(tabs, TABS.values(), strict=True):
        if tab.open:
            with tab:
                show(lab, judged, verdicts, judge)
