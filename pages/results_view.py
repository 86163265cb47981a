"""The view of the Results page in the URL: filter, grouping, sort order, columns, toggles and selected runs.

When the page opens, the view comes from the URL or, if the URL has none, from the user's last visit in this session.
Afterward, the widgets hold the view, and the URL follows them.
"""

from collections.abc import Collection, Mapping
from typing import Any

import streamlit as st

from pages.ui.text import escape_markdown

FILTER, GROUP, SORT, COLUMNS, RUNS = "filter", "group", "sort", "column", "run"
"""URL parameters, and the session keys that hold their values. COLUMNS and RUNS have one parameter per value."""
FLAGS = ARCHIVED, JOURNAL, LINEAGE = "archived", "journal", "lineage"
DESCENDING = "descending"
"""Session key of the sort direction. In the URL, the column follows a minus sign."""
LAST_VIEW = "results_view"
LINK_PROBLEMS = "results_link_problems"
"""Session key: unknown names in the link that opened the page."""
IS_NEW_LINK = "results_is_new_link"
"""Session key: a link opened the page, and its columns have not been checked yet."""


def restore(runs: Collection[str]) -> list[str] | None:
    """Set the widgets when the page opens. Return the runs to select, or None to keep the selection.

    Args:
        runs: All rows that a link may select.
    """
    if JOURNAL in st.session_state:  # Streamlit forgets the widgets of other pages
        return None
    has_link = any(name in st.query_params for name in (FILTER, GROUP, SORT, COLUMNS, RUNS, *FLAGS))
    view = _from_url() if has_link else st.session_state.get(LAST_VIEW, _from_url())
    sort = view[SORT]
    st.session_state.update({
        FILTER: view[FILTER], GROUP: view[GROUP] or None, COLUMNS: view[COLUMNS],
        SORT: sort.removeprefix("-") or None, DESCENDING: sort.startswith("-"),
        **{flag: view[flag] for flag in FLAGS},
    })  # fmt: skip
    st.session_state[IS_NEW_LINK] = has_link
    unknown_runs = [name for name in view[RUNS] if name not in runs] if has_link else []
    st.session_state[LINK_PROBLEMS] = [f"run {name}" for name in unknown_runs]
    return [name for name in view[RUNS] if name in runs] if has_link else None


def drop_unknown(key: str, options: Collection[str]) -> None:
    """Reset a select box whose value is not an option, and report the value as unknown."""
    if st.session_state[key] is not None and st.session_state[key] not in options:
        report(f"{'column' if key == SORT else 'group'} {st.session_state[key]}")
        st.session_state[key] = None


def check_columns(available: Collection[str]) -> None:
    """Drop and report unknown columns in the link that opened the page.

    Columns that disappear later are kept, such as those of a judge whose only run is in the trash.
    """
    if not st.session_state.pop(IS_NEW_LINK, False):
        return
    edits = st.session_state[COLUMNS]
    unknown = [edit for edit in edits if edit.removeprefix("-") not in available]
    for name in unknown:
        report(f"column {name.removeprefix('-')}")
    st.session_state[COLUMNS] = [edit for edit in edits if edit not in unknown]


def reverse() -> None:
    """Reverse the sort order."""
    st.session_state[DESCENDING] = not st.session_state[DESCENDING]


def report(unknown: str) -> None:
    """Add an unknown name to the problems of the link."""
    st.session_state[LINK_PROBLEMS].append(unknown)


def save(runs: list[str]) -> None:
    """Write the view to the URL.

    Args:
        runs: The selected rows.
    """
    sort = st.session_state[SORT] or ""
    view = {
        FILTER: st.session_state[FILTER],
        GROUP: st.session_state[GROUP] or "",
        SORT: f"-{sort}" if sort and st.session_state[DESCENDING] else sort,
        COLUMNS: st.session_state[COLUMNS],
        RUNS: runs,
        **{flag: st.session_state[flag] for flag in FLAGS},
    }
    st.session_state[LAST_VIEW] = view
    for name in set(st.query_params) - view.keys():  # left over from the previous page
        del st.query_params[name]
    for name, value in view.items():
        if not value:
            st.query_params.pop(name, None)
        elif name in FLAGS:
            st.query_params[name] = "1"
        else:
            st.query_params[name] = value


def show_problems() -> None:
    """Show the unknown names in the link that opened the page."""
    if problems := st.session_state.get(LINK_PROBLEMS):
        text = escape_markdown(", ".join(problems))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(f"Unknown in this link: {text}.", width="stretch")
            st.button(
                ":material/close:",
                key="dismiss_link_problems",
                type="tertiary",
                help="Dismiss",
                on_click=problems.clear,
            )


def _from_url() -> Mapping[str, Any]:
    parameters = st.query_params
    texts = {name: parameters.get(name, "") for name in (FILTER, GROUP, SORT)}
    lists = {name: parameters.get_all(name) for name in (COLUMNS, RUNS)}
    return {**texts, **lists, **{flag: parameters.get(flag, "") == "1" for flag in FLAGS}}
