"""The Results page in a real browser: open, delete and restore runs from their rows, and share the view with a link."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser import test_dashboard as dashboard
from tests.browser import test_selection as selection

HEADER_PX, ROW_PX = 32, 34
NAME_X_PX, DELETE_X_PX = 90, 255
"""Positions of the name and the button in each row. They do not depend on the columns, because they are pinned."""


def click_row(tab, row, x):
    """Click a row at x."""
    position = {"x": x, "y": HEADER_PX + ROW_PX * (row - 0.5)}
    tab.locator(".dvn-scroller").first.click(position=position)


@pytest.fixture
def results(open_tab, runs_dir):
    """The Results page with two runs."""
    for name in ("alpha", "beta"):
        selection.write_run(runs_dir, name)
    tab = open_tab()
    expect(selection.rows(tab)).to_have_count(3)  # and the hostile run
    expect(selection.rows(tab).first).to_contain_text("beta")
    return tab


def test_runs_can_be_opened_deleted_and_shared(results, open_tab, chromium, browser_context):
    tab = results
    table = tab.locator(".st-key-results-table")
    assert table.evaluate("e => getComputedStyle(e).overflowY") == "hidden", "covers the last row"
    click_row(tab, 1, DELETE_X_PX)
    expect(tab.get_by_text("Deleted beta.")).to_be_visible()
    expect(selection.rows(tab)).to_have_count(2)
    tab.get_by_role("button", name="Undo").click()
    expect(selection.rows(tab)).to_have_count(3)

    dashboard.fill(tab, "Filter", "finished")
    expect(selection.rows(tab)).to_have_count(2)
    selection.click(tab, 2)
    selection.expect_selected(tab, "alpha")
    browser_context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.get_by_role("button", name="Copy link").click()
    tab.get_by_text("Copied").wait_for()
    link = tab.evaluate("navigator.clipboard.readText()")
    assert "filter=finished" in link
    fresh = chromium.new_context()
    try:
        copy = fresh.new_page()
        copy.goto(link)
        selection.expect_selected(copy, "alpha")
        expect(selection.rows(copy)).to_have_count(2)
        assert copy.url == link
    finally:
        fresh.close()

    click_row(tab, 1, NAME_X_PX)
    expect(tab.get_by_role("heading", name="beta")).to_be_visible()
    expect(tab).to_have_url(re.compile("/run.name=beta$"))
    tab.go_back()
    selection.expect_selected(tab, "alpha")
    expect(selection.rows(tab)).to_have_count(2)
    dashboard.assert_no_error(tab)
