"""How fast a judge may be asked: requests and tokens a minute, and a pause for all when it is busy."""

import threading
import time
from collections import deque
from collections.abc import Callable

from core.judging.order import Limits

WINDOW_S = 60.0
CHARACTERS_PER_TOKEN = 4
TYPICAL_REPLY_TOKENS = 60
"""What a reply takes, roughly: a number and a sentence as JSON."""


class Throttle:
    """Lets requests through within the limits; shared by all threads of a scoring.

    Args:
        limits: of requests and tokens in any span of a minute.
        stop: ends all waiting.
        clock: seconds, only ever growing.
    """

    def __init__(
        self, limits: Limits, stop: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._stop, self._clock = limits, stop, clock
        self._lock = threading.Lock()
        self._sent: deque[tuple[float, int]] = deque()
        self._tokens = 0
        self._closed_until = 0.0

    def wait(self, tokens: int) -> bool:
        """Wait for one's turn. False where the scoring was stopped meanwhile."""
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
        """Let nobody through for a while."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock() + seconds)

    def _delay(self, tokens: int) -> float:
        now = self._clock()
        if now < self._closed_until:
            return self._closed_until - now
        while self._sent and self._sent[0][0] <= now - WINDOW_S:
            self._tokens -= self._sent.popleft()[1]
        max_requests = self._limits.requests_per_minute
        if max_requests and len(self._sent) >= max_requests:
            return self._sent[-max_requests][0] + WINDOW_S - now
        max_tokens = self._limits.tokens_per_minute
        if max_tokens and self._sent and self._tokens + tokens > max_tokens:
            return self._sent[0][0] + WINDOW_S - now  # one larger than the room goes alone
        return 0.0


def tokens_of(prompt: str) -> int:
    """Tokens of a request and its reply, estimated: services count with vocabularies of their own."""
    return len(prompt) // CHARACTERS_PER_TOKEN + TYPICAL_REPLY_TOKENS
