"""Results without runs: three ways to start."""

import streamlit as st

from core.lab import Lab
from core.presets import PRESETS, preset
from pages.ui.errors import toast_errors
from pages.ui.upload import dataset_uploader

UPLOADED = "results_uploaded"
"""Session key: the path of a data set that was just uploaded here."""


def show_start(lab: Lab) -> None:
    """Draw cards that run the demo, open Launch with a preset, and upload a data set."""
    if path := st.session_state.pop(UPLOADED, None):
        st.switch_page("pages/data.py", query_params={"dataset": path})
    st.markdown("No runs yet. Start with one of these:")
    demo, presets, data = (
        column.container(border=True, height="stretch") for column in st.columns(3, gap="medium")
    )
    with demo:
        st.subheader("Run the demo", anchor=False)
        st.write(
            "Fine-tune a small model on a small data set. Both are included, and it takes about a minute, even without a GPU."
        )
        st.button(
            "Launch the demo",
            type="primary",
            icon=":material/rocket_launch:",
            disabled=lab.read_only is not None,
            on_click=_launch_demo,
            args=(lab,),
        )
    with presets:
        st.subheader("Choose a preset", anchor=False)
        st.write("Start with the settings of a published run, and change any of them.")
        name = st.selectbox(
            "Preset", list(PRESETS), 1, format_func=lambda name: f"{name}: {PRESETS[name].title}"
        )
        if st.button("Open in Launch", icon=":material/tune:"):
            st.switch_page("pages/launch.py", query_params={"from": f"preset:{name}"})
    with data:
        st.subheader("Use your own data", anchor=False)
        st.write("Upload a file of instructions and answers, and see how the model reads it.")
        dataset_uploader(lambda path: st.session_state.update({UPLOADED: path}))


def _launch_demo(lab: Lab) -> None:
    with toast_errors():
        lab.launch(preset("demo"))
