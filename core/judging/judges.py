"""The available judges, and how one is built from the user's settings."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from core.errors import UserError
from core.judging.http_errors import base_address, checked_address, is_loopback, secrets_of
from core.judging.judge import Judge, Kind, Service
from core.judging.model_judge import ModelJudge
from core.judging.openai_api import OPENAI
from core.judging.questions import PAIR_TEMPLATE, SCORE_TEMPLATE, Question
from core.judging.reference import TITLES, Measure, ReferenceJudge

LOOPBACK_TIMEOUT_S = 300.0
"""Default timeout for a server on this machine, which may need to load the model first."""
HOSTED_TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 86_400.0
LOOPBACK_IN_FLIGHT = 1
"""Default for a server on this machine. Most handle one request at a time, so others would time out."""
HOSTED_IN_FLIGHT = 8
KEY_VARIABLES = {"gemini": "GEMINI_API_KEY", "openai": "OPENAI_API_KEY"}
ADDRESS_VARIABLES = {"gemini": "GEMINI_API_ENDPOINT", "openai": "OPENAI_BASE_URL"}
OWN_ADDRESSES = {"gemini": "https://generativelanguage.googleapis.com", "openai": OPENAI}


@dataclass(frozen=True)
class JudgeSettings:
    """A user's choice of judge. The key is kept in memory only.

    Args:
        judge: a name in JUDGES.
        model: model name, empty for the default. For the reference judge, the name of a measure.
        temperature: sampling temperature; 0 is greedy, None uses the model's default.
        template: prompt template, empty for the built-in one.
        base_url: URL of an OpenAI-compatible server or of a Gemini proxy, empty for the default.
        key: API key. If empty and `environment` is set, it is read from the environment; see `may_send_stored_key`.
        timeout: read timeout in seconds; None uses `default_timeout`.
        environment: whether the key may come from the environment.
    """

    judge: str = "reference"
    model: str = ""
    temperature: float | None = 0.0
    template: str = ""
    base_url: str = ""
    key: str = field(default="", repr=False)
    timeout: float | None = None
    environment: bool = True


def build(settings: JudgeSettings, kind: Kind = "score", check_key: bool = True) -> Judge:
    """Build a judge of single answers or of pairs.

    Args:
        check_key: fail if a required key is missing. Planning needs no key.

    Raises:
        UserError: a setting is missing or invalid.
    """
    if settings.judge not in JUDGES:
        known = ", ".join(JUDGES)
        raise UserError(f"judge = {settings.judge!r}: must be one of {known}")
    if settings.temperature is not None and not 0 <= settings.temperature <= 2:
        raise UserError(f"temperature = {settings.temperature:g}: must be from 0 to 2")
    if settings.timeout is not None and not 0 < settings.timeout <= MAX_TIMEOUT_S:
        message = f"timeout = {settings.timeout:g}: must be greater than 0 and at most {MAX_TIMEOUT_S:g} seconds"
        raise UserError(message)
    return JUDGES[settings.judge](settings, kind, check_key)


def _reference(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    if (name := settings.model or "chrf") not in MEASURES:
        known = ", ".join(MEASURES)
        raise UserError(f"model = {name!r}: for judge = 'reference' it must be one of {known}")
    return ReferenceJudge(kind, MEASURE_NAMES[name])


def _gemini(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    key, endpoint = _key(settings), address(settings)
    if check_key and not key:
        message = "judge = 'gemini': no API key; set GEMINI_API_KEY or enter one in the dashboard"
        if settings.base_url:
            message += (
                " (a key from the environment is sent only to the address in GEMINI_API_ENDPOINT)"
            )
        raise UserError(message)
    if endpoint:
        checked_address(endpoint, "The base URL")
    model = settings.model.removeprefix("models/") or GEMINI_MODEL
    timeout = default_timeout(settings)

    def connect() -> Service:
        from core.judging.gemini import Gemini

        return Gemini(model, settings.temperature, key, endpoint=endpoint, timeout=timeout)

    return ModelJudge(
        "gemini",
        connect,
        _question(settings, kind),
        model,
        settings.temperature,
        secrets_of(key, endpoint),
    )


def _openai(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    key, url = _key(settings), address(settings)
    if check_key and not key and not url:
        message = "judge = 'openai': no API key and no base URL; set OPENAI_API_KEY, or the base URL of a local server"
        raise UserError(message)
    if not settings.model:
        raise UserError("model = '': judge = 'openai' needs a model name")
    if url:
        checked_address(url, "The base URL")
    model, timeout = settings.model, default_timeout(settings)

    def connect() -> Service:
        from core.judging.openai_api import OpenAICompatible

        return OpenAICompatible(model, settings.temperature, key, base_url=url, timeout=timeout)

    return ModelJudge(
        "openai",
        connect,
        _question(settings, kind),
        model,
        settings.temperature,
        secrets_of(key, url),
        urlsplit(url).netloc.rpartition("@")[2],
    )


def address(settings: JudgeSettings) -> str:
    """Return the configured base URL; empty for the service's default, or if the judge uses no network."""
    if settings.judge not in ADDRESS_VARIABLES:
        return ""
    return _base_address(settings.judge, settings.base_url) or _stored_address(settings.judge)


def default_timeout(settings: JudgeSettings) -> float:
    """Return the timeout in seconds: the user's, or the default for the kind of server."""
    if settings.timeout is not None:
        return settings.timeout
    return LOOPBACK_TIMEOUT_S if is_loopback(address(settings)) else HOSTED_TIMEOUT_S


def default_in_flight(settings: JudgeSettings) -> int:
    """Return the default number of concurrent requests."""
    return LOOPBACK_IN_FLIGHT if is_loopback(address(settings)) else HOSTED_IN_FLIGHT


def may_send_stored_key(judge: str, base_url: str) -> bool:
    """Whether a key from the environment or Streamlit's secrets may be sent to a user-supplied base URL.

    Such a key is sent only to the URL in the environment or, if there is none, to the service's default URL.
    """
    stored = _stored_address(judge) or OWN_ADDRESSES[judge]
    return _base_address(judge, base_url) in ("", stored)


def _stored_address(judge: str) -> str:
    return _base_address(judge, os.environ.get(ADDRESS_VARIABLES[judge], ""))


def _base_address(judge: str, address: str) -> str:
    return base_address(address, with_version=judge != "gemini")


def _key(settings: JudgeSettings) -> str:
    key = settings.key
    if not key and settings.environment and may_send_stored_key(settings.judge, settings.base_url):
        key = os.environ.get(KEY_VARIABLES[settings.judge], "")
    return key.strip()


def _question(settings: JudgeSettings, kind: Kind) -> Question:
    built_in = SCORE_TEMPLATE if kind == "score" else PAIR_TEMPLATE
    return Question(kind, settings.template.strip() or built_in)


MEASURE_NAMES: dict[str, Measure] = {name.replace("_", "-"): name for name in TITLES}
MEASURES = {name: TITLES[measure] for name, measure in MEASURE_NAMES.items()}
"""Titles of the reference judge's measures, by the value of `model`."""
GEMINI_MODEL = "gemini-2.5-flash"
JUDGES: dict[str, Callable[[JudgeSettings, Kind, bool], Judge]] = {
    "reference": _reference,
    "gemini": _gemini,
    "openai": _openai,
}


def default_judge() -> str:
    """Return `gemini` if a key for it is set, otherwise the judge that needs no key."""
    return "gemini" if os.environ.get("GEMINI_API_KEY") else "reference"
