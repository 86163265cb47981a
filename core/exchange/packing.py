"""Parts of self-contained HTML files: templates, packed data, packed plotly.js, and hashes of scripts.

Packed data is compressed and stored in Base64, so that it cannot contain markup.
"""

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

FOLDER = Path(__file__).parent
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def script(name: str) -> str:
    """Return a script of this folder, preceded by what capsules and reports share."""
    return "".join((FOLDER / file).read_text(encoding="utf-8") for file in ("packing.js", name))


@functools.cache
def environment() -> Environment:
    """Return the Jinja2 environment. It escapes all text."""
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def packed_plotly() -> Markup:
    """Return plotly.js, packed like data."""
    return _base64_gzip(get_plotlyjs())


def packed(value: Any) -> Markup:
    """Pack a value as compressed JSON in Base64. The page's script unpacks it."""
    return _base64_gzip(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def _base64_gzip(text: str) -> Markup:
    content = gzip.compress(text.encode("utf-8", errors="replace"), 9, mtime=0)
    return Markup(base64.b64encode(content).decode("ascii"))


def csp_hash(script: str) -> str:
    """Return the hash that allows a script in a Content-Security-Policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _plain(value: Any) -> Any:
    """Convert arrays, NumPy scalars and missing values to JSON types. Non-finite numbers become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value
