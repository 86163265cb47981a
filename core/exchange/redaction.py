"""Remove API keys, passwords and the path of the home folder from exported text.

This program never writes keys to run directories, but a data set, a prompt or a library's output could contain one.
"""

import os
import re
from collections.abc import Mapping, Sequence
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
    """Replace API keys and passwords in a text, or in all texts of nested lists and dicts, with `[key]`."""
    variables = os.environ.items()
    secrets = {v for k, v in variables if SECRET_NAMES.search(k.upper())}
    return _redacted(value, [v for v in secrets if len(v) >= MIN_SECRET_CHARS])


def _redacted(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REPLACEMENT)
        return KEY_SHAPES.sub(REPLACEMENT, value)
    if isinstance(value, Mapping):
        return {key: _redacted(item, secrets) for key, item in value.items()}
    return [_redacted(item, secrets) for item in value] if isinstance(value, list) else value


def without_home(text: str) -> str:
    """Replace the path of the home folder with `~`."""
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"{re.escape(home)}(?=/|\b)", "~", text)
