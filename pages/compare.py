"""The Compare page: stored answers to the test set, or live answers to any prompt, side by side."""

import streamlit as st

from pages.compare_answers import show_stored
from pages.compare_live import show_live
from pages.ui import runtime

VIEWS = {"Stored": show_stored, "Live": show_live}

lab = runtime.lab()
with st.container(horizontal=True, vertical_alignment="center"):
    st.title("Compare", width="stretch")
    view = st.segmented_control(
        "Answers",
        list(VIEWS),
        default="Stored",
        required=True,
        key="answers",
        bind="query-params",
        label_visibility="collapsed",
        help="Stored: each run's answers to its test set. Live: answers to any prompt, generated on demand.",
    )
VIEWS[view or "Stored"](lab)
