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
        for place, name in enumerate(names):
            _show_place(lab, place, name, last=len(names) - 1)
        kept = preferences.load(lab.runs_dir)
        wished = st.toggle(
            "Resume interrupted runs at start",
            kept.resume_interrupted,
            help="When the dashboard starts, what was interrupted by its end or by a crash goes on from its checkpoint.",
            disabled=lab.queue is None,
        )
        if wished != kept.resume_interrupted:
            _try(preferences.save, lab.runs_dir, replace(kept, resume_interrupted=wished))


def _show_place(lab: Lab, place: int, name: str, last: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"{place or ':material/play_circle:'} {escape_markdown(name)}", width="stretch")
        if place == 0 or lab.queue is None:
            return
        for icon, moved, possible in (("up", -1, place > 1), ("down", 1, place < last)):
            st.button(
                f":material/arrow_{icon}ward:",
                key=f"{icon}:{name}",
                type="tertiary",
                help="Earlier" if icon == "up" else "Later",
                disabled=not possible,
                on_click=_try,
                args=(lab.queue.move, name, moved),
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
