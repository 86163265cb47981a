"""OpenAI's protocol through the real openai package, against a server of our own on loopback."""

import json
import logging
import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core.judging.judge import BusyError, RefusedError, Reply
from core.judging.openai_api import OpenAICompatible
from tests.judging.server import TEXTS, JudgeServer

KEY = "SECRET-KEY-123456"
SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
        "reason": {"type": "string"},
    },
    "required": ["score", "reason"],
}


def compatible(server: JudgeServer, **settings: Any) -> OpenAICompatible:
    given: dict[str, Any] = {"model": "judge", "temperature": 0.25, "key": KEY, "timeout": 20.0}
    return OpenAICompatible(**given | {"base_url": server.openai_base_url} | settings)


def told(error: BaseException) -> str:
    """All that an exception says, with those that it was raised from or while handling."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None:
        chain.append(following)
        following = following.__cause__ or following.__context__
    lines = [line for link in chain for line in traceback.format_exception(link)]
    return "".join([*lines, *map(str, chain), *map(repr, chain)])


def test_a_reply_comes_with_its_tokens() -> None:
    with JudgeServer(answer=lambda prompt: f'{{"score": {len(prompt)}}}') as server:
        assert compatible(server).ask("Judge it. " * 8, SCHEMA) == Reply(
            '{"score": 80}', None, 20, 3
        )


def test_prompt_schema_temperature_and_key_are_sent() -> None:
    with JudgeServer() as server:
        compatible(server).ask("Is 'größer' right?", SCHEMA)
        (request,) = server.requests
    assert request["headers"]["authorization"] == f"Bearer {KEY}"
    assert request["body"] == {
        "model": "judge",
        "temperature": 0.25,
        "messages": [{"role": "user", "content": "Is 'größer' right?"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "verdict",
                "strict": True,
                "schema": SCHEMA | {"additionalProperties": False},
            },
        },
    }


def test_a_server_without_response_format_is_asked_without_from_then_on() -> None:
    with JudgeServer(fault=lambda number, prompt: "no_response_format") as server:
        service = compatible(server)
        assert [service.ask("Judge it.", SCHEMA).missing for _ in range(2)] == [None, None]
        sent = ["response_format" in request["body"] for request in server.requests]
    assert sent == [True, False, False]


@pytest.mark.parametrize("fault", TEXTS)
def test_a_text_is_handed_on_as_it_is(fault: str) -> None:
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        assert compatible(server).ask("Judge it.", SCHEMA).text == TEXTS[fault]


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ("safety", "blocked (content_filter)"),
        ("blocked_prompt", "refused"),
        ("empty", "empty reply"),
        ("cut", "cut off before any text (length)"),
    ],
)
def test_a_reply_without_a_text_says_why(fault: str, missing: str) -> None:
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        reply = compatible(server).ask("Judge it.", SCHEMA)
    assert reply.missing == missing
    assert json.loads(reply.text)["object"] == "chat.completion", "all that came is kept"


@pytest.mark.parametrize(
    ("fault", "reason", "wait"),
    [
        ("429_minute", "too many requests", 17.0),
        ("500", "HTTP 500", None),
        ("503", "HTTP 503", None),
        ("timeout", "no answer within 0.5 s", None),
        ("drop", "no connection", None),
        ("html", "perhaps of a proxy", None),
        ("html_as_json", "cannot be read", None),
        ("null", "perhaps of a proxy", None),
    ],
)
def test_asking_again_may_help(fault: str, reason: str, wait: float | None) -> None:
    with JudgeServer(fault=lambda number, prompt: fault if number == 1 else None) as server:
        service = compatible(server, timeout=0.5)
        with pytest.raises(BusyError, match=reason) as caught:
            service.ask("Judge it.", SCHEMA)
        assert caught.value.wait == wait
        assert KEY not in told(caught.value)
        assert len(server.requests) == 1, "the package must not ask again by itself"
        assert service.ask("Judge it.", SCHEMA).text


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("429_day", "has no credit left"),
        ("wrong_key", "does not accept the API key"),
        ("400", "check the model and its settings (HTTP 400: The prompt is too long)"),
        ("403", "choose another key or model (HTTP 403: Key [key] may not use it)"),
        ("404", "has no model 'judge'"),
    ],
)
def test_asking_again_will_not_help(
    fault: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        service = compatible(server)
        with pytest.raises(RefusedError, match=re.escape(sentence)) as caught:
            service.ask("Judge it.", SCHEMA)
        assert server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"
        assert len(server.requests) == 1
    assert KEY not in told(caught.value) + repr(service) + str(
        [vars(record) for record in caplog.records]
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"key": "", "base_url": "https://api.openai.com/v1"}, "is missing"),
        ({"key": f"{KEY}\nX"}, "has characters that no key has"),
        ({"base_url": f"localhost:8000/{KEY}"}, "OPENAI_BASE_URL is not a whole address"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(settings: dict[str, Any], sentence: str) -> None:
    with JudgeServer() as server, pytest.raises(RefusedError, match=sentence) as caught:
        compatible(server, **settings)
    assert KEY not in told(caught.value)


def test_a_local_server_needs_no_key_and_its_address_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    with JudgeServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_base_url)
        assert compatible(server, key="", base_url=None).ask("Judge \ud83d it.", SCHEMA).text
        assert server.requests[0]["headers"]["authorization"] == "Bearer none"


def test_nobody_at_the_address() -> None:
    with JudgeServer() as server:
        pass
    with pytest.raises(BusyError, match=r"no connection to 127\.0\.0\.1") as caught:
        compatible(server).ask("Judge it.", SCHEMA)
    assert KEY not in told(caught.value)


def test_sixteen_threads_at_once() -> None:
    with JudgeServer(answer=lambda prompt: f"about {prompt}", delay=0.05) as server:
        service = compatible(server)
        prompts = [str(n) for n in range(96)]
        start = time.perf_counter()
        with ThreadPoolExecutor(16) as threads:
            replies = list(threads.map(lambda prompt: service.ask(prompt, SCHEMA).text, prompts))
        seconds = time.perf_counter() - start
    assert replies == [f"about {prompt}" for prompt in prompts]
    assert seconds < 96 * 0.05 / 2, "the calls wait for each other"
