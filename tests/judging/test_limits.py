"""The rate limiter with a fake clock: limits per minute, pauses and stopping."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.judging.limits import TYPICAL_REPLY_TOKENS, WINDOW_S, Throttle, tokens_of
from core.judging.order import Limits


class FakeTime(threading.Event):
    """A fake clock and stop event. Waiting on the event advances the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout > 0
        self.waits.append(timeout)
        self.now += timeout
        return self.is_set()


def make_throttle(**limits: int) -> tuple[FakeTime, Throttle]:
    fake = FakeTime()
    return fake, Throttle(Limits(**limits), fake, fake.clock)


def admission_times(fake: FakeTime, throttle: Throttle, tokens: list[int]) -> list[float]:
    """Send requests with these token counts and return when each was admitted, in seconds from the start."""
    times = []
    for count in tokens:
        assert throttle.wait(count)
        times.append(fake.now - 1000.0)
    return times


def test_requests_without_limits_do_not_wait() -> None:
    fake, throttle = make_throttle()
    assert admission_times(fake, throttle, [10**6] * 1000) == [0.0] * 1000


def test_requests_per_minute_are_limited() -> None:
    fake, throttle = make_throttle(requests_per_minute=3)
    assert admission_times(fake, throttle, [0] * 7) == [0, 0, 0, 60, 60, 60, 120]


def test_tokens_per_minute_are_limited() -> None:
    fake, throttle = make_throttle(tokens_per_minute=100)
    assert admission_times(fake, throttle, [60, 40, 1, 99, 100]) == [0, 0, 60, 60, 120]


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1}, {"tokens_per_minute": 10}])
@pytest.mark.parametrize("elapsed_s", [0.0, 30.0, 59.875, 60.0, 61.0])
def test_window_is_sixty_seconds(limits: dict[str, int], elapsed_s: float) -> None:
    fake, throttle = make_throttle(**limits)
    assert throttle.wait(10)
    fake.now += elapsed_s
    assert admission_times(fake, throttle, [10]) == [max(60, elapsed_s)]


def test_request_above_the_token_limit_is_sent_alone() -> None:
    fake, throttle = make_throttle(tokens_per_minute=100)
    assert admission_times(fake, throttle, [500, 10, 500]) == [0, 60, 120]


def test_stricter_limit_applies() -> None:
    fake, throttle = make_throttle(requests_per_minute=2, tokens_per_minute=100)
    assert admission_times(fake, throttle, [10, 10, 90, 20]) == [0, 0, 60, 120]


ARRIVALS = st.lists(
    # Multiples of 1/8 s are exact in floating point.
    st.tuples(
        st.integers(0, 400).map(lambda n: n / 8) | st.sampled_from([0.0, 59.75, 59.875, 60.0]),
        st.integers(1, 150),
    ),
    max_size=60,
)


@given(ARRIVALS, st.none() | st.integers(1, 9), st.none() | st.integers(60, 300))
def test_no_window_exceeds_its_limits(
    arrivals: list[tuple[float, int]], requests: int | None, tokens: int | None
) -> None:
    fake = FakeTime()
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    throttle = Throttle(limits, fake, fake.clock)
    admitted: list[tuple[float, int]] = []
    for gap, count in arrivals:
        fake.now += gap
        arrival_time = fake.now
        assert throttle.wait(count)
        admitted.append((fake.now, count))
        if fake.now > arrival_time:  # no request waits longer than necessary
            recent_requests = [(t, c) for t, c in admitted[:-1] if t > fake.now - WINDOW_S - 0.125]
            usage_if_sooner = len(recent_requests) + 1, sum(c for _, c in recent_requests) + count
            assert usage_if_sooner[0] > (requests or 10**9) or usage_if_sooner[1] > (
                tokens or 10**9
            )
    for start, _ in admitted:
        window = [c for t, c in admitted if start <= t < start + WINDOW_S]
        assert requests is None or len(window) <= requests
        assert tokens is None or sum(window) <= tokens or len(window) == 1


def test_shorter_pause_does_not_end_a_longer_one() -> None:
    fake, throttle = make_throttle()
    throttle.pause(20)
    throttle.pause(5)
    assert admission_times(fake, throttle, [1, 1]) == [20, 20]
    throttle.pause(5)
    assert admission_times(fake, throttle, [1]) == [25]


def test_pause_during_a_wait_extends_it() -> None:
    fake, throttle = make_throttle()
    throttle.pause(10)
    original_wait, pending_pauses = fake.wait, [30.0]

    def wait(timeout: float | None = None) -> bool:
        if pending_pauses:
            throttle.pause(pending_pauses.pop())
        return original_wait(timeout)

    fake.wait = wait  # type: ignore[method-assign]
    assert admission_times(fake, throttle, [1]) == [30]


def test_requests_are_not_admitted_after_a_stop() -> None:
    fake, throttle = make_throttle()
    fake.set()
    assert not throttle.wait(1)


@pytest.mark.parametrize("wait_cause", ["requests", "tokens", "pause"])
def test_stop_ends_a_wait(wait_cause: str) -> None:
    stop = threading.Event()
    limits = {
        "requests": Limits(requests_per_minute=1),
        "tokens": Limits(tokens_per_minute=100),
        "pause": Limits(),
    }
    throttle = Throttle(limits[wait_cause], stop)
    if wait_cause == "pause":
        throttle.pause(50)
    else:
        assert throttle.wait(90)
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    assert not throttle.wait(90)
    assert time.monotonic() - start < 10


def test_threads_share_the_limits() -> None:
    stop = threading.Event()
    throttle = Throttle(Limits(requests_per_minute=20), stop)
    admissions: list[bool] = []

    def ask() -> None:
        while throttle.wait(1):
            admissions.append(True)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(admissions) == 20


def test_tokens_are_estimated_from_characters() -> None:
    assert tokens_of("") == TYPICAL_REPLY_TOKENS
    assert tokens_of("x" * 400) == 100 + TYPICAL_REPLY_TOKENS
