"""The Compare page: stored answers to the test set, or live answers to any prompt, side by side."""

import streamlit as st

from pages.compare_answers import show_live, show_stored
from pages.ui import runtime

lab = runtime.lab()
st.title("Compare")
view = st.segmented_control(
    "Answers",
    ["Stored", "Live"],
    default="Stored",
    help="Stored: each run's answers to its test set. Live: answers to any prompt, generated on demand.",
)
if view == "Live":
    show_live(lab)
else:
    show_stored(lab)
