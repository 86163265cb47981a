"""The scorer, with a scripted judge: requests, retries, concurrency, stopping and errors."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.judging.judge import BusyError, Item, RefusedError, Verdict
from core.judging.ledger import Ledger
from core.judging.order import Limits
from core.judging.scorer import ScoringProgress, Task, plan, score

QUICK = Limits(in_flight=4, attempts=3, pause=0.001)


def item(answer: object) -> Item:
    return Item("Say it.", "", "it", str(answer))


class ScriptedJudge:
    """A judge whose score or exception is scripted, given the answer and how often it has been requested."""

    def __init__(self, script: Callable[[str, int], float | None] = lambda answer, n: 50.0) -> None:
        self.spec: dict[str, Any] = {"judge": "scripted", "kind": "score", "model": "m"}
        self.script, self.requests_sent = script, Counter[str]()
        self.times: list[tuple[str, float]] = []
        self.lock = threading.Lock()

    def prompt(self, item: Item) -> str:
        return f"How good is {item.answer}?"

    def judge(self, item: Item) -> Verdict:
        with self.lock:
            self.requests_sent[item.answer] += 1
            count = self.requests_sent[item.answer]
            self.times.append((item.answer, time.monotonic()))
        score = self.script(item.answer, count)
        return Verdict(score, missing=None if score is not None else "blocked")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path, ScriptedJudge().spec) as opened:
        yield opened


def run(
    judge: ScriptedJudge, tasks: list[Task], ledger: Ledger, limits: Limits = QUICK, **options: Any
) -> ScoringProgress:
    progress = ScoringProgress()
    stop = options.pop("stop", threading.Event())
    score(judge, tasks, ledger, limits, stop, progress, **options)
    assert not [t for t in threading.enumerate() if t.name == "judge"]
    return progress


def scores(ledger: Ledger) -> list[float | None]:
    return list(ledger.scores_by_key.values())


def test_every_task_is_requested_once(ledger: Ledger) -> None:
    judge = ScriptedJudge(lambda answer, n: float(answer))
    tasks = plan(judge, map(item, range(100)))
    progress = run(judge, tasks, ledger)
    assert judge.requests_sent == Counter(map(str, range(100)))
    assert ledger.scores_by_key == {t.key: float(t.item.answer) for t in tasks}
    assert (progress.requested, progress.stored, progress.requests_sent, progress.done) == (
        100,
        0,
        100,
        100,
    )
    assert (progress.missing, progress.given_up, progress.waiting) == (0, [], None)
    progress = run(judge, tasks, ledger)
    assert (progress.requested, progress.stored, progress.requests_sent, progress.done) == (
        100,
        100,
        0,
        0,
    )


@given(st.lists(st.sampled_from("abc")), st.integers(1, 4))
def test_equal_answers_share_one_task_per_repeat(answers: list[str], repeats: int) -> None:
    tasks = plan(ScriptedJudge(), map(item, answers), repeats)
    task_counts = Counter((t.item.answer, t.repeat) for t in tasks)
    assert task_counts == Counter({(a, r): 1 for a in set(answers) for r in range(repeats)})
    assert len({t.key for t in tasks}) == len(tasks)


def test_cache_key_depends_on_every_input_of_a_verdict() -> None:
    def key(judge: ScriptedJudge, *fields: str) -> str:
        [task] = plan(judge, [Item(*fields)])
        return task.key

    other_model, other_prompt = ScriptedJudge(), ScriptedJudge()
    other_model.spec["model"] = "n"
    other_prompt.prompt = lambda item: "Grade it."  # type: ignore[method-assign]
    fields = ["i", "n", "r", "a"]
    changed_fields = [[*fields[:k], "x", *fields[k + 1 :]] for k in range(4)]
    keys = [key(ScriptedJudge(), *fields), key(other_model, *fields), key(other_prompt, *fields)]
    keys += [key(ScriptedJudge(), *f) for f in changed_fields]
    assert len(set(keys)) == 7
    assert key(ScriptedJudge(), *fields) == keys[0]


def test_repeats_are_requested_separately(ledger: Ledger) -> None:
    judge = ScriptedJudge(lambda answer, n: float(n))
    run(judge, plan(judge, [item("a"), item("b")], 2), ledger)
    assert judge.requests_sent == {"a": 2, "b": 2}
    progress = run(judge, plan(judge, [item("a"), item("b")], 5), ledger)
    assert judge.requests_sent == {"a": 5, "b": 5}
    assert progress.stored == 4
    assert sorted(map(float, filter(None, scores(ledger)))) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_busy_service_is_retried(ledger: Ledger) -> None:
    def script(answer: str, n: int) -> float:
        if n < 3:
            raise BusyError("overloaded")
        return 70.0

    judge = ScriptedJudge(script)
    progress = run(judge, plan(judge, map(item, range(10))), ledger)
    assert set(judge.requests_sent.values()) == {3}
    assert (progress.requests_sent, progress.done, progress.given_up) == (30, 10, [])
    assert scores(ledger) == [70.0] * 10


def test_attempts_are_limited_and_the_next_job_retries(ledger: Ledger) -> None:
    def script(answer: str, n: int) -> float:
        if answer == "bad" and n <= 3:
            raise BusyError("overloaded")
        return 70.0

    judge = ScriptedJudge(script)
    tasks = plan(judge, map(item, ["bad", "good", "fine"]))
    progress = run(judge, tasks, ledger)
    assert judge.requests_sent == {"bad": 3, "good": 1, "fine": 1}
    assert (progress.done, progress.given_up) == (2, ["overloaded"])
    assert len(ledger.scores_by_key) == 2
    progress = run(judge, tasks, ledger)
    assert judge.requests_sent == {"bad": 4, "good": 1, "fine": 1}
    assert (progress.stored, progress.done, progress.given_up) == (2, 1, [])


def test_retry_delays_grow_with_jitter(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(answer: str, n: int) -> float:
        raise BusyError("overloaded")

    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return super().wait()
            waits.append(timeout)
            return False

    judge = ScriptedJudge(script)
    tasks = plan(judge, [item("a")])
    monkeypatch.setattr(threading, "Event", Event)
    run(judge, tasks, ledger, Limits(attempts=10), random_=random.Random(1))
    assert len(waits) == 9
    for i, waited in enumerate(waits):
        expected_delay = min(60.0, 2.0**i)
        assert 0.5 * expected_delay <= waited <= 1.5 * expected_delay
    assert len({waited / 2**i for i, waited in enumerate(waits[:6])}) == 6


def test_refused_request_stops_scoring_and_keeps_finished_verdicts(ledger: Ledger) -> None:
    def script(answer: str, n: int) -> float:
        if answer == "7":
            raise RefusedError("The key is wrong.")
        return 70.0

    judge = ScriptedJudge(script)
    tasks = plan(judge, map(item, range(500)))
    with pytest.raises(RefusedError, match=r"The key is wrong\."):
        run(judge, tasks, ledger, Limits(in_flight=2))
    assert judge.requests_sent["7"] == 1
    assert 6 <= sum(judge.requests_sent.values()) < 100
    assert ledger.scores_by_key == {t.key: 70.0 for t in tasks if judge.requests_sent[t.item.answer] and t.item.answer != "7"}  # fmt: skip


def test_internal_error_in_a_judge_stops_scoring(ledger: Ledger) -> None:
    judge = ScriptedJudge(lambda answer, n: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(judge, plan(judge, map(item, range(100))), ledger)
    assert sum(judge.requests_sent.values()) <= 4


def test_ledger_write_failure_stops_scoring(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_disk_full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(ledger, "write", raise_disk_full)
    judge = ScriptedJudge()
    with pytest.raises(UserError, match="the disk is full"):
        run(judge, plan(judge, map(item, range(100))), ledger)
    assert sum(judge.requests_sent.values()) <= QUICK.in_flight


def test_stop_waits_for_requests_in_flight(ledger: Ledger) -> None:
    stop, barrier = threading.Event(), threading.Barrier(4)

    def script(answer: str, n: int) -> float:
        barrier.wait(10)
        stop.set()
        time.sleep(0.1)
        return 70.0

    judge = ScriptedJudge(script)
    progress = run(judge, plan(judge, map(item, range(100))), ledger, stop=stop)
    assert progress.done == sum(judge.requests_sent.values()) == len(ledger.scores_by_key) == 4


@pytest.mark.parametrize("wait", [None, 50.0])
def test_stop_ends_a_retry_delay(ledger: Ledger, wait: float | None) -> None:
    stop = threading.Event()

    def script(answer: str, n: int) -> float:
        stop.set()
        raise BusyError("overloaded", wait)

    judge = ScriptedJudge(script)
    start = time.monotonic()
    progress = run(judge, plan(judge, [item("a")]), ledger, Limits(pause=50.0), stop=stop)
    assert time.monotonic() - start < 5
    assert (progress.requests_sent, progress.done) == (1, 0)
    assert not ledger.scores_by_key


def test_missing_verdict_is_stored_and_retried_only_on_request(ledger: Ledger) -> None:
    judge = ScriptedJudge(lambda answer, n: None if answer == "odd" and n < 3 else 70.0)
    tasks = plan(judge, map(item, ["odd", "even"]))
    assert run(judge, tasks, ledger).missing == 1
    assert run(judge, tasks, ledger).requests_sent == 0
    second_progress = run(judge, tasks, ledger, retry_missing=True)
    assert (second_progress.stored, second_progress.requests_sent, second_progress.missing) == (
        1,
        1,
        1,
    )
    second_progress = run(judge, tasks, ledger, retry_missing=True)
    assert (second_progress.stored, second_progress.requests_sent, second_progress.missing) == (
        1,
        1,
        0,
    )
    assert run(judge, tasks, ledger, retry_missing=True).requests_sent == 0
    assert judge.requests_sent == {"odd": 3, "even": 1}
    assert scores(ledger) == [70.0, 70.0]


@pytest.mark.parametrize("in_flight", [1, 3, 16])
def test_requests_in_flight_reach_but_never_exceed_the_limit(
    ledger: Ledger, in_flight: int
) -> None:
    active, max_active, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(in_flight)

    def script(answer: str, n: int) -> float:
        nonlocal active, max_active
        with lock:
            active += 1
            max_active = max(max_active, active)
        if int(answer) < in_flight:
            barrier.wait(10)  # returns only when this many requests are active at once
        time.sleep(0.002)
        with lock:
            active -= 1
        return 70.0

    judge = ScriptedJudge(script)
    progress = run(judge, plan(judge, map(item, range(48))), ledger, Limits(in_flight))
    assert (max_active, progress.done) == (in_flight, 48)


def test_retry_after_delays_all_threads(ledger: Ledger) -> None:
    refused_event = threading.Event()
    refused_at = 0.0

    def script(answer: str, n: int) -> float:
        nonlocal refused_at
        if answer == "0" and n == 1:
            refused_at = time.monotonic()
            refused_event.set()
            raise BusyError("too many requests", 0.4)
        refused_event.wait(10)
        time.sleep(0.02)  # so that the throttle is paused before the next request
        return 70.0

    judge = ScriptedJudge(script)
    progress = run(judge, plan(judge, map(item, range(30))), ledger, Limits(in_flight=4))
    later_times = [t for _, t in judge.times[4:]]
    assert len(later_times) == 27
    assert min(later_times) >= refused_at + 0.4
    assert (progress.done, progress.requests_sent) == (30, 31)


def test_requests_per_minute_setting_reaches_the_throttle(ledger: Ledger) -> None:
    stop = threading.Event()
    judge = ScriptedJudge()
    threading.Timer(0.4, stop.set).start()
    run(judge, plan(judge, map(item, range(50))), ledger, Limits(requests_per_minute=7), stop=stop)
    assert sum(judge.requests_sent.values()) == len(ledger.scores_by_key) == 7
