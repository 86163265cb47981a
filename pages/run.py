"""The page of one run: `/run?name=...`."""

import streamlit as st

from core.views.tables import records
from pages.ui import runtime
from pages.ui.status import show_run
from pages.ui.text import escape_markdown

lab = runtime.lab()
name = st.query_params.get("name", "")
runs = {run["name"]: run for run in records(lab.runs())}
st.title(escape_markdown(name) or "Run")
if name not in runs:
    st.warning(f"Unknown run: {escape_markdown(name)}." if name else "This link names no run.")
    st.page_link("pages/results.py", label="Results", icon=":material/table_chart:")
    st.stop()
show_run(runs[name], lab)
