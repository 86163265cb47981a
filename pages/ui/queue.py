"""The queue in the sidebar: what is trained, what waits and in which order, and what happens at the next start."""

from dataclasses import replace

import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.scheduler import preferences
from pages.ui.text import escape_markdown


@st.fragment(run_every=5.0)
def show_queue(lab: Lab) -> None:
    """How many runs are in hand; behind that, their order to change."""
    names = lab.waiting()
    text = f"Training {len(names[:1])}, waiting {len(names[1:])}" if names else "Queue"
    with st.popover(text, icon=":material/format_list_numbered:", width="stretch"):
        if not names:
            st.caption("No run is trained and none waits.")
        for position, name in enumerate(names):
            _show_place(lab, position, name, last=len(names) - 1)
        stored = preferences.load(lab.runs_dir)
        enabled = st.toggle(
            "Resume interrupted runs at start",
            stored.resume_interrupted,
            help="When the dashboard starts, what was interrupted by its end or by a crash goes on from its checkpoint.",
            disabled=lab.queue is None,
        )
        if enabled != stored.resume_interrupted:
            _try(preferences.save, lab.runs_dir, replace(stored, resume_interrupted=enabled))


def _show_place(lab: Lab, position: int, name: str, last: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"{position or ':material/play_circle:'} {escape_markdown(name)}", width="stretch"
        )
        if position == 0 or lab.queue is None:
            return
        for icon, offset, possible in (("up", -1, position > 1), ("down", 1, position < last)):
            st.button(
                f":material/arrow_{icon}ward:",
                key=f"{icon}:{name}",
                type="tertiary",
                help="Earlier" if icon == "up" else "Later",
                disabled=not possible,
                on_click=_try,
                args=(lab.queue.move, name, offset),
            )
        st.button(
            ":material/close:",
            key=f"withdraw:{name}",
            type="tertiary",
            help="Take off the queue",
            on_click=_try,
            args=(lab.stop, name),
        )


def _try(action, *args) -> None:  # type: ignore[no-untyped-def]
    """Do it, or say why not."""
    try:
        action(*args)
    except UserError as error:
        st.toast(escape_markdown(str(error)))
