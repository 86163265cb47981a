"""What went wrong at a language model behind HTTP: whether asking again helps, in words without a key.

Knows statuses, headers, keys and addresses; no client library, and no body of any service.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from core.judging.judge import BusyError, RefusedError

SHOWN = 200
"""Characters of a service's own message that are shown: some answer with a page of HTML."""
QUOTA_PAUSE = 20.0
"""Seconds to leave a service alone that does not say how long: quotas are by the minute."""
LATER = {408, 409, 425, 429}
"""Statuses below 500 that say nothing against the request."""


def checked_key(key: str, service: str) -> str:
    """The key without the white space that copying leaves around it.

    Raises:
        RefusedError: it cannot be sent. The client libraries would say so too, and quote it.
    """
    key = key.strip()
    if not re.fullmatch(r"[!-~]+", key):
        problem = "has characters that no key has" if key else "is missing"
        raise RefusedError(f"The API key for {service} {problem}: copy it anew from your account.")
    return key


def checked_address(address: str, setting: str) -> str:
    """The name, or name:port, of an address of a service, as it may be shown.

    Raises:
        RefusedError: it is not a whole address. It is not quoted, since it may hold a password.
    """
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise RefusedError(f"{setting} is not a whole address such as http://127.0.0.1:8000.")
    return f"{host}:{port}" if port else host


def sendable(prompt: str) -> str:
    """The prompt with half surrogate pairs replaced: a data set may hold some, UTF-8 cannot."""
    return prompt.encode("utf-8", "replace").decode("utf-8")


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What the header Retry-After asks for, given as seconds or as a date."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)


def failure(
    status: int,
    service: str,
    model: str,
    message: str = "",
    secrets: Iterable[str] = (),
    wait: float | None = None,
) -> BusyError | RefusedError:
    """What a status means that is no success.

    Args:
        service: as a user knows it.
        message: the service's own; shown in part, without the key.
        secrets: that must not be shown.
        wait: seconds that the service asks for.
    """
    if status == 429:
        return BusyError("too many requests (HTTP 429)", QUOTA_PAUSE if wait is None else wait)
    if status >= 500 or status in LATER:
        return BusyError(f"a fault of {service} (HTTP {status})", wait)
    status = 302 if 300 <= status < 400 else status
    sentence = {
        401: f"{service} does not accept the API key: copy it anew from your account",
        402: f"The account at {service} has no credit left: top it up, or use another key",
        403: f"{service} does not let this API key use the model {model!r}: choose another key or model",
        302: f"{service} sends requests elsewhere: set the address that they end up at",
        404: f"{service} has no model {model!r} at this address: choose a model that it lists",
    }.get(
        status,
        f"{service} does not take requests to {model!r} as they are: check the model and its settings",
    )
    # Some services quote the key that they refuse, a few of its characters starred out.
    quoted = "" if status == 401 else ": " + shown(message, secrets)
    return RefusedError(f"{sentence} (HTTP {status}{quoted.rstrip(': ')}).")


def secrets_of(key: str, address: str = "") -> tuple[str, ...]:
    """All that must not be shown: the key, and a password in an address, plain and as it is sent."""
    try:
        parts = urlsplit(address)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        user = password = ""
    sent = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    return tuple(secret for secret in (key, sent, password) if secret)


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text without them."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


def shown(message: str, secrets: Iterable[str]) -> str:
    """A service's message as one short line without what is secret."""
    message = hidden(message, secrets)
    message = " ".join(message.split()).rstrip(".")
    return message if len(message) <= SHOWN else message[: SHOWN - 3] + "..."
