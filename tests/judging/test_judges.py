"""Base URLs for judges, and the URLs to which a stored key may be sent."""

import pytest

from core.errors import UserError
from core.judging.judges import address, build, may_send_stored_key
from core.judging.order import JudgeSettings

GOOGLE = "https://generativelanguage.googleapis.com"


@pytest.fixture(autouse=True)
def _no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_ENDPOINT", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.mark.parametrize(
    ("judge", "base_url", "expected"),
    [
        ("gemini", "", True),
        ("gemini", GOOGLE, True),
        ("gemini", f"{GOOGLE}/v1beta", True),
        ("gemini", f" {GOOGLE}/v1beta/models/gemini-2.5-flash:generateContent", True),
        ("gemini", "https://example.org/v1beta", False),
        ("gemini", f"{GOOGLE}.example.org/v1beta", False),
        ("openai", "https://api.openai.com/v1/chat/completions", True),
        ("openai", "https://api.openai.com/v2", False),
    ],
)
def test_stored_key_is_sent_only_to_its_address(judge: str, base_url: str, expected: bool) -> None:
    assert may_send_stored_key(judge, base_url) is expected


def test_configured_address_may_contain_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_ENDPOINT", "https://example.org/v1beta/")
    assert may_send_stored_key("gemini", "https://example.org")
    assert not may_send_stored_key("gemini", GOOGLE)


def test_version_is_stripped_from_gemini_addresses_only() -> None:
    url = "http://127.0.0.1:8000/v1/"
    assert address(JudgeSettings("gemini", base_url=url)) == "http://127.0.0.1:8000"
    assert address(JudgeSettings("openai", base_url=url)) == "http://127.0.0.1:8000/v1"


def test_stored_key_argument_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "from the environment")
    build(JudgeSettings("gemini"))
    with pytest.raises(UserError, match="no API key"):
        build(JudgeSettings("gemini", stored_key=""))
    build(JudgeSettings("gemini", stored_key="from a secrets file"))
    with pytest.raises(UserError, match="no API key"):
        build(JudgeSettings("gemini", base_url="https://example.org", stored_key="a secret"))
    assert "a secret" not in repr(JudgeSettings(stored_key="a secret"))
