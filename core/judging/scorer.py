"""Request all verdicts that are not in the ledger yet.

Several requests are sent concurrently. Temporary errors are retried after a delay. Permanent errors end the job, but
verdicts received so far are kept. This module works on items and does not depend on runs.
"""

import random
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.errors import UserError
from core.judging.judge import BusyError, Item, Judge, verdict_key
from core.judging.ledger import Ledger
from core.judging.limits import Throttle, tokens_of
from core.judging.order import Limits

MAX_PAUSE_S = 60.0
"""Upper bound for a retry delay, even if the service asks for a longer one."""
MAX_FREE_RETRIES = 30
"""Number of rate-limit errors per request that do not count as attempts."""
MAX_REASONS = 3
"""Number of reasons that a summary lists separately."""


@dataclass(frozen=True)
class Task:
    """One requested verdict. `repeat` counts from 0."""

    key: str
    item: Item
    repeat: int
    tokens: int
    """Estimated number of tokens in the request and its reply."""


@dataclass
class ScoringProgress:
    """Progress of a scoring job. Other threads read it while the job runs."""

    requested: int = 0
    stored: int = 0
    """Requested verdicts that were already in the ledger."""
    requests_sent: int = 0
    """Requests sent, including failed ones."""
    done: int = 0
    missing: int = 0
    """Completed verdicts that have no score."""
    missing_reasons: list[str] = field(default_factory=list)
    """One reason for each verdict counted in `missing`."""
    scored: int = 0
    """Requested verdicts that have a score, including cached ones."""
    given_up: list[str] = field(default_factory=list)
    """One reason for each verdict that could not be obtained. The next scoring job requests them again."""
    waiting: str | None = None
    """Why the last request is being retried; None after a success."""

    @property
    def failures(self) -> str | None:
        """How many verdicts failed, and why; None if none did."""
        if not self.given_up:
            return None
        verdicts = "1 verdict" if len(self.given_up) == 1 else f"{len(self.given_up):,} verdicts"
        return f"{verdicts} failed ({summary(self.given_up)}). Score again to retry."

    @property
    def nothing_scored(self) -> str | None:
        """Why no verdict has a score; None if any verdict has one, or if none was requested."""
        if self.scored or not self.requested:
            return None
        reasons = summary([*self.given_up, *self.missing_reasons])
        if not reasons:
            return f"none of the {self.stored:,} cached verdicts has a score; use Ask again (--again) to retry them"
        return reasons


def summary(reasons: Iterable[str]) -> str:
    """Return the most common reasons with their counts, such as `no connection to 127.0.0.1:8000 (3)`."""
    ranked = Counter(reasons).most_common()
    parts = [f"{reason} ({count:,})" for reason, count in ranked[:MAX_REASONS]]
    if other_count := sum(count for _, count in ranked[MAX_REASONS:]):
        parts.append(f"other reasons ({other_count:,})")
    return "; ".join(parts)


def plan(judge: Judge, items: Iterable[Item], repeats: int = 1) -> list[Task]:
    """Return a task for every requested verdict, without duplicates."""
    tasks: dict[str, Task] = {}
    for item in items:
        prompt = judge.prompt(item)
        for repeat in range(repeats):
            key = verdict_key(judge.spec, prompt, item, repeat)
            tasks.setdefault(key, Task(key, item, repeat, tokens_of(prompt)))
    return list(tasks.values())


def open_tasks(
    tasks: Iterable[Task], scores_by_key: Mapping[str, float | None], retry_missing: bool = False
) -> list[Task]:
    """Return the tasks that have no verdict yet and, with `retry_missing`, those whose verdict has no score.

    Args:
        scores_by_key: cached scores; see `Ledger.scores_by_key`.
    """
    return [
        t
        for t in tasks
        if t.key not in scores_by_key or (retry_missing and scores_by_key[t.key] is None)
    ]


def score(
    judge: Judge,
    tasks: list[Task],
    ledger: Ledger,
    limits: Limits,
    stop: threading.Event,
    progress: ScoringProgress,
    retry_missing: bool = False,
    random_: random.Random | None = None,
) -> None:
    """Request the missing verdicts and write them to the ledger. Returns when all are done or `stop` is set.

    Raises:
        UserError: the service refuses requests (RefusedError), or the ledger cannot be written.
    """
    remaining = open_tasks(tasks, ledger.scores_by_key, retry_missing)
    progress.requested, progress.stored = len(tasks), len(tasks) - len(remaining)
    progress.scored = sum(ledger.scores_by_key.get(task.key) is not None for task in tasks)
    shutdown = threading.Event()
    throttle = Throttle(limits, shutdown)
    rng = random_ or random.Random()
    _Scoring(judge, deque(remaining), ledger, limits, stop, progress, rng, shutdown, throttle).run()


@dataclass
class _Scoring:
    judge: Judge
    tasks: deque[Task]
    ledger: Ledger
    limits: Limits
    stop: threading.Event
    progress: ScoringProgress
    random: random.Random
    shutdown: threading.Event
    """Set by a stop or the first error; ends all threads."""
    throttle: Throttle
    error: BaseException | None = None
    progress_lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        if self.stop.is_set():  # stopped while a base model was answering
            return
        count = max(1, min(self.limits.in_flight, len(self.tasks)))
        threads = [threading.Thread(target=self._work, name="judge") for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:  # wait for requests in flight, so that their replies are kept
            while thread.is_alive():
                thread.join(0.05)
                if self.stop.is_set():
                    self.shutdown.set()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            while not self.shutdown.is_set():
                try:
                    task = self.tasks.popleft()
                except IndexError:
                    return
                self._request(task)
        except Exception as error:  # re-raised by `run`
            with self.progress_lock:
                self.error = self.error or error
            self.shutdown.set()

    def _request(self, task: Task) -> None:
        """Request a verdict, and retry until it arrives, the attempts are exhausted, or the job ends."""
        attempt = quota_refusals = 0
        while self.throttle.wait(task.tokens):
            with self.progress_lock:
                self.progress.requests_sent += 1
            try:
                verdict = self.judge.judge(task.item)
            except BusyError as error:
                # Rate-limit errors do not count as attempts until there are MAX_FREE_RETRIES of them.
                quota_refusals += error.wait is not None
                attempt += error.wait is None or quota_refusals > MAX_FREE_RETRIES
                if attempt >= self.limits.attempts:
                    return self._give_up(str(error))
                self._pause(error, max(attempt, 1))
                continue
            self.ledger.write(task.key, task.item, task.repeat, verdict)
            with self.progress_lock:
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
        """Leave a verdict for the next scoring job. Raises UserError if all requests have failed so far."""
        with self.progress_lock:
            self.progress.given_up.append(reason)
            if self.progress.done == 0 and len(self.progress.given_up) > self.limits.in_flight:
                raise UserError(f"Every request failed: {summary(self.progress.given_up)}.")

    def _pause(self, error: BusyError, attempt: int) -> None:
        """Wait before the next attempt. A delay requested by the service pauses all threads."""
        self.progress.waiting = str(error)
        if error.wait is not None:
            self.throttle.pause(min(error.wait, MAX_PAUSE_S) + self.random.uniform(0, 0.5))
        else:
            backoff_s = self.limits.pause * 2 ** (attempt - 1)
            self.shutdown.wait(min(MAX_PAUSE_S, backoff_s) * self.random.uniform(0.5, 1.5))
