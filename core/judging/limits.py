"""Rate limiting for judge requests: requests and tokens per minute, and pauses that the service asks for."""

import threading
import time
from collections import deque
from collections.abc import Callable

from core.judging.order import Limits

WINDOW_S = 60.0
CHARACTERS_PER_TOKEN = 4
TYPICAL_REPLY_TOKENS = 60
"""Approximate length of a reply: a JSON object with a number and a sentence."""


class Throttle:
    """A sliding-window rate limiter, shared by all threads of a scoring job.

    Args:
        limits: maximum requests and tokens in any window of WINDOW_S.
        stop: event that ends all waits.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self, limits: Limits, stop: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._stop, self._clock = limits, stop, clock
        self._lock = threading.Lock()
        self._sent: deque[tuple[float, int]] = deque()
        self._tokens = 0
        self._paused_until = 0.0

    def wait(self, tokens: int) -> bool:
        """Wait until a request with this many tokens may be sent. Return False if `stop` is set first."""
        while not self._stop.is_set():
            with self._lock:
                delay = self._delay(tokens)
                if delay <= 0:
                    self._sent.append((self._clock(), tokens))
                    self._tokens += tokens
                    return True
            self._stop.wait(delay)
        return False

    def pause(self, seconds: float) -> None:
        """Block all requests for this many seconds. Never shortens a pause that is already in effect."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _delay(self, tokens: int) -> float:
        """Return how long to wait before checking again, in seconds; 0 if the request may be sent now."""
        now = self._clock()
        if now < self._paused_until:
            return self._paused_until - now
        while self._sent and self._sent[0][0] <= now - WINDOW_S:
            self._tokens -= self._sent.popleft()[1]
        max_requests = self._limits.requests_per_minute
        if max_requests and len(self._sent) >= max_requests:
            return self._sent[-max_requests][0] + WINDOW_S - now
        max_tokens = self._limits.tokens_per_minute
        if max_tokens and self._sent and self._tokens + tokens > max_tokens:
            # A request that exceeds the limit on its own is sent once the window is empty.
            return self._sent[0][0] + WINDOW_S - now
        return 0.0


def tokens_of(prompt: str) -> int:
    """Estimate the number of tokens in a request and its reply. The exact count depends on the service's tokenizer."""
    return len(prompt) // CHARACTERS_PER_TOKEN + TYPICAL_REPLY_TOKENS
