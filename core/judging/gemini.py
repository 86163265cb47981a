"""Google's Gemini as a service, through google-generativeai over REST.

Knows its requests, replies and errors. Does not know what is asked or why, where a key comes from,
and when to ask again.
"""

import json
import os
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from core.judging.http_errors import (
    checked_address,
    checked_key,
    failure,
    seconds_to_wait,
    secrets_of,
    sendable,
)
from core.judging.judge import BusyError, RefusedError, Reply

NAME = "Gemini"
CONNECTIONS = 64
"""Kept open; with fewer than threads, as with the 10 of requests, some calls pay for a new one."""
MODEL = re.compile(r"(models/|tunedModels/)?[\w.@-]+")
KEPT = ("description", "nullable", "required")
"""Words of JSON Schema that Google's schema has too, with the same values."""


class Gemini:
    """A Gemini model. Used from several threads at once.

    Args:
        model: such as `gemini-2.5-flash`.
        temperature: of sampling; 0 for the likeliest answer.
        key: of an account at Google.
        endpoint: a whole address; by default that in GEMINI_API_ENDPOINT, or Google's.
        timeout: seconds without a byte after which a request has failed.

    Raises:
        RefusedError: the key, the model's name or the endpoint cannot be one.
    """

    def __init__(
        self,
        model: str,
        temperature: float,
        key: str,
        endpoint: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.timeout = timeout
        self._key = checked_key(key, NAME)
        options = {"api_key": self._key}
        endpoint = (endpoint or os.environ.get("GEMINI_API_ENDPOINT", "")).strip()
        if endpoint:
            checked_address(endpoint, "GEMINI_API_ENDPOINT")
            options["api_endpoint"] = endpoint.rstrip("/")
        self._secrets = secrets_of(self._key, endpoint)
        if not MODEL.fullmatch(model):
            raise RefusedError(
                f"{model!r} is not a name of a Gemini model such as gemini-2.5-flash."
            )
        with warnings.catch_warnings():
            # The library's maintenance has ended, which it says whenever it is imported.
            warnings.simplefilter("ignore", FutureWarning)
            from google.ai.generativelanguage import GenerativeServiceClient
            from google.generativeai.generative_models import GenerativeModel
        # A client of its own instead of the library's one for the process: two keys must not mix.
        client: Any = GenerativeServiceClient(transport="rest", client_options=options)
        _prepare(client.transport._session)
        # Nobody else closes its connections, and a process may make many of these objects.
        weakref.finalize(self, client.transport.close)
        self._model: Any = GenerativeModel(model)
        self._model._client = client

    def __repr__(self) -> str:
        return f"Gemini(model={self.model!r}, temperature={self.temperature})"

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """One reply; raises BusyError and RefusedError, as `Service.ask` says."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.protobuf.json_format import ParseError
        from requests import RequestException, Timeout, TooManyRedirects

        problem: BusyError | RefusedError
        try:
            response = self._model.generate_content(
                sendable(prompt),
                generation_config={
                    "temperature": self.temperature,
                    "response_mime_type": "application/json",
                    "response_schema": google_schema(schema),
                },
                # Without retry=None the library asks again for ten minutes on its own.
                request_options={"timeout": self.timeout, "retry": None},
            )
        except GoogleAPICallError as error:
            problem = self._meaning(error)
        except Timeout:
            problem = BusyError(f"no answer within {self.timeout:g} s")
        except TooManyRedirects:
            problem = failure(302, NAME, self.model)
        except RequestException as error:
            problem = BusyError(f"no connection to {NAME} ({type(error).__name__})")
        except (ParseError, ValueError, AttributeError, RecursionError):
            # An AttributeError where the body of an error is JSON, but not an object.
            problem = BusyError("the answer is not one of the Gemini API, but perhaps of a proxy")
        else:
            return read_reply(response)
        # Raised out here, since an exception raised while handling another one keeps that in
        # __context__, and the client library's holds the request with the key.
        raise problem

    def _meaning(self, error: Any) -> BusyError | RefusedError:
        """What an error status means. `error` is a GoogleAPICallError."""
        status = int(error.code or 500)
        details = [detail for detail in error.details if isinstance(detail, dict)]
        # The library puts "POST url: " before the message.
        message = str(error.message).partition(": ")[2]
        if status == 429 and any(map(_is_per_day, [message, *_quotas(details)])):
            return RefusedError(
                f"{NAME}'s quota for {self.model!r} is used up for today (HTTP 429): go on tomorrow, "
                "or use another model or key."
            )
        # A wrong or expired key is a 400 here, not a 401. The library's `error.reason` raises over REST.
        if status == 400 and any(part.get("reason") == "API_KEY_INVALID" for part in details):
            status = 401
        wait = _retry_delay(details)
        if wait is None and error.response is not None:
            wait = seconds_to_wait(error.response.headers)
        return failure(status, NAME, self.model, message, self._secrets, wait)


def google_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema in Google's terms: what its protocol has no word for, such as `maximum`, is left out."""
    kinds = schema.get("type", "object" if "properties" in schema else "string")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    found: dict[str, Any] = {word: schema[word] for word in KEPT if word in schema}
    found["type"] = next(kind for kind in kinds if kind != "null").upper()
    if "null" in kinds:
        found["nullable"] = True
    # Google's enumerations are of texts only.
    if found["type"] == "STRING" and "enum" in schema:
        found |= {"format": "enum", "enum": list(schema["enum"])}
    if "properties" in schema:
        found["properties"] = {
            name: google_schema(part) for name, part in schema["properties"].items()
        }
    if "items" in schema:
        found["items"] = google_schema(schema["items"])
    return found


def read_reply(response: Any) -> Reply:
    """A reply of the library's, without its `.text`, which raises where there is none."""
    usage = response.usage_metadata
    tokens_in = usage.prompt_token_count if usage else None
    # Thoughts are paid for, but counted in the total alone by this version of the protocol.
    tokens_out = (
        max(usage.candidates_token_count, usage.total_token_count - usage.prompt_token_count)
        if usage
        else None
    )
    text, missing = "", None
    if response.prompt_feedback.block_reason:
        missing = f"prompt blocked ({_name(response.prompt_feedback.block_reason)})"
    elif response.candidates:
        candidate = response.candidates[0]
        reason = _name(candidate.finish_reason)
        text = "".join(part.text for part in candidate.content.parts)
        if reason not in ("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS"):
            missing = f"blocked ({reason})"
        elif not text.strip() and reason == "MAX_TOKENS":
            missing = "cut off before any text (MAX_TOKENS)"
    if not missing and not text.strip():
        missing = "empty reply"
    kept = json.dumps(response.to_dict()) if missing else text
    return Reply(kept, missing, tokens_in, tokens_out)


def _name(reason: Any) -> str:
    """A reason's name; its number where it is newer than the library."""
    return getattr(reason, "name", str(int(reason)))


def _quotas(details: list[dict[str, Any]]) -> Iterator[str]:
    """What the details of an error name as used up."""
    for detail in details:
        for violation in detail.get("violations") or ():
            yield " ".join(map(str, violation.values()))


def _is_per_day(text: str) -> bool:
    return bool(re.search(r"per[ _-]?day|daily", text, re.IGNORECASE))


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    """Seconds after which to ask again, from `{"retryDelay": "17.5s"}`."""
    for detail in details:
        delay = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
        if delay:
            return float(delay[1])
    return None


def _prepare(session: Any) -> None:
    """Let the client's session of requests serve many threads, and one address only."""
    from requests.adapters import HTTPAdapter

    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS))
    # The API redirects nobody, and requests would carry the key along to wherever it is sent.
    session.max_redirects = 0
