"""The header of the run page: name, color, tags, parent and actions."""

from functools import partial
from typing import Any

import streamlit as st

from core.lab import Lab
from core.views import changes
from pages import run_change
from pages.ui import baseline
from pages.ui.copy_link import copy_link
from pages.ui.errors import attempt, show_errors
from pages.ui.run_links import run_link
from pages.ui.text import escape_markdown

MAX_LISTED_CHANGES = 8


def show_header(
    run: dict[str, Any], runs: dict[str, dict[str, Any]], lab: Lab, is_baseline: bool
) -> None:
    """Draw the header.

    Args:
        runs: All runs by name.
        is_baseline: Whether the run is pinned as the baseline.
    """
    name = run["name"]
    with st.container(horizontal=True, vertical_alignment="center", key="run-header"):
        with st.container(
            horizontal=True,
            vertical_alignment="center",
            gap="xsmall",
            width="content",
            key="run-title",
        ):
            _show_color(run, lab)
            st.title(escape_markdown(name), width="content")
        st.space("stretch")
        _show_actions(run, lab, is_baseline)
    with st.container(horizontal=True, vertical_alignment="center", key="run-origin"):
        _show_tags(run, runs, lab)
        _show_origin(run, runs)


def _show_color(run: dict[str, Any], lab: Lab) -> None:
    key = f"color:{run['name']}"
    st.session_state[key] = run["color"]  # another session may have changed it
    st.color_picker(
        "Color of this run",
        key=key,
        label_visibility="collapsed",
        on_change=lambda: attempt(lab, lab.edit, run["name"], color=st.session_state[key]),
    )


def _show_tags(run: dict[str, Any], runs: dict[str, dict[str, Any]], lab: Lab) -> None:
    key = f"tags:{run['name']}"
    tags = _tags(run)
    st.session_state[key] = tags
    known = sorted({tag for other in runs.values() for tag in _tags(other)})
    st.multiselect(
        "Tags",
        [*dict.fromkeys([*known, *tags])],
        key=key,
        accept_new_options=True,
        label_visibility="collapsed",
        placeholder="Add tags",
        max_selections=20,
        width=280,
        on_change=lambda: _save_tags(lab, run["name"], st.session_state[key]),
    )


def _tags(run: dict[str, Any]) -> list[str]:
    return [tag.strip() for tag in (run["tags"] or "").split(",") if tag.strip()]


def _save_tags(lab: Lab, name: str, typed: list[str]) -> None:
    tags = [tag.strip() for text in typed for tag in text.split(",") if tag.strip()]
    attempt(lab, lab.edit, name, tags=tuple(dict.fromkeys(tags)))


def _show_origin(run: dict[str, Any], runs: dict[str, dict[str, Any]]) -> None:
    """Show the parent and the changes from it, if the run was cloned."""
    parent = run["parent"]
    if run["archived"]:
        st.markdown(":gray-badge[:material/archive: archived]", width="content")
    if not parent:
        return
    st.caption("Cloned from", width="content")
    if parent not in runs:
        st.caption(f"{escape_markdown(parent)}, which no longer exists.", width="content")
        return
    run_link(parent, runs[parent]["color"], key="parent")
    changed = changes.differences(_settings(runs[parent]), _settings(run))
    more = len(changed) - MAX_LISTED_CHANGES
    text = " · ".join(changed[:MAX_LISTED_CHANGES]) or changes.SAME
    st.caption(
        escape_markdown(text) + (f" · {more} more under *Settings*" if more > 0 else ""),
        width="content",
    )


def _settings(run: dict[str, Any]) -> changes.Values:
    return tuple(run[name] for name in changes.SETTINGS)


def _show_actions(run: dict[str, Any], lab: Lab, is_baseline: bool) -> None:
    """Draw the buttons. Stop and Resume are next to the progress, because they depend on it."""
    name = run["name"]
    with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):
        if st.button(
            "Clone", icon=":material/content_copy:", help="Open Launch with these settings."
        ):
            st.switch_page("pages/launch.py", query_params={"from": name})
        is_finished = run["status"] == "finished"
        run_change.show_button(name, run["seconds"] if is_finished else None, lab)
        has_answers = run["exact"] is not None
        if st.button(
            "Score",
            icon=":material/grading:",
            disabled=not has_answers,
            help=None if has_answers else "A run answers its test set when training finishes.",
        ):
            st.switch_page("pages/scoring.py", query_params={"run": name})
        st.download_button(
            "Capsule",
            partial(lab.capsule, name),
            f"{name}.html",
            "text/html",
            icon=":material/download:",
            on_click="ignore",
            help="Everything about this run in one HTML file that works offline.",
        )
        copy_link()
        baseline.pin_button(lab, name, is_baseline)
        archived = bool(run["archived"])
        st.button(
            "Unarchive" if archived else "Archive",
            icon=":material/unarchive:" if archived else ":material/archive:",
            help="Show on Results again." if archived else "Hide from Results.",
            on_click=attempt,
            args=(lab, lab.edit, name),
            kwargs={"archived": not archived},
        )
        if st.button("Delete", icon=":material/delete:", help="Move this run to the trash."):
            with show_errors():
                lab.delete(name)
                lab.refresh()
                st.toast(f"{escape_markdown(name)} was moved to the trash.")
                st.switch_page("pages/results.py")
