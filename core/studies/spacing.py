"""The order and the spacing of the values of a setting. Independent of studies and runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.config import RunConfig


def is_log_spaced(values: Sequence[Any]) -> bool:
    """Return whether numbers are more evenly spaced on a log scale than on a linear one."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return False
    distinct = np.unique(np.asarray(values, float))
    if len(distinct) < 2 or not np.isfinite(distinct).all() or distinct[0] <= 0:
        return False
    if len(distinct) == 2:
        return bool(distinct[1] / distinct[0] >= 3)
    linear, log = np.diff(distinct), np.diff(np.log(distinct))
    return bool(log.std() / log.mean() < linear.std() / linear.mean())


def value_order(field: str, value: Any) -> tuple[bool, float, bool, str]:
    """Sort key for the values of a setting: None first, numbers by size, other values with the default first."""
    if value is None:
        return False, 0.0, False, ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return True, float(value), False, ""
    return True, 0.0, value != RunConfig.model_fields[field].default, str(value)
