"""The entry point of the dashboard: page configuration, access control and navigation."""

from pathlib import Path

import streamlit as st

from pages.ui import access

ICON = Path(__file__).parent / "pages" / "ui" / "icon.svg"
"""A local file is used, because Streamlit loads `:material/...:` page icons from another host."""

st.set_page_config(page_title="GPT-2 fine-tuning lab", page_icon=str(ICON), layout="wide")
launch = st.Page(
    "pages/launch.py",
    title="Launch",
    icon=":material/rocket_launch:",
    url_path="home",
    default=True,
)


def open_launch() -> None:
    """Redirect `/launch` to the default page, which Streamlit serves only at `/`."""
    st.switch_page(launch)


pages = {
    "Train": [
        launch,
        st.Page(open_launch, title="Launch", url_path="launch", visibility="hidden"),
        st.Page("pages/data.py", title="Data", icon=":material/dataset:"),
        st.Page("pages/live.py", title="Live", icon=":material/show_chart:"),
    ],
    "Analyze": [
        st.Page("pages/results.py", title="Results", icon=":material/table_chart:"),
        st.Page("pages/compare.py", title="Compare", icon=":material/compare:"),
        st.Page("pages/scoring.py", title="Scoring", icon=":material/grading:"),
    ],
}
access.admit([page.url_path for group in pages.values() for page in group])
page = st.navigation(pages)
with st.spinner("Loading runs ..."):
    from pages.ui import (
        runtime,
    )  # importing takes seconds on the first visit, so the frame is drawn first

    runtime.mark_frame_drawn()
    runtime.lab()
runtime.show_state()
page.run()
runtime.freeze_garbage_collection(page.title)
