"""A service that speaks OpenAI's chat completions, through the openai package: OpenAI's own, or a
server such as Ollama, vLLM, llama.cpp or LM Studio at another address.

Knows its requests, replies and errors. Does not know what is asked or why, where a key comes from,
and when to retry.
"""

import json
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from core.judging.http_errors import (
    base_address,
    checked_address,
    checked_key,
    cut_off,
    error_message,
    failure,
    seconds_to_wait,
    secrets_of,
    sendable,
    shown,
    status_message,
)
from core.judging.judge import BusyError, RefusedError, Reply
from core.judging.refused_options import REFUSED_STATUSES, send_without_refused
from core.judging.replies import message_text

if TYPE_CHECKING:
    from openai import APIStatusError

REQUEST_HEADERS = ("accept", "content-length", "content-type", "host", "transfer-encoding")
"""Headers that a request needs, whatever the environment sets."""
OPENAI = "https://api.openai.com/v1"
NO_KEY = (
    "The key in OPENAI_API_KEY is sent only to the address in OPENAI_BASE_URL or to OpenAI; on the "
    "Scoring page, type a key for this address."
)
BASE_URL_HINT = "Check the base URL: it usually ends in /v1."


class OpenAICompatible:
    """A model behind OpenAI's protocol. Used from several threads at once.

    Args:
        model: as the server names it.
        temperature: of sampling; 0 for the likeliest answer, None for the server's default.
        key: of an account; may be empty at another address than OpenAI's.
        base_url: a whole address; by default that in OPENAI_BASE_URL, or OpenAI's.
        timeout: seconds without a byte after which a request fails.

    Raises:
        RefusedError: the key or the address is not valid.
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
        configured = base_address(os.environ.get("OPENAI_BASE_URL", "")) or OPENAI
        base_url = base_address(base_url or "") or configured
        self._host = checked_address(base_url, "The base URL")
        has_no_key = base_url != OPENAI and not key.strip()
        self._key = "" if has_no_key else checked_key(key, self._host)
        self._secrets = secrets_of(self._key, base_url)
        self._target = (base_url, model)
        is_usual = urlsplit(base_url).path.endswith("/v1")
        self._hint = "" if is_usual else BASE_URL_HINT
        import openai

        self._client = openai.OpenAI(
            api_key=self._key or "none",  # the package requires one, a local server does not
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            # Keeps up to 100 connections. Redirects are not followed: they could leak the key.
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                timeout=timeout,
                event_hooks={"request": [] if base_url == configured else [self._drop_account]},
            ),
        )
        # Nothing else closes its connections, and a process may make many of these objects.
        weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"OpenAICompatible(model={self.model!r}, temperature={self.temperature}, at {self._host})"

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """Return one reply. Raises BusyError and RefusedError, as `Service.ask` says."""
        import openai

        problem: BusyError | RefusedError
        try:
            body = self._complete(sendable(prompt), schema)
        except openai.APIStatusError as error:
            problem = self._meaning(error)
        except openai.APITimeoutError:
            problem = BusyError(
                f"no answer within {self.timeout:g} s; a slow server needs a longer timeout"
            )
        except openai.APIConnectionError:
            problem = BusyError(f"no connection to {self._host}")
        except (openai.APIError, ValueError):
            problem = BusyError(f"the answer of {self._host} cannot be read")
        else:
            fault = self._fault(body)
            if fault is None:
                return read_reply(body)
            problem = fault
        # Raised out here: an exception raised while handling another one keeps that in __context__,
        # and the one of the client library holds the request with the key.
        raise problem

    def _drop_account(self, request: Any) -> None:
        """Remove what the package adds from the environment: it belongs to the configured address only."""
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
        custom = [line.partition(":")[0].strip() for line in lines]
        for name in ("OpenAI-Organization", "OpenAI-Project", *custom):
            if name.lower() not in REQUEST_HEADERS:
                request.headers.pop(name, None)
        request.headers["Authorization"] = f"Bearer {self._key or 'none'}"

    def _complete(self, prompt: str, schema: Mapping[str, Any]) -> Any:
        """Return the body of a 200: JSON of any shape, or text if it is none."""
        import openai

        def send(options: Mapping[str, Any]) -> str:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], **options
            )
            return response.text

        options: dict[str, Any] = {"response_format": response_format(schema)}
        if self.temperature is not None:
            options["temperature"] = self.temperature

        def is_refusal(error: Exception) -> bool:
            is_status = isinstance(error, openai.APIStatusError)
            return is_status and error.status_code in REFUSED_STATUSES

        text = send_without_refused(self._target, options, send, is_refusal)
        # The package would check no types: what it declares may be of any.
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text

    def _fault(self, body: Any) -> BusyError | None:
        """Return what is wrong with the body of a 200 that holds no completion."""
        fields = body if isinstance(body, dict) else {}
        choices, error = fields.get("choices"), fields.get("error")
        first = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(first, dict):
            # OpenRouter reports faults of the services behind it in a choice.
            error = first.get("error") or error
            if not error or message_text(_message(first))[0]:
                return None
        elif choices == [] and not error:
            return None  # an empty reply
        said = shown(error_message(error or body), self._secrets)
        hint = f". {self._hint}" if self._hint else ""
        if error:
            return BusyError(f"{self._host} reports an error: {said or 'no message'}{hint}")
        said = f": {said}" if said else ""
        return BusyError(
            f"the answer of {self._host} is not a completion, but perhaps of a proxy{said}{hint}"
        )

    def _meaning(self, error: "APIStatusError") -> BusyError | RefusedError:
        """Return what an error status means."""
        if "insufficient_quota" in (error.code, error.type):
            return RefusedError(
                f"The account at {self._host} has no credit left (HTTP {error.status_code}): "
                "top it up, or use another key."
            )
        message = error_message(error.response.text)
        wait = seconds_to_wait(error.response.headers)
        status = error.status_code
        if status in (401, 403) and not self._key:
            described = status_message(status, message, self._secrets)
            return RefusedError(f"{self._host} asks for an API key ({described}). {NO_KEY}")
        return failure(status, self._host, self.model, message, self._secrets, wait, self._hint)


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request for JSON of that schema. OpenAI accepts only schemas without other keys."""
    closed = {"additionalProperties": False, **schema}
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": closed},
    }


def read_reply(body: Mapping[str, Any]) -> Reply:
    """Return the reply in a completion, whose values may be of any type."""
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
    kept = json.dumps(body) if missing else text
    return Reply(kept, missing, tokens_in, tokens_out, cut, from_reasoning)


def _message(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {"content": message or choice.get("text")}


def _count(value: Any) -> int | None:
    """Return a count of tokens, None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
