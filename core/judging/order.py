"""Settings for a scoring job: which judge to use, what to judge, and the limits."""

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["score", "pair"]
"""Whether a judge scores one answer or compares two."""
Measure = Literal["chrf", "rouge_l", "exact"]
"""Similarity measure used by the reference judge."""
MEASURE_TITLES: dict[Measure, str] = {"chrf": "chrF", "rouge_l": "ROUGE-L", "exact": "exact match"}
MEASURES: dict[str, Measure] = {name.replace("_", "-"): name for name in MEASURE_TITLES}
"""Measures by the model name that selects them; the first is the default."""
GEMINI_MODEL = "gemini-2.5-flash"
KEY_VARIABLES = {"gemini": "GEMINI_API_KEY", "openai": "OPENAI_API_KEY"}
LOOPBACK_TIMEOUT_S = 300.0
"""Default timeout for a server on this machine, which may need to load the model first."""
HOSTED_TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 86_400.0
LOOPBACK_IN_FLIGHT = 1
"""Requests in flight to a server on this machine. Most such servers handle one request at a time, so queued requests would time out."""
HOSTED_IN_FLIGHT = 8


@dataclass(frozen=True)
class JudgeSettings:
    """Settings for a judge. API keys are kept only in memory.

    Args:
        judge: `reference`, `gemini` or `openai`.
        model: model name; empty for the default. For the reference judge, a key of MEASURES.
        temperature: sampling temperature; 0 is greedy, None uses the model's default.
        template: prompt template; empty for the built-in one.
        base_url: URL of an OpenAI-compatible server or of a Gemini proxy; empty for the default.
        key: API key entered by the user.
        timeout: read timeout in seconds; None uses the default for the server.
        stored_key: API key to use if `key` is empty; None reads it from the environment. It is sent only to the
            configured address; see `judges.may_send_stored_key`.
    """

    judge: str = "reference"
    model: str = ""
    temperature: float | None = 0.0
    template: str = ""
    base_url: str = ""
    key: str = field(default="", repr=False)
    timeout: float | None = None
    stored_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Limits:
    """Limits for a scoring job. None means no limit."""

    in_flight: int = HOSTED_IN_FLIGHT
    """Concurrent requests."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    attempts: int = 6
    """Maximum number of attempts per verdict. After that, the verdict is left for the next scoring job."""
    pause: float = 1.0
    """Mean delay before the second attempt, in seconds. Doubles with each further attempt."""


@dataclass(frozen=True)
class Order:
    """A scoring request.

    Args:
        kind: `score` to score individual answers, `pair` to compare the answers of each pair of runs.
        repeats: number of verdicts per answer.
        with_base: also score the runs' base models.
        retry_missing: also request new verdicts where the cached verdict has no score.
    """

    judge: JudgeSettings = field(default_factory=JudgeSettings)
    kind: Kind = "score"
    repeats: int = 1
    with_base: bool = True
    retry_missing: bool = False
    limits: Limits = field(default_factory=Limits)
