"""Tables whose selection follows row identities instead of positions, and notices about truncated lists.

This module does not depend on what the rows represent. The caller gives each row an identity, such as a run name.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import streamlit as st

if TYPE_CHECKING:  # imports Jinja
    from pandas.io.formats.style import Styler

Id = TypeVar("Id", bound=Hashable)


def select_rows(
    frame: "pd.DataFrame | Styler",
    ids: Sequence[Id],
    key: str,
    *,
    multiple: bool = False,
    **options: Any,
) -> list[Id]:
    """Draw a table with selectable rows and return the identities of the visible selected rows.

    Streamlit stores a selection as row positions, which refer to different rows once rows are filtered, sorted or
    added. This function stores identities and updates the positions whenever the rows change. A selected row that is
    filtered out is selected again when it reappears.

    Args:
        ids: The identity of each row of `frame`. If several rows have the same identity, the first is selected.
        key: Widget key of the table, unique on the page.
        multiple: Allow selecting more than one row.
        options: Additional arguments for `st.dataframe`.
    """
    assert len(ids) == len(frame.index)
    selected_key, drawn_key = f"{key}:selected", f"{key}:drawn"
    selected: list[Id] = st.session_state.get(selected_key, [])
    reported: list[int] | None = None
    if key in st.session_state:
        reported = list(st.session_state[key]["selection"]["rows"])
        drawn = st.session_state.get(
            drawn_key, ids
        )  # positions from the browser refer to these rows
        chosen = [drawn[row] for row in reported if row < len(drawn)]
        hidden = [id for id in selected if id not in set(drawn)]
        selected = [*hidden, *chosen] if multiple else chosen or hidden
    positions = {id: row for row, id in reversed(list(enumerate(ids)))}
    visible = [id for id in selected if id in positions]
    rows = [positions[id] for id in visible]
    if rows != (reported or []):
        st.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    st.session_state[selected_key], st.session_state[drawn_key] = selected, list(ids)
    st.dataframe(
        frame,
        hide_index=True,
        key=key,
        on_select="rerun",
        selection_mode="multi-row" if multiple else "single-row",
        **options,
    )
    return visible


def drawn_rows(key: str) -> list[Any]:
    """Return the identities of the rows last drawn. Row numbers from the browser refer to these."""
    return list(st.session_state.get(f"{key}:drawn", []))


def clicked_row(key: str, ids: Sequence[Id]) -> Id | None:
    """Return the identity of the row whose button was pressed, or None. Call it after drawing the table.

    The position from the browser refers to the rows as they were drawn before the click.

    Args:
        key: Key of the button column.
        ids: The identity of each row.
    """
    drawn: list[Id] = st.session_state.get(f"{key}:drawn", ids)
    st.session_state[f"{key}:drawn"] = list(ids)
    click = st.session_state.get(key)
    return drawn[click["row"]] if click is not None and click["row"] < len(drawn) else None


def preselect(key: str, ids: Sequence[Hashable]) -> None:
    """Select rows before the table is first drawn, such as those in a link."""
    st.session_state[f"{key}:selected"] = list(ids)


def show_cut(shown: int, total: int, noun: str = "selected runs") -> None:
    """Show how many of the requested items are displayed, unless all of them are."""
    if shown < total:
        st.caption(f"Showing {shown:,} of {total:,} {noun}.")
