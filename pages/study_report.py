"""The report on a study: its summary, which can be edited, and downloads."""

from functools import partial

import streamlit as st

from core.lab import Lab
from core.studies.study import Study
from pages.ui.errors import attempt
from pages.ui.notes import edit_text


def show_report(lab: Lab, study: Study) -> None:
    """Draw the summary and the download buttons."""
    name = study.name
    generated = _generated(lab, repr(lab), name, lab.changed_at)

    def stored() -> str:
        return lab.study(name).summary or generated

    def save(text: str) -> None:
        lab.edit_study(name, summary="" if text.strip() == generated else text)

    with st.container(key="study-report"):
        edit_text("Summary", f"study_summary:{name}", study.summary or generated, stored, save, lab)
    if study.summary:
        st.caption(
            "This summary was edited, so it no longer changes with the results. Use *Reset* to return to the generated one."
        )
    else:
        st.caption(
            "Generated from the effects, with one sentence per line. It changes with the results until you edit it."
        )
    with st.container(horizontal=True):
        st.download_button(
            "HTML report", partial(lab.study_report, name, "html"), f"{name}.html", "text/html",
            icon=":material/download:", on_click="ignore",
            help="One file with interactive charts that works offline.",
        )  # fmt: skip
        st.download_button(
            "Markdown report", partial(lab.study_report, name, "md"), f"{name}.zip", "application/zip",
            icon=":material/download:", on_click="ignore",
            help="A ZIP archive with report.md and its pictures.",
        )  # fmt: skip
        if study.summary:
            st.button("Reset", icon=":material/undo:", help="Return to the generated summary.",
                      on_click=_reset, args=(lab, name))  # fmt: skip
    st.caption(
        "The report contains the question, the summary, the effects with contexts and verdicts, the curves, the settings, "
        "the runs, the notes and the command that repeats the study."
    )


def _reset(lab: Lab, name: str) -> None:
    attempt(lab, lab.edit_study, name, summary="")
    st.session_state.pop(f"study_summary:{name}", None)


@st.cache_resource(max_entries=16, show_spinner=False)
def _generated(_lab: Lab, lab_id: str, study: str, changed_at: int) -> str:
    return "\n".join(_lab.study_conclusions(study))
