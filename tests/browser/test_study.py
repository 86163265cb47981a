"""A study of three learning rates with three seeds, launched in a few clicks."""

from playwright.sync_api import expect

from core.run.directory import RunDirectory
from tests.browser.test_dashboard import assert_no_error

MAX_CLICKS = 12


def test_study_is_launched_in_a_few_clicks(open_tab, runs_dir):
    tab, clicks = open_tab(), 0

    def click(target):
        nonlocal clicks
        clicks += 1
        target.click()

    click(tab.get_by_role("link", name="Launch", exact=True).first)
    panel = tab.locator(".st-key-sticky-launch")
    expect(panel.get_by_text("Run name: demo")).to_be_visible()
    setting = panel.get_by_role("combobox", name="Vary a setting")
    click(setting)
    setting.fill("learning")
    click(tab.get_by_role("option", name="Learning rate", exact=True))
    values = panel.get_by_label("Values for Learning rate")
    click(values)
    values.fill("1e-4, 3e-4, 1e-3")
    values.press("Enter")
    launch = panel.get_by_role("button", name="Launch 9 runs")
    expect(launch).to_be_enabled()  # three seeds by default
    click(launch)
    expect(panel.get_by_text("Launched 9 runs")).to_be_visible()
    assert clicks <= MAX_CLICKS
    assert {RunDirectory(runs_dir / f"lr-{i}").status() for i in range(1, 10)} <= {
        "queued",
        "running",
    }

    tab.reload()  # the varied setting is in the URL
    expect(tab.get_by_label("Values for Learning rate")).to_have_value("1e-4, 3e-4, 1e-3")
    assert_no_error(tab)
    RunDirectory(runs_dir / "lr-1").request_stop()
