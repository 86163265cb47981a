"""The Launch page in a real browser: a first run in a few clicks, and a clone with one change."""

import time

import pytest
from playwright.sync_api import expect

from core.config import RunConfig
from core.run.directory import RunDirectory
from tests.browser.test_dashboard import assert_no_error, fill

IS_ON_TOP = """
    (button) => {
        const box = button.getBoundingClientRect();
        const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return button.contains(top);
    }
"""
MAX_CLICKS = 3
MAX_SECONDS = 30


@pytest.fixture(scope="module")
def baseline(runs_dir):
    """A finished run on little data."""
    values = {"max_examples": 60, "max_new_tokens": 2, "sample_prompt": ""}
    run = RunDirectory.create(runs_dir, RunConfig(name="baseline", **values))
    run.append("status", status="finished")
    return run


def test_first_run_is_launched_in_a_few_clicks(open_tab, runs_dir):
    start = time.monotonic()
    tab = open_tab()
    clicks = [
        tab.get_by_role("link", name="Launch", exact=True).first,
        tab.get_by_role("button", name="Launch the demo"),
    ]
    for click in clicks:
        click.click()
    expect(tab.get_by_role("link", name="Watch in Live")).to_be_visible()
    assert time.monotonic() - start < MAX_SECONDS
    assert len(clicks) <= MAX_CLICKS
    run = RunDirectory(runs_dir / "demo")
    assert run.status() in ("queued", "running")
    run.request_stop()


def test_clone_can_be_changed_undone_and_launched(open_tab, runs_dir, baseline):
    tab = open_tab(f"launch?from={baseline.name}")
    tab.set_viewport_size({"width": 800, "height": 700})
    tab.reload()  # now, the sidebar is closed and its button is in the page header
    panel = tab.locator(".st-key-sticky-launch")
    launch = panel.get_by_role("button", name="Launch", exact=True)
    expect(panel.get_by_text("Run name: baseline-2")).to_be_visible()
    expect(panel.get_by_text("Same settings as run baseline.")).to_be_visible()

    fill(tab, "Learning rate", "0.0002")
    expect(panel.get_by_text("Learning rate: 5e-5 → 2e-4")).to_be_visible()
    expect(tab.get_by_label("Learning rate", exact=True)).to_have_value("2e-4")
    tab.locator(".st-key-undo-lr").get_by_role("button").click()
    expect(panel.get_by_text("Same settings as run baseline.")).to_be_visible()
    rate = tab.get_by_label("Learning rate", exact=True)
    expect(rate).to_have_count(1)  # the replaced field remains until the page is redrawn
    expect(rate).to_have_value("5e-5")

    fill(tab, "Rank", "8")  # alpha is locked to it
    expect(panel.get_by_text("Alpha: 16 → 8")).to_be_visible()
    for width in (800, 600, 1440):  # the button stays in view
        tab.set_viewport_size({"width": width, "height": 700})
        tab.get_by_text("Advanced", exact=True).scroll_into_view_if_needed()
        expect(launch).to_be_in_viewport(ratio=1)
        assert launch.evaluate(IS_ON_TOP)
    launch.click()
    expect(panel.get_by_text("Same settings as run baseline-2.")).to_be_visible()
    config = RunDirectory(runs_dir / "baseline-2").config()
    assert (config.parent, config.lora_rank, config.lora_alpha) == ("baseline", 8, 8)
    assert_no_error(tab).get_by_role("link", name="baseline-2").click()
    expect(tab.get_by_role("heading", name="baseline-2").first).to_be_visible()
    RunDirectory(runs_dir / "baseline-2").request_stop()
