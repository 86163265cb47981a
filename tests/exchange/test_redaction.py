"""Exported text contains neither API keys nor the path of the home folder."""

from pathlib import Path

import pytest

from core.exchange.redaction import without_home, without_keys


@pytest.mark.parametrize(
    "text",
    [
        "failed with sk-abcdefghijklmnopqrstuvwx",
        "token hf_abcdefghijklmnopqrstuvwx.",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "https://user:pa55word@example.org/v1",
    ],
)
def test_keys_are_recognized_by_their_shape(text):
    redacted = without_keys(text)
    assert "[key]" in redacted
    assert "abcdefghijklmnop" not in redacted
    assert "pa55word" not in redacted


def test_values_of_secret_environment_variables_are_removed_at_every_depth(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "plain words as a key")
    monkeypatch.setenv("DASHBOARD_PASSWORD", "short")
    value = {"log": ["asked with plain words as a key", 3], "none": None, "text": "a short text"}
    redacted = {"log": ["asked with [key]", 3], "none": None, "text": "a short text"}
    assert without_keys(value) == redacted


def test_ordinary_text_is_unchanged(monkeypatch):
    monkeypatch.setenv("API_KEY", "")
    for text in ("a risk-averse person", "sk-8 is a name", "see https://a.bc/d", "**bold** *** x"):
        assert without_keys(text) == text


def test_home_folder_is_replaced_by_a_tilde(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    assert without_home("/home/ada/data.json and /home/adam/x") == "~/data.json and /home/adam/x"
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert without_home("/data.json") == "/data.json"
