"""One scoring from end to end: answers of the bases, then the verdicts of a judge on the answers of some runs.

Runs in a thread of its own if asked to; the ledger keeps what it got, so that stopping, a crash or a second scoring
costs nothing twice.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.data.template import Example
from core.errors import UserError
from core.judging import scorer
from core.judging.base_answers import Base, answer_missing
from core.judging.judge import Item, Judge, Kind, judge_id
from core.judging.judges import JudgeSettings, build
from core.judging.ledger import Ledger
from core.judging.limits import Limits
from core.judging.pairs import pair_items
from core.judging.scorer import ScoringProgress
from core.run.directory import RunDirectory

if TYPE_CHECKING:  # they bring torch, which only answers of a base need
    from core.inference import Answerer
    from core.nn.gpt2 import GPT2

JUDGED_COLUMNS = ["instruction", "input", "reference", "answer"]


@dataclass(frozen=True)
class Order:
    """What is to be scored, and how.

    Args:
        runs: their names.
        kind: `score` for one answer at a time, `pair` for every two runs against each other.
        repeats: verdicts on each answer.
        with_base: the base models of the runs too.
        retry_missing: ask again where a verdict is there without a score.
    """

    runs: tuple[str, ...]
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    kind: Kind = "score"
    repeats: int = 1
    with_base: bool = True
    retry_missing: bool = False
    limits: Limits = field(default_factory=Limits)


class Job:
    """A scoring that can be watched and stopped.

    Args:
        answers: stored answers of the runs, as `queries.answers` gives them.
        hashes: of the base's weights, by run; one without gets no base row.
        answerer: gives what holds the models; asked only where a base has to answer.

    Raises:
        UserError: the judge cannot be made.
    """

    def __init__(
        self,
        runs_dir: Path,
        order: Order,
        answers: pd.DataFrame,
        hashes: Mapping[str, Any],
        answerer: "Callable[[], Answerer]",
    ) -> None:
        self.order, self.progress = order, ScoringProgress()
        self.judge: Judge = build(order.judge, order.kind)
        self.id = judge_id(self.judge.spec)
        self.error: str | None = None
        self.phase = "starting"
        self._runs_dir, self._answers = runs_dir, answers
        self.bases = bases_of(runs_dir, answers, hashes) if order.with_base else {}
        self._answerer, self._stop = answerer, threading.Event()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self) -> None:
        """Score in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End after the requests that are on their way."""
        self._stop.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    @property
    def names(self) -> list[str]:
        """The bases and the runs, as the index calls them."""
        return [*(base.name for base in self.bases), *self.order.runs]

    @property
    def going(self) -> bool:
        """Whether it still scores."""
        return self._thread.is_alive()

    def work(self) -> None:
        """All of it, in this thread. Raises UserError."""
        with Ledger(self._runs_dir, self.judge.spec) as ledger:
            answers = self._answers
            if self.order.with_base:
                self.phase = "answering with the pretrained base"
                answers = pd.concat([answers, *self._base_answers()], ignore_index=True)
            self.phase = "scoring"
            items = items_of(answers) if self.order.kind == "score" else pair_items(answers)
            tasks = scorer.plan(self.judge, items, self._repeats())
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

    def _repeats(self) -> int:
        return 1 if self.order.judge.judge == "reference" else self.order.repeats

    def _run(self) -> None:
        try:
            self.work()
        except UserError as error:
            self.error, self.phase = str(error), "failed"
        except Exception as error:  # the edge of the thread: a page shows what it was
            self.error, self.phase = f"a defect of ours: {type(error).__name__}", "failed"
            raise

    def _base_answers(self) -> list[pd.DataFrame]:
        """What each base answers, in the columns that are judged."""
        frames = []
        for base, examples in self.bases.items():

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
            frames.append(pd.DataFrame(rows, columns=["run", *JUDGED_COLUMNS]))
        return frames


def items_of(answers: pd.DataFrame) -> list[Item]:
    """Stored answers as `queries.answers` gives them, to be judged."""
    return [Item(*row) for row in answers[JUDGED_COLUMNS].itertuples(index=False)]


def bases_of(
    runs_dir: Path, answers: pd.DataFrame, hashes: Mapping[str, Any]
) -> dict[Base, list[tuple[int, Example]]]:
    """The base models of some runs, each with the test examples of its runs and their places."""
    examples_by_base: dict[Base, dict[Example, int]] = {}
    for run, part in answers.groupby("run", sort=False):
        weights = hashes.get(str(run))
        if not isinstance(weights, str):  # pandas has NaN for what is not there
            continue
        try:
            config = RunDirectory.find(runs_dir, str(run)).config()
        except UserError:  # damaged or deleted by now; its answers can be scored all the same
            continue
        base = Base(config.base_model, weights, config.max_new_tokens)
        rows = part[["instruction", "input", "reference"]].itertuples(index=False)
        examples = examples_by_base.setdefault(base, {})
        for row, dataset_index in zip(rows, part["item"], strict=True):
            examples.setdefault(Example(*row), int(dataset_index))
    return {
        base: [(dataset_index, example) for example, dataset_index in examples.items()]
        for base, examples in examples_by_base.items()
    }
