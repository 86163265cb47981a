"""Tables for people and programs: rich text, JSON, CSV or Markdown from the same rows."""

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
"""Letters of a cell before its text is folded. The first column, a name, is folded last of all."""
MARKDOWN_SYNTAX = re.compile(r"[\\|<`*\[]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown takes for more than text inside the cell of a table."""
SCIENTIFIC_FROM = 1e6
"""Larger floats are shown in scientific notation, so that cells never truncate their digits."""


def render(rows: list[dict[str, Any]], format: Format) -> str:
    """The rows as text. Empty values are empty cells, and null in JSON, as is what no number can be."""
    if format == "json":
        return json.dumps(_plain(rows), ensure_ascii=False, indent=2, allow_nan=False)
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
        tables = [transposed] if fits else [_table(part) for part in _parts(rows, console)]
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
    """Columns as rows: what is too wide for a terminal may be narrow enough the other way round."""
    first_column, *other_columns = rows[0]
    names = [cell(row[first_column]) for row in rows]
    if len({first_column, *names}) <= len(rows):
        return rows  # they could not be told apart as headings
    return [
        {first_column: column, **{name: row[column] for name, row in zip(names, rows, strict=True)}}
        for column in other_columns
    ]


def _parts(rows: list[dict[str, Any]], console: Console) -> Iterator[list[dict[str, Any]]]:
    """The columns over several tables, one below the other, that each begin with the first and fit if they can."""
    first_column, *other_columns = rows[0]
    part_columns = [first_column]
    for column in other_columns:
        wider = [{key: row[key] for key in (*part_columns, column)} for row in rows]
        if len(part_columns) > 1 and _width(_table(wider), console) > console.width:
            yield [{key: row[key] for key in part_columns} for row in rows]
            part_columns = [first_column]
        part_columns.append(column)
    yield [{key: row[key] for key in part_columns} for row in rows]


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10**6), table).maximum


def markdown(rows: list[dict[str, Any]]) -> str:
    """A GitHub table. What would break it or turn into markup is escaped; line breaks become spaces."""
    if not rows:
        return ""
    lines = [list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
    escaped = [
        [MARKDOWN_SYNTAX.sub(r"\\\g<0>", " ".join(c.split())) for c in line] for line in lines
    ]
    escaped.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def cell(value: Any) -> str:
    """Format a value for display. Floats get four significant digits, or none after the point from 1000 to SCIENTIFIC_FROM."""
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
    """Whether a cell has no value: None, NaN or pandas' NA."""
    if value is None or isinstance(value, str):
        return value is None
    return bool(pd.api.types.is_scalar(value)) and bool(pd.isna(value))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows with Python values, None where one is missing or is no finite number."""
    return [
        {str(k): _plain(v) for k, v in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_missing(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value.item() if hasattr(value, "item") else value
