"""The browser's history: pressing Back once leaves a page, whatever was selected on it."""

import pytest
from playwright.sync_api import expect

from benchmarks.load_data import write_runs

RUN = "load-0001"
"""The newest run."""


@pytest.fixture(scope="module")
def hostile():
    """Do not write a hostile run, because it would be the newest one."""


@pytest.fixture(scope="module")
def some_runs(runs_dir, address):
    write_runs(runs_dir, runs=2, steps=50)


def heading(tab, title):
    return tab.get_by_role("heading", name=title, exact=True, level=1)


def idle(tab):
    tab.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def test_back_leaves_each_page_with_one_press(open_tab, address, some_runs):
    tab = open_tab()
    for title in ("Live", "Compare", "Scoring", "Data"):
        expect(heading(tab, "Results")).to_be_visible()
        tab.get_by_test_id("stSidebarNav").get_by_role("link", name=title).click()
        expect(heading(tab, title)).to_be_visible()
        idle(tab)
        if title == "Live":
            expect(tab).to_have_url(f"{address}/live?run={RUN}")
            tab.get_by_text("Log scale").click()
            expect(tab).to_have_url(f"{address}/live?run={RUN}&log=1")
        tab.go_back()
    expect(heading(tab, "Results")).to_be_visible()


def test_back_from_a_run_restores_the_table(open_tab, address, some_runs):
    tab = open_tab("?filter=load&sort=name")
    expect(heading(tab, "Results")).to_be_visible()
    idle(tab)
    tab.locator(".dvn-scroller").first.click(position={"x": 90, "y": 52})  # the first run's name
    expect(heading(tab, "load-0000")).to_be_visible()
    idle(tab)
    tab.go_back()
    expect(heading(tab, "Results")).to_be_visible()
    expect(tab.get_by_label("Filter", exact=True)).to_have_value("load")
    expect(tab).to_have_url(f"{address}/?filter=load&sort=name")
