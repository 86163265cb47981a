"""Retry requests without the optional parameters that a server rejects, and remember those parameters.

Error messages differ between servers, so they are not parsed. A parameter is considered rejected if the same request
succeeds without it. A request that fails even without optional parameters is not retried, because the cause may be the
prompt, for example its length. This module does not depend on any service or client library.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, TypeVar

T = TypeVar("T")
REFUSED_STATUSES = (400, 422)
"""HTTP statuses that servers return for an unsupported parameter."""
_refused: dict[tuple[str, str], frozenset[str]] = {}
"""Rejected parameters by (address, model), kept for the lifetime of the process."""


def send_without_refused(
    target: tuple[str, str],
    options: Mapping[str, Any],
    send: Callable[[Mapping[str, Any]], T],
    is_refusal: Callable[[Exception], bool],
) -> T:
    """Send a request with as many of its optional parameters as the server accepts.

    Args:
        target: address and model; rejected parameters are remembered per target.
        options: the optional parameters.
        send: sends the request with a subset of the options.
        is_refusal: returns whether an exception from `send` may be caused by a rejected parameter.

    Raises:
        Exception: the first exception from `send`, if the request also fails without options.
    """
    refused = _refused.get(target, frozenset())
    accepted = {name: value for name, value in options.items() if name not in refused}
    try:
        return send(accepted)
    except Exception as error:
        if not accepted or not is_refusal(error):
            raise
        first_error: Exception = error
    try:
        result = send({})
    except Exception as error:
        if is_refusal(error):
            raise first_error from None  # the options are not the cause
        raise
    rejected = frozenset(accepted)
    for subset in _proper_subsets(list(accepted)):
        try:
            result = send({name: value for name, value in accepted.items() if name not in subset})
        except Exception as error:
            if not is_refusal(error):
                raise  # the next attempt starts the search over
            continue
        rejected = subset
        break
    # Read again: another thread may have added options in the meantime.
    _refused[target] = _refused.get(target, frozenset()) | rejected
    return result


def _proper_subsets(names: list[str]) -> list[frozenset[str]]:
    """Return all subsets except the empty and the full one, smallest first."""
    return [frozenset(c) for size in range(1, len(names)) for c in combinations(names, size)]
