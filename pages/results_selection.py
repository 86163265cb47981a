"""Details and actions for the runs selected in the results table: state, notes, deletion, settings."""

import streamlit as st

from core.lab import Lab
from core.views import report
from pages.ui.errors import show_errors, toast_errors
from pages.ui.status import show_run
from pages.ui.text import escape_markdown


def show_one(run: dict, lab: Lab) -> None:
    """Draw the state, the notes and the delete button of one run."""
    show_run(run, lab)
    _show_notes(run["name"], run["notes"] or "", lab)
    with st.popover("Delete", icon=":material/delete:"):
        st.write("Its weights, events and answers are removed for good.")
        if st.button("Delete this run", type="primary"):
            with show_errors():
                lab.delete(run["name"])
                lab.refresh()
                st.rerun()


def show_settings(runs: list[dict]) -> None:
    """Show the settings of one run next to the defaults, or of several runs side by side."""
    show_all = st.toggle(
        "Every setting",
        key="every_setting",
        help="Off: those that differ, of a single run from the default.",
    )
    table = report.settings_of(runs, show_all)
    if len(table):
        st.dataframe(table)
    else:
        st.caption(
            "Every setting is the default." if len(runs) == 1 else "They differ in no setting."
        )


def _show_notes(name: str, stored: str, lab: Lab) -> None:
    """Draw the notes, which are saved when the field loses focus. Edits from another session are not overwritten."""
    typed, seen = f"notes:{name}", f"notes_seen:{name}"
    untouched = typed not in st.session_state or st.session_state[typed] == st.session_state[seen]
    if untouched:
        st.session_state[typed] = st.session_state[seen] = stored
    st.text_area("Notes", key=typed, on_change=_save_notes, args=(name, lab))
    if st.session_state[typed] != st.session_state[seen]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Save notes", icon=":material/save:", on_click=_save_notes, args=(name, lab))
            st.caption("These notes are not saved.")


def _save_notes(name: str, lab: Lab) -> None:
    typed, seen = f"notes:{name}", f"notes_seen:{name}"
    with toast_errors():
        stored = lab.config(name).notes
        if stored != st.session_state[seen]:
            st.session_state[seen] = stored
            st.error(
                f"Meanwhile they became: {escape_markdown(stored)}. Save yours to replace them."
            )
            return
        lab.edit(name, notes=st.session_state[typed])
        st.session_state[seen] = st.session_state[typed]
        st.toast("Notes saved.")
        lab.refresh()
