"""Client for the OpenAI chat completions API, based on the openai package.

Works with OpenAI and with compatible servers such as Ollama, vLLM, llama.cpp and LM Studio. Builds requests and
interprets replies and errors. The caller provides the prompts and the key, and decides when to retry.
"""

import json
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from core.judging.judge import BusyError, RefusedError, Reply
from core.judging.replies import message_text
from core.judging.services.http_errors import (
    base_address,
    checked_address,
    checked_key,
    cut_off,
    error_message,
    replace_surrogates,
    retry_after,
    secrets_of,
    short_message,
    status_error,
    status_message,
)
from core.judging.services.refused_options import REFUSED_STATUSES, send_without_refused

if TYPE_CHECKING:
    from openai import APIStatusError

REQUEST_HEADERS = ("accept", "content-length", "content-type", "host", "transfer-encoding")
"""Headers that every request needs, even if OPENAI_CUSTOM_HEADERS sets them."""
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = (
    "OPENAI_API_KEY is sent only to OpenAI or to OPENAI_BASE_URL. "
    "Enter a key for this address on the Scoring page."
)
BASE_URL_HINT = "Check the base URL: it usually ends in /v1."


class OpenAICompatible:
    """A model behind an OpenAI-compatible API. Thread-safe.

    Args:
        model: model name on the server.
        temperature: sampling temperature; 0 is greedy, None uses the model's default.
        key: API key; optional unless the server is OpenAI's.
        base_url: full URL; defaults to OPENAI_BASE_URL, then to OpenAI's URL.
        timeout: read timeout in seconds.

    Raises:
        RefusedError: the key or the base URL is invalid.
    """

    def __init__(
        self,
        model: str,
        temperature: float | None,
        key: str,
        base_url: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.timeout = timeout
        configured = base_address(os.environ.get("OPENAI_BASE_URL", "")) or OPENAI_URL
        base_url = base_address(base_url or "") or configured
        self._host = checked_address(base_url, "The base URL")
        omits_key = base_url != OPENAI_URL and not key.strip()
        self._key = "" if omits_key else checked_key(key, self._host)
        self._secrets = secrets_of(self._key, base_url)
        self._target = (base_url, model)
        has_usual_path = urlsplit(base_url).path.endswith("/v1")
        self._hint = "" if has_usual_path else BASE_URL_HINT
        import openai

        self._client = openai.OpenAI(
            api_key=self._key or "none",  # the package requires a key, but local servers do not
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            # Redirects are not followed: they could leak the key.
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                timeout=timeout,
                event_hooks={"request": [] if base_url == configured else [self._drop_account]},
            ),
        )
        # Nothing else closes the client's connections, and a process may create many of these objects.
        weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"OpenAICompatible(model={self.model!r}, temperature={self.temperature}, at {self._host})"

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """Return one reply. Raises BusyError or RefusedError; see `Service.ask`."""
        import openai

        problem: BusyError | RefusedError
        try:
            body = self._complete(replace_surrogates(prompt), schema)
        except openai.APIStatusError as error:
            problem = self._convert_error(error)
        except openai.APITimeoutError:
            problem = BusyError(
                f"no reply within {self.timeout:g} s; increase the timeout if the server is slow"
            )
        except openai.APIConnectionError:
            problem = BusyError(f"no connection to {self._host}")
        except (openai.APIError, ValueError):
            problem = BusyError(f"invalid response from {self._host}")
        else:
            body_error = self._body_error(body)
            if body_error is None:
                return read_reply(body)
            problem = body_error
        # Raised outside the handlers: otherwise __context__ would keep the client library's exception,
        # which contains the request with the key.
        raise problem

    def _drop_account(self, request: Any) -> None:
        """Remove headers that the package adds from the environment. They are meant only for the configured address."""
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
        custom = [line.partition(":")[0].strip() for line in lines]
        for name in ("OpenAI-Organization", "OpenAI-Project", *custom):
            if name.lower() not in REQUEST_HEADERS:
                request.headers.pop(name, None)
        request.headers["Authorization"] = f"Bearer {self._key or 'none'}"

    def _complete(self, prompt: str, schema: Mapping[str, Any]) -> Any:
        """Return the body of a successful response: any JSON value, or the text if it is not JSON."""

        def send(options: Mapping[str, Any]) -> str:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], **options
            )
            return response.text

        options: dict[str, Any] = {"response_format": response_format(schema)}
        if self.temperature is not None:
            options["temperature"] = self.temperature

        def is_refusal(error: Exception) -> bool:
            return getattr(error, "status_code", None) in REFUSED_STATUSES

        text = send_without_refused(self._target, options, send, is_refusal)
        # The package does not validate types, so its typed response could hold any JSON value.
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text

    def _body_error(self, body: Any) -> BusyError | None:
        """Return the error reported in the body of a 200 response; None if the body is a completion."""
        fields = body if isinstance(body, dict) else {}
        choices, error = fields.get("choices"), fields.get("error")
        first = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(first, dict):
            # OpenRouter reports upstream errors in the choice.
            error = first.get("error") or error
            if not error or message_text(_message(first))[0]:
                return None
        elif choices == [] and not error:
            return None  # an empty reply
        message = short_message(error_message(error or body), self._secrets)
        hint = f". {self._hint}" if self._hint else ""
        if error:
            return BusyError(f"{self._host} reports an error: {message or 'no message'}{hint}")
        message = f": {message}" if message else ""
        return BusyError(
            f"the response from {self._host} is not a chat completion; it may come from a proxy{message}{hint}"
        )

    def _convert_error(self, error: "APIStatusError") -> BusyError | RefusedError:
        """Convert an error status to one of our own exceptions."""
        if "insufficient_quota" in (error.code, error.type):
            return RefusedError(
                f"The account at {self._host} has no credit left (HTTP {error.status_code}). "
                "Add credit or use another key."
            )
        message = error_message(error.response.text)
        wait = retry_after(error.response.headers)
        status = error.status_code
        if status in (401, 403) and not self._key:
            status_text = status_message(status, message, self._secrets)
            return RefusedError(f"{self._host} requires an API key ({status_text}). {NO_KEY}")
        return status_error(
            status, self._host, self.model, message, self._secrets, wait, self._hint
        )


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `response_format` for a schema. OpenAI requires `additionalProperties: false`."""
    closed = {"additionalProperties": False, **schema}
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": closed},
    }


def read_reply(body: Mapping[str, Any]) -> Reply:
    """Convert a completion to a reply. The fields of the body may have any type."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens_in, tokens_out = (
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )
    choices = body.get("choices")
    choice = choices[0] if choices else {}
    message, reason = _message(choice), choice.get("finish_reason")
    text, from_reasoning = message_text(message)
    cut = cut_off(tokens_out) if reason == "length" else None
    missing = None
    if reason == "content_filter":
        missing = "blocked (content_filter)"
    elif message.get("refusal"):
        missing = "refused"
    elif not text:
        missing = f"{cut} before any text" if cut else "empty reply"
    reply_text = json.dumps(body) if missing else text
    return Reply(reply_text, missing, tokens_in, tokens_out, cut, from_reasoning)


def _message(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {"content": message or choice.get("text")}


def _count(value: Any) -> int | None:
    """Return the value if it is a valid token count, otherwise None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
