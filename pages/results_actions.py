"""Actions of the Results page: open, clone, archive and delete runs, undo, the trash, and downloads."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from core.lab import Lab
from core.views.formats import duration
from pages.ui import baseline
from pages.ui.copy_link import copy_link, copy_text
from pages.ui.errors import toast_errors
from pages.ui.page_state import open_page
from pages.ui.text import escape_markdown

UNDO = "results_undo"
"""Session key: a description of the last action, and a function that undoes it."""
TARGETS = {
    "Open in Live": ("live", ":material/show_chart:"),
    "Compare": ("compare", ":material/compare:"),
    "Score": ("scoring", ":material/grading:"),
}
"""Pages that show the selected runs."""


def clone(name: str) -> None:
    """Open Launch with the settings of a run."""
    st.switch_page("pages/launch.py", query_params={"from": name})


def archive(lab: Lab, names: Sequence[str], archived: bool = True) -> None:
    """Archive or unarchive runs. Archived runs are hidden by default."""
    with toast_errors():
        for name in names:
            lab.edit(name, archived=archived)
        done = "Archived" if archived else "Unarchived"
        _offer_undo(f"{done} {_list(names)}.", lambda: archive(lab, names, not archived))
    lab.refresh()


def delete(lab: Lab, names: Sequence[str]) -> None:
    """Move runs to the trash."""
    deleted: dict[str, str] = {}
    with toast_errors():
        for name in names:
            deleted[name] = lab.delete(name)
    if deleted:
        _offer_undo(f"Deleted {_list([*deleted])}.", lambda: restore(lab, [*deleted.values()]))
    lab.refresh()


def restore(lab: Lab, ids: Sequence[str]) -> None:
    """Move runs back from the trash."""
    st.session_state.pop(UNDO, None)
    with toast_errors():
        for id in ids:
            lab.restore(id)
    lab.refresh()


def show_undo() -> None:
    """Show the last action with an Undo button."""
    if UNDO not in st.session_state:
        return
    text, undo = st.session_state[UNDO]
    with st.container(horizontal=True, vertical_alignment="center", key="undo"):
        st.markdown(escape_markdown(text), width="content")
        st.button("Undo", icon=":material/undo:", on_click=_undo, args=(undo,))
        st.button(
            ":material/close:",
            key="dismiss_undo",
            type="tertiary",
            help="Dismiss",
            on_click=st.session_state.pop,
            args=(UNDO, None),
        )


def show_selection(lab: Lab, selected: Sequence[dict[str, Any]], markdown: str) -> None:
    """Draw the actions for the selected runs.

    Args:
        selected: Name and `archived` of each run.
        markdown: The selected rows as a Markdown table.
    """
    names = [run["name"] for run in selected]
    for label, (page, icon) in TARGETS.items():
        if st.button(label, disabled=not names, icon=icon):
            open_page(page, run=names)
    copy_text("Copy as Markdown", markdown, "copy_markdown", "Copy the selected rows as a table")
    are_archived = bool(names) and all(run["archived"] for run in selected)
    with st.popover(
        "More", icon=":material/more_horiz:", disabled=not names or lab.read_only is not None
    ):
        if st.button(
            "Clone",
            icon=":material/content_copy:",
            type="tertiary",
            disabled=len(names) != 1,
            help="Open Launch with these settings" if len(names) == 1 else "Select one run",
        ):
            clone(names[0])
        if len(names) == 1:
            baseline.pin_button(
                lab, names[0], lab.preferences().baseline == names[0], type="tertiary"
            )
        st.button(
            "Unarchive" if are_archived else "Archive",
            icon=":material/unarchive:" if are_archived else ":material/archive:",
            type="tertiary",
            on_click=archive,
            args=(lab, names, not are_archived),
        )
        st.button(
            "Delete",
            icon=":material/delete:",
            type="tertiary",
            help="Move to the trash",
            on_click=delete,
            args=(lab, names),
        )


def show_exports(lab: Lab, csv: str, markdown: str) -> None:
    """Draw the downloads of the table, the link to it, and the trash unless it is empty."""
    st.download_button("CSV", csv, "runs.csv", "text/csv", on_click="ignore")
    st.download_button("Markdown", markdown, "runs.md", "text/markdown", on_click="ignore")
    copy_link()
    if trashed := lab.trash():
        _show_trash(lab, trashed)


def _show_trash(lab: Lab, trashed: Sequence[Any]) -> None:
    with st.popover(f"Trash ({len(trashed)})", icon=":material/delete:"):
        for run in trashed:
            with st.container(horizontal=True, vertical_alignment="center"):
                age = duration(max(0.0, time.time() - run.deleted_at))
                st.markdown(
                    f"{escape_markdown(run.name)} :small[deleted {age} ago]", width="stretch"
                )
                st.button(
                    "Restore", key=f"restore:{run.id}", on_click=restore, args=(lab, [run.id]),
                    disabled=lab.read_only is not None,
                )  # fmt: skip
        st.button(
            "Empty trash",
            icon=":material/delete_forever:",
            help="Permanently delete the weights, metrics and answers of these runs",
            on_click=_empty_trash,
            args=(lab,),
            disabled=lab.read_only is not None,
        )


def _empty_trash(lab: Lab) -> None:
    st.session_state.pop(UNDO, None)
    with toast_errors():
        lab.empty_trash()


def _offer_undo(text: str, undo: Callable[[], None]) -> None:
    st.session_state[UNDO] = text, undo


def _undo(undo: Callable[[], None]) -> None:
    undo()
    st.session_state.pop(UNDO, None)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs"
