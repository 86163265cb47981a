"""Formats of numbers and settings, shared by forms, tables, charts and exports.

Missing values are shown as a dash.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.config import RunConfig
from core.metrics import RESULTS
from core.views.tables import SCIENTIFIC_FROM, cell, is_missing

DASH = "\u2014"
UPLOAD = re.compile(r"(?:.*[/\\])?uploads[/\\]([0-9a-f]{4})[0-9a-f]{12}[/\\]([^/\\]+)")
"""The path of an uploaded data set; see `core.run.uploads`."""


def value_text(name: str, value: Any) -> str:
    """Format a setting or a metric by its name, such as `5e-5` for `lr` and `12 min` for `seconds`."""
    if is_missing(value):
        return "none" if name in RunConfig.model_fields else DASH
    if name == "dataset":
        return dataset_text(value)
    if name in RunConfig.model_fields:
        return setting_text(value)
    unit = RESULTS[name].unit if name in RESULTS else ""
    if unit == "s":
        return duration(value)
    if unit == "MB":
        return memory(value)
    format = RESULTS[name].format if name in RESULTS else ""
    if format == "percent":
        return percent(value)
    is_huge = isinstance(value, float) and abs(value) >= SCIENTIFIC_FROM
    number = cell(value) if is_huge or not format else format % value
    return f"{number} {unit}".rstrip()


def dataset_text(dataset: str) -> str:
    """Return a data set's name. Uploads have their file name and the start of their hash instead of a path."""
    upload = UPLOAD.fullmatch(dataset)
    return f"{upload[2]} (upload {upload[1]})" if upload else dataset


def setting_text(value: Any) -> str:
    """Format a setting with all digits, such as `5e-5` or `on`. Empty values become "none"."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return np.format_float_scientific(value, trim="-", exp_digits=1)
        return f"{value:g}" if float(f"{value:g}") == value else str(value)
    return cell(value) or "none"


def input_text(value: Any) -> str:
    """Format a setting as text that parses back to it, such as `5e-5`, `none` or `2000`."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return setting_text(value)


def difference_text(metric: str, value: float | None) -> str:
    """Format a difference with its sign, such as `+0.0123` for a loss. Those of percentages are in percentage points."""
    if value is None or is_missing(value):
        return DASH
    if value == 0:
        return "0"
    if metric not in RESULTS:
        return f"{value:+.1f}"
    format = RESULTS[metric].format
    return f"{100 * value:+.1f} pp" if format == "percent" else f"{value:+{format[1:] or 'g'}}"


def axis_title(axis: str | Sequence[str]) -> str:
    """Return the titles of settings that vary together, such as "Rank = Alpha"; the names can be joined by `=`."""
    names = axis.split("=") if isinstance(axis, str) else axis
    return " = ".join(str(RunConfig.model_fields[name].title) for name in names)


def lowered(title: str) -> str:
    """Start titles joined by `=` with a lower-case letter, unless they are names such as LoRA+ or DoRA."""
    words = title.split(" = ")
    return " = ".join(w if w[1:2].isupper() or "RA" in w else w[:1].lower() + w[1:] for w in words)


def plural(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 run" or "1,200 runs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def loss(value: float | None) -> str:
    """Format a loss with four decimals."""
    return DASH if is_missing(value) else f"{value:.4f}"


def percent(fraction: float | None) -> str:
    """Format a fraction as a percentage with one decimal, such as 69.2%."""
    return DASH if is_missing(fraction) else f"{fraction:.1%}"


def score(value: float | None) -> str:
    """Format a score from 0 to 100 with one decimal."""
    return DASH if is_missing(value) else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """Format a duration, such as 42 s, 12 min or 2.2 h."""
    if seconds is None or seconds != seconds:
        return DASH
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(megabytes: float | None) -> str:
    """Format memory or disk space given in MiB, such as 506 MB or 2.4 GB."""
    if megabytes is None or megabytes != megabytes:
        return DASH
    return f"{megabytes:,.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:.1f} GB"


def file_size(size: int) -> str:
    """Format a file size in bytes, such as 950 B, 208 KB or 2.4 GB."""
    if size < 1024:
        return f"{size} B"
    return f"{size / 1024:,.0f} KB" if size < 2**20 else memory(size / 2**20)


def count(number: float | None) -> str:
    """Format a number, such as 950, 12.6 k or 406.3 M."""
    if number is None or number != number:
        return DASH
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
