"""Data set uploader, shared by Data and Launch."""

from collections.abc import Callable

import streamlit as st

from core.lab import Lab
from pages.ui import runtime
from pages.ui.errors import toast_errors

KEY = "upload"


def dataset_uploader(use: Callable[[str], None]) -> None:
    """Draw the uploader. `use` is called with the path of the stored file before the page is rerun."""
    lab = runtime.lab()
    st.file_uploader(
        "Upload a data set", lab.UPLOAD_TYPES, key=KEY, on_change=_store, args=(lab, use),
        max_upload_size=lab.MAX_UPLOAD_MB, disabled=lab.read_only is not None,
        help="JSON, JSONL, CSV, TSV or Parquet, plain or gzipped. Stored in the runs folder.",
    )  # fmt: skip


def _store(lab: Lab, use: Callable[[str], None]) -> None:
    file = st.session_state[KEY]
    if file is not None:  # None if the user removed it
        with toast_errors():
            use(lab.upload(file.name, file.getvalue()))
