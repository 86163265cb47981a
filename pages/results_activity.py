"""Current activity on Results: the current run, the queue and memory use. Refreshed while the page is open."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from core.lab import Lab
from core.machine import Machine
from core.views.formats import memory
from pages.ui import runtime
from pages.ui.errors import attempt
from pages.ui.run_links import run_link
from pages.ui.status import time_left
from pages.ui.text import escape_markdown

REFRESH_S = 2.0
STATUSES = "results_statuses"
"""Session key: the active runs and their statuses when the page was drawn."""
UNKNOWN_COLOR = "gray"
"""Color of a run that was created after the page was drawn."""
MACHINE_TTL_S = 5.0
"""How long all sessions share one reading of the machine's state. If there is a GPU, each reading starts a process."""
IDLE_HEIGHT_PX, ACTIVE_HEIGHT_PX = 48, 120
"""Approximate height of this panel, used to limit the height of the table."""
QUEUE_HEIGHT_PX = 150
"""Height at which a queue of more than SHORT_QUEUE runs scrolls."""
SHORT_QUEUE = 3


def show_activity(lab: Lab, colors: Mapping[str, str]) -> None:
    """Draw the current run, the queue and the machine.

    Args:
        colors: The color of each run.
    """
    st.session_state[STATUSES] = None
    _show(lab, colors)


@st.fragment(run_every=REFRESH_S)
def _show(lab: Lab, colors: Mapping[str, str]) -> None:
    """Draw the panel. Rerun the page when a run starts or ends, to update the table."""
    runtime.lower_priority()
    if not runtime.is_open(lab):  # another session took over from a read-only Lab
        runtime.rerun()
    states = {run["name"]: run for run in lab.states(lab.waiting())}
    names = list(states)
    statuses = sorted((name, run["status"]) for name, run in states.items())
    if st.session_state[STATUSES] not in (None, statuses):
        lab.refresh()
        runtime.rerun()
    st.session_state[STATUSES] = statuses
    height_px = ACTIVE_HEIGHT_PX if names else IDLE_HEIGHT_PX
    st.html(f"<style>:root {{ --activity-height: {height_px}px; }}</style>")
    with st.container(border=True, key="activity", gap="small"):
        if not names:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption("Nothing is running. The queue is empty.", width="stretch")
                _show_machine(_machine(lab), inline=True)
                _show_settings(lab)
            return
        running, queue, machine = st.columns([5, 4, 3], gap="medium")
        with running:
            _show_running(lab, states[names[0]], colors.get(names[0], UNKNOWN_COLOR))
        with queue:
            _show_queue(lab, names[1:], colors)
        with machine:
            _show_machine(_machine(lab), inline=False)


def _show_running(lab: Lab, run: dict[str, Any], color: str) -> None:
    """Draw the current run with its progress and a Stop button."""
    name, steps, step = run["name"], run["steps"], int(run["step"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Running", width="content")
        run_link(name, color, "activity")
        st.space("stretch")
        is_stopping = lab.seconds_since_stop_request(name) is not None
        st.button(
            "Stopping" if is_stopping else "Stop",
            key=f"activity_stop:{name}",
            icon=":material/stop:",
            disabled=is_stopping or lab.read_only is not None,
            on_click=attempt,
            args=(lab, lab.stop, name),
        )
    if not steps:
        st.progress(0.0, "Loading the model and data")
    elif run["is_trained"] or step >= steps:
        st.progress(1.0, f"Step {step:,} of {int(steps):,} · answering the test examples")
    else:
        parts = [f"Step {step:,} of {int(steps):,}", *time_left(run, step, int(steps))]
        st.progress(max(0.0, step / steps), " · ".join(parts))


def _show_queue(lab: Lab, names: list[str], colors: Mapping[str, str]) -> None:
    """Draw the queued runs with buttons to reorder and remove them."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{len(names)} queued" if names else "The queue is empty.", width="stretch")
        _show_settings(lab)
    is_long = len(names) > SHORT_QUEUE
    with st.container(
        height=QUEUE_HEIGHT_PX if is_long else "content", border=False, gap="xxsmall", key="queue"
    ):
        for position, name in enumerate(names):
            _show_entry(lab, name, colors.get(name, UNKNOWN_COLOR), position, last=len(names) - 1)


def _show_entry(lab: Lab, name: str, color: str, position: int, last: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        run_link(name, color, "queue")
        st.space("stretch")
        if lab.read_only:
            return
        for icon, offset, possible in (("up", -1, position > 0), ("down", 1, position < last)):
            st.button(
                f":material/arrow_{icon}ward:",
                key=f"{icon}:{name}",
                type="tertiary",
                help=f"Move {icon}",
                disabled=not possible,
                on_click=attempt,
                args=(lab, lab.move, name, offset),
            )
        st.button(
            ":material/close:",
            key=f"withdraw:{name}",
            type="tertiary",
            help="Remove from queue",
            on_click=attempt,
            args=(lab, lab.stop, name),
        )


def _show_settings(lab: Lab) -> None:
    key = "resume_interrupted"
    st.session_state[key] = lab.preferences().resume_interrupted
    with st.popover(":material/settings:", type="tertiary", help="Queue settings"):
        st.toggle(
            "Resume interrupted runs at startup",
            key=key,
            help="When the dashboard starts, runs interrupted by a shutdown or crash continue from their last checkpoint.",
            disabled=lab.read_only is not None,
            on_change=lambda: attempt(
                lab,
                lab.save_preferences,
                replace(lab.preferences(), resume_interrupted=st.session_state[key]),
            ),
        )


@st.cache_data(ttl=MACHINE_TTL_S, show_spinner=False)
def _machine(_lab: Lab) -> Machine:
    return _lab.machine()


def _show_machine(machine: Machine, inline: bool) -> None:
    """Show GPUs, processor and memory, in one line or one per line."""
    gpus = [
        f"**{escape_markdown(gpu.name)}**, {memory(gpu.memory_used_mb)} of {memory(gpu.memory_total_mb)}"
        for gpu in machine.gpus
    ]
    cores = f"{machine.cores} {'core' if machine.cores == 1 else 'cores'}"
    used, total = memory(machine.memory_used_mb), memory(machine.memory_total_mb)
    parts = [
        *gpus,
        f"**{escape_markdown(machine.cpu)}**, {cores}",
        f"{used} of {total} memory used",
    ]
    st.caption((" · " if inline else "  \n").join(parts), width="content")
