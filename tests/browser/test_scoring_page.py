"""Scoring in a real browser: two runs are scored by an offline judge and compared."""

import re

from playwright.sync_api import expect

from core.config import RunConfig
from core.run.directory import RunDirectory
from tests.browser import test_dashboard as dashboard

SCORING_TIMEOUT_MS = 20_000
COLORS = ("red", "blue", "green", "pink", "gold")
REFERENCES = {f"Say {color}.": color for color in COLORS}


def write_run(runs_dir, name, *answers):
    run = RunDirectory.create(runs_dir, RunConfig(name=name))
    run.append("plan", steps=1, steps_per_epoch=1, base_hash="ab" * 32)
    for item, ((instruction, reference), answer) in enumerate(
        zip(REFERENCES.items(), answers, strict=True)
    ):
        prompt_fields = {"instruction": instruction, "input": "", "reference": reference}
        run.append("generation", item=item, answer=answer, **prompt_fields)
    run.append("status", status="finished")


def test_scoring_two_runs_shows_the_verdict(open_tab, runs_dir):
    write_run(runs_dir, "good", *REFERENCES.values())
    write_run(runs_dir, "poor", "rod", "x", "y", "z", "")
    tab = open_tab("scoring?run=good&run=poor")
    base_note = tab.get_by_text("the pretrained base model must answer 5 examples first")
    expect(base_note).to_be_visible()
    tab.get_by_text("Also score the pretrained base model").click()
    expect(base_note).to_have_count(0)  # otherwise the button moves during the click
    expect(tab.get_by_text("verdicts: 10 to compute, at no cost.")).to_be_visible()
    expect(tab.get_by_test_id("stStatusWidget")).to_have_count(0)
    tab.get_by_role("button", name="Score", exact=True).click()
    verdict = tab.get_by_text("good scores higher than poor by")
    expect(verdict).to_be_visible(timeout=SCORING_TIMEOUT_MS)
    plot = tab.locator(".js-plotly-plot").first
    expect(plot.get_by_text("poor", exact=True)).to_be_visible()
    expect(tab.get_by_text("Already scored:")).to_be_visible()
    answers = tab.get_by_role("tab", name="Answers", exact=True)
    answers.click()
    expect(tab.get_by_role("button", name="Answers (CSV)")).to_be_visible()
    expect(tab).to_have_url(re.compile("tab=Answers"))  # the URL changes after the page
    link = tab.url
    assert "run=good&run=poor" in link
    assert "judge=reference-" in link
    fresh = open_tab(link.split("/")[-1])
    expect(fresh.get_by_text("good scores higher than poor by")).to_be_visible()
    expect(fresh.get_by_role("tab", name="Answers", exact=True, selected=True)).to_be_visible()
    dashboard.assert_no_error(fresh)
