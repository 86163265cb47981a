"""Columns of the results table: which exist, which are shown by default, and how they are formatted."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from core.config import RunConfig
from core.metrics import RESULTS
from core.views import report
from core.views.tables import SCIENTIFIC_FROM
from pages.ui.text import escape_markdown

if TYPE_CHECKING:  # Streamlit has no public name for this type
    from streamlit.elements.lib.column_types import ColumnConfig

LEADING_COLUMNS = ["name", "status", "val_loss", "val_set", "perplexity", "exact"]
DEFAULT_COLUMNS = ["base_model", "method", "lora_rank", "batch_size", "epochs", "lr"]
"""Settings shown by default if the runs do not differ in any setting."""
TRAILING_COLUMNS = ["seconds", "peak_memory_mb", "disk_mb", "notes"]
OPTIONAL_COLUMNS = [
    name
    for name in (*RunConfig.model_fields, "created", *RESULTS)
    if name not in (*report.RUN_COLUMNS, *LEADING_COLUMNS)
]
"""Columns that the command line does not print."""
JOURNAL_COLUMNS = ["device", "journal_run", "loss_to_journal", "loss_to_journal_se"]
"""Additional default columns when journal results are shown."""
LABELS = {
    **{name: str(field.title) for name, field in RunConfig.model_fields.items()},
    **{name: metric.label for name, metric in RESULTS.items()},
    "name": "Run", "status": "Status", "created": "Created",
    "journal_run": "Journal run", "loss_to_journal": "Loss vs. journal",
    "loss_to_journal_se": "Loss vs. journal SE",
}  # fmt: skip
FORMATS = {
    **{name: metric.format for name, metric in RESULTS.items() if metric.format},
    "lr": "%g", "min_lr": "%g", "loss_to_journal": "%+.4f", "loss_to_journal_se": "%.4f",
}  # fmt: skip
HELP = {
    **{name: metric.description for name, metric in RESULTS.items()},
    "loss_to_journal": "Subset loss of the run minus the journal's validation loss, which was measured on the first 10 or 20 validation examples. For runs from older versions, the validation loss is used.",
    "loss_to_journal_se": "Standard error of the run's loss. The journal's standard error is unknown.",
}
SCIENTIFIC = "%.3e"
JUDGE_HELP = "Mean score over the test answers, from 0 to 100. The next column shows the 95% interval, the number of scored answers (n) and the number without a score."


def with_scores(listed: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Expand the `scores` column into one column for exact answers and two per judge: mean and 95% interval.

    Returns:
        The table, and the names of the judges' columns.
    """
    run_scores = listed["scores"]
    table = listed.drop(columns="scores").assign(exact=[s.get("exact") for s in run_scores])
    table["exact"] = table["exact"].astype(float)
    names = []
    for judge in dict.fromkeys(j for scores in run_scores for j in scores if j != "exact"):
        judge_scores = [scores.get(judge) for scores in run_scores]
        pairs = [
            (s["mean"], report.interval_text(s) or None) if isinstance(s, dict) else (s, None)
            for s in judge_scores
        ]
        table[judge], table[f"{judge} 95%"] = zip(*pairs, strict=True)
        table[judge] = table[judge].astype(float)
        names += [judge, f"{judge} 95%"]
    return table, names


def optional_columns(results: pd.DataFrame) -> pd.DataFrame:
    """Return the optional columns and the run names. Users can show these columns and filter by them."""
    created = pd.to_datetime(results["created"], unit="s", utc=True)
    local = created.dt.tz_convert(datetime.now().astimezone().tzinfo)
    return results.assign(created=local.dt.strftime("%Y-%m-%d %H:%M"))[["name", *OPTIONAL_COLUMNS]]


def default_columns(results: pd.DataFrame, judges: list[str], with_journal: bool) -> list[str]:
    """Return the columns shown by default: metrics, settings that differ between the runs, and cost.

    Includes `val_set` if a validation loss was measured on a subset.
    """
    journal_columns = JOURNAL_COLUMNS if with_journal else []
    differing = report.differing(results)
    has_subset = with_journal or (results["val_set"] == "subset").any()
    leading = [c for c in LEADING_COLUMNS if c != "val_set" or has_subset]
    names = [
        *leading,
        *differing,
        *judges,
        *([] if differing else DEFAULT_COLUMNS),
        *TRAILING_COLUMNS,
        *journal_columns,
    ]
    return list(dict.fromkeys(names))


def pick(available: list[str], default: list[str], view: str) -> list[str]:
    """Draw the column picker for a view. Return the columns the user selected, or the defaults."""
    chosen_key, widget = f"chosen_columns:{view}", "columns"
    requested = st.session_state.get(chosen_key, default)
    # Keep columns that are unavailable at the moment, such as those for a judge that has no scores.
    absent = [column for column in requested if column not in available]
    st.session_state[widget] = [column for column in requested if column in available]
    st.pills(
        "Columns",
        available,
        selection_mode="multi",
        key=widget,
        on_change=lambda: st.session_state.update({chosen_key: st.session_state[widget] + absent}),
        format_func=lambda name: escape_markdown(label(name)),
        label_visibility="collapsed",
    )
    if chosen_key in st.session_state:
        st.button("Reset columns", on_click=st.session_state.pop, args=(chosen_key, None))
    return list(st.session_state[widget])


def label(name: str) -> str:
    """Return a column's title. For a judge's columns, the title is the column name."""
    return LABELS.get(name) or f"{name[:1].upper()}{name[1:]}"


def names_by_title(names: Iterable[str]) -> dict[str, str]:
    """Map the titles that users may type in the filter, with or without the unit, to column names."""
    titles = {RESULTS[name].title: name for name in names if name in RESULTS}
    return titles | {label(name): name for name in names}


def column(name: str, values: pd.Series) -> "ColumnConfig":
    """Return the title, tooltip and number format for a column.

    Columns that contain values of SCIENTIFIC_FROM or more use scientific notation so that the values fit into the cells.
    """
    help = HELP.get(name)
    is_judge_mean = name not in LABELS and not name.endswith(" 95%")
    if name not in FORMATS and not is_judge_mean:
        return st.column_config.Column(label(name), help=help, pinned=name == "name")
    largest = pd.to_numeric(values).astype(float).abs().max()  # NaN if all values are missing
    format = SCIENTIFIC if largest >= SCIENTIFIC_FROM else FORMATS.get(name, "%.1f")
    help = JUDGE_HELP if is_judge_mean else help
    return st.column_config.NumberColumn(label(name), format=format, help=help)
