"""Remove API keys, passwords and the path of the home folder from exported text.

This program never writes keys to run directories, but a data set, a prompt or a library's output could contain one.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
"""Environment variables whose values must not be exported."""
MIN_SECRET_CHARS = 8
"""Shorter values are ignored, because they could be ordinary words."""
KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|gsk|xai|nvapi|hf)[-_][A-Za-z0-9_-]{16,}|\bAIza[A-Za-z0-9_-]{30,}|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"
)
"""API keys of common services, and user names and passwords in URLs."""
REPLACEMENT = "[key]"


def without_keys(value: Any) -> Any:
    """Replace API keys and passwords in a string, or in all strings of nested lists and dicts, with `[key]`."""
    variables = os.environ.items()
    secrets = {v for k, v in variables if SECRET_NAMES.search(k.upper())}
    secrets = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}

    def replace(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, REPLACEMENT)
        return KEY_SHAPES.sub(REPLACEMENT, text)

    return _with_texts(value, replace)


def without_home(value: Any) -> Any:
    """Replace the path of the home folder in a string, or in all strings of nested lists and dicts, with `~`."""
    home = str(Path.home())
    pattern = re.compile(rf"{re.escape(home)}(?=/|\b)")
    return value if home == "/" else _with_texts(value, lambda text: pattern.sub("~", text))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a value with all its strings changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _with_texts(item, change) for key, item in value.items()}
    return [_with_texts(item, change) for item in value] if isinstance(value, list) else value
