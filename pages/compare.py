"""Compare answers side by side: stored answers to the test set, or live answers to any prompt."""

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
    show_live(lab)
else:
    show_stored(lab)
