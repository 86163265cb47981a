"""Scoring jobs: generate missing base-model answers, then request a judge's verdicts on all answers.

A job can run in a background thread. Verdicts are written to the ledger as they arrive, so none is requested again
after a stop or a crash.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from core.errors import UserError
from core.judging import scorer
from core.judging.answers import ANSWER_COLUMNS, JudgedAnswers
from core.judging.base_answers import answer_missing
from core.judging.judge import Item, Judge, judge_id
from core.judging.judges import build
from core.judging.ledger import Ledger
from core.judging.order import Order
from core.judging.pairs import pair_items
from core.judging.scorer import ScoringProgress, Task

if TYPE_CHECKING:  # these import torch, which is needed only for base-model answers
    from core.inference import Answerer
    from core.nn.gpt2 import GPT2


class Job:
    """A scoring job that can be watched and stopped.

    Args:
        judged: the answers from the runs and their base models.
        answerer: returns the object that loads base models; called only if base-model answers are missing. By default,
            one model is loaded at a time and kept until the job ends.

    Raises:
        UserError: the judge's settings are invalid.
    """

    def __init__(
        self,
        runs_dir: Path,
        order: Order,
        judged: JudgedAnswers,
        answerer: "Callable[[], Answerer] | None" = None,
    ) -> None:
        self.order, self.progress = order, ScoringProgress()
        self.judge: Judge = build(order.judge, order.kind)
        self.id = judge_id(self.judge.spec)
        self.error: str | None = None
        self.phase = "starting"
        self._runs_dir = runs_dir
        self.judged = judged if order.with_base else judged.without_bases()
        self._answerer, self._stop = answerer or self._new_answerer, threading.Event()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self) -> None:
        """Start the job in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop once the requests in flight have completed."""
        self._stop.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the background thread to end. `timeout` is in seconds."""
        self._thread.join(timeout)

    @property
    def model(self) -> str:
        """The judge's model name."""
        return str(self.judge.spec["model"])

    @property
    def is_running(self) -> bool:
        """Whether the background thread is running."""
        return self._thread.is_alive()

    def work(self) -> None:
        """Run the whole job in this thread. Raises UserError."""
        with Ledger(self._runs_dir, self.judge.spec) as ledger:
            answers = self.judged.run_answers
            if self.order.with_base:
                self.phase = "answering with the pretrained base model"
                answers = pd.concat([answers, *self._base_answers()], ignore_index=True)
            self.phase = "scoring"
            tasks = plan(self.judge, self.order, answers)
            scorer.score(
                self.judge,
                tasks,
                ledger,
                self.order.limits,
                self._stop,
                self.progress,
                self.order.retry_missing,
            )
        self.phase = "stopped" if self._stop.is_set() else "done"

    def _run(self) -> None:
        try:
            self.work()
        except UserError as error:
            self.error, self.phase = str(error), "failed"
        except Exception as error:  # shown on the page; re-raised to print the traceback
            self.error, self.phase = f"Internal error: {type(error).__name__}", "failed"
            raise

    def _new_answerer(self) -> "Answerer":
        from core.inference import Answerer

        return Answerer(self._runs_dir, max_models=1)

    def _base_answers(self) -> list[pd.DataFrame]:
        """Return the answers from each base model, with the columns `run` and ANSWER_COLUMNS."""
        frames = []
        for base, examples in self.judged.examples_by_base().items():

            def load(model: str = base.model) -> "tuple[GPT2, str]":
                from core.inference import BASE_PREFIX

                answerer, base_name = self._answerer(), BASE_PREFIX + model
                return answerer.model(base_name), answerer.fingerprint(base_name)

            answers_by_example = answer_missing(self._runs_dir, base, examples, load, self._stop)
            rows = [
                (base.name, e.instruction, e.input, e.output, answers_by_example[e])
                for _, e in examples
                if e in answers_by_example
            ]
            frames.append(pd.DataFrame(rows, columns=["run", *ANSWER_COLUMNS]))
        return frames


def plan(judge: Judge, order: Order, answers: pd.DataFrame) -> list[Task]:
    """Return a task for every requested verdict.

    Args:
        answers: table with the columns `run` and ANSWER_COLUMNS.
    """
    items = items_of(answers) if order.kind == "score" else pair_items(answers)
    # The reference judge is deterministic.
    return scorer.plan(judge, items, 1 if order.judge.judge == "reference" else order.repeats)


def items_of(answers: pd.DataFrame) -> list[Item]:
    """Convert answers to items to judge."""
    return [Item(*row) for row in answers[ANSWER_COLUMNS].itertuples(index=False)]
