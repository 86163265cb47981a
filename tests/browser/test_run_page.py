"""The run page in a real browser: a click in a chart shows the step's batch, and a reload keeps it."""

import pytest
from playwright.sync_api import expect

from core.config import RunConfig
from core.data.batches import encode_example
from core.data.dataset import load
from core.run.directory import RunDirectory

STEPS = 9


@pytest.fixture(scope="module")
def trained(runs_dir, address):
    """A finished run whose step n trained on examples n and n + 1 of the embedded data set."""
    run = RunDirectory.create(runs_dir, RunConfig(name="trained", grad_clip=1.0))
    run.append("status", status="running", pid=1, host="here")
    run.append("plan", steps=STEPS, steps_per_epoch=STEPS, train_examples=100)
    lengths = [len(encode_example(e, 0, 10**9).ids) - 1 for e in load("primer")[: STEPS + 2]]
    tokens = 0
    for step in range(1, STEPS + 1):
        tokens += lengths[step] + lengths[step + 1]
        position = {"step": step, "epoch": step / STEPS, "tokens": tokens, "seconds": step / 2}
        run.append("step", **position, lr=1e-4, loss=4 / step, grad_norm=2 / step, tokens_per_s=9.0,
                   memory_mb=99.0, padding=0.125, batch=[step, step + 1])  # fmt: skip
    run.append("status", status="finished")
    return run


def test_click_on_a_step_shows_its_batch_and_the_link_restores_it(open_tab, trained):
    tab = open_tab("run?name=trained")
    plot = tab.locator(".js-plotly-plot .nsewdrag").first
    expect(plot).to_be_visible()
    expect(tab.get_by_role("tab", name="Log")).to_be_visible()  # drawn after the charts
    toolbar = tab.locator(".js-plotly-plot .modebar").first
    expect(toolbar).to_have_css("opacity", "0")
    box = plot.bounding_box()
    position = {"x": box["width"] * 0.52, "y": box["height"] / 2}
    plot.hover(position=position)
    expect(tab.locator(".hoverlayer").get_by_text("training, per step")).to_be_visible()
    expect(toolbar).to_have_css("opacity", "1")
    plot.click(position=position)
    batch = tab.get_by_text("Batch of step 5")
    expect(batch).to_be_visible()
    expect(tab.get_by_text("2 examples · ")).to_be_visible()
    expect(tab).to_have_url(f"{tab.url.partition('?')[0]}?name=trained&step=5")
    assert tab.get_by_test_id("stAlertContentError").count() == 0
    tab.reload()
    expect(batch).to_be_visible()
    tab.get_by_role("button", name="Close").click()
    expect(batch).to_have_count(0)


def test_click_selects_a_step_while_new_steps_arrive(open_tab, runs_dir, trained):
    run = RunDirectory.create(runs_dir, RunConfig(name="active"))
    lines = trained.events_path.read_text().splitlines()
    run.events_path.write_text("\n".join(lines[:-3]) + "\n")  # up to step 7
    with run.lock():
        tab = open_tab("run?name=active")
        plot = tab.locator(".js-plotly-plot .nsewdrag").first
        expect(tab.get_by_text("Step 7 of 9")).to_be_visible()
        expect(tab.get_by_role("tab", name="Log")).to_be_visible()  # drawn after the charts
        box = plot.bounding_box()
        plot.hover(position={"x": box["width"] * 0.4, "y": box["height"] / 2})
        expect(tab.locator(".hoverlayer").get_by_text("training, per step")).to_be_visible()
        tab.mouse.down()
        with run.events_path.open("a") as events:
            events.write(lines[-3] + "\n")
        expect(tab.get_by_text("Step 8 of 9")).to_be_visible()  # the charts have been replaced
        tab.mouse.up()
        expect(tab.get_by_text("Batch of step 3")).to_be_visible()


def test_link_to_the_parent_changes_the_address_and_back_returns(open_tab, runs_dir, trained):
    RunDirectory.create(runs_dir, RunConfig(name="child", parent="trained"))
    tab = open_tab("run?name=child&tab=Log")
    expect(tab.get_by_role("heading", name="child")).to_be_visible()
    tab.get_by_role("link", name="trained").click()
    expect(tab.get_by_role("heading", name="trained")).to_be_visible()
    expect(tab).to_have_url(f"{tab.url.partition('?')[0]}?name=trained")
    tab.go_back()
    expect(tab.get_by_role("heading", name="child")).to_be_visible()


def test_click_in_the_lineage_opens_the_run_without_reloading(open_tab, runs_dir, trained):
    RunDirectory.create(runs_dir, RunConfig(name="clone", parent="trained", lr=1e-3))
    tab = open_tab("run?name=clone&tab=Lineage")
    graph = tab.locator(".st-key-lineage-graph")
    expect(graph.get_by_text("learning rate 5e-5 → 0.001")).to_be_visible()
    tab.evaluate("window.isSamePage = true")
    graph.get_by_text("trained").click()
    expect(tab.get_by_role("heading", name="trained")).to_be_visible()
    assert tab.evaluate("window.isSamePage")


def test_hostile_text_is_escaped_on_the_run_page(open_tab, hostile):
    tab = open_tab(f"run?name={hostile.name}")
    expect(tab.get_by_text("reason <script>")).to_be_visible()
    for name, field in (("Samples", "sample"), ("Settings", "reason"), ("Log", "reason")):
        tab.get_by_role("tab", name=name).click()
        expect(tab.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        expect(tab.get_by_text(f"{field} <script>").first).to_be_visible()
        assert tab.evaluate("window.pwned") is None
        main = tab.get_by_test_id("stMain")
        for selector in (
            "a[href^='javascript:']",
            "a[href*='a.bc']",
            "img",
            ".katex",
            "main script",
        ):
            assert main.locator(selector).count() == 0, selector
