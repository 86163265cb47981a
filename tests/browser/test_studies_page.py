"""The Studies page in a real browser: open a study from the list, read its effects, and go back."""

import pytest
from playwright.sync_api import expect

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.studies import study
from core.studies.sweep import Axis, Sweep

NAME = "two-rates"


@pytest.fixture(scope="module")
def finished_study(runs_dir, address):
    """A study of two learning rates with three seeds."""
    sweep = Sweep(RunConfig(), (Axis(("lr",), (1e-4, 1e-3)),), (1, 2, 3))
    planned = study.plan(runs_dir, NAME, sweep, "Which rate?")
    study.create_runs(runs_dir, planned)
    for member in planned.members:
        loss = (2.0 if member.values["lr"] == 1e-4 else 1.0) + member.seed / 100
        run = RunDirectory(runs_dir / member.name)
        run.append("status", status="running", pid=1, host="here")
        run.append("plan", steps=1, steps_per_epoch=1, train_examples=9)
        position = {"step": 1, "epoch": 1.0, "tokens": 9, "seconds": 1.0}
        run.append("step", **position, lr=1e-4, loss=loss, grad_norm=1.0, tokens_per_s=9.0, memory_mb=99.0, padding=0.1)  # fmt: skip
        run.append("eval", **position, train_loss=loss, val_loss=loss, subset_loss=loss, final=True)
        run.append("status", status="finished")


def test_study_opens_from_the_list_and_back_returns(open_tab, finished_study):
    tab = open_tab("studies")
    list_url = tab.url
    table = tab.get_by_test_id("stDataFrame")
    expect(table.get_by_text("Which rate?").first).to_be_attached()
    table.click(position={"x": 60, "y": 52})
    expect(tab.get_by_role("heading", name=NAME)).to_be_visible()
    expect(tab.get_by_text("6 of 6 finished")).to_be_visible()
    tab.go_back()
    expect(tab.get_by_role("heading", name="Studies")).to_be_visible()
    tab.go_forward()
    expect(tab.get_by_text("6 of 6 finished")).to_be_visible()
    tab.get_by_role("tab", name="Effects").click()
    expect(tab.get_by_text("better", exact=False).first).to_be_visible()
    expect(tab).to_have_url(f"{list_url}?study={NAME}&tab=Effects")
    tab.reload()
    expect(tab.get_by_text("Learning rate: 1e-4")).to_be_visible()
    tab.get_by_role("link", name="Results").click()
    expect(tab.get_by_role("heading", name="Results")).to_be_visible()
    tab.go_back()
    expect(tab.get_by_role("heading", name=NAME)).to_be_visible()
    expect(tab.get_by_text("Learning rate: 1e-4")).to_be_visible()
    tab.get_by_role("link", name="All studies").click()
    expect(tab.get_by_role("heading", name="Studies")).to_be_visible()
    expect(tab).to_have_url(list_url)
