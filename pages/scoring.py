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
from pages.scoring_selection import Selection
from pages.scoring_verdict import BASE_COLOR, show_verdict
from pages.ui import runtime
from pages.ui.compared_runs import PARAMETER, select_runs
from pages.ui.copy_link import copy_link
from pages.ui.page_state import PageState
from pages.ui.selection import show_cut

MAX_DEFAULT_RUNS = 6
"""Maximum number of runs selected by default."""
PARAMETERS = ("run", "judge", "tab", "pair_judge", "a", "b")
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
state = PageState("scoring", PARAMETERS)
with st.container(horizontal=True, vertical_alignment="center"):
    st.title("Scoring", width="stretch")
    copy_link()
results = lab.runs()
answered = results[results["exact"].notna()]
if answered.empty:
    st.info("No answers yet. A run answers its test set when training finishes.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()
notices, top = st.container(), st.container()
with st.container(key="scoring-columns"):
    shown, ordered = st.columns([5, 2], gap="large")
with shown:
    comparable_names = report.same_test_set(answered)
    names = select_runs(
        state,
        answered["name"].tolist(),
        results["name"].tolist(),
        comparable_names[:MAX_DEFAULT_RUNS],
        None,
        "have no answers yet",
    )
    if state.values(PARAMETER) is None:
        show_cut(len(names), len(comparable_names), "runs tested on the same examples")
job = lab.scoring.job
if job and not job.is_running and st.session_state.get(SYNCED_JOB_KEY) is not job:
    lab.refresh()  # show its last verdicts without waiting for the next sync
    st.session_state[SYNCED_JOB_KEY] = job
judged = lab.scoring.answers(names)
with ordered, st.container(key="sticky-order", border=True):
    is_started, can_score = order_form(lab, judged)
    if is_started:
        forget_judges(state)
with shown:
    show_progress(lab)
    verdicts = lab.scoring.verdicts(judged)
    judge = select_judge(lab, state, verdicts)
    run_colors = dict(zip(results["name"], results["color"], strict=True))
    colors = {name: run_colors.get(name, BASE_COLOR) for name in judged.names}
    selection = Selection(lab, state, judged, verdicts, judge, colors, can_score)
    if len(names) == 2:
        with top:
            show_verdict(selection)
    tabs = state.tabs(list(TABS), "tab")
    for tab, show in zip(tabs, TABS.values(), strict=True):
        if tab.open:
            with tab:
                show(selection)
with notices:
    state.show_notices()
state.write()
