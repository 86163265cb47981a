"""A run's notes, saved when the field loses focus. Edits from another session are not overwritten."""

import streamlit as st

from core.lab import Lab
from pages.ui.errors import toast_errors
from pages.ui.text import escape_markdown


def show_notes(name: str, stored: str, lab: Lab) -> None:
    """Draw the notes of a run.

    Args:
        stored: The notes as they are stored now.
    """
    draft_key, saved_key = f"notes:{name}", f"notes_seen:{name}"
    untouched = (
        draft_key not in st.session_state
        or st.session_state[draft_key] == st.session_state[saved_key]
    )
    if untouched:
        st.session_state[draft_key] = st.session_state[saved_key] = stored
    st.text_area("Notes", key=draft_key, on_change=_save_notes, args=(name, lab))
    if st.session_state[draft_key] != st.session_state[saved_key]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Save notes", icon=":material/save:", on_click=_save_notes, args=(name, lab))
            st.caption("You have unsaved changes.")


def _save_notes(name: str, lab: Lab) -> None:
    draft_key, saved_key = f"notes:{name}", f"notes_seen:{name}"
    with toast_errors():
        stored = lab.config(name).notes
        if stored != st.session_state[saved_key]:
            st.session_state[saved_key] = stored
            st.error(
                f"These notes were changed elsewhere. Current notes: {escape_markdown(stored)}. "
                "Press *Save notes* to replace them with yours."
            )
            return
        lab.edit(name, notes=st.session_state[draft_key])
        st.session_state[saved_key] = st.session_state[draft_key]
        st.toast("Notes saved.")
        lab.refresh()
