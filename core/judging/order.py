"""What a user chooses before scoring: a judge, what it judges, and limits. Values only."""

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["score", "pair"]
"""Whether a judge scores one answer or compares two."""
Measure = Literal["chrf", "rouge_l", "exact"]
MEASURE_TITLES: dict[Measure, str] = {"chrf": "chrF", "rouge_l": "ROUGE-L", "exact": "exact match"}
"""The measures of the reference judge; the first is the default."""
MEASURE_NAMES: dict[str, Measure] = {name.replace("_", "-"): name for name in MEASURE_TITLES}
MEASURES = {name: MEASURE_TITLES[measure] for name, measure in MEASURE_NAMES.items()}
"""Titles of the measures, by the value of `model`."""
GEMINI_MODEL = "gemini-2.5-flash"
KEY_VARIABLES = {"gemini": "GEMINI_API_KEY", "openai": "OPENAI_API_KEY"}
LOOPBACK_TIMEOUT_S = 300.0
"""Default timeout for a server on this machine, which may need to load the model first."""
HOSTED_TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 86_400.0
LOOPBACK_IN_FLIGHT = 1
"""Default for a server on this machine. Most handle one request at a time, so others would time out."""
HOSTED_IN_FLIGHT = 8


@dataclass(frozen=True)
class JudgeSettings:
    """A user's choice of judge. Keys are kept in memory only.

    Args:
        judge: `reference`, `gemini` or `openai`.
        model: model name, empty for the default. For the reference judge, a name in MEASURES.
        temperature: sampling temperature; 0 is greedy, None uses the model's default.
        template: prompt template, empty for the built-in one.
        base_url: URL of an OpenAI-compatible server or of a Gemini proxy, empty for the default.
        key: API key that the user entered.
        timeout: read timeout in seconds; None uses the default for the server.
        stored_key: API key to use if `key` is empty; sent only to the configured address, see
            `judges.may_send_stored_key`. None reads it from the environment.
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
    """Limits of a scoring. None: no limit."""

    in_flight: int = HOSTED_IN_FLIGHT
    """Concurrent requests."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    attempts: int = 6
    """Attempts for one verdict before it is left for the next scoring."""
    pause: float = 1.0
    """Mean delay before the second attempt, in seconds; doubled before each further attempt."""


@dataclass(frozen=True)
class Order:
    """How to score answers.

    Args:
        kind: `score` for one answer at a time, `pair` for every two runs against each other.
        repeats: verdicts on each answer.
        with_base: also score the base models of the runs.
        retry_missing: ask again where a stored verdict has no score.
    """

    judge: JudgeSettings = field(default_factory=JudgeSettings)
    kind: Kind = "score"
    repeats: int = 1
    with_base: bool = True
    retry_missing: bool = False
    limits: Limits = field(default_factory=Limits)
