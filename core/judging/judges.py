"""The available judges. Builds a judge from the user's settings, and decides where each API key may be sent."""

import os
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from core.errors import UserError
from core.judging.judge import Judge, Service
from core.judging.model_judge import ModelJudge
from core.judging.order import (
    GEMINI_MODEL,
    HOSTED_IN_FLIGHT,
    HOSTED_TIMEOUT_S,
    KEY_VARIABLES,
    LOOPBACK_IN_FLIGHT,
    LOOPBACK_TIMEOUT_S,
    MAX_TIMEOUT_S,
    MEASURES,
    JudgeSettings,
    Kind,
)
from core.judging.prompts import PAIR_TEMPLATE, SCORE_TEMPLATE
from core.judging.questions import Question
from core.judging.reference import ReferenceJudge
from core.judging.services.http_errors import base_address, checked_address, is_loopback, secrets_of
from core.judging.services.openai_compatible import OPENAI_URL

ADDRESS_VARIABLES = {"gemini": "GEMINI_API_ENDPOINT", "openai": "OPENAI_BASE_URL"}
DEFAULT_ADDRESSES = {"gemini": "https://generativelanguage.googleapis.com", "openai": OPENAI_URL}


class RequestDefaults(NamedTuple):
    """Default number of concurrent requests, and default timeout in seconds."""

    in_flight: int
    timeout: float


def build(settings: JudgeSettings, kind: Kind = "score", check_key: bool = True) -> Judge:
    """Build a judge for individual answers or for pairs.

    Args:
        check_key: raise an error if a required key is missing. Cost estimates do not need a key.

    Raises:
        UserError: a setting is missing or invalid.
    """
    if settings.judge not in JUDGES:
        judge_names = ", ".join(JUDGES)
        raise UserError(f"judge = {settings.judge!r}: must be one of {judge_names}")
    if settings.temperature is not None and not 0 <= settings.temperature <= 2:
        raise UserError(f"temperature = {settings.temperature:g}: must be between 0 and 2")
    if settings.timeout is not None and not 0 < settings.timeout <= MAX_TIMEOUT_S:
        message = f"timeout = {settings.timeout:g}: must be greater than 0 and at most {MAX_TIMEOUT_S:g} seconds"
        raise UserError(message)
    return JUDGES[settings.judge](settings, kind, check_key)


def _reference(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    if (name := settings.model or "chrf") not in MEASURES:
        measure_names = ", ".join(MEASURES)
        raise UserError(
            f"model = {name!r}: for judge = 'reference' it must be one of {measure_names}"
        )
    return ReferenceJudge(kind, MEASURES[name])


def _gemini(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    key, endpoint = _api_key(settings), address(settings)
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
    timeout = settings.timeout or request_defaults(settings).timeout

    def connect() -> Service:
        from core.judging.services.gemini import Gemini

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
    key, url = _api_key(settings), address(settings)
    if check_key and not key and not url:
        message = "judge = 'openai': no API key and no base URL; set OPENAI_API_KEY, or the base URL of a local server"
        raise UserError(message)
    if not settings.model:
        raise UserError("model = '': judge = 'openai' needs a model name")
    if url:
        checked_address(url, "The base URL")
    model, timeout = settings.model, settings.timeout or request_defaults(settings).timeout

    def connect() -> Service:
        from core.judging.services.openai_compatible import OpenAICompatible

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
    """Return the configured base URL.

    Empty if the service's default URL applies or if the judge does not use the network.
    """
    if settings.judge not in ADDRESS_VARIABLES:
        return ""
    return _base_address(settings.judge, settings.base_url) or _stored_address(settings.judge)


def request_defaults(settings: JudgeSettings) -> RequestDefaults:
    """Return the defaults for the judge's server, which depend on whether it runs on this machine."""
    if is_loopback(address(settings)):
        return RequestDefaults(LOOPBACK_IN_FLIGHT, LOOPBACK_TIMEOUT_S)
    return RequestDefaults(HOSTED_IN_FLIGHT, HOSTED_TIMEOUT_S)


def may_send_stored_key(judge: str, base_url: str) -> bool:
    """Whether a key from the environment or Streamlit's secrets may be sent to a user-supplied base URL.

    Such a key is sent only to the URL in the environment or, if there is none, to the service's default URL.
    """
    stored = _stored_address(judge) or DEFAULT_ADDRESSES[judge]
    return _base_address(judge, base_url) in ("", stored)


def _stored_address(judge: str) -> str:
    return _base_address(judge, os.environ.get(ADDRESS_VARIABLES[judge], ""))


def _base_address(judge: str, address: str) -> str:
    return base_address(address, with_version=judge != "gemini")


def _api_key(settings: JudgeSettings) -> str:
    """Return the user's key, or else the stored key if it may be sent to the base URL, or else an empty string."""
    key = settings.key
    if not key and may_send_stored_key(settings.judge, settings.base_url):
        key = settings.stored_key or ""
        if settings.stored_key is None:
            key = os.environ.get(KEY_VARIABLES[settings.judge], "")
    return key.strip()


def _question(settings: JudgeSettings, kind: Kind) -> Question:
    built_in = SCORE_TEMPLATE if kind == "score" else PAIR_TEMPLATE
    return Question(kind, settings.template.strip() or built_in)


JUDGES: dict[str, Callable[[JudgeSettings, Kind, bool], Judge]] = {
    "reference": _reference,
    "gemini": _gemini,
    "openai": _openai,
}
