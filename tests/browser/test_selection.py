"""Table selections in a real browser: the selected run stays selected when the rows change."""

import time

from playwright.sync_api import expect

from core.config import RunConfig
from core.run.directory import RunDirectory
from tests.browser import test_dashboard as dashboard


def write_run(runs_dir, name):
    run = RunDirectory.create(runs_dir, RunConfig(name=name, notes=f"notes of {name}"))
    run.append("plan", steps=1, steps_per_epoch=1, base_hash="ab" * 32)
    run.append("status", status="finished")


def rows(tab):
    """Return the rows in the table's accessible description, without the header."""
    return tab.get_by_test_id("stDataFrame").first.locator("[role=row]:not([aria-rowindex='1'])")


def selected(tab):
    return tab.get_by_test_id("stDataFrame").first.locator("[role=row][aria-selected=true]")


def click(tab, row):
    """Click the check box of a row; row 0 is the header."""
    tab.locator(".dvn-scroller").first.click(position={"x": 16, "y": 17 + 34 * row})


def add_run(tab, runs_dir, name):
    """Write a run. Then edit the filter, which reruns the page, until the table shows the run."""
    write_run(runs_dir, name)
    for attempt in range(20):  # the index is synced once per second
        dashboard.fill(tab, "Filter", ("status=finished", "finished")[attempt % 2])
        tab.wait_for_timeout(1000)
        if rows(tab).filter(has_text=name).count():
            break
    expect(rows(tab).filter(has_text=name)).to_have_count(1)


def expect_selected(tab, name):
    expect(tab.get_by_label("Notes", exact=True)).to_have_value(f"notes of {name}")
    expect(selected(tab)).to_have_count(1)
    expect(selected(tab)).to_contain_text(name)


def test_selected_run_stays_selected_when_rows_change(open_tab, runs_dir):
    write_run(runs_dir, "alpha")
    time.sleep(0.01)  # runs created in the same millisecond are sorted by name
    write_run(runs_dir, "beta")
    tab = open_tab("results")
    expect(rows(tab).first).to_contain_text("beta")
    click(tab, 1)
    expect_selected(tab, "beta")

    add_run(tab, runs_dir, "gamma")
    expect(rows(tab).first).to_contain_text("gamma")
    expect_selected(tab, "beta")

    dashboard.fill(tab, "Filter", "notes=alpha")
    expect(rows(tab)).to_have_count(1)
    expect(selected(tab)).to_have_count(0)
    expect(tab.get_by_label("Notes", exact=True)).to_have_count(0)
    dashboard.fill(tab, "Filter", "beta")
    expect_selected(tab, "beta")
    dashboard.fill(tab, "Filter", "finished")
    expect(rows(tab)).to_have_count(3)
    expect_selected(tab, "beta")
    dashboard.assert_no_error(tab)
