"""The queue in the sidebar: the active run, queued runs in order, and whether to resume runs at startup."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from core.lab import Lab
from pages.ui.errors import toast_errors
from pages.ui.text import escape_markdown


@st.fragment(run_every=5.0)
def show_queue(lab: Lab) -> None:
    """Show the number of running and queued runs, with a popover to reorder or remove them."""
    names = lab.waiting()
    text = f"1 running · {len(names) - 1} queued" if names else "Queue"
    with st.popover(text, icon=":material/format_list_numbered:", width="stretch"):
        if not names:
            st.caption("The queue is empty.")
        for position, name in enumerate(names):
            _show_entry(lab, position, name, last=len(names) - 1)
        stored = lab.preferences()
        enabled = st.toggle(
            "Resume interrupted runs at startup",
            stored.resume_interrupted,
            help="When the dashboard starts, runs interrupted by a shutdown or crash continue from their last checkpoint.",
            disabled=lab.read_only is not None,
        )
        if enabled != stored.resume_interrupted:
            _attempt(lab.save_preferences, replace(stored, resume_interrupted=enabled))


def _show_entry(lab: Lab, position: int, name: str, last: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"{position or ':material/play_circle:'} {escape_markdown(name)}", width="stretch"
        )
        if position == 0 or lab.read_only:
            return
        for icon, offset, possible in (("up", -1, position > 1), ("down", 1, position < last)):
            st.button(
                f":material/arrow_{icon}ward:",
                key=f"{icon}:{name}",
                type="tertiary",
                help="Move up" if icon == "up" else "Move down",
                disabled=not possible,
                on_click=_attempt,
                args=(lab.move, name, offset),
            )
        st.button(
            ":material/close:",
            key=f"withdraw:{name}",
            type="tertiary",
            help="Remove from queue",
            on_click=_attempt,
            args=(lab.stop, name),
        )


def _attempt(action: Callable[..., None], *args: object) -> None:
    with toast_errors():
        action(*args)
