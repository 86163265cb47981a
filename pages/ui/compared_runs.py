"""The runs to compare: chosen on the page, by a link such as `?run=a&run=b`, or on another page."""

from collections.abc import Collection, Sequence

import streamlit as st

from pages.ui.selection import show_cut
from pages.ui.text import escape_markdown
from pages.ui.url_state import UrlState


def select_runs(
    key: str,
    state_key: str,
    available: Sequence[str],
    existing: Collection[str],
    default: Sequence[str],
    limit: int,
    unusable: str,
) -> list[str]:
    """Let the user select runs, and keep the selection in the URL.

    Args:
        key: Widget key.
        state_key: Session key of the selection, which other pages may set.
        available: The runs that can be compared.
        existing: All runs.
        default: The initial selection.
        limit: Maximum number of runs to show side by side.
        unusable: Why a requested run may be missing from `available`. Completes the sentence "These runs ...".
    """
    state = UrlState("run", state_key)
    requested = state.values
    matches = [name for name in (default if requested is None else requested) if name in available]
    st.session_state[key] = matches[:limit] or (list(default) if requested else [])
    names = st.multiselect(
        "Runs",
        available,
        key=key,
        max_selections=limit,
        on_change=lambda: state.set(st.session_state[key]),
    )
    show_cut(len(names), len(matches))
    absent = [name for name in requested or () if name not in available]
    if unknown := [name for name in absent if name not in existing]:
        st.warning(f"Unknown run: {escape_markdown(', '.join(unknown))}.")
    if unready := [name for name in absent if name in existing]:
        st.caption(f"Not shown: {escape_markdown(', '.join(unready))}. These runs {unusable}.")
    state.write(names)
    return names
