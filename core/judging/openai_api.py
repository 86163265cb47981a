"""A service that speaks OpenAI's chat completions, through the openai package: OpenAI's own, or a
server such as Ollama or vLLM at another address.

Knows its requests, replies and errors. Does not know what is asked or why, where a key comes from,
and when to ask again.
"""

import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.judging.http_errors import (
    checked_address,
    checked_key,
    failure,
    seconds_to_wait,
    secrets_of,
    sendable,
)
from core.judging.judge import BusyError, RefusedError, Reply

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat import ChatCompletion

OPENAI = "https://api.openai.com/v1"


class OpenAICompatible:
    """A model behind OpenAI's protocol. Used from several threads at once.

    Args:
        model: as the server names it.
        temperature: of sampling; 0 for the likeliest answer.
        key: of an account; may be empty at another address than OpenAI's.
        base_url: a whole address; by default that in OPENAI_BASE_URL, or OpenAI's.
        timeout: seconds without a byte after which a request has failed.

    Raises:
        RefusedError: the key or the address cannot be one.
    """

    def __init__(
        self,
        model: str,
        temperature: float,
        key: str,
        base_url: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.timeout = timeout
        base_url = (base_url or os.environ.get("OPENAI_BASE_URL", "")).strip() or OPENAI
        self._host = checked_address(base_url, "OPENAI_BASE_URL")
        is_local = base_url != OPENAI and not key.strip()
        self._key = "" if is_local else checked_key(key, self._host)
        self._secrets = secrets_of(self._key, base_url)
        self._takes_schema = True
        import openai

        self._client = openai.OpenAI(
            api_key=self._key or "none",  # the package insists on one, a local server does not
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            # Keeps up to 100 connections. Followed, a redirect could turn a request into another one.
            http_client=openai.DefaultHttpxClient(follow_redirects=False, timeout=timeout),
        )
        # Nobody else closes its connections, and a process may make many of these objects.
        weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"OpenAICompatible(model={self.model!r}, temperature={self.temperature}, at {self._host})"

    def ask(self, prompt: str, schema: Mapping[str, Any]) -> Reply:
        """One reply; raises BusyError and RefusedError, as `Service.ask` says."""
        import openai
        from openai.types.chat import ChatCompletion

        problem: BusyError | RefusedError
        try:
            completion = self._complete(sendable(prompt), schema)
        except openai.APIStatusError as error:
            problem = self._meaning(error)
        except openai.APITimeoutError:
            problem = BusyError(f"no answer within {self.timeout:g} s")
        except openai.APIConnectionError:
            problem = BusyError(f"no connection to {self._host}")
        except (openai.APIError, ValueError):
            problem = BusyError(f"the answer of {self._host} cannot be read")
        else:
            # The package hands over whatever came: a text, a list, None.
            if isinstance(completion, ChatCompletion):
                return read_reply(completion)
            problem = BusyError(
                f"the answer of {self._host} is no completion, but perhaps of a proxy"
            )
        # Raised out here, since an exception raised while handling another one keeps that in
        # __context__, and the client library's holds the request with the key.
        raise problem

    def _complete(self, prompt: str, schema: Mapping[str, Any]) -> "ChatCompletion":
        import openai

        if self._takes_schema:
            try:
                return self._create(prompt, response_format=response_format(schema))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if "response_format" not in error.response.text:
                    raise
                # An older server. Threads that find out at the same time set the same value.
                self._takes_schema = False
        return self._create(prompt)

    def _create(self, prompt: str, **extra: Any) -> "ChatCompletion":
        return self._client.chat.completions.create(
            model=self.model,
            temperature=self.temperature,
            messages=[{"role": "user", "content": prompt}],
            **extra,
        )

    def _meaning(self, error: "APIStatusError") -> BusyError | RefusedError:
        """What an error status means."""
        if "insufficient_quota" in (error.code, error.type):
            return RefusedError(
                f"The account at {self._host} has no credit left (HTTP {error.status_code}): "
                "top it up, or use another key."
            )
        # The package puts "Error code: 404 - " before the message.
        message = error.message.partition(" - ")[2]
        wait = seconds_to_wait(error.response.headers)
        return failure(error.status_code, self._host, self.model, message, self._secrets, wait)


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The request for JSON of that schema. OpenAI holds a model to none that leaves room for more."""
    closed = {"additionalProperties": False, **schema}
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": closed},
    }


def read_reply(completion: "ChatCompletion") -> Reply:
    """A completion's text. The package checks no types: what it declares may be None all the same."""
    usage = completion.usage
    tokens_in = usage.prompt_tokens if usage else None
    tokens_out = usage.completion_tokens if usage else None
    choice = completion.choices[0] if completion.choices else None
    message = choice.message if choice else None
    reason = choice.finish_reason if choice else None
    text = (message.content if message else None) or ""
    missing = None
    if reason == "content_filter":
        missing = "blocked (content_filter)"
    elif message and message.refusal:
        missing = "refused"
    elif not text.strip():
        missing = "cut off before any text (length)" if reason == "length" else "empty reply"
    kept = completion.model_dump_json() if missing else text
    return Reply(kept, missing, tokens_in, tokens_out)
