"""The Compare page in a real browser: search, keyboard navigation, links and highlighted differences."""

import re

from playwright.sync_api import expect

from core.config import RunConfig
from core.run.directory import RunDirectory
from tests.browser import test_dashboard as dashboard

QUESTIONS = (
    ("Name an antonym of 'happy'.", "sad"),
    ("What is the capital of Norway?", "Oslo"),
    ("Suggest an alternate word for 'happy'.", "Use the word joyful instead."),
    *((f"How many meters are {n} kilometers?", f"{n}000 meters") for n in range(2, 32)),
)


def write_run(runs_dir, name, answers):
    run = RunDirectory.create(runs_dir, RunConfig(name=name))
    run.append("plan", steps=1, steps_per_epoch=1, base_hash="ab" * 32)
    for item, (instruction, reference) in enumerate(QUESTIONS):
        prompt_fields = {"instruction": instruction, "input": "", "reference": reference}
        answer = answers.get(instruction, reference)
        run.append("generation", item=item, answer=answer, **prompt_fields)
    run.append("status", status="finished")


def row(tab, instruction):
    """Return the row of a prompt."""
    button = tab.get_by_role("button", name=instruction, exact=True)
    return tab.locator("[class*='st-key-compare-row'], .st-key-compare-current").filter(has=button)


def current(tab):
    return tab.locator(".st-key-compare-current")


def is_in_view(tab, locator):
    """Return whether an element is inside the window."""
    box = locator.bounding_box()
    return box["y"] >= 0 and box["y"] + box["height"] <= tab.viewport_size["height"]


def test_search_leads_to_an_answer_difference(open_tab, runs_dir):
    question = "Suggest an alternate word for 'happy'."
    write_run(runs_dir, "precise", {"Name an antonym of 'happy'.": "glad"})
    write_run(runs_dir, "vague", {question: "Use the word sunny instead."})
    tab = open_tab("compare?run=precise&run=vague")
    expect(
        tab.get_by_text("precise wins 1, loses 1 and ties 31 against vague on 33 prompts")
    ).to_be_visible()
    expect(tab.get_by_text("1 to 20 · 33 prompts")).to_be_visible()
    dashboard.fill(tab, "Find a prompt", "synonym for happy")
    expect(row(tab, "What is the capital of Norway?")).to_have_count(0)
    expect(row(tab, question).get_by_text("Right", exact=True)).to_have_count(1)
    expect(row(tab, question).locator("mark")).to_have_text(["sunny"])

    # Keys move between the prompts in the list.
    tab.get_by_role("heading", name="Compare").click()  # keys typed into the search are text
    tab.keyboard.press("j")
    expect(tab.get_by_text("Prompt 1 · ")).to_be_visible()
    expect(tab).to_have_url(re.compile("prompt="))  # the URL changes after the page
    first = tab.url
    tab.keyboard.press("j")
    expect(tab.get_by_text("Prompt 2 · ")).to_be_visible()
    expect(tab).not_to_have_url(first)
    tab.keyboard.press("k")
    expect(tab.get_by_text("Prompt 1 · ")).to_be_visible()
    expect(tab).to_have_url(first)
    expect(current(tab).locator("mark")).to_have_text(["sunny"])

    # The link restores the page in another session.
    fresh = open_tab(first.split("/")[-1])
    expect(fresh.get_by_text("Prompt 1 · ")).to_be_visible()
    expect(current(fresh).locator("mark")).to_have_text(["sunny"])
    expect(fresh.get_by_label("Find a prompt")).to_have_value("synonym for happy")
    dashboard.assert_no_error(fresh)

    # A run's name links to its page, and Back returns to the same search.
    fresh.get_by_role("link", name="vague", exact=True).click()
    expect(fresh).to_have_url(re.compile("/run.name=vague"))
    expect(current(fresh)).to_have_count(0)
    fresh.go_back()
    expect(fresh.get_by_label("Find a prompt")).to_have_value("synonym for happy")
    expect(current(fresh).locator("mark")).to_have_text(["sunny"])

    # A linked prompt and the names of the runs are in view.
    linked = open_tab("compare?run=precise&run=vague&sort=Data+set+order&prompt=17")
    expect(linked.get_by_text("Prompt 18 · 33 prompts")).to_be_visible()
    linked.wait_for_function("document.querySelector('[data-testid=stMain]').scrollTop > 0")
    assert is_in_view(linked, current(linked))
    assert is_in_view(linked, linked.locator(".st-key-compare-names"))
