"""Scoring in a real browser: from stored answers to a leaderboard, with a judge that works offline."""

from playwright.sync_api import expect

from core.config import RunConfig
from core.run.directory import RunDirectory
from tests.browser import test_dashboard as dashboard

SCORING_TIMEOUT_MS = 20_000
REFERENCES = {"Say red.": "red", "Say blue.": "blue", "Say green.": "green"}


def write_run(runs_dir, name, *answers):
    run = RunDirectory.create(runs_dir, RunConfig(name=name))
    run.append("plan", steps=1, steps_per_epoch=1, base_hash="ab" * 32)
    for item, ((instruction, reference), answer) in enumerate(
        zip(REFERENCES.items(), answers, strict=True)
    ):
        prompt_fields = {"instruction": instruction, "input": "", "reference": reference}
        run.append("generation", item=item, answer=answer, **prompt_fields)
    run.append("status", status="finished")


def test_scoring_answers_shows_the_leaderboard(open_tab, runs_dir):
    write_run(runs_dir, "good", "red", "blue", "green")
    write_run(runs_dir, "poor", "rod", "x", "y")
    tab = open_tab("scoring")
    base_note = tab.get_by_text("the pretrained base model must answer 3 examples first")
    expect(base_note).to_be_visible()
    tab.get_by_text("Also score the pretrained base model").click()
    expect(base_note).to_have_count(0)  # otherwise the button moves during the click
    expect(tab.get_by_text("verdicts: 7 to compute, at no cost.")).to_be_visible()
    tab.get_by_role("button", name="Score", exact=True).click()
    plot = tab.locator(".js-plotly-plot").first
    expect(plot.get_by_text("good", exact=True)).to_be_visible(timeout=SCORING_TIMEOUT_MS)
    expect(plot.get_by_text("poor", exact=True)).to_be_visible(timeout=SCORING_TIMEOUT_MS)
    expect(tab.get_by_text("Already scored:")).to_be_visible()
    tab.reload()
    expect(plot.get_by_text("good", exact=True)).to_be_visible(timeout=SCORING_TIMEOUT_MS)
    dashboard.assert_no_error(tab)
