"""Notes and other free text, saved when the field loses focus. Edits from another session are not overwritten."""

from collections.abc import Callable

import streamlit as st

from core.lab import Lab
from pages.ui.errors import toast_errors
from pages.ui.text import escape_markdown


def show_notes(name: str, stored: str, lab: Lab) -> None:
    """Draw the notes of a run.

    Args:
        stored: The stored notes.
    """
    edit_text(
        "Notes", f"notes:{name}", stored,
        lambda: lab.config(name).notes, lambda text: lab.edit(name, notes=text), lab,
    )  # fmt: skip


def edit_text(
    label: str,
    key: str,
    stored: str,
    read: Callable[[], str],
    save: Callable[[str], None],
    lab: Lab,
    one_line: bool = False,
) -> None:
    """Draw a field for free text.

    Args:
        label: A noun in sentence case, such as "Notes".
        key: Widget key, unique on the page.
        stored: The stored text.
        read: Returns the text that is stored when the user saves. May raise UserError.
        save: Stores the text. May raise UserError.
        one_line: Draw a single-line field.
    """
    saved_key = f"{key}:seen"
    untouched = key not in st.session_state or st.session_state[key] == st.session_state[saved_key]
    if untouched:
        st.session_state[key] = st.session_state[saved_key] = stored
    arguments = (label, key, read, save, lab)
    draw = st.text_input if one_line else st.text_area
    draw(label, key=key, on_change=_save, args=arguments)
    if st.session_state[key] != st.session_state[saved_key]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                f"Save {label.lower()}",
                key=f"{key}:save",
                icon=":material/save:",
                on_click=_save,
                args=arguments,
            )
            st.caption("You have unsaved changes.")


def _save(
    label: str, key: str, read: Callable[[], str], save: Callable[[str], None], lab: Lab
) -> None:
    saved_key, noun = f"{key}:seen", label.lower()
    with toast_errors():
        stored = read()
        if stored != st.session_state[saved_key]:
            st.session_state[saved_key] = stored
            st.error(
                f"Changed elsewhere. Current {noun}: {escape_markdown(stored)}. "
                f"Press *Save {noun}* to replace it with yours."
            )
            return
        save(st.session_state[key])
        st.session_state[saved_key] = st.session_state[key]
        st.toast(f"{label} saved.")
        lab.refresh()
