"""A judge that asks a language model: sends a question to a service and parses the verdict from the reply."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.judging.judge import Item, Service, Verdict
from core.judging.questions import Question
from core.judging.services.http_errors import redact


class ModelJudge:
    """A judge that sends one request per item to a service.

    Args:
        name: name of the judge, such as `gemini`.
        connect: creates the service. Called when the first item is judged, so cost estimates do not need a connection.
        question: prompt template and reply format.
        model: model name.
        temperature: sampling temperature; None for the model's default.
        secrets: the API key and other strings to redact from replies before they are stored.
        host: host of the service, if different hosts may serve different models under the same name.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Service],
        question: Question,
        model: str,
        temperature: float | None,
        secrets: Sequence[str] = (),
        host: str = "",
    ) -> None:
        self._connect, self._question, self._secrets = connect, question, secrets
        self._service: Service | None = None
        self._connect_lock = threading.Lock()
        self.spec = {
            "judge": name,
            "kind": question.kind,
            "model": model,
            "temperature": temperature,
            "prompt": question.template,
            **({"service": host} if host else {}),
        }

    def prompt(self, item: Item) -> str:
        """Return the prompt for an item."""
        return self._question.fill(item)

    def judge(self, item: Item) -> Verdict:
        """Send one request and return its verdict. Raises BusyError or RefusedError."""
        with self._connect_lock:
            self._service = self._service or self._connect()
        start = time.perf_counter()
        reply = self._service.ask(self.prompt(item), self._question.schema)
        if reply.missing:
            verdict = Verdict(None, missing=reply.missing, raw=reply.text)
        else:
            verdict = self._question.read(reply.text, item, reply.cut, reply.from_reasoning)
        return replace(
            verdict,
            reason=self._redact(verdict.reason),
            raw=self._redact(verdict.raw),
            missing=verdict.missing and self._redact(verdict.missing),
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            seconds=round(time.perf_counter() - start, 3),
        )

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)
