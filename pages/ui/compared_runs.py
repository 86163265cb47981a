"""The runs to compare: selected on the page, or in a link such as `?run=a&run=b`."""

from collections.abc import Collection, Sequence

import streamlit as st

from pages.ui.page_state import PageState
from pages.ui.selection import show_cut
from pages.ui.text import escape_markdown

PARAMETER = "run"


def select_runs(
    state: PageState,
    available: Sequence[str],
    existing: Collection[str],
    default: Sequence[str],
    limit: int | None,
    unusable: str,
) -> list[str]:
    """Let the user select runs.

    Args:
        available: The runs that can be compared.
        existing: All runs.
        default: The initial selection.
        limit: Maximum number of runs to show side by side.
        unusable: Why a requested run may be missing from `available`. Completes the sentence "These runs…".
    """
    requested = state.values(PARAMETER)
    # Runs in the URL were selected by default earlier in this visit. They stay, even if newer runs have finished.
    wanted = requested if requested is not None else st.query_params.get_all(PARAMETER) or default
    matches = [name for name in wanted if name in available]
    names = state.widget(
        st.multiselect,
        "Runs",
        PARAMETER,
        matches[:limit] or (list(default) if requested else []),
        options=available,
        max_selections=limit,
    )
    show_cut(len(names), len(matches))
    absent = [name for name in requested or () if name not in available]
    state.check(PARAMETER, existing, "Unknown run")
    if unready := [name for name in absent if name in existing]:
        st.caption(f"Not shown: {escape_markdown(', '.join(unready))}. These runs {unusable}.")
    return names
