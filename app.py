"""The entry point of the dashboard: page configuration, access control and navigation."""

from pathlib import Path

import streamlit as st

from pages.ui import access, history, style

PRODUCT = "GPT-2 fine-tuning lab"
ICON = Path(__file__).parent / "pages" / "ui" / "icon.svg"
"""A local file is used, because Streamlit loads `:material/...:` page icons from another host."""

st.set_page_config(
    page_title=PRODUCT,
    page_icon=str(ICON),
    layout="wide",
    initial_sidebar_state=style.SIDEBAR_WIDTH_PX,
)
results = st.Page(
    "pages/results.py",
    title="Results",
    icon=":material/table_chart:",
    url_path="home",
    default=True,
)
run_page = st.Page("pages/run.py", title="Run", visibility="hidden")


def open_results() -> None:
    """Redirect `/results` to the default page, which Streamlit serves only at `/`."""
    query = {name: st.query_params.get_all(name) for name in st.query_params}
    st.switch_page(results, query_params=query)


pages = [
    results,
    st.Page("pages/launch.py", title="Launch", icon=":material/rocket_launch:"),
    st.Page("pages/live.py", title="Live", icon=":material/show_chart:"),
    st.Page("pages/studies.py", title="Studies", icon=":material/science:"),
    st.Page("pages/compare.py", title="Compare", icon=":material/compare:"),
    st.Page("pages/scoring.py", title="Scoring", icon=":material/grading:"),
    st.Page("pages/data.py", title="Data", icon=":material/dataset:"),
    run_page,
    st.Page(open_results, title="Results", url_path="results", visibility="hidden"),
]
access.admit([page.url_path for page in pages])
page = st.navigation(pages)
title = st.query_params.get("name", page.title) if page == run_page else page.title
st.set_page_config(page_title=f"{title} · {PRODUCT}")
style.apply()
history.keep_one_entry_per_page()
with st.spinner("Loading runs…"):
    from pages.ui import (
        runtime,
    )  # importing takes seconds on the first visit, so the frame is drawn first

    runtime.mark_frame_drawn()
    runtime.lab()
runtime.sync_for_link()
runtime.show_state()
page.run()
runtime.freeze_garbage_collection(page.title)
