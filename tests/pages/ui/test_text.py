"""Untrusted text, such as names, prompts and answers, is escaped on every page."""

import html
import json
import re
import shutil

import pytest

from core.run.directory import RunDirectory
from pages.ui.text import capitalize, escape_markdown

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> [link](javascript:alert(3)) "
    "![picture](http://a.bc/d.png) $x^2$ :material/delete: :red[red] **bold** `code` "
    "www.a.bc a@b.cd -> &lt;b&gt;"
)
ACTIVE_MARKUP = (
    "<script",
    "<img",
    "](",
    "$x",
    ":material/delete",
    ":red[",
    "**bold",
    "`code",
    "www.a",
    "a@b",
    "->",
)

ELEMENTS = "div|mark|span|table|thead|tbody|tr|th|td"
ATTRIBUTES = "dir|style|class|role|scope|tabindex|aria-label"
OWN_TAG = re.compile(rf"""</({ELEMENTS})>|<({ELEMENTS})( ({ATTRIBUTES})=("[^"<>]*"|'[^'<>]*'))*>""")
"""HTML written by the pages. Text blocks have `dir="auto"`, so that Arabic is displayed right to left."""


@pytest.fixture
def hostile_run(write_run, answer, runs_dir):
    """A run with hostile text in every field."""
    answer_event = answer(10, f"ask {HOSTILE}", f"reference {HOSTILE}", f"answer {HOSTILE}")
    run = write_run(
        f"name {HOSTILE}"[:200],
        "failed",
        f"reason {HOSTILE}",
        notes=f"notes {HOSTILE}",
        tags=f"tags {HOSTILE}"[:150],
        sample_prompt=f"prompt {HOSTILE}",
        samples=[{"step": 1, "prompt": f"prompt {HOSTILE}", "text": f"sample {HOSTILE}"}],
        warnings=[{"step": 1, "about": "data", "message": f"warning {HOSTILE}"}],
        answers=[{**answer_event, "input": f"input {HOSTILE}"}],
    )
    run.log_path.write_text(f"log {HOSTILE}")
    return run


def assert_inert(page):
    """Assert that no element of the page contains unescaped markup. Return the page."""
    for element in page.get("html"):
        if element.value.startswith("<style>"):
            assert "<" not in element.value.removeprefix("<style>").removesuffix("</style>")
            continue
        tags = re.findall(r"<[^>]*>", element.value)
        assert all(OWN_TAG.fullmatch(tag) for tag in tags), tags
    kinds = ("markdown", "caption", "error", "warning", "info", "toast", "title", "metric")
    values = [getattr(element, "value", "") for kind in kinds for element in page.get(kind)]
    for value in [*values, *labels(page)]:
        unescaped = re.sub(r"\\.", "\0", value)  # remove escaped characters
        assert not [markup for markup in ACTIVE_MARKUP if markup in unescaped], value
        assert not re.search(r"\\:[^\s\u2060]", value), "Streamlit would render icons and links"
    return page


def labels(page):
    """Return the labels of buttons and links, which Streamlit renders as Markdown."""
    return [element.label for kind in ("button", "page_link") for element in page.get(kind)]


def visible_text(page):
    """Return the page's text as a reader sees it."""
    texts = [html.unescape(re.sub(r"<[^>]*>", "", e.value)) for e in page.get("html")]
    texts += [
        re.sub(r"\\(.)", r"\1", text).replace("\u2060", "")
        for text in [*page.texts(), *labels(page)]
    ]
    return "\n".join(texts + [code.value for code in page.get("code")])


def test_live_escapes_hostile_text(hostile_run, open_page):
    page = assert_inert(open_page("live"))
    for field in ("reason", "prompt", "sample"):
        assert f"{field} {HOSTILE}" in visible_text(page)
    [table] = assert_inert(page.choose("Details", "Warnings")).dataframe
    assert table.value["message"].tolist() == [f"warning {HOSTILE}"]
    assert f"log {HOSTILE}" in visible_text(assert_inert(page.choose("Details", "Log")))
    for chart in page.get("plotly_chart"):
        assert "<" not in json.loads(chart.proto.spec)["data"][0]["name"]


def test_results_escape_hostile_text(hostile_run, open_page):
    page = assert_inert(open_page("results", column="notes").tick(0))
    assert page.widget("Notes").value == f"notes {HOSTILE}"
    assert f"reason {HOSTILE}" in visible_text(page)
    assert page.dataframe[0].value["notes"].tolist() == [f"notes {HOSTILE}"]


def test_compare_escapes_hostile_text(hostile_run, open_page):
    page = assert_inert(open_page("compare"))
    for field in ("ask", "input", "reference", "answer"):
        assert f"{field} {HOSTILE}" in visible_text(page)


@pytest.mark.parametrize("tab", ["Answers", "Samples", "Settings", "Data", "Notes", "Log"])
def test_run_page_escapes_hostile_text(hostile_run, open_page, tab):
    page = assert_inert(open_page("run", name=hostile_run.name, tab=tab))
    if tab == "Answers":
        page = assert_inert(page.tick(0))
        assert f"answer {HOSTILE}" in visible_text(page)
    assert f"reason {HOSTILE}" in visible_text(page)


def test_launch_escapes_hostile_text(hostile_run, open_page):
    page = open_page("launch")
    page.choose("source", f"clone of {hostile_run.name}")
    assert_inert(page.choose("Data set", HOSTILE[:150]))
    assert HOSTILE[:150] not in "".join(error.value for error in page.error)
    assert_inert(page.choose("Base model", HOSTILE[:150]))
    assert_inert(page.choose("Device", HOSTILE[:150]))
    assert len(page.error) >= 3


def test_hostile_directory_name_is_escaped(write_run, runs_dir, open_page, answer):
    run = write_run("one", answers=[answer(10, "Say red.", "red", "blue")])
    name = "<img src=x onerror=alert(1)> $x$ :material_delete: **bold** [a](b)"
    shutil.move(run.path, runs_dir / name)
    assert RunDirectory(runs_dir / name).status() == "finished"
    for page in ("live", "results", "compare", "launch"):
        assert_inert(open_page(page))
    page = open_page("results").tick(0)
    assert name in visible_text(assert_inert(page))
    page.press("Open in Live")
    assert name in visible_text(assert_inert(page))


@pytest.mark.parametrize(
    "text", [HOSTILE, "# not a heading", "1. not a list", "- not a list\n\n===\n\n    not code", "a\\*b", "|a|b|"]
)  # fmt: skip
def test_escape_markdown_keeps_every_word(text):
    escaped = escape_markdown(text)
    assert re.fullmatch(r"(\\[!-/:-@\[-`{-~]|[\w\s\u2060]|[^\x00-\x7f])*", escaped)
    assert "\n" not in escaped
    rendered = re.sub(r"\\(.)", r"\1", escaped).replace("\u2060", "")
    assert rendered.split() == text.split()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("must be a number", "Must be a number"),
        ("max_length is too small", "max_length is too small"),
        ("lr = 2: must be at most 1", "lr = 2: must be at most 1"),
    ],
)
def test_messages_start_with_a_capital_unless_they_name_a_setting(message, shown):
    assert capitalize(message) == shown
