"""Scoring: asks a judge for every verdict that its ledger does not hold yet.

Several requests are in flight. What a service cannot do now is asked again after a pause; what it will not do
ends the scoring with a sentence, and all that was scored stays. Knows no run: only items.
"""

import random
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.errors import UserError
from core.judging.judge import BusyError, Item, Judge, verdict_key
from core.judging.ledger import Ledger
from core.judging.limits import Limits, Throttle, tokens_of

MAX_PAUSE_S = 60.0
MAX_FREE_RETRIES = 30
"""How often a request may be refused for a full quota before each refusal counts as an attempt."""
MAX_REASONS = 3
"""Of a summary."""


@dataclass(frozen=True)
class Task:
    """One verdict that is wanted. `repeat` counts from 0."""

    key: str
    item: Item
    repeat: int
    tokens: int
    """Of the request and its reply, estimated."""


@dataclass
class Progress:
    """How far a scoring is; read by others while it goes on."""

    wanted: int = 0
    stored: int = 0
    """Of these, in the ledger before."""
    asked: int = 0
    """Requests, those that failed included."""
    done: int = 0
    missing: int = 0
    """Of `done`, verdicts without a score."""
    missing_reasons: list[str] = field(default_factory=list)
    """The reason for each of `missing`."""
    scored: int = 0
    """Of `wanted`, verdicts with a score, stored ones included."""
    given_up: list[str] = field(default_factory=list)
    """The reason for each request that failed; the next scoring retries it."""
    waiting: str | None = None
    """Why nothing goes on just now."""

    @property
    def nothing_scored(self) -> str | None:
        """Why no verdict has a score; None if one has, or if none was wanted."""
        if self.scored or not self.wanted:
            return None
        reasons = summary([*self.given_up, *self.missing_reasons])
        if not reasons:
            return f"all {self.stored:,} verdicts were made before, without a score; ask again to replace them"
        return reasons


def summary(reasons: Iterable[str]) -> str:
    """Return the most common reasons with their counts, such as `no connection to 127.0.0.1:8000 (3)`."""
    most = Counter(reasons).most_common()
    parts = [f"{reason} ({count:,})" for reason, count in most[:MAX_REASONS]]
    if rest := sum(count for _, count in most[MAX_REASONS:]):
        parts.append(f"other reasons ({rest:,})")
    return "; ".join(parts)


def plan(judge: Judge, items: Iterable[Item], repeats: int = 1) -> list[Task]:
    """Every verdict wanted, equal ones once."""
    tasks: dict[str, Task] = {}
    for item in items:
        prompt = judge.prompt(item)
        for repeat in range(repeats):
            key = verdict_key(judge.spec, prompt, item, repeat)
            tasks.setdefault(key, Task(key, item, repeat, tokens_of(prompt)))
    return list(tasks.values())


def open_tasks(
    tasks: Iterable[Task], known: Mapping[str, float | None], missing_again: bool = False
) -> list[Task]:
    """The tasks that have no verdict yet; with `missing_again` those too whose verdict has no score.

    Args:
        known: score by key, as a ledger has it.
    """
    return [t for t in tasks if t.key not in known or (missing_again and known[t.key] is None)]


def score(
    judge: Judge,
    tasks: list[Task],
    ledger: Ledger,
    limits: Limits,
    stop: threading.Event,
    progress: Progress,
    missing_again: bool = False,
    random_: random.Random | None = None,
) -> None:
    """Bring the ledger up with the tasks. Returns when all are done or `stop` is set.

    Raises:
        UserError: the service refuses (RefusedError), or the ledger cannot be written to.
    """
    left = open_tasks(tasks, ledger.known, missing_again)
    progress.wanted, progress.stored = len(tasks), len(tasks) - len(left)
    progress.scored = sum(ledger.known.get(task.key) is not None for task in tasks)
    ended = threading.Event()
    throttle = Throttle(limits, ended)
    drawn = random_ or random.Random()
    _Scoring(judge, deque(left), ledger, limits, stop, progress, drawn, ended, throttle).run()


@dataclass
class _Scoring:
    judge: Judge
    tasks: deque[Task]
    ledger: Ledger
    limits: Limits
    stop: threading.Event
    progress: Progress
    random: random.Random
    ended: threading.Event
    """Set by a stop or by the first error: all threads end."""
    throttle: Throttle
    error: BaseException | None = None
    counting: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        if self.stop.is_set():  # before anything was asked, as while a base answers
            return
        count = max(1, min(self.limits.in_flight, len(self.tasks)))
        threads = [threading.Thread(target=self._work, name="judge") for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:  # replies on their way are waited for, and kept
            while thread.is_alive():
                thread.join(0.05)
                if self.stop.is_set():
                    self.ended.set()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            while not self.ended.is_set():
                try:
                    task = self.tasks.popleft()
                except IndexError:
                    return
                self._take(task)
        except Exception as error:  # handed to the thread that started this one
            with self.counting:
                self.error = self.error or error
            self.ended.set()

    def _take(self, task: Task) -> None:
        """Ask until there is a verdict, the attempts are used up, or the scoring ends."""
        attempt = turned_away = 0
        while self.throttle.wait(task.tokens):
            with self.counting:
                self.progress.asked += 1
            try:
                verdict = self.judge.judge(task.item)
            except BusyError as error:
                # A full quota is no fault of the request: it costs time, and no attempt until it has cost many.
                turned_away += error.wait is not None
                attempt += error.wait is None or turned_away > MAX_FREE_RETRIES
                if attempt >= self.limits.attempts:
                    return self._give_up(str(error))
                self._pause(error, max(attempt, 1))
                continue
            self.ledger.write(task.key, task.item, task.repeat, verdict)
            with self.counting:
                self.progress.waiting = None
                self.progress.done += 1
                if verdict.score is None:
                    self.progress.missing += 1
                    self.progress.missing_reasons.append(verdict.missing or "no score")
                else:
                    self.progress.scored += 1
            return None
        return None

    def _give_up(self, reason: str) -> None:
        """Leave a verdict to the next scoring. Raises UserError if every request has failed so far."""
        with self.counting:
            self.progress.given_up.append(reason)
            if self.progress.done == 0 and len(self.progress.given_up) > self.limits.in_flight:
                raise UserError(f"Every request has failed: {summary(self.progress.given_up)}.")

    def _pause(self, error: BusyError, attempt: int) -> None:
        """Before the next attempt: what the service asks for, for all; else longer each time, for this one."""
        self.progress.waiting = str(error)
        if error.wait is not None:
            self.throttle.pause(min(error.wait, MAX_PAUSE_S) + self.random.uniform(0, 0.5))
        else:
            longer = self.limits.pause * 2 ** (attempt - 1)
            self.ended.wait(min(MAX_PAUSE_S, longer) * self.random.uniform(0.5, 1.5))
