"""The Gemini client, with the real google-generativeai and a fake server on loopback."""

import json
import logging
import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core.judging.judge import BusyError, RefusedError, Reply
from core.judging.services.gemini import Gemini, google_schema, read_reply
from tests.judging.server import TEXTS, JudgeServer, google_error, google_reply

KEY = "SECRET-KEY-123456"
SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 100, "description": "0 to 100"},
        "reason": {"type": "string"},
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}


def gemini(server: JudgeServer, **settings: Any) -> Gemini:
    defaults: dict[str, Any] = {
        "model": "gemini-2.5-flash",
        "temperature": 0.25,
        "key": KEY,
        "timeout": 20.0,
    }
    return Gemini(**defaults | {"endpoint": server.gemini_endpoint} | settings)


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
        assert gemini(server).ask("Judge it. " * 8, SCHEMA) == Reply('{"score": 80}', None, 20, 3)


def test_prompt_schema_temperature_and_key_are_sent() -> None:
    with JudgeServer() as server:
        gemini(server).ask("Is 'größer' right?", SCHEMA)
        (request,) = server.requests
    assert request["path"] == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert request["prompt"] == "Is 'größer' right?"
    assert request["headers"]["x-goog-api-key"] == KEY
    assert request["body"]["generationConfig"] == {
        "temperature": 0.25,
        "responseMimeType": "application/json",
        "responseSchema": {  # types are sent as numbers: 1 STRING, 3 INTEGER, 6 OBJECT
            "type": 6,
            "properties": {"score": {"type": 3, "description": "0 to 100"}, "reason": {"type": 1}},
            "required": ["score", "reason"],
        },
    }


def test_schema_keeps_only_fields_supported_by_google() -> None:
    schema = {
        "properties": {
            "better": {"enum": ["A", "B"], "type": ["string", "null"]},
            "marks": {"type": "array", "items": {"type": "number", "maximum": 5}},
        }
    }
    assert google_schema(schema) == {
        "type": "OBJECT",
        "properties": {
            "better": {"type": "STRING", "nullable": True, "format": "enum", "enum": ["A", "B"]},
            "marks": {"type": "ARRAY", "items": {"type": "NUMBER"}},
        },
    }


@pytest.mark.parametrize("fault", TEXTS)
def test_reply_text_is_returned_unchanged(fault: str) -> None:
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        assert gemini(server).ask("Judge it.", SCHEMA).text == TEXTS[fault]


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ("safety", "blocked (SAFETY)"),
        ("blocked_prompt", "prompt blocked (SAFETY)"),
        ("empty", "empty reply"),
        ("cut", "cut off by its token limit before any text"),
    ],
)
def test_reply_without_text_gives_the_reason(fault: str, missing: str) -> None:
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        reply = gemini(server).ask("Judge it.", SCHEMA)
    assert reply.missing == missing
    assert isinstance(json.loads(reply.text), dict), "the whole response is kept"


def test_truncated_reply_keeps_its_text_and_reports_the_limit() -> None:
    body = google_reply('{"score": 85, "reason": "clo', "", finish=2)
    body["usageMetadata"] = {"candidatesTokenCount": 256, "totalTokenCount": 256}
    with JudgeServer(respond=lambda _: (200, body)) as server:
        reply = gemini(server).ask("Judge it.", SCHEMA)
    assert (reply.text, reply.missing) == ('{"score": 85, "reason": "clo', None)
    assert reply.cut == "cut off by its limit of 256 tokens"


@pytest.mark.parametrize("refused", ["responseMimeType", "temperature"])
def test_rejected_settings_are_omitted_from_later_requests(refused: str) -> None:
    model = f"gemma-refuses-{refused}"
    error = google_error(400, "INVALID_ARGUMENT", "Not enabled for this model.")

    def respond(body: dict[str, Any]) -> tuple[int, Any] | None:
        return (400, error) if refused in body.get("generationConfig", {}) else None

    with JudgeServer(respond=respond) as server:
        assert gemini(server, model=model).ask("Judge it.", SCHEMA).missing is None
        first = len(server.requests)
        assert gemini(server, model=model).ask("Judge it.", SCHEMA).missing is None
        assert len(server.requests) == first + 1, "the second client remembers the rejection"


def test_temperature_none_is_omitted_from_requests() -> None:
    with JudgeServer() as server:
        gemini(server, temperature=None).ask("Judge it.", SCHEMA)
        assert "temperature" not in server.requests[0]["body"]["generationConfig"]


@pytest.mark.parametrize("ending", ["/v1beta", "/v1beta/models/gemini-2.5-flash:generateContent"])
def test_request_path_is_stripped_from_the_endpoint(ending: str) -> None:
    with JudgeServer() as server:
        service = gemini(server, endpoint=server.gemini_endpoint + ending)
        assert service.ask("Judge it.", SCHEMA).missing is None


def test_unknown_finish_reason_is_shown_as_a_number() -> None:
    from google.generativeai.protos import GenerateContentResponse
    from google.generativeai.types import GenerateContentResponse as Response

    response = GenerateContentResponse()
    GenerateContentResponse.pb(response).candidates.add(finish_reason=99)
    with pytest.warns(UserWarning, match="Unrecognized FinishReason"):
        assert read_reply(Response.from_response(response)).missing == "blocked (99)"


def test_thoughts_are_excluded_from_the_reply() -> None:
    parts = [{"text": '{"score": 0}', "thought": True}, {"text": '{"score": 85}'}]
    body = {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": 1}]}
    with JudgeServer(respond=lambda _: (200, body)) as server:
        assert gemini(server).ask("Judge it.", SCHEMA).text == '{"score": 85}'


def test_error_in_a_200_response_raises_busy_error() -> None:
    body = {"error": {"code": 500, "message": "upstream is down"}}
    with JudgeServer(respond=lambda _: (200, body)) as server:
        with pytest.raises(BusyError, match="upstream is down"):
            gemini(server).ask("Judge it.", SCHEMA)
        server.respond = lambda _: None
        assert gemini(server).ask("Judge it.", SCHEMA).missing is None


def test_thought_tokens_count_as_output_tokens() -> None:
    from google.generativeai.protos import GenerateContentResponse
    from google.generativeai.types import GenerateContentResponse as Response

    usage = {"prompt_token_count": 10, "candidates_token_count": 5, "total_token_count": 115}
    reply = read_reply(Response.from_response(GenerateContentResponse(usage_metadata=usage)))
    assert (reply.tokens_in, reply.tokens_out) == (10, 105)


@pytest.mark.parametrize(
    ("fault", "reason", "wait"),
    [
        ("429_minute", "too many requests", 17.5),
        ("500", "HTTP 500", None),
        ("503", "HTTP 503", None),
        ("timeout", "no reply within 0.5 s", None),
        ("drop", "no connection", None),
        ("html", "not from the Gemini API", None),
        ("html_as_json", "not from the Gemini API", None),
        ("null", "not from the Gemini API", None),
    ],
)
def test_temporary_errors_are_retryable(fault: str, reason: str, wait: float | None) -> None:
    with JudgeServer(fault=lambda number, prompt: fault if number == 1 else None) as server:
        service = gemini(server, timeout=0.5)
        with pytest.raises(BusyError, match=reason) as caught:
            service.ask("Judge it.", SCHEMA)
        assert caught.value.wait == wait
        assert KEY not in exception_text(caught.value)
        assert len(server.requests) == 1, "the library must not retry on its own"
        assert service.ask("Judge it.", SCHEMA).text


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("429_day", "quota for 'gemini-2.5-flash' is used up for today"),
        ("wrong_key", "does not accept the API key"),
        (
            "400",
            "rejected the request for model 'gemini-2.5-flash': check the model name and settings (HTTP 400: The prompt is too long)",
        ),
        ("403", "choose another key or model (HTTP 403: Key [key] was reported as leaked)"),
        ("404", "has no model 'gemini-2.5-flash'"),
    ],
)
def test_permanent_errors_are_not_retryable(
    fault: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with JudgeServer(fault=lambda number, prompt: fault) as server:
        service = gemini(server)
        with pytest.raises(RefusedError, match=re.escape(sentence)) as caught:
            service.ask("Judge it.", SCHEMA)
        assert server.requests[0]["headers"]["x-goog-api-key"] == KEY
    assert KEY not in exception_text(caught.value) + repr(service) + str(
        vars(service)["_model"]
    ) + str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"key": " "}, "is missing"),
        ({"key": f"{KEY}\nX"}, "contains invalid characters"),
        ({"endpoint": f"localhost:8000/{KEY}"}, "The base URL must be a full URL"),
        ({"model": "a/b"}, "'a/b' is not a valid Gemini model name"),
    ],
)
def test_invalid_settings_are_refused_before_a_request(
    settings: dict[str, Any], sentence: str
) -> None:
    with JudgeServer() as server, pytest.raises(RefusedError, match=sentence) as caught:
        gemini(server, **settings)
    assert KEY not in exception_text(caught.value)


def test_unreachable_address_is_reported() -> None:
    with JudgeServer() as server:
        pass
    with pytest.raises(BusyError, match="no connection to Gemini") as caught:
        gemini(server).ask("Judge it.", SCHEMA)
    assert KEY not in exception_text(caught.value)


def test_endpoint_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer() as server:
        monkeypatch.setenv("GEMINI_API_ENDPOINT", server.gemini_endpoint + "/")
        assert gemini(server, endpoint=None, key=f" {KEY}\n").ask("Judge \ud83d it.", SCHEMA).text


def test_threads_with_two_keys_do_not_mix(caplog: pytest.LogCaptureFixture) -> None:
    """With 32 threads sharing two clients, each prompt must be sent with the right key and get its own reply."""
    with JudgeServer(answer=lambda prompt: f"about {prompt}", delay=0.05) as server:
        services = [gemini(server, key=f"{KEY}-{n}") for n in range(2)]
        prompts = [f"{n % 2}-{n}" for n in range(96)]
        start = time.perf_counter()
        with ThreadPoolExecutor(32) as threads:
            replies = list(threads.map(lambda p: services[int(p[0])].ask(p, SCHEMA).text, prompts))
        seconds = time.perf_counter() - start
        keys = {(r["prompt"][0], r["headers"]["x-goog-api-key"][-1]) for r in server.requests}
    assert replies == [f"about {prompt}" for prompt in prompts]
    assert keys == {("0", "0"), ("1", "1")}
    assert "Connection pool is full" not in caplog.text
    assert seconds < 96 * 0.05 / 2, "requests are not concurrent"
