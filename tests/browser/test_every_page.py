"""Checks on every page: accessible colors, titles, layout, and no failed or external requests."""

from pathlib import Path
from urllib.parse import urlsplit

import axe_playwright_python
import pytest
from playwright.sync_api import expect

from benchmarks.load_data import event_file, write_runs
from core.config import RunConfig
from core.studies import study
from core.studies.sweep import Axis, Sweep
from core.views.charts import TEMPLATES

RUN, STUDY = "load-0000", "seeds"
PAGES = {
    "": "Results",
    "launch": "Launch",
    f"live?run={RUN}": "Live",
    "studies": "Studies",
    f"studies?study={STUDY}&tab=Effects": "Studies",
    "compare": "Compare",
    "scoring": "Scoring",
    "data": "Data",
    f"run?name={RUN}": RUN,
}
"""The title of each page, by its path."""
WITHOUT_RUNS = [path for path in PAGES if path not in ("launch", "data")]
"""Pages that look different without runs."""
PROBES = ("/_stcore/health", "/_stcore/host-config")
"""On direct links, Streamlit first looks for its server below the page's path, then at the root."""
AXE_JS = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
RUN_AXE_JS = "() => axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)"
KNOWN_VIOLATIONS: dict[str, str] = {}
"""Rules that Streamlit's markup violates, with reasons."""
IDLE_JS = """
    () => document.querySelector('[data-testid="stApp"]')?.dataset.testScriptState === "notRunning"
"""
COLORS_JS = """
    () => [
        getComputedStyle(document.querySelector('[data-testid="stApp"]')).backgroundColor,
        getComputedStyle(document.documentElement).getPropertyValue("--caption-color"),
    ]
"""
"""Colors set by Streamlit's theme, and by the style that the page adds after it has rerun."""
CHART_COLOR_JS = (
    "() => document.querySelector('.js-plotly-plot')?.layout?.template?.layout?.paper_bgcolor"
)
BUTTON_LEFT_OF_TITLE_JS = """
    () => {
        const box = (selector) => document.querySelector(selector).getBoundingClientRect();
        return box('[data-testid="stExpandSidebarButton"]').right <= box("h1").left;
    }
"""
"""True once the sidebar has slid away, if its button does not cover the title."""
NARROW = {"width": 800, "height": 1000}


@pytest.fixture(scope="module")
def hostile():
    """Do not write a hostile run, because the first test needs an empty folder."""


@pytest.fixture(scope="module")
def some_runs(runs_dir, address, chromium):
    """Two finished and indexed runs, and a study of four."""
    planned = Sweep(RunConfig(), (Axis(("lr",), (1e-4, 1e-3)),), (1, 2))
    found = study.plan(runs_dir, STUDY, planned)
    study.create_runs(runs_dir, found)
    for number, member in enumerate(found.members):
        text, _ = event_file(number, steps=50)
        (runs_dir / member.name / "events.jsonl").write_text(text, encoding="utf-8")
    write_runs(runs_dir, runs=2, steps=50)
    tab = chromium.new_page()
    for _ in range(60):  # the index is synced once per second
        tab.goto(f"{address}/run?name={RUN}")
        tab.wait_for_function(IDLE_JS)
        if not tab.get_by_text("Unknown run").count():
            break
        tab.wait_for_timeout(500)
    expect(tab.get_by_text("Unknown run")).to_have_count(0)
    tab.close()


@pytest.fixture
def visit(browser_context, address):
    """A function that opens a path and waits until the page is complete. Fails on failed or external requests."""
    problems = []

    def check_response(response):
        url = urlsplit(response.url)
        probed = url.path.endswith(PROBES) and not url.path.startswith("/_stcore")
        if response.status >= 400 and not probed:
            problems.append(f"{response.status} {response.url}")

    def check_request(request):
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):  # None for data and blob URLs
            problems.append(f"external request: {request.url}")

    def check_console(message):
        if message.type == "error" and not message.location["url"].endswith(PROBES):
            problems.append(f"console: {message.text}")

    tab = browser_context.new_page()
    tab.on("response", check_response)
    tab.on("request", check_request)
    tab.on("console", check_console)
    tab.on("pageerror", lambda error: problems.append(f"script error: {error}"))

    def visit(path):
        tab.emulate_media(color_scheme="light")
        tab.goto(f"{address}/{path}")
        expect(tab.get_by_role("heading", level=1)).to_be_visible()
        tab.wait_for_function(IDLE_JS)
        return tab

    yield visit
    tab.close()
    assert not problems


def violations(tab):
    """Return the serious and critical violations of accessibility rules, with the elements."""
    tab.evaluate(AXE_JS)
    return [
        f"{tab.url}: {violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in tab.evaluate(RUN_AXE_JS)
        for node in violation["nodes"]
        if violation["impact"] in ("serious", "critical")
        and violation["id"] not in KNOWN_VIOLATIONS
    ]


def switch_to_dark(tab):
    """Switch the system to the dark theme and wait until the page follows."""
    light = tab.evaluate(COLORS_JS)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(
        f"light => ({COLORS_JS})().every((color, i) => color !== light[i])", arg=light
    )
    tab.wait_for_function(IDLE_JS)


def check_frame(tab, title):
    """Check the page's titles, icon, sidebar and header."""
    expect(tab).to_have_title(f"{title} · GPT-2 fine-tuning lab")
    icon = tab.locator("link[rel~=icon]").first.evaluate("link => link.href")
    assert icon.startswith("data:image/svg+xml")
    heading = tab.get_by_role("heading", level=1)
    assert heading.evaluate("h => getComputedStyle(h).fontSize") == "24px"
    assert 20 <= heading.bounding_box()["y"] <= 32
    heading.click(trial=True, position={"x": 4, "y": 12})  # nothing covers it
    assert tab.get_by_test_id("stSidebar").bounding_box()["width"] == 200


def test_pages_without_runs_are_complete_and_accessible(visit):
    found = []
    for path in WITHOUT_RUNS:
        tab = visit(path)
        check_frame(tab, PAGES[path])
        found += violations(tab)
        switch_to_dark(tab)
        found += violations(tab)
    assert not found, "\n".join(found)


def test_pages_with_runs_are_complete_and_accessible(visit, some_runs):
    found = []
    for path, title in PAGES.items():
        tab = visit(path)
        check_frame(tab, title)
        found += violations(tab)
        switch_to_dark(tab)
        found += violations(tab)
    assert not found, "\n".join(found)


def test_results_opens_at_its_own_url(visit):
    tab = visit("results")
    expect(tab.get_by_role("heading", name="Results", exact=True)).to_be_visible()
    expect(tab.get_by_text("Page not found")).to_have_count(0)


def test_colors_of_charts_follow_the_theme_of_the_system(visit, some_runs):
    tab = visit(f"live?run={RUN}")
    expect(tab.locator(".js-plotly-plot").first).to_be_visible()
    switch_to_dark(tab)
    dark = TEMPLATES["dark"]["layout"]["paper_bgcolor"]
    tab.wait_for_function(f"color => ({CHART_COLOR_JS})() === color", arg=dark)


def test_narrow_windows_start_with_a_closed_sidebar(visit):
    tab = visit("data")
    tab.set_viewport_size(NARROW)
    tab.evaluate("localStorage.clear()")
    tab = visit("data")
    opener = tab.get_by_test_id("stExpandSidebarButton")
    expect(opener).to_be_visible()
    expect(tab.get_by_test_id("stSidebar")).not_to_be_in_viewport()
    expect(tab.get_by_role("heading", level=1)).to_be_visible()
    tab.wait_for_function(BUTTON_LEFT_OF_TITLE_JS)
    opener.click()
    expect(tab.get_by_role("link", name="Launch")).to_be_in_viewport()
