"""The queue in the sidebar: the running run, the queued runs in order, and what happens at the next start."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from core.lab import Lab
from pages.ui.errors import toast_errors
from pages.ui.text import escape_markdown


@st.fragment(run_every=5.0)
def show_queue(lab: Lab) -> None:
    """Show how many runs are running and queued, and in a popover their order and the buttons to change it."""
    names = lab.waiting()
    text = f"Training {len(names[:1])}, waiting {len(names[1:])}" if names else "Queue"
    with st.popover(text, icon=":material/format_list_numbered:", width="stretch"):
        if not names:
            st.caption("No run is trained and none waits.")
        for position, name in enumerate(names):
            _show_entry(lab, position, name, last=len(names) - 1)
        stored = lab.preferences()
        enabled = st.toggle(
            "Resume interrupted runs at start",
            stored.resume_interrupted,
            help="When the dashboard starts, what was interrupted by its end or by a crash goes on from its checkpoint.",
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
                help="Earlier" if icon == "up" else "Later",
                disabled=not possible,
                on_click=_attempt,
                args=(lab.move, name, offset),
            )
        st.button(
            ":material/close:",
            key=f"withdraw:{name}",
            type="tertiary",
            help="Take off the queue",
            on_click=_attempt,
            args=(lab.stop, name),
        )


def _attempt(action: Callable[..., None], *args: object) -> None:
    with toast_errors():
        action(*args)
