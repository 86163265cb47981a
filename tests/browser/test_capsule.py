"""A run capsule, opened from disk without a network."""

import re

import pytest
from playwright.sync_api import expect

from core.cli import commands
from tests.browser.conftest import HOSTILE


@pytest.fixture
def capsule_tab(chromium, runs_dir, hostile, tmp_path, monkeypatch):
    """A tab with the capsule of a hostile run. The test fails on any error, dialog or request."""
    file = tmp_path / "capsule.html"
    arguments = ["export", hostile.name, str(file), "--format", "capsule"]
    commands.app(args=[*arguments, "--runs-dir", str(runs_dir)], standalone_mode=False)
    context = chromium.new_context(offline=True, color_scheme="dark")
    tab = context.new_page()
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("dialog", lambda dialog: problems.append(dialog.message))
    tab.on("request", lambda request: problems.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert problems == [file.as_uri()]


def test_capsule_works_from_disk_with_the_network_off(capsule_tab):
    tab = capsule_tab
    expect(tab.locator("#figure .main-svg").first).to_be_visible()
    expect(tab.locator("#figure .annotation", has_text="Learning rate")).to_be_visible()
    toolbar = tab.locator("#figure .modebar-btn").evaluate_all(
        "all => all.map(b => b.dataset.title)"
    )
    assert toolbar == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]
    answers = tab.get_by_role("article")
    expect(answers).to_have_count(1)
    expect(answers).to_contain_text(f"answer {HOSTILE}")
    tab.get_by_label("Search").fill("words that no answer contains")
    expect(tab.get_by_role("status")).to_have_text("No answers found")
    tab.get_by_label("Search").fill("ASK <script>")
    expect(answers).to_have_count(1)
    settings = tab.locator("#settings tbody tr:visible")
    expect(settings.filter(has_text=re.compile(r"\blr\b"))).to_have_count(1)
    tab.get_by_label("Show").nth(1).select_option("settings that differ from the defaults")
    expect(settings).to_have_count(0)
    expect(tab.get_by_text("No settings differ.")).to_be_visible()
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("main img, main a").count() == 0
