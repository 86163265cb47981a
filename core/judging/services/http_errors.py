"""URLs, keys and errors for language model APIs accessed over HTTP.

Normalizes URLs, decides which errors are worth retrying, and formats error messages with all keys redacted. Handles
HTTP statuses, headers and common error bodies, and does not depend on any client library.
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
"""Longer service messages are truncated."""
MAX_BODY_CHARS = 4000
"""The rest of a longer error body is ignored."""
QUOTA_PAUSE_S = 20.0
"""Pause after a 429 without Retry-After; quotas are per minute."""
MIN_SECRET_PART_CHARS = 6
"""A word that shares this many consecutive characters with a key is redacted."""
RETRY_STATUSES = {408, 409, 425, 429}
"""Statuses below 500 that are worth retrying."""
API_VERSION = re.compile(r"/v1(?:beta|alpha)?(?:/models.*)?/*$")
"""API version and request path at the end of a Gemini URL. Removed because Google's library adds them."""
ENDPOINTS = re.compile(r"/(?:chat/completions|completions|responses|models|embeddings)/*$")
"""Request paths that users often paste along with the base URL."""
KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|gsk|hf|xai|nvapi)[-_][\w*.-]{8,}|\bAIza[\w*-]{12,}|(?<=bearer )\S+|[^\s*]*\*{3,}\S*",
    re.IGNORECASE,
)
"""API keys in error messages, possibly partly masked with asterisks."""
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
"""Fields of an error body that may contain the message, most specific first."""
TAG = re.compile(r"<[a-z/!][^<>]*>", re.IGNORECASE)
HIDDEN_ELEMENTS = re.compile(r"<(script|style|head)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)


def checked_key(key: str, service: str) -> str:
    """Return the key without surrounding whitespace.

    The key is checked here because the client libraries would quote an invalid key in their error messages.

    Raises:
        RefusedError: the key is empty or contains characters that cannot be sent.
    """
    key = key.strip()
    if not re.fullmatch(r"[!-~]+", key):
        problem = "contains invalid characters" if key else "is missing"
        raise RefusedError(f"The API key for {service} {problem}. Copy it again from your account.")
    return key


def checked_address(address: str, setting: str) -> str:
    """Return the host, or host:port, of a URL. Unlike the URL itself, it is safe to display.

    Raises:
        RefusedError: the URL is incomplete. The message does not quote it, because it may contain a password.
    """
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise RefusedError(f"{setting} must be a full URL, such as http://127.0.0.1:8000/v1.")
    return f"{host}:{port}" if port else host


def base_address(address: str, with_version: bool = True) -> str:
    """Strip whitespace and a request path such as `/chat/completions` from a base URL.

    Args:
        with_version: keep the API version, such as `/v1`. False for Gemini, whose client library adds it.
    """
    path = ENDPOINTS if with_version else API_VERSION
    return path.sub("", address.strip()).rstrip("/")


def is_loopback(address: str) -> bool:
    """Whether a URL points to this machine."""
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


def replace_surrogates(prompt: str) -> str:
    """Replace lone surrogates, which data sets can contain but UTF-8 cannot encode."""
    return prompt.encode("utf-8", "replace").decode("utf-8")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the delay from the Retry-After header (a number or a date) in seconds; None if missing or invalid."""
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


def status_error(
    status: int,
    service: str,
    model: str,
    message: str = "",
    secrets: Iterable[str] = (),
    wait: float | None = None,
    hint: str = "",
) -> BusyError | RefusedError:
    """Return the exception for an error status.

    Args:
        service: display name of the service.
        message: error message from the service; truncated and redacted.
        secrets: strings to redact.
        wait: retry delay requested by the service, in seconds.
        hint: sentence appended to 404 and 405 errors.
    """
    status_text = status_message(status, message, secrets)
    if status == 429:
        return BusyError(
            f"too many requests ({status_text})", QUOTA_PAUSE_S if wait is None else wait
        )
    if status >= 500 or status in RETRY_STATUSES:
        return BusyError(f"{service} failed ({status_text})", wait)
    sentence = {
        302: f"{service} redirects requests: use the redirect target as the base URL",
        401: f"{service} does not accept the API key: copy it again from your account",
        402: f"The account at {service} has no credit left: add credit or use another key",
        403: f"{service} does not allow this API key to use the model {model!r}: choose another key or model",
        404: f"{service} has no model {model!r} at this address: choose a model that the server lists",
        405: f"{service} does not accept requests at this address: check the base URL",
    }.get(
        302 if 300 <= status < 400 else status,
        f"{service} rejected the request for model {model!r}: check the model name and settings",
    )
    hint = f" {hint}" if hint and status in (404, 405) else ""
    return RefusedError(f"{sentence} ({status_text}).{hint}")


def status_message(status: int, message: str, secrets: Iterable[str]) -> str:
    """Return a status with the service's redacted message, such as `HTTP 404: no such model`."""
    text = short_message(message, secrets)
    return f"HTTP {status}: {text}" if text else f"HTTP {status}"


def error_message(body: Any, depth: int = 0) -> str:
    """Return the message in an error body; empty if there is none.

    Args:
        body: parsed JSON of any shape, or text that contains JSON, HTML or a plain message.
        depth: recursion depth.
    """
    if isinstance(body, str):
        try:
            return error_message(json.loads(body), depth + 1) if body[:1] in "{[" else body.strip()
        except (ValueError, RecursionError):
            return body.strip()
    if depth > 4:
        return ""
    if isinstance(body, Mapping):
        messages = (error_message(body.get(name), depth + 1) for name in MESSAGE_NAMES)
        return next(filter(None, messages), "")
    if isinstance(body, list):  # FastAPI reports validation errors as a list
        return "; ".join(filter(None, (error_message(part, depth + 1) for part in body[:3])))
    return ""


def cut_off(limit: int | None) -> str:
    """Return why a reply is incomplete. A reply that is cut off has as many tokens as the limit allows."""
    return f"cut off by its limit of {limit:,} tokens" if limit else "cut off by its token limit"


def secrets_of(key: str, address: str = "") -> tuple[str, ...]:
    """Return the strings to redact.

    These are the API key, the password in the URL, and the Base64 credentials sent in the request header.
    """
    try:
        parts = urlsplit(address)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        user = password = ""
    sent = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    return tuple(secret for secret in (key, sent, password) if secret)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret in a text with `[key]`."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


def short_message(message: str, secrets: Iterable[str]) -> str:
    """Return a service's message as one short line without HTML. Whole and partial keys are redacted."""
    secrets = tuple(secrets)
    message = redact(_without_html(message[:MAX_BODY_CHARS]), secrets)
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
    """Return the visible text of an HTML page, or its title if no text is visible. Other text is returned unchanged."""
    if not TAG.search(text):
        return text
    visible = html.unescape(TAG.sub(" ", HIDDEN_ELEMENTS.sub(" ", text))).strip()
    return visible or html.unescape(TAG.sub(" ", text)).strip()
