"""Filter table rows by words and comparisons, such as `lora lr>1e-4 val_loss<2`."""

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
"""An operator as users may type it: surrounded by spaces, or an alias such as `==` or `=>`."""
OPERATOR_ALIASES = {"=<": "<=", "=>": ">=", "==": "="}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
Predicate = Callable[[dict[str, Any]], bool]
"""Function that returns whether a row matches one condition of the query."""


def matching(
    frame: pd.DataFrame, query: str, titles: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return the rows that match every condition of a query.

    Args:
        query: Words and comparisons, separated by spaces. A word matches if any cell of the row contains it, ignoring
            case. A comparison matches a column against a number, a percentage or text: `lr >= 1e-4`, `exact>80%`,
            `method=lora`, `created>2026-11`. `none` stands for a missing value, which `<` and `>` never match.
        titles: Column names by title, so that `Learning rate > 1e-4` means `lr>1e-4`.

    Raises:
        UserError: The query names an unknown column or compares a numeric column with text.
    """
    for title, name in sorted((titles or {}).items(), key=lambda pair: -len(pair[0])):
        title_pattern = re.escape(title).replace(r"\ ", "[ _]")
        query = re.sub(
            rf"(?i)(?<!\S){title_pattern}(?=\s*[<>=!])", name.replace("\\", r"\\"), query
        )
    words = SPACED_OPERATOR.sub(
        lambda match: OPERATOR_ALIASES.get(match[1], match[1]), query
    ).split()
    if not words:
        return frame
    conditions = [_comparison(word, frame) or _contains(word) for word in words]
    mask = [all(condition(row) for condition in conditions) for row in records(frame)]
    return frame[pd.Series(mask, index=frame.index, dtype=bool)]


def _contains(word: str) -> Predicate:
    return lambda row: any(word.lower() in str(v).lower() for v in row.values() if v is not None)


def _comparison(word: str, frame: pd.DataFrame) -> Predicate | None:
    """Parse a comparison such as `lr>1e-4`. Return None if the word is not a comparison."""
    match = COMPARISON.fullmatch(word)
    if not match:
        return None
    column, symbol, text = match.groups()
    columns = [str(name) for name in frame.columns]
    if column not in columns:
        suggestions = difflib.get_close_matches(column, columns, n=1)
        hint = (
            f"Did you mean {suggestions[0]}?"
            if suggestions
            else "Use a column such as lr or val_loss."
        )
        raise UserError(f"Unknown column {column!r} in filter {word!r}. {hint}")
    compare = OPERATORS[symbol]
    if text.lower() in ("none", "") and symbol in ("=", "!="):
        return lambda row: compare(row[column] in (None, ""), True)
    dtype = frame[column].dtype
    if not is_numeric_dtype(dtype) or is_bool_dtype(dtype):
        return lambda row: (
            row[column] is not None and compare(cell(row[column]).lower(), text.lower())
        )
    number = _number(text)
    if number is None:
        raise UserError(f"Invalid filter {word!r}: compare {column} with a number.")
    return lambda row: symbol == "!=" if row[column] is None else compare(row[column], number)


def _number(text: str) -> float | None:
    """Parse a number or a percentage. Return None if the text is neither."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
