"""Hostile text in a real browser, on pages that `test_dashboard` does not cover.

Its markup must not be rendered, and its scripts must not run.
"""

import contextlib
import json

import pytest
from playwright.sync_api import TimeoutError, expect

from core.config import RunConfig
from core.judging.judge import Item, Verdict
from core.judging.ledger import Ledger
from core.run.directory import RunDirectory
from tests.browser import test_dashboard as dashboard
from tests.browser.conftest import HOSTILE

MARKUP = f"{HOSTILE} ![picture](http://a.bc/d.png) $$y^2$$ <iframe src=//a.bc></iframe>"
FORBIDDEN_SELECTORS = (
    "a[href^='http:']",
    "a[href^='https:']",
    "a[href^='javascript:']",
    "img",
    "iframe",
    ".katex",
    "main script",
    "strong strong",
)
TABS = ("Answers", "Two runs", "Head-to-head", "Agreement", "Scores")


@pytest.fixture(scope="module", autouse=True)
def hostile_verdicts(runs_dir):
    """Two runs with verdicts from three judges, with hostile text in every field."""
    answers = {name: [f"{name} {i} {MARKUP}" for i in range(3)] for name in ("one", "two")}
    prompts = [(f"ask {i} {MARKUP}", f"input {MARKUP}", f"reference {MARKUP}") for i in range(3)]
    for name, texts in answers.items():
        run = RunDirectory.create(runs_dir, RunConfig(name=name, tags=(HOSTILE[:150],)))
        for i, (text, example) in enumerate(zip(texts, prompts, strict=True)):
            prompt_fields = dict(zip(("instruction", "input", "reference"), example, strict=True))
            run.append("generation", item=i, answer=text, **prompt_fields)
        run.append("status", status="finished")
    for number, kind in enumerate(("score", "score", "pair")):
        spec = {"judge": "openai", "kind": kind, "model": f"model {number} {MARKUP}", "temperature": 0.5,
                "prompt": f"prompt {MARKUP}", "service": "a.bc"}  # fmt: skip
        with Ledger(runs_dir, spec) as ledger:
            for name, opponent in (("one", "two"), ("two", "one")):
                for i, example in enumerate(prompts):
                    other_answers = [answers[opponent][i]] if kind == "pair" else []
                    item = Item(*example, answers[name][i], *other_answers)
                    score = None if (i, kind) == (2, "score") else 10.0 * i + number
                    verdict = Verdict(score, f"reason {MARKUP}", None if score else f"missing {MARKUP}", MARKUP)  # fmt: skip
                    for repeat in range(2):
                        ledger.write(f"{number} {name} {i} {repeat}", item, repeat, verdict)


@pytest.fixture
def dataset(tmp_path):
    """A data set with hostile text in every field and in its file name."""
    records = [
        {"instruction": f"ask {i} {MARKUP}", "input": f"input {i} {MARKUP}", "output": f"output {i} {MARKUP}"}
        for i in range(30)
    ]  # fmt: skip
    path = (
        tmp_path
        / "<img src=x onerror='window.pwned=4'> $x^2$ **bold** [a](javascript:alert(5)).json"
    )
    path.write_text(json.dumps(records))
    return path


def assert_inert(tab):
    """Return the tab after checking that hostile text is shown as plain text.

    Streamlit's own links and icons outside the page content are ignored.
    """
    main = tab.locator("[data-testid=stMain], [data-testid=stPopoverBody]")
    assert tab.evaluate("window.pwned") is None
    for selector in FORBIDDEN_SELECTORS:
        assert main.locator(selector).count() == 0, selector
    assert main.get_by_role("img", name="delete icon").count() == 0
    assert main.locator("strong", has_text="bold").count() == 0
    assert tab.get_by_test_id("stException").count() == 0
    return tab


def wait_until_idle(tab):
    """Return the tab once its page script has finished."""
    expect(tab.get_by_test_id("stStatusWidget")).to_have_count(0)
    return tab


def test_data_shows_a_hostile_data_set_as_text(open_tab, dataset):
    tab = open_tab("data")
    choice = tab.get_by_role("combobox", name="Data set")
    choice.fill(str(dataset))
    choice.press("Enter")
    expect(tab.get_by_text("Item 0 as the model sees it").first).to_be_visible()
    expect(tab.get_by_text("onerror='window.").first).to_be_visible()
    dashboard.fill(tab, "Find examples", "<script>window.pwned = 5</script> **bold** $x$ output 7")
    expect(tab.get_by_text("as the model sees it").first).to_be_visible()
    assert_inert(wait_until_idle(tab))
    tab.get_by_role("radio", name="Leaks").or_(tab.get_by_role("button", name="Leaks")).click()
    expect(tab.get_by_text("similar to a training example")).to_be_visible()
    assert_inert(wait_until_idle(tab))


def test_data_shows_hostile_paths_and_fields_in_errors_as_text(open_tab, dataset):
    tab = open_tab("data")
    choice = tab.get_by_role("combobox", name="Data set")
    choice.fill(f"nowhere {HOSTILE[:150]}")
    choice.press("Enter")
    expect(tab.get_by_text("file not found").first).to_be_visible()
    assert_inert(wait_until_idle(tab))
    broken = dataset.with_name("broken <b>bold<b> $x$.json")
    broken.write_text(json.dumps([{"instruction": f"a {MARKUP}", MARKUP: "b"}]))
    choice.fill(str(broken))
    choice.press("Enter")
    expect(tab.get_by_text("match no known format").first).to_be_visible()
    assert_inert(wait_until_idle(tab))


def choose(tab, name):
    """Open a tab of the Scoring page."""
    tab.get_by_role("tab", name=name, exact=True).click()
    expect(tab.get_by_role("tab", name=name, exact=True, selected=True)).to_be_visible()


def test_scoring_shows_answers_judges_and_reasons_as_text(open_tab):
    tab = open_tab("scoring")
    for name in TABS:
        choose(tab, name)
        expect(tab.get_by_test_id("stDataFrame").first).to_be_visible()
        assert_inert(wait_until_idle(tab))
    expect(tab.get_by_text("prompt: prompt <script>").first).to_be_visible()
    expect(tab.get_by_text("missing <script>").first).to_be_visible()
    choose(tab, "Answers")
    expect(tab.get_by_role("button", name="Answers (CSV)")).to_be_visible()
    wait_until_idle(tab)
    grid = tab.locator(".dvn-scroller").last
    first = tab.get_by_test_id("stHtml").get_by_text("ask 0 <script>").first
    for _ in range(5):  # a chart that renders late can move the table, so a click may miss it
        grid.scroll_into_view_if_needed()
        grid.click(position={"x": 16, "y": 52})
        with contextlib.suppress(TimeoutError):
            first.wait_for(timeout=10_000)
            break
    for expected_text in ("ask 0 <script>", "reference <script>"):
        expect(tab.get_by_test_id("stHtml").get_by_text(expected_text).first).to_be_visible()
    assert_inert(wait_until_idle(tab))


def test_launch_live_and_results_show_hostile_input_as_text(open_tab, runs_dir):
    tab = open_tab("launch")
    dashboard.fill(tab, "Name", f"name {HOSTILE}"[:200])
    dashboard.fill(tab, "Tags", f"tag {HOSTILE}, **bold**"[:190])
    notes = tab.get_by_label("Notes", exact=True)
    notes.fill(f"notes {MARKUP}")
    notes.press("Control+Enter")
    choice = tab.get_by_role("combobox", name="Data set")
    choice.fill(f"<img src=x onerror='window.pwned=6'> {HOSTILE}"[:190])
    choice.press("Enter")
    expect(tab.get_by_text("file not found").first).to_be_visible()
    assert_inert(wait_until_idle(tab))
    choice.fill("primer")
    choice.press("Enter")
    dashboard.fill(tab, "Epochs", "1000")
    launch = tab.get_by_role("button", name="Launch", exact=True)
    expect(launch).to_be_enabled()
    launch.click()
    expect(tab.get_by_role("link", name="name-script")).to_be_visible()
    assert_inert(wait_until_idle(tab))
    tab.get_by_role("link", name="Watch in Live").click()
    stop = tab.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    assert_inert(tab)
    [run] = [RunDirectory(path) for path in runs_dir.glob("name-*")]
    assert run.path.parent == runs_dir
    assert run.config().notes == f"notes {MARKUP}"
    stop.click()
    tab.get_by_role("link", name="Results").click()
    tab.get_by_test_id("stDataFrame").wait_for()
    tab.get_by_text("Journal", exact=True).click()
    tab.wait_for_function("() => document.querySelector('[role=grid]')?.ariaRowCount > 15")
    assert_inert(wait_until_idle(tab))
    # The column picker lists judges by model name.
    tab.get_by_role("button", name="Columns", exact=True).click()
    picker = tab.get_by_test_id("stPopoverBody").get_by_role("combobox")
    picker.press_sequentially("openai model 0")
    expect(tab.get_by_role("option", name="openai model 0").first).to_be_visible()
    assert_inert(wait_until_idle(tab))
    tab.keyboard.press("Escape")  # closes the list of options
    tab.keyboard.press("Escape")  # closes the popover
    dashboard.select_first_row(tab)
    expect(tab.get_by_label("Notes", exact=True)).to_be_visible()
    assert_inert(wait_until_idle(tab))
