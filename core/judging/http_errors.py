"""Addresses, keys and errors of language models behind HTTP.

Corrects addresses, decides whether a retry may help after an error, and words errors for users without any key.
Knows statuses, headers and the usual shapes of an error's body; no client library.
"""

import base64
import html
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from core.judging.judge import BusyError, RefusedError

MAX_MESSAGE_CHARS = 200
"""Longer messages of a service are shortened."""
MAX_BODY_CHARS = 4000
"""How much of an error's body is searched for a message."""
QUOTA_PAUSE_S = 20.0
"""Pause after a 429 without Retry-After; quotas are per minute."""
MIN_SECRET_PART_CHARS = 6
"""A word of a message that shares this many characters with a key is hidden."""
RETRY_STATUSES = {408, 409, 425, 429}
"""Statuses below 500 after which a retry may help."""
API_VERSION = re.compile(r"/v1(?:beta|alpha)?(?:/models.*)?/*$")
"""The version in a Gemini address, with the path of a request, which Google's library adds."""
ENDPOINTS = re.compile(r"/(?:chat/completions|completions|responses|models|embeddings)/*$")
"""Paths of requests, which users copy together with the base URL."""
KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|gsk|hf|xai|nvapi)[-_][\w*.-]{8,}|\bAIza[\w*-]{12,}|(?<=bearer )\S+|[^\s*]*\*{3,}\S*",
    re.IGNORECASE,
)
"""Keys as services quote them, partly starred out."""
MESSAGE_NAMES = (
    "message",
    "error",
    "detail",
    "error_description",
    "msg",
    "reason",
    "errors",
    "title",
)
"""Where the body of an error may hold its message, best first."""
TAG = re.compile(r"<[a-z/!][^<>]*>", re.IGNORECASE)
HIDDEN_ELEMENTS = re.compile(r"<(script|style|head)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)


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
        raise RefusedError(f"{setting} is not a whole address such as http://127.0.0.1:8000/v1.")
    return f"{host}:{port}" if port else host


def base_address(address: str, with_version: bool = True) -> str:
    """Return a base URL without white space and without the path of a request, such as `/chat/completions`.

    Args:
        with_version: keep the version of the API, such as `/v1`. Gemini's client library adds it.
    """
    added_path = ENDPOINTS if with_version else API_VERSION
    return added_path.sub("", address.strip()).rstrip("/")


def is_loopback(address: str) -> bool:
    """Whether an address is on this machine."""
    try:
        host = (urlsplit(address.strip()).hostname or "").rstrip(".")
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    # Connecting to the unspecified address (0.0.0.0) reaches this machine.
    return bool(ip.is_loopback or ip.is_unspecified or (mapped and mapped.is_loopback))


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
    hint: str = "",
) -> BusyError | RefusedError:
    """Return the error for a status that is no success.

    Args:
        service: as a user knows it.
        message: the service's own; shown in part, without keys.
        secrets: what must not be shown.
        wait: seconds that the service asks to wait.
        hint: a sentence to add where the service was not found.
    """
    described = status_message(status, message, secrets)
    if status == 429:
        return BusyError(
            f"too many requests ({described})", QUOTA_PAUSE_S if wait is None else wait
        )
    if status >= 500 or status in RETRY_STATUSES:
        return BusyError(f"{service} failed ({described})", wait)
    sentence = {
        302: f"{service} redirects requests: set the address that it redirects to",
        401: f"{service} does not accept the API key: copy it again from your account",
        402: f"The account at {service} has no credit left: top it up, or use another key",
        403: f"{service} does not allow this API key to use the model {model!r}: choose another key or model",
        404: f"{service} has no model {model!r} at this address: choose a model that it lists",
        405: f"{service} takes no requests at this address: check the base URL",
    }.get(
        302 if 300 <= status < 400 else status,
        f"{service} refuses requests to {model!r}: check the model and its settings",
    )
    hint = f" {hint}" if hint and status in (404, 405) else ""
    return RefusedError(f"{sentence} ({described}).{hint}")


def status_message(status: int, message: str, secrets: Iterable[str]) -> str:
    """Return a status with a service's message as it may be shown, such as `HTTP 404: no such model`."""
    said = shown(message, secrets)
    return f"HTTP {status}: {said}" if said else f"HTTP {status}"


def error_message(body: Any, depth: int = 0) -> str:
    """Return the message in the body of an error, empty if there is none.

    Args:
        body: JSON of any shape, or text: JSON, HTML or plain.
    """
    if isinstance(body, str):
        try:
            return error_message(json.loads(body), depth + 1) if body[:1] in "{[" else body.strip()
        except (ValueError, RecursionError):
            return body.strip()
    if depth > 4:
        return ""
    if isinstance(body, Mapping):
        found = (error_message(body.get(name), depth + 1) for name in MESSAGE_NAMES)
        return next(filter(None, found), "")
    if isinstance(body, list):  # FastAPI's list of validation errors
        return "; ".join(filter(None, (error_message(part, depth + 1) for part in body[:3])))
    return ""


def cut_off(limit: int | None) -> str:
    """Return why a reply is incomplete. The limit that was in effect is the number of tokens sent."""
    return f"cut off by its limit of {limit:,} tokens" if limit else "cut off by its token limit"


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
    """Return a text with `[key]` in place of every secret."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


def shown(message: str, secrets: Iterable[str]) -> str:
    """Return a service's message as one short line without HTML and keys, whole or in part."""
    secrets = tuple(secrets)
    message = hidden(_without_html(message[:MAX_BODY_CHARS]), secrets)
    message = KEY_SHAPES.sub("[key]", message)
    parts = {
        secret[i : i + MIN_SECRET_PART_CHARS]
        for secret in secrets
        for i in range(len(secret) - MIN_SECRET_PART_CHARS + 1)
    }
    words = ["[key]" if any(part in word for part in parts) else word for word in message.split()]
    message = " ".join(words).rstrip(".")
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS - 3] + "..."
    return message


def _without_html(text: str) -> str:
    """Return the visible text of an HTML page, its title if there is none; other text as it is."""
    if not TAG.search(text):
        return text
    visible = html.unescape(TAG.sub(" ", HIDDEN_ELEMENTS.sub(" ", text))).strip()
    return visible or html.unescape(TAG.sub(" ", text)).strip()
