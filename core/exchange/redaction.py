"""Remove API keys, passwords and the name of the home folder from exported text.

Keys are not written to run directories, but a data set, a prompt or the output of a library could contain one.
"""

import os
import re
from pathlib import Path

SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
"""Environment variables whose values must not be exported."""
MIN_SECRET_CHARS = 8
"""Shorter values of such variables are ignored, because they could be ordinary words."""
KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|gsk|xai|nvapi|hf)[-_][A-Za-z0-9_-]{16,}|\bAIza[A-Za-z0-9_-]{30,}|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"
)
"""API keys of common services, and user names and passwords in URLs."""
REPLACEMENT = "[key]"


def without_keys(text: str) -> str:
    """Replace API keys and passwords with `[key]`."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name.upper()) and len(value) >= MIN_SECRET_CHARS:
            text = text.replace(value, REPLACEMENT)
    return KEY_SHAPES.sub(REPLACEMENT, text)


def without_home(text: str) -> str:
    """Replace the path of the home folder with `~`."""
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"{re.escape(home)}(?=/|\b)", "~", text)
