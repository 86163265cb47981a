"""Columns of the results table: which ones exist, which are shown by default, and how they are formatted."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from core.config import RunConfig, metadata
from core.metrics import RESULTS
from core.views import changes, formats, report
from core.views.formats import difference_text
from core.views.tables import is_missing
from pages.ui.page_state import PageState

if TYPE_CHECKING:  # Streamlit has no public name for this type
    from streamlit.elements.lib.column_types import ColumnConfig

LEADING_COLUMNS = ["status", "changed"]
"""Default columns on the left, followed by the columns that the user adds."""
METRIC_COLUMNS = ["best_val_loss", "best_step", "val_loss", "val_set", "exact"]
TRAILING_COLUMNS = ["seconds"]
OPTIONAL_COLUMNS = [
    name
    for name in (*RunConfig.model_fields, "created", *RESULTS)
    if name not in (*report.RUN_COLUMNS, "name", "status", "exact", "color")
]
"""Optional columns that the command line does not print."""
JOURNAL_COLUMNS = ["perplexity", "device", "journal_run", "loss_to_journal", "loss_to_journal_se"]
"""Additional default columns when journal results are shown."""
LABELS = {
    **{name: str(field.title) for name, field in RunConfig.model_fields.items()},
    **{name: metric.title for name, metric in RESULTS.items()},
    "group": "Group", "name": "Run", "status": "Status", "created": "Created", "exact": "Exact",
    "changed": "Changed from parent", "best_step": "@ step", "val_loss": "Final loss",
    "journal_run": "Journal run", "loss_to_journal": "Loss vs. journal",
    "loss_to_journal_se": "Loss vs. journal SE",
}  # fmt: skip
HELP = {
    **{name: metric.description for name, metric in RESULTS.items()},
    "changed": "Settings that differ from the run's parent or, if it has none, from the most similar preset.",
    "loss_to_journal": "Subset loss of the run minus the journal's validation loss, which was measured on the first 10 or 20 validation examples. For runs from older versions, the validation loss is used.",
    "loss_to_journal_se": "Standard error of the run's loss. The journal's standard error is unknown.",
}
WIDTHS = {"status": 80, "changed": 190, "best_step": 60, "exact": 60, "seconds": 60}
"""Widths in pixels of columns whose text is much longer or shorter than their title."""
MAX_CHARACTERS = 40
"""Longer texts in columns without a fixed width are cut."""
HEADING_CHARACTER_WIDTH, CHARACTER_WIDTH, CELL_PADDING = 6, 7, 18
"""Width of a character in headings and cells, and the total padding on both sides, in pixels."""
JUDGE_HELP = "Mean score over the test answers, from 0 to 100."
GRAY = "#767c88"
"""Color of differences within the noise, readable on light and dark backgrounds."""
BAR_HELP = "Mean score and its 95% interval, on a scale from 0 to 100."
BAR_WIDTH, BAR_MARGIN = 80, 5
"""Width of a bar in pixels, and its margin on both sides, so that dots at 0 and 100 fit."""
BAR_HEIGHT = 30
"""Height of a bar's image, which Streamlit scales to the height of the row."""
DELTA = "delta_"
"""Prefix of the columns with the difference from the baseline."""
INTERVAL, BAR = " 95%", " interval"
"""Suffixes of a judge's columns with the interval as text and as a bar."""


def with_scores(listed: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Expand the `scores` column into one column for exact answers and two per judge: mean and 95% interval.

    Returns:
        The table; a bar per judge and row, as the URL of an image; and the judges, the one with the most scores first.
    """
    run_scores = listed["scores"]
    table = listed.drop(columns="scores").assign(exact=[s.get("exact") for s in run_scores])
    table["exact"] = table["exact"].astype(float)
    bars = pd.DataFrame(index=table.index)
    judges = list(dict.fromkeys(j for scores in run_scores for j in scores if j != "exact"))
    for judge in judges:
        judge_scores = [scores.get(judge) for scores in run_scores]
        pairs = [
            (s["mean"], report.interval_text(s) or None) if isinstance(s, dict) else (s, None)
            for s in judge_scores
        ]
        table[judge], table[judge + INTERVAL] = zip(*pairs, strict=True)
        table[judge] = table[judge].astype(float)
        bars[judge + BAR] = [_bar(score) for score in judge_scores]
    return table, bars, sorted(judges, key=lambda judge: -table[judge].notna().sum())


def with_changes(table: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Add the column with changes from the parent, and the optional columns."""
    created = pd.to_datetime(results["created"], unit="s", utc=True)
    local = created.dt.tz_convert(datetime.now().astimezone().tzinfo)
    added = results.assign(
        created=local.dt.strftime("%Y-%m-%d %H:%M"), changed=changes.from_parents(results)
    )
    return table.merge(added[["name", "changed", *OPTIONAL_COLUMNS]], on="name", how="left")


def default_columns(results: pd.DataFrame, judges: list[str], with_journal: bool) -> list[str]:
    """Return the columns shown by default, including the judge with the most scores.

    Includes `val_set` if a validation loss was measured on a subset.
    """
    has_subset = with_journal or (results["val_set"] == "subset").any()
    metrics = [name for name in METRIC_COLUMNS if name != "val_set" or has_subset]
    scores = [judges[0], judges[0] + BAR] if judges else []
    journal_columns = JOURNAL_COLUMNS if with_journal else []
    return [*LEADING_COLUMNS, *metrics, *scores, *TRAILING_COLUMNS, *journal_columns]


def pick(available: list[str], default: list[str], state: PageState) -> list[str]:
    """Draw the column picker and return the selected columns. Added columns come after LEADING_COLUMNS.

    The state holds only the differences from the default: added columns, and removed ones with a minus sign.
    """
    widget, edits = "columns", state.values("column") or []
    state.check("column", available, "Unknown column", prefix="-")
    state.show("column", *(edit for edit in edits if edit.removeprefix("-") in available))
    added = [name for name in edits if name in available and name not in default]
    kept = [name for name in default if f"-{name}" not in edits]
    leading = [name for name in kept if name in LEADING_COLUMNS]
    shown = [*leading, *added, *(name for name in kept if name not in leading)]
    st.session_state[widget] = shown

    def store() -> None:
        chosen = st.session_state[widget]
        removed = [f"-{name}" for name in default if name not in chosen]
        state.set("column", *(name for name in chosen if name not in default), *removed)

    st.multiselect(
        "Columns",
        available,
        key=widget,
        on_change=store,
        format_func=label,
        help="Columns that you add appear after *Changed from parent*.",
        width=420,
    )
    if edits:
        st.button("Reset columns", on_click=state.clear, args=("column",))
    return shown


def label(name: str) -> str:
    """Return a column's heading. The heading of a judge's column is the judge's name."""
    if name.startswith(DELTA):
        title = label(name.removeprefix(DELTA))
        return f"\u0394 {title[:1].lower()}{title[1:]}"
    return LABELS.get(name) or f"{name[:1].upper()}{name[1:]}"


def label_with_unit(name: str) -> str:
    """Return a column's heading with the unit of its numbers."""
    unit = RESULTS[name].unit if name in RESULTS else ""
    return f"{label(name)} ({unit})" if unit else label(name)


def names_by_title(names: Iterable[str]) -> dict[str, str]:
    """Map the titles that users may type in the filter, with or without the unit, to column names."""
    metrics = {m.title: name for name in names if (m := RESULTS.get(name))}
    units = {m.label: name for name in names if (m := RESULTS.get(name))}
    return {label(name): name for name in names} | metrics | units


def text(name: str, value: Any) -> str:
    """Format a value of a column. Missing values and settings that have no effect are dashes."""
    field = RunConfig.model_fields.get(name)
    if is_missing(value):
        has_condition = field is None or metadata(field)["when"]
        return formats.DASH if has_condition else formats.value_text(name, None)
    if name.startswith(DELTA):
        return difference_text(name.removeprefix(DELTA), value)
    if name == "dataset":
        return formats.dataset_text(value)
    if name in LABELS and isinstance(value, str):
        return value
    if name.startswith("loss_to_journal"):
        return f"{value:+.4f}" if name == "loss_to_journal" else formats.loss(value)
    if name in RunConfig.model_fields or name in RESULTS:
        return formats.value_text(name, value)
    return formats.score(value) if is_numeric(value) else str(value)


def is_numeric(value: Any) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def displayed(frame: pd.DataFrame, is_noise: pd.DataFrame) -> Any:
    """Return the table as it is displayed: numbers as text that still sorts as numbers, and rows shaded by group.

    Args:
        is_noise: whether each difference is within the noise. Such differences are gray.
    """
    shown = frame.copy()
    names = [str(name) for name in shown]
    for name in names:
        if is_bool_dtype(frame[name]) or _holds_bools(frame[name]):
            shown[name] = [None if is_missing(v) else text(name, bool(v)) for v in frame[name]]
    numbers = [name for name in names if is_numeric_dtype(shown[name])]
    styled = shown.style.format({name: _formatter(name) for name in numbers})
    if grayed := [name for name in is_noise if name in names]:
        colors = np.where(is_noise[grayed], f"color: {GRAY}", "")
        for i, name in enumerate(grayed):
            styled = styled.apply(lambda _, i=i: colors[:, i].tolist(), subset=pd.Index([name]))
    if "group" not in frame:
        return styled
    is_shaded = (frame["group"] != frame["group"].shift()).cumsum() % 2 == 0
    shading = is_shaded.map({True: "background-color: rgba(128, 128, 128, 0.1)", False: ""})
    return styled.apply(lambda _: shading, axis=0)


def column(name: str, values: pd.Series, help: str | None = None) -> "ColumnConfig":
    """Return the heading, tooltip, width and type of a column with these values.

    Args:
        help: the tooltip, for columns whose tooltip varies.
    """
    width = WIDTHS.get(name)
    if width is None:  # Streamlit cuts the heading when the columns fill the window
        longest = max((len(text(name, value)) for value in values), default=0)
        text_width = min(longest, MAX_CHARACTERS) * CHARACTER_WIDTH + CELL_PADDING
        width = max(heading_width(label(name)), text_width)
    if name.endswith(BAR) and name not in LABELS:
        return st.column_config.ImageColumn(
            label(name), help=BAR_HELP, width=BAR_WIDTH + 2 * BAR_MARGIN + 16, alignment="left"
        )
    is_judge = name not in LABELS and not name.endswith(INTERVAL)
    help = help or (JUDGE_HELP if is_judge else HELP.get(name))
    pinned = name == "group"
    return st.column_config.Column(
        label(name),
        help=help,
        width=width,
        pinned=pinned,
    )


def heading_width(heading: str) -> int:
    """Return the width in pixels of a column with this heading."""
    return len(heading) * HEADING_CHARACTER_WIDTH + CELL_PADDING


def _holds_bools(values: pd.Series) -> bool:
    return values.dtype == object and any(isinstance(value, bool) for value in values)


def _formatter(name: str) -> Any:
    return lambda value: text(name, value)


def _bar(score: Any) -> str | None:
    """Draw a mean and its interval on a scale from 0 to 100, as the URL of an image."""
    if score is None:
        return None
    mean, low, high = score, score, score
    if isinstance(score, dict):
        mean = score["mean"]
        low, high = (mean if is_missing(score[k]) else score[k] for k in ("low", "high"))
    low_x, mean_x, high_x = (BAR_MARGIN + v * BAR_WIDTH / 100 for v in (low, mean, high))
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{BAR_WIDTH + 2 * BAR_MARGIN}' height='{BAR_HEIGHT}'>"
        f"<rect x='{BAR_MARGIN}' y='14' width='{BAR_WIDTH}' height='2' fill='rgb(128,128,128)' fill-opacity='0.35'/>"
        f"<rect x='{low_x:.1f}' y='11' width='{high_x - low_x:.1f}' height='8' rx='2' "
        "fill='rgb(59,125,216)' fill-opacity='0.55'/>"
        f"<circle cx='{mean_x:.1f}' cy='15' r='4' fill='rgb(59,125,216)'/></svg>"
    )
    return "data:image/svg+xml;utf8," + svg
