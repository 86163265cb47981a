"""What is told and can be done of the runs ticked in the results table: state, notes, removal, settings."""

from collections.abc import Callable

import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.views import report
from pages.ui.status import show_run
from pages.ui.text import escape_markdown


def show_one(run: dict, lab: Lab) -> None:
    """State, notes and removal of one run."""
    show_run(run, lab)
    _show_notes(run["name"], run["notes"] or "", lab)
    with st.popover("Delete", icon=":material/delete:"):
        st.write("Its weights, events and answers are removed for good.")
        if st.button("Delete this run", type="primary") and _try(lab.delete, lab, run["name"]):
            st.rerun()


def show_settings(runs: list[dict]) -> None:
    """The settings of one run beside the defaults, or those of several beside each other."""
    alone = len(runs) == 1
    show_all = st.toggle(
        "Every setting",
        key="every_setting",
        help="Off: those that differ, of a single run from the default.",
    )
    table = report.settings_of(runs, show_all)
    if len(table):
        st.dataframe(table)
    else:
        st.caption("Every setting is the default." if alone else "They differ in no setting.")


def _show_notes(name: str, stored: str, lab: Lab) -> None:
    """A field that is kept when it is left. What somebody else wrote meanwhile is neither hidden nor replaced unasked."""
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
    try:
        stored = lab.config(name).notes
    except UserError as error:
        st.error(escape_markdown(str(error)))
        return
    if stored != st.session_state[seen]:
        st.session_state[seen] = stored
        st.error(f"Meanwhile they became: {escape_markdown(stored)}. Save yours to replace them.")
    elif _try(lambda: lab.edit(name, notes=st.session_state[typed]), lab):
        st.session_state[seen] = st.session_state[typed]
        st.toast("Notes saved.")


def _try(action: Callable[..., object], lab: Lab, *args: object) -> bool:
    """Do it and have the index look again, or say why not."""
    try:
        action(*args)
    except UserError as error:
        st.error(escape_markdown(str(error)))
        return False
    lab.refresh()
    return True
