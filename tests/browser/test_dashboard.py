"""The dashboard as a person uses it: a real server, a real browser, a run from the form to its answers."""

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
        const plot = plots.find((p) => p.layout?.title?.text?.includes("Training loss"));
        return plot?.calcdata?.[0]?.filter((point) => point.x !== undefined).length ?? 0;
    }
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twenty examples: 17 to train on, two to answer, one to validate on."""
    records = [{"instruction": f"Count to {n}.", "output": f"{n} it is."} for n in range(20)]
    records[17] = {"instruction": "Name an antonym of 'happy'.", "output": "sad"}
    records[18] = {"instruction": "Suggest an alternate word for 'happy'.", "output": "joyful"}
    path = tmp_path_factory.mktemp("data") / "twenty.json"
    path.write_text(json.dumps(records))
    return path


def assert_no_error(tab):
    """The tab, if no page in it raised and none shows an error."""
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


def test_foreign_text_is_escaped_and_a_direct_link_shows_the_navigation(
    open_tab, runs_dir, hostile
):
    tab = open_tab(f"live?run={hostile.name}")  # the first visit that this server gets
    for field in ("reason", "prompt", "sample"):
        expect(tab.get_by_text(f"{field} <script>").first).to_be_visible()
    assert tab.get_by_test_id("stSidebarNavLink").count() == 6
    assert tab.title() == "GPT-2 fine-tuning lab"
    _nothing_lives(tab)
    tab.get_by_role("link", name="Compare").click()
    for field in ("ask", "input", "reference", "answer"):
        expect(tab.get_by_text(f"{field} <script>").first).to_be_visible()
    _nothing_lives(tab)
    tab.get_by_role("link", name="Results").click()
    select_first_row(tab)
    expect(tab.get_by_label("Notes", exact=True)).to_have_value(f"notes {HOSTILE}")
    _nothing_lives(tab)


def _nothing_lives(tab):
    main = tab.get_by_test_id("stMain")
    assert tab.evaluate("window.alive") is None
    links = [f"a[href^='{scheme}:']" for scheme in ("http", "https", "javascript", "mailto")]
    for selector in (*links, "img", ".katex", "main script", "strong strong"):
        assert main.locator(selector).count() == 0, selector
    assert main.get_by_role("img", name="delete icon").count() == 0
    if main.get_by_label("Notes", exact=True).count():
        return  # what a field holds is no text of the page
    text = main.inner_text().replace("\u2060", "")
    for sign in ("$x^2$", ":material/delete:", "https://a.bc/d", "**bold**", "&lt;b&gt;", "](java"):
        assert sign in text, sign


def select_first_row(tab):
    tab.get_by_test_id("stDataFrame").wait_for()
    grid = tab.locator(".dvn-scroller").first
    grid.wait_for()
    grid.click(position={"x": 16, "y": 52})
    expect(tab.get_by_role("button", name="Open in Live")).to_be_enabled()


def test_run_is_launched_from_the_form_and_shows_its_answers(open_tab, runs_dir, dataset, address):
    tab = open_tab()
    tab.get_by_role("button", name="Launch the demo").click()
    demo = RunDirectory(runs_dir / "demo")
    badge(tab, "running").wait_for()

    # The curve grows, whatever becomes of tabs.
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
    # What changes each second is drawn anew, and not the whole page.
    with ThreadPoolExecutor(1) as executor:  # this thread's event loop is Playwright's
        [observed] = executor.submit(watch, address, "live?run=demo", 1, 5.0).result()
    assert observed["updates"] >= 3

    tab.get_by_role("button", name="Stop").click()
    badge(tab, "stopped").wait_for()
    assert demo.status() == "stopped"
    assert 0 < steps(demo) < json.loads(demo.events_path.read_text().splitlines()[2])["steps"]

    # A run on a custom data set. Clearing the minimum makes the rate constant after the warm-up.
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
    own_run = RunDirectory(runs_dir / "mine")
    badge(tab, "finished").wait_for()
    config = own_run.config()
    assert (config.dataset, config.epochs, config.min_lr) == (str(dataset), 2, None)
    tab.wait_for_function(f"({POINTS})() == {steps(own_run)}")

    # Its row, its file, its answers.
    assert_no_error(tab).get_by_role("link", name="Results").click()
    select_first_row(tab)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="CSV", exact=True).click()
    first_run = download.value.path().read_text().splitlines()[1]
    assert first_run.startswith("mine,finished,")
    assert_no_error(tab).get_by_role("button", name="Compare", exact=True).click()
    fill(tab, "Find a prompt", "synonym for happy")
    expect(tab.get_by_text("Suggest an alternate word for 'happy'.", exact=True)).to_be_visible()
    expect(tab.get_by_text("joyful", exact=True)).to_be_visible()
    assert_no_error(tab)
