"""The results table: grouping, sorting, row buttons and exports."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.config import IDENTITY_FIELDS, RunConfig
from core.lab import Lab
from core.views import journal
from core.views.formats import DASH, plural, setting_text
from core.views.tables import is_missing, markdown, records
from pages import results_actions as actions
from pages import results_columns as columns
from pages.results_baseline import Comparison
from pages.ui.errors import toast_errors
from pages.ui.run_links import dot_image, open_run
from pages.ui.selection import drawn_rows, select_rows

KEY = "results"
GROUPS = (
    "tags",
    "parent",
    *(name for name in RunConfig.model_fields if name not in IDENTITY_FIELDS),
)
"""Columns to group by. A run with several tags appears in several groups."""
NO_GROUP = {"tags": "no tag", "parent": "no parent"}
ROW_BUTTONS = {
    "clone": (":material/content_copy:", "Clone", "Open Launch with these settings"),
    "archive": (":material/archive:", "Archive", "Archive or unarchive"),
    "delete": (":material/delete:", "Delete", "Move to the trash"),
}
"""Icon, heading and tooltip of the buttons in each row. They are pinned next to the name."""
UNARCHIVE_ICON = ":material/unarchive:"
HEADER_HEIGHT_PX = 36
ROW_HEIGHT_PX = 34
CHARACTER_WIDTH_PX = 7
MAX_NAME_WIDTH_PX = 280
Identity = tuple[str, bool]
"""A row's name, and whether it is one of the journal's."""


def handle_clicks() -> None:
    """Open the run whose name was clicked, or Launch with the run whose clone button was pressed."""
    if name := _clicked("open_run"):
        open_run(name)
    if name := _clicked("row_clone"):
        actions.clone(name)


def grouped(frame: pd.DataFrame, group: str | None) -> pd.DataFrame:
    """Add the column `group` on the left and order the rows by it. Rows without a value come last."""
    if group is None:
        return frame
    if group == "tags":
        frame = frame.assign(group=frame["tags"].fillna("").str.split(", ")).explode("group")
        keys = frame["group"].where(frame["group"] != "", None)
    elif group == "parent":  # a parent belongs to the group of its clones
        has_clones = frame["name"].isin(set(frame["parent"].dropna()))
        keys = frame["parent"].where(frame["parent"].notna(), frame["name"].where(has_clones, None))
    else:
        keys = frame[group]
    missing = NO_GROUP.get(group)
    texts = [missing if missing and is_missing(key) else columns.text(group, key) for key in keys]
    sizes = pd.Series(texts).value_counts()
    titles = [f"{text} · {plural(sizes[text], 'run')}" for text in texts]
    order = keys.reset_index(drop=True).sort_values(
        kind="stable", key=_sort_key, na_position="last"
    )
    result = frame.assign(group=titles).iloc[order.index]
    return result[["group", *(name for name in result if name != "group")]]


def ordered(frame: pd.DataFrame, sort: str | None, descending: bool) -> pd.DataFrame:
    """Sort the rows by a column. Missing values come last. Without a column, the newest run comes first."""
    if sort is None:
        return frame
    return frame.sort_values(
        sort, ascending=not descending, kind="stable", key=_sort_key, na_position="last"
    )


def show(
    frame: pd.DataFrame,
    shown: Sequence[str],
    bars: pd.DataFrame,
    runs: pd.DataFrame,
    lab: Lab,
    comparison: Comparison,
) -> list[Identity]:
    """Draw the table and return the identities of the selected rows.

    Args:
        frame: The rows, with all columns.
        shown: The columns to show after the name.
        bars: The bars for the judges' scores, with the index of the unfiltered table.
        runs: All runs, with their colors and whether they are archived.
        comparison: Differences from the baseline.
    """
    by_name = runs.set_index("name")
    is_run = frame["status"] != journal.JOURNAL_STATUS
    own = by_name.reindex(frame["name"][is_run])
    leading = ["group", "dot", "name"] if "group" in frame else ["dot", "name"]
    table = frame.join(bars).assign(
        dot=None, **dict.fromkeys((f"row_{name}" for name in ROW_BUTTONS), None)
    )
    table.loc[is_run, "dot"] = [dot_image(color) for color in own["color"]]
    buttons = []
    if lab.read_only is None:
        buttons = [f"row_{name}" for name in ROW_BUTTONS]
        for name, (icon, *_) in ROW_BUTTONS.items():
            table.loc[is_run, f"row_{name}"] = icon
        table.loc[is_run, "row_archive"] = [
            ROW_BUTTONS["archive"][0] if not archived else UNARCHIVE_ICON
            for archived in own["archived"].fillna(False)
        ]
    table = table[[*leading, *buttons, *shown]].reset_index(drop=True)
    config: dict[str, Any] = {
        name: columns.column(name, table[name], comparison.help.get(name))
        for name in ("group", *shown)
        if name in table
    }
    config["dot"] = st.column_config.ImageColumn("", width=30, pinned=True)
    config["name"] = st.column_config.ButtonColumn(
        "Run",
        type="tertiary",
        key="open_run",
        pinned=True,
        alignment="left",
        width=_name_width(table["name"]),
    )
    for name, (_, heading, help) in ROW_BUTTONS.items():
        config[f"row_{name}"] = st.column_config.ButtonColumn(
            heading,
            help=help,
            type="tertiary",
            key=f"row_{name}",
            pinned=True,
            width=columns.heading_width(heading) - 8,
            on_click=_act,
            args=(lab, name),
        )
    height = HEADER_HEIGHT_PX + ROW_HEIGHT_PX * max(1, len(table))
    with st.container(key="results-table", height=height, border=False):
        return select_rows(
            columns.displayed(table, comparison.is_noise.reindex(frame.index)),
            list(zip(frame["name"], ~is_run, strict=True)),
            KEY,
            multiple=True,
            placeholder=DASH,
            height="stretch",
            row_height=ROW_HEIGHT_PX,
            column_config=config,
        )


def csv(frame: pd.DataFrame, shown: Sequence[str]) -> str:
    """Return the rows as CSV. Headings include units, and numbers keep all digits."""
    names = _exported(frame, shown)
    cells = pd.DataFrame(
        {name: [_csv_value(name, v) for v in frame[name]] for name in names}, dtype=object
    )
    return cells.to_csv(index=False, header=[columns.label_with_unit(name) for name in names])


def as_markdown(frame: pd.DataFrame, shown: Sequence[str]) -> str:
    """Return the rows as a Markdown table with the headings and formats of the table."""
    names = _exported(frame, shown)
    rows = records(frame[names])
    return markdown(
        [
            {columns.label(name): columns.text(name, value) for name, value in row.items()}
            for row in rows
        ]
    )


def _exported(frame: pd.DataFrame, shown: Sequence[str]) -> list[str]:
    """Return the columns to export: those shown, with intervals as text instead of bars."""
    leading = ["group", "name"] if "group" in frame else ["name"]
    names = [
        *leading,
        *(
            name.removesuffix(columns.BAR) + columns.INTERVAL
            if name.endswith(columns.BAR)
            else name
            for name in shown
        ),
    ]
    return list(dict.fromkeys(names))


def _csv_value(name: str, value: Any) -> Any:
    """Return a value for CSV: settings as text with all digits, and results as numbers."""
    if is_missing(value):
        return ""
    return setting_text(value) if name in RunConfig.model_fields else value


def _clicked(key: str) -> str | None:
    """Return the run in the row whose button was pressed, or None."""
    click = st.session_state.get(key)
    drawn: list[Identity] = drawn_rows(KEY)
    if click is None or click["row"] >= len(drawn):
        return None
    name, is_journal = drawn[click["row"]]
    return None if is_journal else name


def _act(lab: Lab, action: str) -> None:
    """Archive or delete the run whose row button was pressed. Cloning is done elsewhere: callbacks cannot open pages."""
    name = _clicked(f"row_{action}")
    if name and action == "delete":
        actions.delete(lab, [name])
    elif name and action == "archive":
        with toast_errors():
            actions.archive(lab, [name], not lab.config(name).archived)


def _name_width(names: pd.Series) -> int:
    """Return a column width in pixels that fits all names. Streamlit measures only the first rows."""
    longest = max(map(len, names), default=0)
    return min(MAX_NAME_WIDTH_PX, CHARACTER_WIDTH_PX * (longest + 4))


def _sort_key(values: pd.Series) -> pd.Series:
    """Return a sort key that ignores case."""
    if values.dtype != object:
        return values
    return values.map(lambda value: value.lower() if isinstance(value, str) else value)
