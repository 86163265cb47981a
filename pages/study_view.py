"""Data shared by the parts of a study's page: runs, summary, and the names of settings, groups and metrics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.config import RunConfig
from core.lab import Lab
from core.metrics import RESULTS
from core.studies.study import Study
from core.views import formats
from core.views.formats import axis_title, difference_text
from pages.ui.page_state import PageState

PAGE = "pages/studies.py"
STUDY, METRIC, TAB = "study", "metric", "tab"
"""URL parameters of a study's page. Each tab adds its own."""
METRICS = ("val_loss", "best_val_loss", "exact", "seconds", "peak_memory_mb")
"""Metrics to choose from, in addition to the judges that have scored the study's runs."""
MARGIN = "margin"
"""URL parameter: the smallest difference that matters."""
Settings = Mapping[str, Any]
"""The varied settings of a group by axis, such as `lora_rank=lora_alpha`."""


@dataclass(frozen=True)
class StudyView:
    """A study as shown on its page.

    Args:
        study: None if its file is damaged.
        runs: the rows of its runs in `Lab.runs`.
        metric: a metric or a judge.
        margin: the smallest difference that matters; None for the metric's default.
        table: see `Lab.study_summary`.
    """

    lab: Lab
    name: str
    study: Study | None
    runs: pd.DataFrame
    metric: str
    margin: float | None
    table: pd.DataFrame
    state: PageState

    @property
    def axes(self) -> list[str]:
        """The varied settings, such as `lora_rank=lora_alpha`."""
        return [*self.table["settings"].iloc[0]] if len(self.table) else []

    @property
    def key(self) -> str:
        """Cache key for everything that depends on the study's runs."""
        return repr((self.lab, self.lab.changed_at, self.name, self.metric, self.margin))

    def groups(self) -> list[dict[str, Any]]:
        """Return the rows of the summary, each with its `label`."""
        rows: list[dict[str, Any]] = self.table.to_dict("records")  # type: ignore[assignment]
        return [{**row, "label": values_label(row["settings"])} for row in rows]


@st.cache_resource(max_entries=16, show_spinner=False)
def summary(
    _lab: Lab, lab_id: str, changed_at: int, name: str, metric: str, margin: float | None
) -> pd.DataFrame:
    """Return the summary of a study. All sessions share one query per index sync."""
    return _lab.study_summary(name, metric, margin)


def value_text(axis: str, value: Any) -> str:
    """Format a value of an axis. A setting without an effect is a dash."""
    field = axis.split("=")[0]
    is_optional = RunConfig.model_fields[field].default is None
    if value is None and not is_optional:
        return formats.DASH
    return formats.value_text(field, value)


def settings_label(settings: Settings) -> str:
    """Return settings with their titles, such as "Rank 4, Learning rate 5e-4"."""
    return ", ".join(f"{axis_title(a)} {value_text(a, v)}" for a, v in settings.items())


def values_label(settings: Settings) -> str:
    """Return the values of settings, such as "4 · 5e-4"."""
    return " · ".join(value_text(axis, value) for axis, value in settings.items())


def merged(context: Settings, axes: Iterable[str]) -> dict[str, Any]:
    """Convert settings by field to settings by axis. Settings that vary together become one."""
    settings = dict(context)
    result = {}
    for axis in axes:
        fields = axis.split("=")
        if all(name in settings for name in fields):
            result[axis] = settings[fields[0]]
            for name in fields:
                del settings[name]
    return result | settings


def metric_title(metric: str) -> str:
    """Return the title of a metric without its unit, such as "Validation loss" or "Score (gemini)"."""
    return RESULTS[metric].title if metric in RESULTS else f"Score ({metric})"


def metric_noun(metric: str) -> str:
    """Return the title of a metric for use in a sentence."""
    return formats.lowered(metric_title(metric))


def heading(title: str, metric: str) -> str:
    """Return the heading of a column with a metric's values, including the unit."""
    unit = RESULTS[metric].unit if metric in RESULTS else ""
    return f"{title} ({unit})" if unit else title


def metric_text(metric: str, value: float | None) -> str:
    """Format a value of a metric or a judge, with its unit."""
    return formats.value_text(metric, value) if metric in RESULTS else formats.score(value)


def number_text(metric: str, value: float | None) -> str:
    """Format a value of a metric for a column whose heading has the unit."""
    if value is None or value != value:
        return formats.DASH
    if metric == "exact":
        return formats.percent(value)
    if metric not in RESULTS:
        return formats.score(value)
    return (RESULTS[metric].format or "%g") % value


def interval_text(metric: str, low: float, high: float, is_difference: bool = False) -> str:
    """Format an interval, or a dash if there is none."""
    if low != low or high != high:
        return formats.DASH
    if not is_difference:
        return f"{number_text(metric, low)} to {number_text(metric, high)}"
    texts = [difference_text(metric, bound).removesuffix(" pp") for bound in (low, high)]
    return " to ".join(texts) + (" pp" if metric == "exact" else "")


def judges_of(scores: Mapping[str, Mapping[str, Any]], runs: Sequence[str]) -> list[str]:
    """Return the judges that have scored some of these runs."""
    return sorted({judge for name in runs for judge in scores.get(name, {})})
