"""Read the text of a chat message, whatever shape its content has. Knows no service and no prompt."""

import json
from collections.abc import Mapping
from typing import Any


def message_text(message: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the text of a chat message, and whether it is its reasoning because its content is empty.

    Servers send the content as a string, a list of parts, a number, an object or null.
    """
    if text := _content_text(message.get("content")):
        return text, False
    for name in ("reasoning_content", "reasoning"):
        if text := _content_text(message.get(name)):
            return text, True
    return "", False


def _content_text(content: Any) -> str:
    """Return the text of a content of any shape, without reasoning parts; empty if it is blank."""
    if content is None or isinstance(content, str):
        return content if content and content.strip() else ""
    if isinstance(content, list):
        return "".join(map(_content_text, content))
    if isinstance(content, Mapping) and "type" in content:
        text = content.get("text")
        is_text = content["type"] in ("text", "output_text") and isinstance(text, str)
        return str(text) if is_text else ""
    return json.dumps(content)
