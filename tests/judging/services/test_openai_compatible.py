"""The OpenAI-compatible client, with the real openai package and a fake server on loopback."""

import json
import logging
import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core.judging.judge import BusyError, RefusedError, Reply
from core.judging.services.openai_compatible import OpenAICompatible
from tests.judging.server import TEXTS, JudgeServer, openai_reply

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
    defaults: dict[str, Any] = {"model": "judge", "temperature": 0.25, "key": KEY, "timeout": 20.0}
    return OpenAICompatible(**defaults | {"base_url": server.openai_base_url} | settings)


def exception_text(error: BaseException) -> str:
    """Return everything that would be printed for an exception and its causes."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    lines = [line for link in chain for line in traceback.format_exception(link)]
    return "".join([*lines, *map(str, chain), *map(repr, chain)])


def test_reply_includes_token_counts() -> None:
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


VERDICT = '{"score": 85}'
CONTENTS: list[tuple[dict[str, Any], str, bool]] = [
    ({"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": VERDICT}]}, VERDICT, False),
    ({"content": [{"type": "text", "text": '{"score"'}, {"type": "text", "text": ": 85}"}]}, VERDICT, False),
    ({"content": None, "reasoning_content": VERDICT}, VERDICT, True),
    ({"content": "", "reasoning": VERDICT}, VERDICT, True),
    ({"content": 85}, "85", False),
    ({"content": {"score": 85}}, VERDICT, False),
]  # fmt: skip


@pytest.mark.parametrize(("message", "text", "from_reasoning"), CONTENTS)
def test_content_of_any_type_is_read(
    message: dict[str, Any], text: str, from_reasoning: bool
) -> None:
    with JudgeServer(respond=lambda body: (200, openai_reply(None, "", **message))) as server:
        reply = compatible(server).ask("Judge it.", SCHEMA)
    assert (reply.text, reply.missing, reply.from_reasoning) == (text, None, from_reasoning)


@pytest.mark.parametrize("message", [None, [], {}, {"content": []}, {"content": [None, 0]}, "text"])
def test_malformed_messages_never_raise(message: Any) -> None:
    body = {"choices": [{"message": message, "finish_reason": ["odd"]}], "usage": "odd"}
    with JudgeServer(respond=lambda _: (200, body)) as server:
        reply = compatible(server).ask("Judge it.", SCHEMA)
    assert isinstance(reply.text, str)
    assert (reply.tokens_in, reply.tokens_out, reply.cut) == (None, None, None)


@pytest.mark.parametrize(
    ("body", "expected_message"),
    [
        ({"error": {"message": "model runner has stopped", "code": 500}}, "model runner has stopped"),
        ({"error": "Unexpected endpoint or method"}, "Unexpected endpoint or method"),
        ({"error": "out of memory", "choices": None}, "out of memory"),
        ({"error": {"message": "upstream is down"}, "choices": []}, "upstream is down"),
        ({"choices": [{"error": {"message": "no provider"}, "message": {"content": ""}}]}, "no provider"),
        ({"error": {"message": "worker died"}, "choices": [{"message": {"content": ""}}]}, "worker died"),
        ({"detail": "still loading"}, "still loading"),
    ],
)  # fmt: skip
def test_error_in_a_200_response_raises_busy_error(
    body: dict[str, Any], expected_message: str
) -> None:
    with JudgeServer(respond=lambda _: (200, body)) as server:
        with pytest.raises(BusyError, match=expected_message):
            compatible(server).ask("Judge it.", SCHEMA)
        server.respond = lambda _: None
        assert compatible(server).ask("Judge it.", SCHEMA).missing is None


def rejecting(*names: str, status: int = 400) -> Any:
    """Return a `respond` function that rejects requests with any of these parameters without giving a reason."""

    def respond(body: dict[str, Any]) -> tuple[int, Any] | None:
        return (status, {"error": "Bad request"}) if {*names} & {*body} else None

    return respond


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "refused", [["response_format"], ["temperature"], ["response_format", "temperature"]]
)
def test_rejected_parameters_are_omitted_from_later_requests(
    refused: list[str], status: int
) -> None:
    model = f"rejects {refused} {status}"
    with JudgeServer(respond=rejecting(*refused, status=status)) as server:
        assert compatible(server, model=model).ask("Judge it.", SCHEMA).missing is None
        first = len(server.requests)
        assert compatible(server, model=model).ask("Judge it.", SCHEMA).missing is None
        other = compatible(server, model=f"{model}, another model")
        assert other.ask("Judge it.", SCHEMA).missing is None
        sent = [{"response_format", "temperature"} & {*r["body"]} for r in server.requests]
    kept = {"response_format", "temperature"} - {*refused}
    assert sent[0] == {"response_format", "temperature"}
    assert kept in sent[:first]
    assert sent[first] == kept, "the second client remembers the rejection"
    assert sent[first + 1] == sent[0], "a different model starts with all parameters"


def test_400_about_the_prompt_does_not_remove_parameters() -> None:
    with JudgeServer(respond=lambda body: (400, {"error": "too long"})) as server:
        service = compatible(server, model="takes short prompts")
        for count in (2, 4):
            with pytest.raises(RefusedError, match="too long"):
                service.ask("Judge it.", SCHEMA)
            assert len(server.requests) == count
        server.respond = lambda _: None
        assert service.ask("Judge it.", SCHEMA).missing is None
        assert {"response_format", "temperature"} <= {*server.requests[-1]["body"]}


def test_other_error_during_the_search_does_not_remove_parameters() -> None:
    def respond(body: dict[str, Any]) -> tuple[int, Any] | None:
        options = {"response_format", "temperature"} & {*body}
        return {2: (400, {"error": "Bad request"}), 1: (503, "busy")}.get(len(options))

    with JudgeServer(respond=respond) as server:
        service = compatible(server, model="busy while searching")
        with pytest.raises(BusyError, match="busy"):
            service.ask("Judge it.", SCHEMA)
        assert len(server.requests) == 3
        server.respond = lambda _: None
        service.ask("Judge it.", SCHEMA)
        assert {"response_format", "temperature"} <= {*server.requests[-1]["body"]}


def test_temperature_none_is_omitted_from_requests() -> None:
    with JudgeServer() as server:
        compatible(server, temperature=None).ask("Judge it.", SCHEMA)
        assert "temperature" not in server.requests[0]["body"]


def test_truncated_reply_keeps_its_text_and_reports_the_limit() -> None:
    cut = openai_reply('{"score": 85, "reason": "clo', "", finish="length")
    cut["usage"]["completion_tokens"] = 256
    empty = openai_reply("", "", finish="length", reasoning="Let me see")
    empty["usage"]["completion_tokens"] = 256
    for body, text in ((cut, '{"score": 85, "reason": "clo'), (empty, "Let me see")):
        with JudgeServer(respond=lambda _, body=body: (200, body)) as server:
            reply = compatible(server).ask("Judge it.", SCHEMA)
        assert (reply.text, reply.missing) == (text, None)
        assert reply.cut == "cut off by its limit of 256 tokens"


@pytest.mark.parametrize(
    ("status", "body", "expected_message"),
    [
        (400, {"error": {"message": "context is too long"}}, "(HTTP 400: context is too long)"),
        (400, {"error": "context is too long"}, "(HTTP 400: context is too long)"),
        (422, {"detail": [{"loc": ["body"], "msg": "Field required"}]}, "(HTTP 422: Field required)"),
        (400, {"detail": "context is too long"}, "(HTTP 400: context is too long)"),
        (400, "context is too long", "(HTTP 400: context is too long)"),
        (503, "<html><head><title>x</title></head><body><h1>No <b>backend</b></h1></body></html>", "(HTTP 503: No backend)"),
        (500, {"error": "out of memory"}, "(HTTP 500: out of memory)"),
        (429, {"error": "slow down"}, "(HTTP 429: slow down)"),
        (500, {"error": f"key {KEY[:9]}... failed"}, "(HTTP 500: key [key] failed)"),
        (401, {"error": f"Incorrect key: {KEY[:3]}*****{KEY[-4:]}"}, "(HTTP 401: Incorrect key: [key])"),
        (400, "x" * 5000, "x" * 197 + "...)"),
    ],
)  # fmt: skip
def test_error_includes_the_server_message(status: int, body: Any, expected_message: str) -> None:
    with JudgeServer(respond=lambda _: (status, body)) as server:
        with pytest.raises((BusyError, RefusedError), match=re.escape(expected_message)) as caught:
            compatible(server, model="reports an error").ask("Judge it.", SCHEMA)
        assert "<" not in str(caught.value)
        assert KEY[:9] not in exception_text(caught.value)


def test_404_error_suggests_a_base_url_ending_in_v1() -> None:
    with JudgeServer() as server:
        without_path = compatible(server, base_url=server.gemini_endpoint)
        with pytest.raises(RefusedError, match=r"it usually ends in /v1") as caught:
            without_path.ask("Judge it.", SCHEMA)
        assert "HTTP 404: 404 page not found" in str(caught.value)
        server.fault = lambda number, prompt: "404"
        with pytest.raises(RefusedError, match="has no model") as caught:
            compatible(server).ask("Judge it.", SCHEMA)
        assert "/v1" not in str(caught.value), "no hint if the URL already ends in /v1"


@pytest.mark.parametrize("ending", ["/chat/completions", "/chat/completions/", "/", "/models", " "])
def test_request_path_is_stripped_from_the_base_url(ending: str) -> None:
    with JudgeServer() as server:
        service = compatible(server, base_url=server.openai_base_url + ending)
        assert service.ask("Judge it.", SCHEMA).missing is None


def test_missing_key_error_says_where_the_stored_key_is_sent() -> None:
    with (
        JudgeServer(respond=lambda _: (401, {"error": "Unauthorized"})) as server,
        pytest.raises(RefusedError, match="requires an API key") as caught,
    ):
        compatible(server, key="").ask("Judge it.", SCHEMA)
    assert "HTTP 401: Unauthorized" in str(caught.value)
    assert "OPENAI_BASE_URL" in str(caught.value)


@pytest.mark.parametrize("fault", TEXTS)
def test_reply_text_is_returned_unchanged(fault: str) -> None:
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        assert compatible(server).ask("Judge it.", SCHEMA).text == TEXTS[fault]


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ("safety", "blocked (content_filter)"),
        ("blocked_prompt", "refused"),
        ("empty", "empty reply"),
        ("cut", "cut off by its token limit before any text"),
    ],
)
def test_reply_without_text_gives_the_reason(fault: str, missing: str) -> None:
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        reply = compatible(server).ask("Judge it.", SCHEMA)
    assert reply.missing == missing
    assert json.loads(reply.text)["object"] == "chat.completion", "the whole response is kept"


@pytest.mark.parametrize(
    ("fault", "reason", "wait"),
    [
        ("429_minute", "too many requests", 17.0),
        ("500", "HTTP 500", None),
        ("503", "HTTP 503", None),
        ("timeout", "no reply within 0.5 s", None),
        ("drop", "no connection", None),
        ("html", "may come from a proxy", None),
        ("html_as_json", "may come from a proxy: Please log in", None),
        ("null", "may come from a proxy", None),
    ],
)
def test_temporary_errors_are_retryable(fault: str, reason: str, wait: float | None) -> None:
    with JudgeServer(fault=lambda number, prompt: fault if number == 1 else None) as server:
        service = compatible(server, timeout=0.5)
        with pytest.raises(BusyError, match=reason) as caught:
            service.ask("Judge it.", SCHEMA)
        assert caught.value.wait == wait
        assert KEY not in exception_text(caught.value)
        assert len(server.requests) == 1, "the package must not retry on its own"
        assert service.ask("Judge it.", SCHEMA).text


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("429_day", "has no credit left"),
        ("wrong_key", "does not accept the API key"),
        (
            "400",
            "rejected the request for model 'judge': check the model name and settings (HTTP 400: The prompt is too long)",
        ),
        ("403", "choose another key or model (HTTP 403: Key [key] may not use it)"),
        ("404", "has no model 'judge'"),
    ],
)
def test_permanent_errors_are_not_retryable(
    fault: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        service = compatible(server)
        with pytest.raises(RefusedError, match=re.escape(sentence)) as caught:
            service.ask("Judge it.", SCHEMA)
        assert {r["headers"]["authorization"] for r in server.requests} == {f"Bearer {KEY}"}
        # A 400 may mean that a parameter was rejected, so the request is retried without parameters.
        assert len(server.requests) == (2 if fault == "400" else 1)
    assert KEY not in exception_text(caught.value) + repr(service) + str(
        [vars(record) for record in caplog.records]
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"key": "", "base_url": "https://api.openai.com/v1"}, "is missing"),
        ({"key": f"{KEY}\nX"}, "contains invalid characters"),
        ({"base_url": f"localhost:8000/{KEY}"}, "The base URL must be a full URL"),
    ],
)
def test_invalid_settings_are_refused_before_a_request(
    settings: dict[str, Any], sentence: str
) -> None:
    with JudgeServer() as server, pytest.raises(RefusedError, match=sentence) as caught:
        compatible(server, **settings)
    assert KEY not in exception_text(caught.value)


def test_local_server_does_not_need_a_key_and_its_url_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    with JudgeServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_base_url)
        assert compatible(server, key="", base_url=None).ask("Judge \ud83d it.", SCHEMA).text
        assert server.requests[0]["headers"]["authorization"] == "Bearer none"


def test_account_headers_are_sent_only_to_the_configured_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: gate-secret\nAuthorization: env-secret")
    with JudgeServer() as server:
        assert compatible(server).ask("Judge it.", SCHEMA).text
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_base_url)
        assert compatible(server, base_url=None).ask("Judge it.", SCHEMA).text
        other, configured = (request["headers"] for request in server.requests)
    assert "secret" not in str({**other, "authorization": ""})
    assert other["authorization"] == f"Bearer {KEY}"
    assert (configured["openai-organization"], configured["x-gateway"]) == (
        "org-secret",
        "gate-secret",
    )


def test_unreachable_address_is_reported() -> None:
    with JudgeServer() as server:
        pass
    with pytest.raises(BusyError, match=r"no connection to 127\.0\.0\.1") as caught:
        compatible(server).ask("Judge it.", SCHEMA)
    assert KEY not in exception_text(caught.value)


def test_sixteen_threads_share_a_client() -> None:
    with JudgeServer(answer=lambda prompt: f"about {prompt}", delay=0.05) as server:
        service = compatible(server)
        prompts = [str(n) for n in range(96)]
        start = time.perf_counter()
        with ThreadPoolExecutor(16) as threads:
            replies = list(threads.map(lambda prompt: service.ask(prompt, SCHEMA).text, prompts))
        seconds = time.perf_counter() - start
    assert replies == [f"about {prompt}" for prompt in prompts]
    assert seconds < 96 * 0.05 / 2, "requests are not concurrent"
