"""Pages render manually edited or otherwise malformed run files without raising exceptions."""

import json

import pytest


@pytest.mark.parametrize("page", ["live", "results", "compare", "launch", "scoring"])
def test_unknown_status_is_shown_as_text(write_run, open_page, answer, page):
    run = write_run("odd", answers=[answer(10, "Say red.", "red", "blue")])
    run.append("status", status="dancing", reason=None)
    live_page = open_page(page)
    if page == "results":
        live_page.tick(0)


@pytest.mark.parametrize(
    "fields",
    [{"steps": 0}, {"steps": -5}, {"steps": None}, {"steps": 2**62}, {"steps_per_epoch": 0}],
    ids=str,
)
def test_impossible_plan_is_rendered(write_run, open_page, fields):
    run = write_run("odd", "running")
    run.append("plan", **{"steps": 4, "steps_per_epoch": 4} | fields)
    run.append("step", step=7, epoch=1.0, tokens=1, seconds=0.0, loss=1e308, lr=-1.0)
    run.append("eval", step=7, epoch=1.0, tokens=1, seconds=0.0, train_loss=1e300, val_loss=-1e300)
    run.append("status", status="failed", reason="")
    open_page("live")
    open_page("results").tick(0)


def test_lone_surrogates_in_a_data_set_are_shown(open_page, tmp_path):
    records = [{"instruction": f"Say {i}.", "output": f"{i}"} for i in range(40)]
    records[0] = {"instruction": "half \ud800", "input": "\udfff", "output": "of it \ud83d"}
    path = tmp_path / "halves.json"
    path.write_text(json.dumps(records))
    page = open_page("data", dataset=str(path))
    assert page.says("Item 0 as the model sees it")


@pytest.mark.parametrize("page", ["results", "live", "run"])
def test_running_run_without_times_is_rendered(write_run, open_page, page):
    run = write_run("odd", "running", steps=0, planned=4)
    run.append("step", step=2)
    open_page(page, name="odd")


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("results", {}),
        ("live", {}),
        ("live", {"details": "Warnings"}),
        ("compare", {}),
        ("scoring", {"tab": "Answers"}),
        ("run", {"name": "odd"}),
        ("run", {"name": "odd", "tab": "Answers"}),
        ("run", {"name": "odd", "tab": "Samples"}),
        ("data", {"run": "odd"}),
    ],
    ids=str,
)
def test_incomplete_events_and_damaged_settings_are_rendered(
    write_run, answer, open_page, page, query
):
    run = write_run("odd", steps=0, planned=4, answers=[answer(10, "Say red.", "red", "blue")])
    for event in ("plan", "step", "eval", "sample", "warning", "generation", "update"):
        run.append(event)
    run.append("plan", steps=4, steps_per_epoch=4)
    run.append("step", step=2)
    run.append("sample", step=1, prompt=None, text=None)
    run.append("generation", item=0, answer="red")
    (run.path / "config.json").write_text("not json")
    opened = open_page(page, **query)
    if page == "results":
        opened.tick(0)
