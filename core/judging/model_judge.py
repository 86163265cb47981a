"""A language model as a judge: a question, a service that answers it, and the verdict read from its reply."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.judging.judge import Item, Service, Verdict
from core.judging.questions import Question
from core.judging.services.http_errors import hidden


class ModelJudge:
    """Asks a service about each item.

    Args:
        name: of the kind of service, such as `gemini`.
        connect: makes the service when the first item is judged; to make plans, none is needed.
        secrets: the account's key and whatever else must not be kept; should a reply repeat it, it is taken out.
        host: where the service is, if models of one name may differ from place to place.
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
        """What the model reads."""
        return self._question.fill(item)

    def judge(self, item: Item) -> Verdict:
        """One request. Raises BusyError or RefusedError."""
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
            reason=self._hide(verdict.reason),
            raw=self._hide(verdict.raw),
            missing=verdict.missing and self._hide(verdict.missing),
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            seconds=round(time.perf_counter() - start, 3),
        )

    def _hide(self, text: str) -> str:
        return hidden(text, self._secrets)
