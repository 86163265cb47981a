"""The judges there are, and how one is made from what a user chose."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from core.errors import UserError
from core.judging.http_errors import secrets_of
from core.judging.judge import Judge, Kind, Service
from core.judging.model_judge import ModelJudge
from core.judging.questions import PAIR_TEMPLATE, SCORE_TEMPLATE, Question
from core.judging.reference import TITLES, Measure, ReferenceJudge


@dataclass(frozen=True)
class JudgeSettings:
    """What a user chooses. The key never leaves memory.

    Args:
        judge: a name in JUDGES.
        model: of the service; its default where empty. Of the reference judge, its measure.
        template: the prompt; the built-in one where empty.
        base_url: of an OpenAI-compatible service, or of a proxy for Gemini.
        key: of the account; from the environment where empty and `environment`.
        timeout: seconds for a reply.
    """

    judge: str = "reference"
    model: str = ""
    temperature: float = 0.0
    template: str = ""
    base_url: str = ""
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    environment: bool = True


def build(settings: JudgeSettings, kind: Kind = "score", check_key: bool = True) -> Judge:
    """A judge of single answers, or of pairs.

    Args:
        check_key: refuse one that could not be asked for want of a key; to plan, none is needed.

    Raises:
        UserError: something is missing or unknown.
    """
    if settings.judge not in JUDGES:
        known = ", ".join(JUDGES)
        raise UserError(f"judge = {settings.judge!r}: it should be one of {known}")
    if not 0 <= settings.temperature <= 2:
        raise UserError(f"temperature = {settings.temperature:g}: it should be from 0 to 2")
    return JUDGES[settings.judge](settings, kind, check_key)


def _reference(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    if (name := settings.model or "chrf") not in MEASURES:
        known = ", ".join(MEASURES)
        raise UserError(f"model = {name!r}: of judge = 'reference' it should be one of {known}")
    return ReferenceJudge(kind, MEASURE_NAMES[name])


def _gemini(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    key = _key(settings, "GEMINI_API_KEY")
    if check_key and not key:
        raise UserError(
            "judge = 'gemini': there is no key; set GEMINI_API_KEY, or type one in the dashboard"
        )
    model = settings.model.removeprefix("models/") or GEMINI_MODEL
    endpoint = settings.base_url or None

    def connect() -> Service:
        from core.judging.gemini import Gemini

        return Gemini(model, settings.temperature, key, endpoint=endpoint, timeout=settings.timeout)

    return ModelJudge(
        "gemini",
        connect,
        _question(settings, kind),
        model,
        settings.temperature,
        secrets_of(key, endpoint or ""),
    )


def _openai(settings: JudgeSettings, kind: Kind, check_key: bool) -> Judge:
    key = _key(settings, "OPENAI_API_KEY")
    url = settings.base_url or os.environ.get("OPENAI_BASE_URL", "")
    if check_key and not key and not url:
        message = "judge = 'openai': there is neither a key nor a base URL; set OPENAI_API_KEY, or the address of a local server"
        raise UserError(message)
    if not settings.model:
        raise UserError("model = '': judge = 'openai' needs the name of a model")
    model = settings.model

    def connect() -> Service:
        from core.judging.openai_api import OpenAICompatible

        return OpenAICompatible(
            model, settings.temperature, key, base_url=url or None, timeout=settings.timeout
        )

    return ModelJudge(
        "openai",
        connect,
        _question(settings, kind),
        model,
        settings.temperature,
        secrets_of(key, url),
        urlsplit(url).netloc.rpartition("@")[2],
    )


def _key(settings: JudgeSettings, variable: str) -> str:
    return (settings.key or (settings.environment and os.environ.get(variable)) or "").strip()


def _question(settings: JudgeSettings, kind: Kind) -> Question:
    built_in = SCORE_TEMPLATE if kind == "score" else PAIR_TEMPLATE
    return Question(kind, settings.template.strip() or built_in)


MEASURE_NAMES: dict[str, Measure] = {name.replace("_", "-"): name for name in TITLES}
MEASURES = {name: TITLES[measure] for name, measure in MEASURE_NAMES.items()}
"""Titles of the reference judge's measures, by what `model` calls them."""
GEMINI_MODEL = "gemini-2.5-flash"
JUDGES: dict[str, Callable[[JudgeSettings, Kind, bool], Judge]] = {
    "reference": _reference,
    "gemini": _gemini,
    "openai": _openai,
}


def default_judge() -> str:
    """Gemini where there is a key for it, else the judge that needs none."""
    return "gemini" if os.environ.get("GEMINI_API_KEY") else "reference"
