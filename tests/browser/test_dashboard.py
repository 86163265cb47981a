"""End-to-end tests of the dashboard in a real browser: launch a run, watch it train and read its answers."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import expect

from benchmarks.watchers import watch
from core.run.directory import RunDirectory
from tests.browser.conftest import HOSTILE

POINTS = """
    () => {
        const plots = [...document.querySelectorAll(".js-plotly-plot")];
        for (const plot of plots) {
            const panel = plot.layout?.annotations?.findIndex((a) => a.text.includes("Training loss"));
            if (panel === undefined || panel < 0) continue;
            const trace = plot.data.findIndex((t) => t.yaxis === (panel ? `y${panel + 1}` : "y"));
            return plot.calcdata?.[trace]?.filter((point) => point.x !== undefined).length ?? 0;
        }
        return 0;
    }
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A data set of 20 examples: 17 for training, 2 for testing, 1 for validation."""
    records = [{"instruction": f"Count to {n}.", "output": f"{n} it is."} for n in range(20)]
    records[17] = {"instruction": "Name an antonym of 'happy'.", "output": "sad"}
    records[18] = {"instruction": "Suggest an alternate word for 'happy'.", "output": "joyful"}
    path = tmp_path_factory.mktemp("data") / "twenty.json"
    path.write_text(json.dumps(records))
    return path


def assert_no_error(tab):
    """Return the tab after checking that it does not show an exception or an error message."""
    assert tab.get_by_test_id("stException").count() == 0
    assert tab.get_by_test_id("stAlertContentError").count() == 0
    return tab


def fill(tab, label, value):
    field = tab.get_by_label(label, exact=True).first
    field.fill(value)
    field.press("Enter")


def badge(tab, status):
    return tab.locator(".stMarkdownBadge").filter(has_text=status).first


def steps(run):
    return run.events_path.read_text().count('"event":"step"')


def test_hostile_text_is_escaped_and_direct_link_shows_navigation(open_tab, runs_dir, hostile):
    tab = open_tab(f"live?run={hostile.name}")  # first visit to this server
    for field in ("reason", "prompt", "sample"):
        expect(tab.get_by_text(f"{field} <script>").first).to_be_visible()
    assert tab.get_by_test_id("stSidebarNavLink").count() == 7
    assert tab.title() == "Live · GPT-2 fine-tuning lab"
    _assert_inert(tab)
    tab.get_by_role("link", name="Compare").click()
    for field in ("ask", "input", "reference", "answer"):
        expect(tab.get_by_text(f"{field} <script>").first).to_be_visible()
    _assert_inert(tab)
    tab.get_by_role("link", name="Results").click()
    select_first_row(tab)
    expect(tab.get_by_label("Notes", exact=True)).to_have_value(f"notes {HOSTILE}")
    _assert_inert(tab)


def _assert_inert(tab):
    main = tab.get_by_test_id("stMain")
    assert tab.evaluate("window.pwned") is None
    links = [f"a[href^='{scheme}:']" for scheme in ("http", "https", "javascript", "mailto")]
    for selector in (*links, "img", ".katex", "main script", "strong strong"):
        assert main.locator(selector).count() == 0, selector
    assert main.get_by_role("img", name="delete icon").count() == 0
    if main.get_by_label("Notes", exact=True).count():
        return  # input values are not part of the page's text
    text = main.inner_text().replace("\u2060", "")
    for raw in ("$x^2$", ":material/delete:", "https://a.bc/d", "**bold**", "&lt;b&gt;", "](java"):
        assert raw in text, raw


def select_first_row(tab):
    tab.get_by_test_id("stDataFrame").wait_for()
    grid = tab.locator(".dvn-scroller").first
    grid.wait_for()
    grid.click(position={"x": 16, "y": 52})
    expect(tab.get_by_role("button", name="Open in Live")).to_be_enabled()


def test_launched_runs_draw_curves_and_show_answers(open_tab, runs_dir, dataset, address):
    tab = open_tab("launch")
    tab.get_by_role("button", name="Launch the demo").click()
    tab.get_by_role("link", name="Watch in Live").click()
    demo = RunDirectory(runs_dir / "demo")
    badge(tab, "running").wait_for()

    # The curve keeps growing while tabs are opened, reloaded and closed.
    tab.wait_for_function(f"({POINTS})() >= 2")
    point_count = tab.evaluate(POINTS)
    tab.wait_for_function(f"({POINTS})() > {point_count}")
    second_tab = open_tab("live?run=demo")
    tab.reload()
    tab.wait_for_function(f"({POINTS})() > {point_count}")
    second_tab.wait_for_function(f"({POINTS})() > {point_count}")
    assert assert_no_error(tab).get_by_role("button", name="Stop").count() == 1
    assert [e["status"] for e in demo.statuses()] == ["queued", "running"]
    assert_no_error(second_tab).close()
    # Only the parts that change are redrawn, about once per second.
    with ThreadPoolExecutor(1) as executor:  # this thread's event loop is Playwright's
        [observed] = executor.submit(watch, address, "live?run=demo", 1, 5.0).result()
    assert observed["updates"] >= 3

    tab.get_by_role("button", name="Stop").click()
    badge(tab, "stopped").wait_for()
    assert demo.status() == "stopped"
    assert 0 < steps(demo) < json.loads(demo.events_path.read_text().splitlines()[2])["steps"]

    # Launch a run on a custom data set, with a learning rate that stays constant after warm-up.
    assert_no_error(tab).get_by_role("link", name="Launch").click()
    fill(tab, "Name", "mine")
    choice = tab.get_by_role("combobox", name="Data set")
    choice.fill(str(dataset))
    choice.press("Enter")
    fill(tab, "Epochs", "2")
    fill(tab, "Min learning rate", "")
    expect(tab.get_by_label("Warm-up fraction", exact=True)).to_be_visible()
    expect(tab.get_by_text("17 training,")).to_be_visible()
    assert_no_error(tab).get_by_role("button", name="Launch", exact=True).click()
    tab.get_by_role("link", name="Watch in Live").click()
    custom_run = RunDirectory(runs_dir / "mine")
    badge(tab, "finished").wait_for()
    config = custom_run.config()
    assert (config.dataset, config.epochs, config.min_lr) == (str(dataset), 2, None)
    tab.wait_for_function(f"({POINTS})() == {steps(custom_run)}")

    # Check the run's row in the results, its CSV export and its answers.
    assert_no_error(tab).get_by_role("link", name="Results").click()
    select_first_row(tab)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="CSV", exact=True).click()
    first_row = download.value.path().read_text().splitlines()[1]
    assert first_row.startswith("mine,finished,")
    assert_no_error(tab).get_by_role("button", name="Compare", exact=True).click()
    fill(tab, "Find a prompt", "synonym for happy")
    expect(tab.get_by_text("Suggest an alternate word for 'happy'.", exact=True)).to_be_visible()
    expect(tab.get_by_text("joyful", exact=True)).to_be_visible()
    assert_no_error(tab)
