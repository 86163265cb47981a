"""The Compare page: stored answers to the test examples, or live answers to any prompt, side by side."""

import streamlit as st

from pages.compare_answers import show_stored
from pages.compare_live import show_live
from pages.ui import runtime
from pages.ui.copy_link import copy_link
from pages.ui.page_state import PageState

VIEWS = {"Stored": show_stored, "Live": show_live}
PARAMETERS = (
    "answers", "run", "search", "filter", "a", "b", "score", "sort", "prompt", "page",
)  # fmt: skip

lab = runtime.lab()
state = PageState("compare", PARAMETERS)
with st.container(horizontal=True, vertical_alignment="center"):
    st.title("Compare", width="stretch")
    copy_link()
    view = state.select(
        "Answers",
        list(VIEWS),
        "answers",
        draw=st.segmented_control,
        required=True,
        label_visibility="collapsed",
        help="Stored: each run's answers to its test set. Live: answers to any prompt, generated on demand.",
    )
notices = st.container()
VIEWS[view](lab, state)
with notices:
    state.show_notices()
state.write()
