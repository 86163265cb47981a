"""The process-wide Lab, shared by all sessions, tabs and reruns, and closed when the process exits.

It is stored in `sys.modules` so that it survives Streamlit's hot reload, which re-imports `core`, and "Clear cache",
which drops cached resources.
"""

import atexit
import gc
import os
import sys
import threading
import time
from types import ModuleType
from typing import NoReturn, cast

import streamlit as st

from core.lab import Lab
from pages.ui import pages_directory
from pages.ui.errors import show_errors
from pages.ui.queue import show_queue
from pages.ui.text import escape_markdown

HOLDER_MODULE = "_gpt2_lab_holder"
PAGE_NICENESS = 5
"""Leaves pages at least a quarter of a core while runs train, which is enough for ten viewers."""
FREEZE_INTERVAL_S = 5.0
"""Minimum time between freezes of newly created objects, in seconds."""
FULL_COLLECTION_INTERVAL_S = 60.0
"""Minimum time between collections that include frozen objects, in seconds."""


LINKED_KEY = "synced_for_link"
"""Session key: the runs in the URL when the index was last synced for a link."""


class Holder(ModuleType):
    """Container for objects that live as long as the process."""

    lab: Lab
    drawn_pages: set[str]
    frozen_at: float
    """Monotonic time of the last freeze."""
    collected_at: float
    """Monotonic time of the last full collection."""


_lock = threading.Lock()
_drawn = threading.local()


def mark_frame_drawn() -> None:
    """Record that `app.py` has drawn the frame in this rerun. Each rerun has its own thread."""
    _drawn.frame = True


def lab() -> Lab:
    """Return the Lab. If it cannot be opened, show the error and stop the page."""
    if not hasattr(_drawn, "frame"):
        pages_directory.ignore()
        st.rerun()
    with show_errors(stop=True):
        return open_lab()


def open_lab() -> Lab:
    """Return the Lab, for callers outside a page. Raises UserError if it cannot be opened."""
    return _holder().lab


def is_open(expected: Lab) -> bool:
    """Whether this is still the current Lab. Needed by fragments, which rerun without running `app.py`."""
    holder = cast(Holder | None, sys.modules.get(HOLDER_MODULE))
    return holder is not None and holder.lab is expected


def freeze_garbage_collection(page: str) -> None:
    """Exclude loaded modules and long-lived objects from garbage collection (`gc.freeze`).

    Streamlit runs garbage collection after every rerun, which would otherwise traverse PyTorch, Plotly and all sessions
    each time.
    """
    with _lock:
        holder = cast(Holder | None, sys.modules.get(HOLDER_MODULE))
        if holder is None:
            return
        now = time.monotonic()
        if page in holder.drawn_pages and now - holder.frozen_at < FREEZE_INTERVAL_S:
            return
        holder.drawn_pages.add(page)
        holder.frozen_at = now
        if now - holder.collected_at > FULL_COLLECTION_INTERVAL_S:
            holder.collected_at = now
            gc.unfreeze()  # some frozen objects are garbage by now
        gc.collect()
        gc.freeze()


def rerun() -> NoReturn:
    """Rerun the page unless the user has already navigated away.

    `st.rerun` alone would discard a click made while this page was busy.
    """
    st.empty()  # Streamlit stops here if there is a newer request
    st.rerun()


def lower_priority() -> None:
    """Lower this thread's priority so that trainers keep their cores (Linux only)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PAGE_NICENESS)


def release() -> None:
    """Close the Lab. Used at exit and in tests."""
    holder = sys.modules.pop(HOLDER_MODULE, None)
    if holder is not None:
        cast(Holder, holder).lab.close()


def sync_for_link() -> None:
    """Sync the index if a link names runs, which may have been created a moment ago. Once for each set of names."""
    names = [*st.query_params.get_all("run"), *st.query_params.get_all("name")]
    if names and st.session_state.get(LINKED_KEY) != names:
        st.session_state[LINKED_KEY] = names
        lab().refresh()


def show_state() -> None:
    """Show what all pages share: the queue, index warnings, and why the Lab is read-only."""
    current = lab()
    if current.index_notice:
        st.warning(escape_markdown(current.index_notice))
    if current.read_only:
        _show_read_only(current)
    with st.sidebar:
        show_queue(current)


def _show_read_only(current: Lab) -> None:
    """Show why the Lab is read-only, with a button to reopen it."""
    has_ended = current.driver_has_ended()
    reason = "the dashboard that owned these runs has exited" if has_ended else current.read_only
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(escape_markdown(f"Read-only: {reason}."), icon=":material/lock:")
        label = "Take over" if has_ended else "Retry"
        if (has_ended or current.driver_pid is None) and st.button(
            label, icon=":material/play_arrow:"
        ):
            release()
            st.rerun()


def _holder() -> Holder:
    with _lock:
        if HOLDER_MODULE not in sys.modules:
            holder = Holder(HOLDER_MODULE)
            holder.lab = Lab(
                os.environ.get("RUNS_DIR", "runs"), os.environ.get("EXECUTOR", "process")
            )
            holder.drawn_pages, holder.frozen_at = set(), time.monotonic()
            holder.collected_at = holder.frozen_at
            sys.modules[HOLDER_MODULE] = holder
            atexit.register(release)
            atexit.register(gc.unfreeze)  # otherwise every frozen object is reported as leaked
        return cast(Holder, sys.modules[HOLDER_MODULE])
