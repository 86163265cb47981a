"""The number of running and queued runs in the sidebar, linked to the queue on Results."""

import streamlit as st

from core.lab import Lab

RESULTS_PAGE = "pages/results.py"


@st.fragment(run_every=5.0)
def show_queue(lab: Lab) -> None:
    """Show the number of running and queued runs as a link to Results."""
    if names := lab.waiting():
        text = f"1 running · {len(names) - 1} queued"
        st.page_link(RESULTS_PAGE, label=text)
