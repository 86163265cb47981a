"""Rows of a table found by words and comparisons: `lora lr>1e-4 val_loss<2`."""

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from core.errors import UserError
from core.views.tables import cell, records

COMPARISON = re.compile(r"([^\s<>=!]+)(<=|>=|!=|<|>|=)(\S*)")
SPACED_OPERATOR = re.compile(r"\s*(<=|=<|>=|=>|!=|==|<|>|=)\s*")
"""A sign as people type it: with space around, or doubled or turned."""
OPERATOR_ALIASES = {"=<": "<=", "=>": ">=", "==": "="}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
Holds = Callable[[dict[str, Any]], bool]


def matching(
    frame: pd.DataFrame, query: str, titles: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The rows for which everything in the query holds.

    Args:
        query: words, each to occur somewhere in a row, whatever its case; and comparisons of a column with
            a number, a share such as 80% or a word: `lr >= 1e-4`, `method=lora`, `created>2026-11`. `none` is
            a missing value, which is neither less nor more than any.
        titles: of columns as people see them, to their names: `Learning rate > 1e-4` means `lr>1e-4`.

    Raises:
        UserError: it names a column that is not there, or compares numbers with what is none.
    """
    for title, name in sorted((titles or {}).items(), key=lambda pair: -len(pair[0])):
        title_pattern = re.escape(title).replace(r"\ ", "[ _]")
        query = re.sub(
            rf"(?i)(?<!\S){title_pattern}(?=\s*[<>=!])", name.replace("\\", r"\\"), query
        )
    words = SPACED_OPERATOR.sub(lambda sign: OPERATOR_ALIASES.get(sign[1], sign[1]), query).split()
    if not words:
        return frame
    conditions = [_comparison(word, frame) or _occurs(word) for word in words]
    mask = [all(holds(row) for holds in conditions) for row in records(frame)]
    return frame[pd.Series(mask, index=frame.index, dtype=bool)]


def _occurs(word: str) -> Holds:
    return lambda row: any(word.lower() in str(v).lower() for v in row.values() if v is not None)


def _comparison(word: str, frame: pd.DataFrame) -> Holds | None:
    """What a word such as `lr>1e-4` asks of a row; None where it is no comparison."""
    match = COMPARISON.fullmatch(word)
    if not match:
        return None
    column, sign, text = match.groups()
    columns = [str(name) for name in frame.columns]
    if column not in columns:
        suggestions = difflib.get_close_matches(column, columns, n=1)
        hint = (
            f"did you mean {suggestions[0]}?"
            if suggestions
            else "it should be one such as lr or val_loss"
        )
        raise UserError(f"filter = {word!r}: there is no column {column!r}; {hint}")
    compare = OPERATORS[sign]
    if text.lower() in ("none", "") and sign in ("=", "!="):
        return lambda row: compare(row[column] in (None, ""), True)
    dtype = frame[column].dtype
    if not is_numeric_dtype(dtype) or is_bool_dtype(dtype):
        return lambda row: (
            row[column] is not None and compare(cell(row[column]).lower(), text.lower())
        )
    number = _number(text)
    if number is None:
        raise UserError(f"filter = {word!r}: {column} should be compared with a number")
    return lambda row: sign == "!=" if row[column] is None else compare(row[column], number)


def _number(text: str) -> float | None:
    """A number, or a share in percent."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
