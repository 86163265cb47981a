"""Answers side by side: those stored from the test set, or live ones to a prompt of one's own."""

import streamlit as st

from pages.compare_answers import show_live, show_stored
from pages.ui import runtime

lab = runtime.lab()
st.title("Compare")
view = st.segmented_control(
    "Answers",
    ["Stored", "Live"],
    default="Stored",
    help="Stored: what each run answered to its test set. Live: ask the models now.",
)
if view == "Live":
    show_live(lab, runtime.answerer())
else:
    show_stored(lab)
