"""A fake judge server on loopback with the Gemini and OpenAI protocols, for tests with the real client libraries.

Faults are scripted and imitate responses from the real services. Prompts are not interpreted.

    python -m tests.judging.server --delay 0.1      print the port and serve until killed
"""

import argparse
import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

Answer = Callable[[str], str]
Fault = Callable[[int, str], str | None]
Respond = Callable[[dict[str, Any]], tuple[int, Any] | None]

GEMINI_PATH = re.compile(r"/v1beta/(?:models|tunedModels)/[^/:]+:generateContent")
OPENAI_PATH = "/v1/chat/completions"
TEXTS = {
    "bare_integer": "85",
    "out_of_range": '{"score": 140, "reason": "very good"}',
    "prose": 'Here is my verdict:\n```json\n{"score": 85, "reason": "close"}\n```\nI hope it helps.',
    "garbage": "I would rather not give a number.",
}
"""Model faults: valid responses with unexpected text."""
PAGES = {
    "html": (b"<html><body>Please log in</body></html>", "text/html"),
    "html_as_json": (b"<html><body>Please log in</body></html>", "application/json"),
    "null": (b"null", "application/json"),
}
"""Proxy faults: the body and content type of a 200 response that does not come from the service."""


def default_answer(prompt: str) -> str:
    return '{"score": 70, "reason": "close"}'


def no_fault(number: int, prompt: str) -> None:
    return None


def no_response(body: dict[str, Any]) -> None:
    return None


def google_error(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return {"error": error}


def google_quota(period: str, wait: str) -> dict[str, Any]:
    """Return the body of a 429 response for the free tier. `period` is Minute or Day."""
    kind = "type.googleapis.com/google.rpc."
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier",
        "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash"},
        "quotaValue": "10",
    }
    links = [{"description": "Learn more", "url": "https://ai.google.dev/gemini-api/docs"}]
    return google_error(
        429, "RESOURCE_EXHAUSTED",
        f"You exceeded your current quota, please check your plan and billing details.\nPlease retry in {wait}.",
        {"@type": kind + "Help", "links": links},
        {"@type": kind + "QuotaFailure", "violations": [violation]},
        {"@type": kind + "RetryInfo", "retryDelay": wait},
    )  # fmt: skip


def google_bad_key() -> dict[str, Any]:
    return google_error(
        400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        },
    )  # fmt: skip


def google_reply(text: str, prompt: str, finish: int = 1) -> dict[str, Any]:
    """Return a Gemini response. The library requests finish reasons as numbers: 1 STOP, 2 MAX_TOKENS, 3 SAFETY."""
    tokens_in, tokens_out = len(prompt) // 4, len(text) // 4
    content = {"role": "model", "parts": [{"text": text}] if text else []}
    return {
        "candidates": [{"content": content, "finishReason": finish, "index": 0}],
        "usageMetadata": {
            "promptTokenCount": tokens_in,
            "candidatesTokenCount": tokens_out,
            "totalTokenCount": tokens_in + tokens_out,
        },
        "modelVersion": "gemini-2.5-flash",
    }


def openai_reply(
    text: str | None, prompt: str, finish: str = "stop", **message_fields: Any
) -> dict[str, Any]:
    tokens_in, tokens_out = len(prompt) // 4, len(text or "") // 4
    message = {"role": "assistant", "content": text, "refusal": None} | message_fields
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        },
    }  # fmt: skip


def openai_error(
    message: str, kind: str, code: str | None, param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def google_fault(fault: str, prompt: str, key: str) -> tuple[int, dict[str, Any]]:
    blocked_reply = {"promptFeedback": {"blockReason": 1}, "usageMetadata": {"promptTokenCount": 9}}
    return {
        "429_minute": lambda: (429, google_quota("Minute", "17.5s")),
        "429_day": lambda: (429, google_quota("Day", "3600s")),
        "500": lambda: (500, google_error(500, "INTERNAL", "An internal error has occurred.")),
        "503": lambda: (503, google_error(503, "UNAVAILABLE", "The model is overloaded.")),
        "safety": lambda: (200, google_reply("", prompt, finish=3)),
        "cut": lambda: (200, google_reply("", prompt, finish=2)),
        "blocked_prompt": lambda: (200, blocked_reply),
        "empty": lambda: (200, {"candidates": []}),
        "wrong_key": lambda: (400, google_bad_key()),
        "400": lambda: (400, google_error(400, "INVALID_ARGUMENT", "The prompt is too long.")),
        "403": lambda: (403, google_error(403, "PERMISSION_DENIED", f"Key {key} was reported as leaked.")),
        "404": lambda: (404, google_error(404, "NOT_FOUND", "models/nothing is not found for v1beta.")),
    }[fault]()  # fmt: skip


def openai_fault(fault: str, prompt: str, key: str) -> tuple[int, dict[str, Any]]:
    quota = "You exceeded your current quota, please check your plan and billing details."
    # "Incorrect API key provided" quotes the key in full, as some servers do.
    return {
        "429_minute": lambda: (429, openai_error("Rate limit reached.", "requests", "rate_limit_exceeded")),
        "429_day": lambda: (429, openai_error(quota, "insufficient_quota", "insufficient_quota")),
        "500": lambda: (500, openai_error("The server had an error.", "server_error", None)),
        "503": lambda: (503, openai_error("The engine is overloaded.", "server_error", None)),
        "safety": lambda: (200, openai_reply(None, prompt, finish="content_filter")),
        "cut": lambda: (200, openai_reply("", prompt, finish="length")),
        "blocked_prompt": lambda: (200, openai_reply(None, prompt, refusal="I cannot help with that.")),
        "empty": lambda: (200, openai_reply("", prompt) | {"choices": []}),
        "wrong_key": lambda: (401, openai_error(f"Incorrect API key provided: {key}.", "invalid_request_error", "invalid_api_key")),
        "400": lambda: (400, openai_error("The prompt is too long.", "invalid_request_error", None)),
        "403": lambda: (403, openai_error(f"Key {key} may not use it.", "invalid_request_error", None)),
        "404": lambda: (404, openai_error("The model `nothing` does not exist", "invalid_request_error", "model_not_found")),
        "no_response_format": lambda: (400, openai_error("Unknown parameter: response_format", "invalid_request_error", None)),
    }[fault]()  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Handles the requests on one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    """Buffer writes: a body in a separate packet would have to wait for the client's delayed acknowledgment."""
    server: "Listener"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        judge = self.server.judge
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = urlsplit(self.path).path
        is_google = bool(GEMINI_PATH.fullmatch(path))
        if not is_google and path != OPENAI_PATH:
            self._send(404, b"404 page not found", "text/plain")
            return
        if is_google:
            prompt = "".join(part["text"] for turn in body["contents"] for part in turn["parts"])
            key = headers.get("x-goog-api-key", "")
        else:
            prompt = body["messages"][-1]["content"]
            key = headers.get("authorization", "").removeprefix("Bearer ")
        with judge.lock:
            judge.requests.append(
                {"path": path, "body": body, "headers": headers, "prompt": prompt}
            )
            number = len(judge.requests)
        if (scripted := judge.respond(body)) is not None:
            status, content = scripted
            if isinstance(content, str):
                self._send(status, content.encode(), "text/html")
            else:
                self._send(status, json.dumps(content).encode(), "application/json")
            return
        fault = judge.fault(number, prompt)
        judge.closing.wait(judge.delay)
        if fault == "no_response_format" and "response_format" not in body:
            fault = None
        if fault == "timeout":
            judge.closing.wait(60)
        if fault in ("timeout", "drop"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault in PAGES:
            self._send(200, *PAGES[fault])
            return
        if fault is None or fault in TEXTS:
            text = TEXTS[fault] if fault else judge.answer(prompt)
            status, reply = 200, (google_reply if is_google else openai_reply)(text, prompt)
        else:
            status, reply = (google_fault if is_google else openai_fault)(fault, prompt, key)
        self._send(status, json.dumps(reply).encode(), "application/json; charset=UTF-8")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 429 and self.path.startswith(OPENAI_PATH):
            self.send_header("Retry-After", "17")
        self.end_headers()
        self.wfile.write(body)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    judge: "JudgeServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors, because the client disconnects on purpose in some tests."""


class JudgeServer:
    """A fake judge server. It serves requests while its `with` block is active.

    Args:
        answer: returns the model's text for a prompt.
        fault: returns the fault for the n-th request (counted from 1) and its prompt, or None. A fault is `timeout`,
        `drop`, or a key of TEXTS, PAGES, google_fault or openai_fault.
        delay: seconds before each response.
        port: port to listen on, or 0 to pick a free one.
        respond: returns the status and body (JSON or text) for a request body, or None to respond normally.
    """

    def __init__(
        self,
        answer: Answer = default_answer,
        fault: Fault = no_fault,
        delay: float = 0.0,
        port: int = 0,
        respond: Respond = no_response,
    ) -> None:
        self.answer, self.fault, self.delay, self.respond = answer, fault, delay, respond
        self.requests: list[dict[str, Any]] = []
        """Requests in order of arrival: path, body, headers (lower-case names) and prompt. Guarded by `lock`."""
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.listener = Listener(("127.0.0.1", port), Handler)
        self.listener.judge = self
        self.port: int = self.listener.server_address[1]
        self.gemini_endpoint = f"http://127.0.0.1:{self.port}"
        self.openai_base_url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "JudgeServer":
        # The poll interval is short because closing waits for the next poll.
        self._thread = threading.Thread(
            target=self.listener.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self.listener.shutdown()
        self.listener.server_close()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each response")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = JudgeServer(delay=options.delay, port=options.port)
    print(server.port, flush=True)
    server.listener.serve_forever()


if __name__ == "__main__":
    main()
