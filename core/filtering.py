"""Rows of a table found by words and comparisons: `lora lr>1e-4 val_loss<2`."""

import difflib
import operator
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from core.errors import UserError
from core.tables import cell, records

COMPARISON = re.compile(r"([^\s<>=!]+)(<=|>=|!=|<|>|=)(\S*)")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


def matching(frame: pd.DataFrame, query: str) -> pd.DataFrame:
    """The rows for which everything in the query holds.

    Args:
        query: words, each to occur somewhere in a row, whatever its case; and comparisons of a column with
            a number or a word, such as `lr>=1e-4` or `method=lora`. A missing value is unequal to all, and
            neither less nor more than any.

    Raises:
        UserError: it names a column that is not there, or orders by what is no number.
    """
    words = query.split()
    rows = records(frame) if words else []  # of thousands, it takes a moment
    kept = [True] * len(frame)
    for word in words:
        holds = _comparison(word, [str(column) for column in frame.columns]) or _occurs(word)
        kept = [so_far and holds(row) for so_far, row in zip(kept, rows, strict=True)]
    return frame[kept]


def _occurs(word: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: any(word.lower() in str(v).lower() for v in row.values() if v is not None)


def _comparison(word: str, columns: list[str]) -> Callable[[dict[str, Any]], bool] | None:
    """What a word such as `lr>1e-4` asks of a row; None where it is no comparison."""
    found = COMPARISON.fullmatch(word)
    if not found:
        return None
    column, sign, text = found.groups()
    if column not in columns:
        near = difflib.get_close_matches(column, columns, n=1)
        hint = f"did you mean {near[0]}?" if near else "it should be one such as lr or val_loss"
        raise UserError(f"filter = {word!r}: there is no column {column!r}; {hint}")
    number = _number(text)
    if number is None and sign not in ("=", "!="):
        raise UserError(f"filter = {word!r}: {column} should be compared with a number")
    compare = OPERATORS[sign]

    def holds(row: dict[str, Any]) -> bool:
        value = row[column]
        if value is None:
            return sign == "!="
        if number is not None and isinstance(value, int | float) and not isinstance(value, bool):
            return compare(value, number)
        return sign in ("=", "!=") and compare(cell(value).lower(), text.lower())

    return holds


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
