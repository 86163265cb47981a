"""Render rows as a terminal table, JSON, CSV or Markdown."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Format = Literal["table", "json", "csv", "md"]
MAX_CELL_CHARACTERS = 80
"""Maximum width of a terminal column. Longer text is wrapped; the first column, which holds a name, is wrapped last."""
MARKDOWN_SYNTAX = re.compile(r"[\\|<`*\[]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
"""Characters that have a special meaning in a Markdown table cell."""
SCIENTIFIC_FROM = 1e6
"""Floats of this magnitude or more are shown in scientific notation, so that cells never truncate digits."""


def render(rows: list[dict[str, Any]], format: Format) -> str:
    """Render rows as text. Missing values and NaN become empty cells, or null in JSON. Infinity also becomes null in JSON."""
    if format == "json":
        return json.dumps(_to_python(rows), ensure_ascii=False, indent=2, allow_nan=False)
    if format == "csv":
        flat = [{k: cell(v) if _is_nested(v) else v for k, v in row.items()} for row in rows]
        return pd.DataFrame(flat, dtype=object).to_csv(index=False).rstrip("\n")
    if format == "md":
        return markdown(rows)
    console = Console(width=None if Console().is_terminal else 1000)
    tables = [_table(rows)]
    if _width(tables[0], console) > console.width:
        transposed = _table(_transpose(rows))
        fits = _width(transposed, console) <= console.width
        tables = [transposed] if fits else [_table(part) for part in _split_columns(rows, console)]
    with console.capture() as captured:
        console.print(*tables, sep="\n")
    return captured.get().rstrip("\n")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(header_style="bold")
    for i, column in enumerate(rows[0] if rows else []):
        table.add_column(
            Text(column), overflow="fold", no_wrap=i == 0, max_width=MAX_CELL_CHARACTERS
        )
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    return table


def _transpose(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Swap rows and columns so that a wide table might fit the terminal.

    Return the rows unchanged if their names are not unique.
    """
    first_column, *other_columns = rows[0]
    names = [cell(row[first_column]) for row in rows]
    if len({first_column, *names}) <= len(rows):
        return rows  # duplicate headings would be lost
    return [
        {first_column: column, **{name: row[column] for name, row in zip(names, rows, strict=True)}}
        for column in other_columns
    ]


def _split_columns(rows: list[dict[str, Any]], console: Console) -> Iterator[list[dict[str, Any]]]:
    """Split the columns into several tables that fit the terminal if possible. Each starts with the first column."""
    first_column, *other_columns = rows[0]
    part_columns = [first_column]
    for column in other_columns:
        candidate = [{key: row[key] for key in (*part_columns, column)} for row in rows]
        if len(part_columns) > 1 and _width(_table(candidate), console) > console.width:
            yield [{key: row[key] for key in part_columns} for row in rows]
            part_columns = [first_column]
        part_columns.append(column)
    yield [{key: row[key] for key in part_columns} for row in rows]


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10**6), table).maximum


def markdown(rows: list[dict[str, Any]]) -> str:
    """Render rows as a GitHub Markdown table. Markup is escaped, and line breaks become spaces."""
    if not rows:
        return ""
    lines = [list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
    escaped = [
        [MARKDOWN_SYNTAX.sub(r"\\\g<0>", " ".join(c.split())) for c in line] for line in lines
    ]
    escaped.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def cell(value: Any) -> str:
    """Format a value for display. Floats have four significant digits, or no decimals between 1000 and SCIENTIFIC_FROM."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if is_missing(value):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < SCIENTIFIC_FROM else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None, NaN, NaT or pandas.NA."""
    if value is None or isinstance(value, str):
        return value is None
    return bool(pd.api.types.is_scalar(value)) and bool(pd.isna(value))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as Python values. Missing and infinite values become None."""
    return [
        {str(k): _to_python(v) for k, v in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


def _to_python(value: Any) -> Any:
    """Convert a value to plain Python for JSON. Missing and infinite values become None."""
    if isinstance(value, dict):
        return {key: _to_python(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_python(item) for item in value]
    if is_missing(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value.item() if hasattr(value, "item") else value
