"""Client for Google's Gemini API, based on google-generativeai over REST.

Builds requests and interprets replies and errors. The caller provides the prompts and the key, and decides when to
retry.
"""

import json
import os
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from core.judging.judge import BusyError, RefusedError, Reply
from core.judging.services.http_errors import (
    base_address,
    checked_address,
    checked_key,
    cut_off,
    replace_surrogates,
    retry_after,
    secrets_of,
    status_error,
)
from core.judging.services.refused_options import REFUSED_STATUSES, send_without_refused

SERVICE_NAME = "Gemini"
MAX_CONNECTIONS = 64
"""Connection pool size. The default in requests, 10, is less than the maximum number of threads."""
MODEL_NAME = re.compile(r"(models/|tunedModels/)?[\w.@-]+")
SHARED_SCHEMA_KEYS = ("description", "nullable", "required")
"""JSON Schema keywords that Google's schema format supports with the same values."""


class Gemini:
    """A Gemini model. Thread-safe.

    Args:
        model: model name, such as `gemini-2.5-flash`.
        temperature: sampling temperature; 0 is greedy, None uses the model's default.
        key: Gemini API key.
        endpoint: full URL; defaults to GEMINI_API_ENDPOINT, then to Google's endpoint.
        timeout: read timeout in seconds.

    Raises:
        RefusedError: the key, the model name or the endpoint is invalid.
    """

    def __init__(
        self,
        model: str,
        temperature: float | None,
        key: str,
        endpoint: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.timeout = timeout
        self._key = checked_key(key, SERVICE_NAME)
        options = {"api_key": self._key}
        endpoint = endpoint or os.environ.get("GEMINI_API_ENDPOINT", "")
        endpoint = base_address(endpoint, with_version=False)
        if endpoint:
            checked_address(endpoint, "The base URL")
            options["api_endpoint"] = endpoint
        self._secrets = secrets_of(self._key, endpoint)
        self._target = (endpoint, model)
        if not MODEL_NAME.fullmatch(model):
            raise RefusedError(
                f"{model!r} is not a valid Gemini model name, such as gemini-2.5-flash."
            )
        with warnings.catch_warnings():
            # The library is no longer maintained and warns about it on every import.
            warnings.simplefilter("ignore", FutureWarning)
            from google.ai.generativelanguage import GenerativeServiceClient
            from google.generativeai.generative_models import GenerativeModel
        # A separate client, instead of the library's global one, so that keys are never mixed up.
        client: Any = GenerativeServiceClient(transport="rest", client_options=options)
        _configure(_session(client))
        # Nothing else closes the client's connections, and a process may create many of these objects.
        weakref.finalize(self, client.transport.close)
        self._model: Any = _with_client(GenerativeModel(model), client)

    def __repr__(self) -> str:
        return f"Gemini(model={self.model!r}, temperature={self.temperature})"

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """Return one reply. Raises BusyError or RefusedError; see `Service.ask`."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.protobuf.json_format import ParseError
        from requests import RequestException, Timeout, TooManyRedirects

        problem: BusyError | RefusedError
        try:
            response = self._generate(replace_surrogates(prompt), schema)
        except GoogleAPICallError as error:
            problem = self._convert_error(error)
        except Timeout:
            problem = BusyError(
                f"no reply within {self.timeout:g} s; increase the timeout if the server is slow"
            )
        except TooManyRedirects:
            problem = status_error(302, SERVICE_NAME, self.model)
        except RequestException as error:
            problem = BusyError(f"no connection to {SERVICE_NAME} ({type(error).__name__})")
        except (ParseError, ValueError, AttributeError, RecursionError):
            # The library raises AttributeError if an error body is JSON but not an object.
            problem = BusyError("the response is not from the Gemini API; it may come from a proxy")
        else:
            return read_reply(response)
        # Raised outside the handlers: otherwise __context__ would keep the client library's exception,
        # which contains the request with the key.
        raise problem

    def _generate(self, prompt: str, schema: Mapping[str, Any]) -> Any:
        """Send a request, without the schema or the temperature if the model rejects them."""
        from google.api_core.exceptions import GoogleAPICallError

        def send(options: Mapping[str, Any]) -> Any:
            config: dict[str, Any] = {}
            if "temperature" in options:
                config["temperature"] = options["temperature"]
            if "schema" in options:
                config["response_mime_type"] = "application/json"
                config["response_schema"] = options["schema"]
            return self._model.generate_content(
                prompt,
                generation_config=config,
                # Without retry=None, the library would retry for ten minutes.
                request_options={"timeout": self.timeout, "retry": None},
            )

        def is_refusal(error: Exception) -> bool:
            if not isinstance(error, GoogleAPICallError) or error.code not in REFUSED_STATUSES:
                return False
            return not _is_bad_key(error)

        options: dict[str, Any] = {"schema": google_schema(schema)}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        return send_without_refused(self._target, options, send, is_refusal)

    def _convert_error(self, error: Any) -> BusyError | RefusedError:
        """Convert a GoogleAPICallError to one of our own exceptions."""
        status = int(error.code or 500)
        details = _details(error)
        # The library prefixes the message with "POST url: ".
        message = str(error.message).partition(": ")[2]
        if status == 429 and any(map(_is_per_day, [message, *_quotas(details)])):
            return RefusedError(
                f"{SERVICE_NAME}'s quota for {self.model!r} is used up for today (HTTP 429). Continue tomorrow, "
                "or use another model or key."
            )
        if status == 400 and _is_bad_key(error):
            status = 401
        wait = _retry_delay(details)
        if wait is None and error.response is not None:
            wait = retry_after(error.response.headers)
        return status_error(status, SERVICE_NAME, self.model, message, self._secrets, wait)


def google_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a JSON schema to Google's format. Unsupported keywords such as `maximum` are dropped."""
    types = schema.get("type", "object" if "properties" in schema else "string")
    types = [types] if isinstance(types, str) else list(types)
    converted: dict[str, Any] = {key: schema[key] for key in SHARED_SCHEMA_KEYS if key in schema}
    converted["type"] = next(name for name in types if name != "null").upper()
    if "null" in types:
        converted["nullable"] = True
    # Google supports only string enums.
    if converted["type"] == "STRING" and "enum" in schema:
        converted |= {"format": "enum", "enum": list(schema["enum"])}
    if "properties" in schema:
        converted["properties"] = {
            name: google_schema(part) for name, part in schema["properties"].items()
        }
    if "items" in schema:
        converted["items"] = google_schema(schema["items"])
    return converted


def read_reply(response: Any) -> Reply:
    """Convert the library's response. Avoids its `.text`, which raises if there is no text."""
    usage = response.usage_metadata
    tokens_in = usage.prompt_token_count if usage else None
    # Thinking tokens are billed, but this version of the protocol includes them only in the total.
    tokens_out = (
        max(usage.candidates_token_count, usage.total_token_count - usage.prompt_token_count)
        if usage
        else None
    )
    text, missing, cut = "", None, None
    if response.prompt_feedback.block_reason:
        missing = f"prompt blocked ({_name(response.prompt_feedback.block_reason)})"
    elif response.candidates:
        candidate = response.candidates[0]
        reason = _name(candidate.finish_reason)
        text = "".join(part.text for part in candidate.content.parts)
        if reason not in ("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS"):
            missing = f"blocked ({reason})"
        elif reason == "MAX_TOKENS":
            cut = cut_off(tokens_out)
            missing = None if text.strip() else f"{cut} before any text"
    if not missing and not text.strip():
        missing = "empty reply"
    reply_text = json.dumps(response.to_dict()) if missing else text
    return Reply(reply_text, missing, tokens_in, tokens_out, cut)


def _name(reason: Any) -> str:
    """Return the name of a reason, or its number if the library has no name for it."""
    return getattr(reason, "name", str(int(reason)))


def _details(error: Any) -> list[dict[str, Any]]:
    """Return the details of a GoogleAPICallError."""
    return [detail for detail in error.details if isinstance(detail, dict)]


def _is_bad_key(error: Any) -> bool:
    """Whether a 400 means an invalid or expired key. The library's `error.reason` raises over REST."""
    return any(detail.get("reason") == "API_KEY_INVALID" for detail in _details(error))


def _quotas(details: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the quotas that the error details report as exceeded."""
    for detail in details:
        for violation in detail.get("violations") or ():
            yield " ".join(map(str, violation.values()))


def _is_per_day(text: str) -> bool:
    return bool(re.search(r"per[ _-]?day|daily", text, re.IGNORECASE))


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    """Return the retry delay in seconds, from `{"retryDelay": "17.5s"}`."""
    for detail in details:
        delay = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
        if delay:
            return float(delay[1])
    return None


def _configure(session: Any) -> None:
    """Configure the client's session for many threads and disable redirects."""
    from requests.adapters import HTTPAdapter

    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=MAX_CONNECTIONS))
    session.hooks["response"].append(_clean_response)
    # The API never redirects, and requests would send the key to the redirect target.
    session.max_redirects = 0


def _clean_response(response: Any, **_: Any) -> None:
    """Remove thoughts, which the library would return as text, and turn an error in a 200 response into a 503."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return
    if response.status_code != 200 or not isinstance(body, dict):
        return
    if body.get("error") and not body.get("candidates"):
        response.status_code = 503
        return
    for candidate in body.get("candidates") or ():
        content = candidate.get("content") if isinstance(candidate, dict) else None
        if isinstance(content, dict) and isinstance(parts := content.get("parts"), list):
            content["parts"] = [p for p in parts if not (isinstance(p, dict) and p.get("thought"))]
    _replace_content(response, json.dumps(body).encode())


def _session(client: Any) -> Any:
    """Return the client's `requests` session. google-ai-generativelanguage 0.6 does not expose it publicly."""
    return client.transport._session


def _with_client(model: Any, client: Any) -> Any:
    """Make a model use this client. By default, google-generativeai 0.8 creates one from global settings."""
    model._client = client
    return model


def _replace_content(response: Any, content: bytes) -> None:
    """Replace the body of a response. requests 2 has no public setter."""
    response._content = content
