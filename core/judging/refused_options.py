"""Optional parameters of a request that a server refuses: send it without them, and remember which.

Servers word the refusal of a parameter in many ways, so the message is not interpreted: a parameter counts as refused
if the same request succeeds without it. A request that fails without any parameter too, such as one with a too long
prompt, is not tried further. Knows no service and no client library.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, TypeVar

T = TypeVar("T")
REFUSED_STATUSES = (400, 422)
"""HTTP statuses with which servers refuse a parameter."""
_refused: dict[tuple[str, str], frozenset[str]] = {}
"""Refused parameters by address and model, for the lifetime of the process."""


def send_without_refused(
    target: tuple[str, str],
    options: Mapping[str, Any],
    send: Callable[[Mapping[str, Any]], T],
    refusal: Callable[[Exception], bool],
) -> T:
    """Send a request with as many of its optional parameters as the server accepts.

    Args:
        target: address and model, for which refused parameters are remembered.
        options: the optional parameters.
        send: sends the request with some of the options.
        refusal: whether an exception of `send` may be the refusal of a parameter.

    Raises:
        Exception: the first exception of `send`, if leaving options out does not help.
    """
    refused = _refused.get(target, frozenset())
    kept = {name: value for name, value in options.items() if name not in refused}
    try:
        return send(kept)
    except Exception as error:
        if not kept or not refusal(error):
            raise
        first: Exception = error
    try:
        result = send({})
    except Exception as error:
        if refusal(error):
            raise first from None  # the server does not refuse an option, but the request
        raise
    left_out = frozenset(kept)
    for subset in _proper_subsets(list(kept)):
        try:
            result = send({name: value for name, value in kept.items() if name not in subset})
        except Exception as error:
            if not refusal(error):
                raise  # the retry searches again
            continue
        left_out = subset
        break
    # Another thread may have added a refused option in the meantime.
    _refused[target] = _refused.get(target, frozenset()) | left_out
    return result


def _proper_subsets(names: list[str]) -> list[frozenset[str]]:
    """Return all subsets but the empty and the full one, the smallest first."""
    return [frozenset(c) for size in range(1, len(names)) for c in combinations(names, size)]
