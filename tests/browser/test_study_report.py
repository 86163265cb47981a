"""A study report, opened from disk without a network."""

import pytest
from playwright.sync_api import expect

from core.cli import commands
from core.config import RunConfig
from core.run.directory import RunDirectory
from core.studies import study
from core.studies.sweep import Sweep, parse_axis
from tests.browser.conftest import HOSTILE


@pytest.fixture
def report_tab(chromium, tmp_path):
    """A tab with the report on a study that contains hostile text. The test fails on any error, dialog or request."""
    runs_dir, file = tmp_path / "runs", tmp_path / "report.html"
    axes = (parse_axis("lora_rank=lora_alpha=4,16"), parse_axis("lr=1e-4,1e-3"))
    planned = study.plan(runs_dir, "ranks", Sweep(RunConfig(), axes, (1, 2, 3)), HOSTILE)
    study.create_runs(runs_dir, planned)
    for member in planned.members:
        run = RunDirectory(runs_dir / member.name)
        loss = 8 / member.values["lora_rank"] + 0.01 * member.seed
        for step, value in ((0, 4.0), (4, loss)):
            position = {"step": step, "epoch": 1.0, "tokens": step, "seconds": 1.0}
            run.append("eval", **position, val_loss=value, subset_loss=value, final=step == 4)
        run.append("status", status="finished")
    arguments = ["export", "ranks", str(file), "--format", "report", "--runs-dir", str(runs_dir)]
    commands.app(args=arguments, standalone_mode=False)
    context = chromium.new_context(offline=True, color_scheme="dark")
    tab = context.new_page()
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("dialog", lambda dialog: problems.append(dialog.message))
    tab.on("request", lambda request: problems.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert problems == [file.as_uri()]


def test_report_works_from_disk_with_the_network_off(report_tab):
    tab = report_tab
    expect(tab.locator("#curves .main-svg").first).to_be_visible()
    expect(tab.locator("#effects-0 .ytick", has_text="Rank = Alpha 4 → 16 (1e-4)")).to_be_visible()
    expect(tab.locator(".question")).to_have_text(" ".join(HOSTILE.split()))
    expect(tab.locator("#summary li").first).to_contain_text(
        "Rank = alpha = 16 instead of 4 lowers the validation loss by 1.50"
    )
    expect(tab.locator("#runs tbody tr")).to_have_count(12)
    expect(tab.locator("#problem")).to_be_hidden()
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("main img, main a").count() == 0
