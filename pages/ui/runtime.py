"""The one laboratory of this process, shared by all sessions, tabs and reruns.

It is kept under a fixed name in `sys.modules`: there it survives hot reload, which imports `core` anew,
and "Clear cache", which drops cached resources. Closed when the process ends.
"""

import atexit
import gc
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, cast

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from core.errors import UserError
from core.lab import Lab
from core.scheduler.executors import EXECUTORS
from pages.ui.queue import show_queue
from pages.ui.text import escape_markdown

if TYPE_CHECKING:  # it brings torch, which only pages that need it wait for
    from core.inference import Answerer

HOLDER_MODULE = "_gpt2_lab_holder"
PAGE_NICENESS = 5
"""A quarter of a core at least, however busy the trainers are: enough for ten who watch."""
FREEZE_INTERVAL_S, FULL_COLLECTION_INTERVAL_S = 5.0, 60.0
"""Seconds after which what came since is left out of the collection of garbage too, and after which all is looked through."""


class Holder(ModuleType):
    """What lives as long as the process."""

    lab: Lab
    answerer: "Answerer | None" = None
    seen: set[str]
    """Pages that were drawn once."""
    frozen: float
    """When what there was was left out of the collection of garbage, on the monotonic clock."""
    thawed: float
    """When all was looked through."""


_lock = threading.Lock()
_drawn = threading.local()


def mark_frame_drawn() -> None:
    """Say that `app.py` runs this script: every run has a thread of its own."""
    _drawn.frame = True


def lab() -> Lab:
    """The laboratory. Shows why and stops the page where it cannot be opened."""
    if not hasattr(_drawn, "frame"):
        # Until `app.py` has called st.navigation once in this process, Streamlit takes files in `pages/`
        # for an older kind of app, and a link to one would show it without its frame.
        PagesManager.uses_pages_directory = False
        st.rerun()
    try:
        return open_lab()
    except UserError as error:
        st.error(escape_markdown(str(error)), icon=":material/lock:")
        st.stop()


def open_lab() -> Lab:
    """The laboratory, without a page. Raises UserError where it cannot be opened."""
    return _held().lab


def is_open(expected: Lab) -> bool:
    """Whether this is still the laboratory, for parts of a page that run again without `app.py`."""
    holder = cast(Holder | None, sys.modules.get(HOLDER_MODULE))
    return holder is not None and holder.lab is expected


def answerer() -> "Answerer":
    """The models of the laboratory, kept in memory between questions."""
    from core.inference import Answerer

    holder = _held()
    with _lock:
        holder.answerer = holder.answerer or Answerer(holder.lab.runs_dir)
        return holder.answerer


def freeze_garbage_collection(page: str) -> None:
    """Leave what there is out of the collection of garbage: when all that a page brings is loaded, and as it grows.

    Streamlit collects after every run of a script, and would walk through torch, Plotly and all sessions each time.
    """
    with _lock:
        holder = cast(Holder | None, sys.modules.get(HOLDER_MODULE))
        if holder is None:
            return
        now = time.monotonic()
        if page in holder.seen and now - holder.frozen < FREEZE_INTERVAL_S:
            return
        holder.seen.add(page)
        holder.frozen = now
        if now - holder.thawed > FULL_COLLECTION_INTERVAL_S:
            holder.thawed = now
            gc.unfreeze()  # some of it is garbage by now
        gc.collect()
        gc.freeze()


def rerun() -> NoReturn:
    """Run the script again, unless the visitor has asked for something else meanwhile.

    `st.rerun` alone would take the place of the page that they clicked while this one was busy.
    """
    st.empty()  # here Streamlit looks, and ends this run if they have
    st.rerun()


def lower_priority() -> None:
    """Let trainers go first where they and this script want the same core; only Linux ranks threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PAGE_NICENESS)


def release() -> None:
    """Close the laboratory, for tests and at exit."""
    holder = sys.modules.pop(HOLDER_MODULE, None)
    if holder is not None:
        cast(Holder, holder).lab.close()


def show_state() -> None:
    """What every page shows beside its content: the queue, and faults of the index."""
    current = lab()
    if current.fault or current.index.rebuilt:
        st.warning(escape_markdown(current.fault or current.index.rebuilt or ""))
    if current.read_only:
        _show_obstacle(current)
    with st.sidebar:
        show_queue(current)


def _show_obstacle(current: Lab) -> None:
    """Why this dashboard only reads, and a button to try whether it still has to."""
    has_ended = current.driver_has_ended()
    reason = "the dashboard that drove these runs has ended" if has_ended else current.read_only
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(escape_markdown(f"Read only: {reason}."), icon=":material/lock:")
        label = "Take over" if has_ended else "Try again"
        if (has_ended or current.driver_pid is None) and st.button(
            label, icon=":material/play_arrow:"
        ):
            release()
            st.rerun()


def _held() -> Holder:
    with _lock:
        if HOLDER_MODULE not in sys.modules:
            runs_dir = Path(os.environ.get("RUNS_DIR", "runs"))
            executor = os.environ.get("EXECUTOR", "process")
            if executor not in EXECUTORS:
                executor_names = " or ".join(EXECUTORS)
                raise UserError(f"EXECUTOR = {executor!r}: it should be {executor_names}")
            holder = Holder(HOLDER_MODULE)
            holder.lab = Lab(runs_dir, executor)
            holder.seen, holder.frozen = set(), time.monotonic()
            holder.thawed = holder.frozen
            sys.modules[HOLDER_MODULE] = holder
            atexit.register(release)
            atexit.register(gc.unfreeze)  # else all of it is reported as leaked
        return cast(Holder, sys.modules[HOLDER_MODULE])
