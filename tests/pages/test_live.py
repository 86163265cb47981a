"""The Live page: selected runs, charts, details, and the Stop and Resume buttons."""

import json
import os
import time

import pytest

from core.operations import KILL_AFTER_S
from core.run.directory import RunDirectory
from core.training import resumption
from pages.ui import runtime, status

TITLES = (
    "Loss",
    "Perplexity",
    "Training loss",
    "Learning rate",
    "Gradient norm",
    "Tokens per second",
)
X_VALUES = {
    "step": lambda n: n,
    "epoch": lambda n: n / 2,
    "tokens": lambda n: 10 * n,
    "seconds": lambda n: n / 2,
}


def badge(page, name):
    """Return the badge with a run's status, which follows the link to the run."""
    names = [link.label.replace("\\", "") for link in page.main.get("page_link")]
    badges = [m.value for m in page.markdown if "-badge[" in m.value]
    return dict(zip(names, badges, strict=True))[name]


def progress(page):
    return [bar.proto.text for bar in page.get("progress")]


def test_page_without_runs_links_to_launch(open_page):
    page = open_page("live")
    assert page.says("No runs yet")
    assert page.get("page_link")[0].label == "Launch"


@pytest.mark.parametrize(
    ("status", "reason", "button"),
    [
        ("queued", None, "Stop"),
        ("running", None, "Stop"),
        ("stopped", None, "Resume"),
        ("interrupted", "the trainer died", "Resume"),
        ("failed", "the loss became nan at step 3", "Resume"),
        ("finished", None, None),
        ("finished", "stopped early at step 6: no improvement since step 3", None),
        ("stopped", "pruned after 20% of the steps", "Resume"),
    ],
)
def test_every_run_status_is_shown(write_run, open_page, status, reason, button):
    write_run("one", status, reason, method="full" if status == "finished" else "lora")
    page = open_page("live")
    assert status in badge(page, "one")
    assert [b.label for b in page.button] == ([button] if button else [])
    assert page.says(reason[1:] if reason else "")
    is_error = reason is not None and status in ("failed", "interrupted")
    assert len(page.error) == is_error
    page.go("results").tick(0)
    assert status in badge(page, "one")
    assert len(page.error) == is_error
    assert not page.go("compare").error
    assert not page.go("launch").error


def test_run_that_ended_early_shows_its_last_step(write_run, open_page):
    write_run("one", "finished", "stopped early at step 6: no improvement since step 3", planned=9)
    page = open_page("live")
    assert not page.get("progress")
    [text] = [caption.value for caption in page.caption if "Step 6 of 9" in caption.value]
    assert "(subset)" not in text


def test_resume_button_lists_changed_settings(write_run, open_page):
    run = write_run("one", "stopped", batch_size=4)
    folder = run.path / "checkpoint" / "step-00000003"
    folder.mkdir(parents=True)
    facts = {"step": 3, "settings": resumption.recorded(run.config())}
    (folder / "manifest.json").write_text(json.dumps(facts))
    run.write_config(run.config().changed(batch_size=8))
    page = open_page("live").press("resume:one")
    assert page.says("one cannot resume from step 3")
    assert page.says("batch_size = 8 (was 4)")
    assert "stopped" in badge(page, "one")
    run.write_config(run.config().changed(batch_size=4))
    assert "queued" in badge(open_page("live").press("resume:one"), "one")


@pytest.mark.parametrize("x", X_VALUES)
def test_charts_plot_the_events(write_run, open_page, line, x):
    write_run("one", steps=9, lr=3e-4)
    page = open_page("live").choose("X-axis", x)
    x_value = X_VALUES[x]
    steps = range(1, 10)
    assert line(page.figure("Training loss")) == [(x_value(n), 4 / n) for n in steps]
    assert line(page.figure("Learning rate")) == [(x_value(n), 3e-4) for n in steps]
    assert line(page.figure("Gradient norm")) == [(x_value(n), 1 + n) for n in steps]
    assert line(page.figure("Tokens per second")) == [(x_value(n), 20 + n) for n in steps]
    assert line(page.figure("Loss"), 0) == [(x_value(n), 5 / n) for n in (3, 6, 9)]
    assert line(page.figure("Loss"), 1) == [(x_value(n), 3 / n) for n in (3, 6, 9)]
    assert line(page.figure("Perplexity"), 0) == [
        (x_value(n), pytest.approx(2.718281828459045 ** (5 / n))) for n in (3, 6, 9)
    ]


def test_new_events_are_shown_on_rerun(write_run, open_page, line):
    run = write_run("one", "running", planned=9)
    page = open_page("live")
    expected = (
        "Step 6 of 9 · 3 s elapsed · 2 s left · loss 0.6667 · validation loss (subset) 0.8333"
    )
    assert progress(page) == [expected]
    event_fields = {"epoch": 3.5, "tokens": 70, "seconds": 3.5, "lr": 1e-3, "grad_norm": 1.0}
    run.append("step", step=7, loss=0.25, tokens_per_s=9.0, **event_fields)
    runtime.lab().refresh()
    page.run()
    assert progress(page)[0].startswith("Step 7 of 9 · 4 s elapsed · 1 s left · loss 0.2500 ·")
    assert line(page.figure("Training loss"))[-1] == (7, 0.25)


def test_progress_before_the_first_step_and_after_the_last(write_run, open_page):
    write_run("loading", "running", steps=0, planned=9)
    write_run("answering", "running", steps=6, planned=6)
    write_run("waiting", "queued")
    page = open_page("live", run=["loading", "answering", "waiting"])
    assert progress(page) == [
        "Step 0 of 9 · 0 s elapsed",
        "Step 6 of 6 · answering the test examples",
    ]
    assert page.says("Waiting in queue")
    assert page.get("progress")[0].proto.value == 0
    assert page.get("progress")[1].proto.value == 100


def test_starting_trainer_shows_download_progress(write_run, open_page):
    run = write_run("one", "queued")
    with run.lock():
        run.append("status", status="running", pid=1, host="here")
        page = open_page("live")
        assert progress(page) == ["Loading the model and data"]
        for downloaded_bytes in (
            -1,
            1_500_000_000,
            6_431_829_964,
        ):  # a negative count can only come from a manual edit
            run.append(
                "download", repository="a/gpt_2*xl*", bytes=downloaded_bytes, total=6_431_829_964
            )
            runtime.lab().refresh()
            page = open_page("live")
            if downloaded_bytes == 1_500_000_000:
                assert progress(page) == [r"Downloading a\/gpt\_2\*xl\*: 1,500 of 6,432 MB"]
                assert page.get("progress")[0].proto.value == 23
            else:
                assert progress(page) == ["Loading the model and data"]


def test_running_and_linked_runs_are_selected(write_run, open_page):
    write_run("old")
    write_run("active", "running")
    write_run("new")
    assert open_page("live").widget("live_run").value == ["active"]
    page = open_page("live", run=["new", "missing", "old"])
    assert page.widget("live_run").value == ["new", "old"]
    assert page.query_params["run"] == ["new", "old"]


def test_newest_run_is_selected_if_none_is_active(write_run, open_page):
    for name in ("first", "second"):
        write_run(name)
    assert open_page("live").widget("live_run").value in (["first"], ["second"])
    assert open_page("live", run="missing").query_params["run"] in ("first", "second")


def test_many_runs_are_colored_by_a_setting(write_run, open_page):
    names = [f"run-{i}" for i in range(10)]
    for i, name in enumerate(names):
        write_run(name, steps=3, seed=i, lora_rank=[4, 8][i % 2])
    page = open_page("live", run=names)
    assert page.widget("live_run").value == names
    lines = page.figure("Training loss")["data"]
    drawn = {trace["name"]: trace["line"]["color"] for trace in lines if trace["y"] != [None]}
    assert [*drawn] == names, "no run is dropped"
    assert page.widget("live_color").options == ["Rank", "Run"], "the seed has too many values"
    assert len(set(drawn.values())) == 2
    assert drawn["run-0"] == drawn["run-2"] != drawn["run-1"]
    legend = [trace["name"] for trace in page.figure("Loss")["data"] if trace["showlegend"]]
    assert legend == ["Rank 4", "Rank 8"]
    page.choose("live_color", "Run")
    lines = page.figure("Training loss")["data"]
    assert {t["name"]: t["line"]["color"] for t in lines} == runtime.lab().colors(names)
    page.choose("live_run", names[:3])
    assert page.figure("Training loss")["data"][0]["line"]["width"] == 2
    page.go("results").tick(*range(10)).press("Open in Live")
    assert len(page.widget("live_run").value) == 10


def test_settings_that_differ_are_listed_above_the_charts(write_run, open_page):
    write_run("one", lora_rank=4)
    write_run("two", lora_rank=8, grad_clip=None)
    page = open_page("live", run=["one", "two"])
    table = page.dataframe[0].value
    assert table[["run", "Rank", "Gradient clipping"]].values.tolist() == [
        ["one", "4", "1"],
        ["two", "8", "none"],
    ]
    write_run("same", lora_rank=4)
    runtime.lab().refresh()
    assert open_page("live", run=["one", "same"]).says("These runs have the same settings.")
    assert not open_page("live", run=["one"]).dataframe


def test_link_restores_axis_smoothing_and_log_scale(write_run, open_page, line):
    write_run("one")
    page = open_page("live", run="one", x="tokens", smoothing="3", log="1", details="Warnings")
    assert page.widget("live_x").value == "tokens"
    assert line(page.figure("Training loss"))[0] == (10, 4)
    assert len(page.figure("Training loss")["data"]) == 2, "raw and smoothed"
    assert page.figure("Training loss")["layout"]["yaxis"]["type"] == "log"
    assert page.says("No warnings.")


def test_newest_samples_are_shown_with_the_total_count(write_run, open_page):
    samples = [{"step": n, "prompt": "Say hi.", "text": f"hi {n}."} for n in range(25)]
    write_run("one", samples=samples)
    page = open_page("live")
    assert page.says("Showing 20 of 25 samples")
    texts = "".join(html.value for html in page.get("html"))
    assert [f"hi {n}." in texts for n in (4, 5, 24)] == [False, True, True]


def test_several_runs_are_overlaid_in_separate_colors(write_run, open_page, line):
    write_run("one")
    write_run("two", scale=2.0, steps=3)
    page = open_page("live", run=["two", "one"])
    figure = page.figure("Training loss")
    assert [trace["name"] for trace in figure["data"]] == ["two", "one"]
    assert line(figure, 0) == [(n, 8 / n) for n in range(1, 4)]
    assert line(figure, 1) == [(n, 4 / n) for n in range(1, 7)]
    assert figure["layout"]["showlegend"]
    colors = [trace["line"]["color"] for trace in figure["data"]]
    assert len(set(colors)) == 2
    for title in TITLES:
        lines = page.figure(title)["data"]
        assert {t["line"]["color"] for t in lines if t["name"] == "one"} == {colors[1]}
    page.choose("live_run", ["one"])
    assert [trace["name"] for trace in page.figure("Training loss")["data"]] == ["one"]
    assert page.query_params["run"] == "one"
    page.choose("live_run", [])
    assert not page.get("plotly_chart")


def test_log_scale_applies_to_all_charts_except_the_learning_rate(write_run, open_page):
    write_run("one")
    page = open_page("live")
    assert {page.figure(t)["layout"]["yaxis"]["type"] for t in TITLES} == {"linear"}
    page.choose("Log scale", True)
    kinds = {t: page.figure(t)["layout"]["yaxis"]["type"] for t in TITLES}
    assert kinds.pop("Learning rate") == "linear"
    assert set(kinds.values()) == {"log"}


def test_smoothed_curve_is_a_moving_average_over_a_faded_raw_curve(write_run, open_page, line):
    write_run("one")
    page = open_page("live").choose("Smoothing (steps)", 3)
    figure = page.figure("Training loss")
    raw = [4 / n for n in range(1, 7)]
    means = [sum(raw[max(0, i - 2) : i + 1]) / min(3, i + 1) for i in range(6)]
    assert [y for _, y in line(figure, 0)] == raw
    assert [y for _, y in line(figure, 1)] == pytest.approx(means)
    assert figure["data"][0]["opacity"] < 1


def test_stop_button_requests_a_stop(write_run, open_page):
    run = write_run("one", "running", planned=99)
    page = open_page("live").press("Stop")
    assert run.stop_request() == "stopped"
    assert page.widget("Stopping").disabled
    assert run.status() == "running", "the trainer writes the final status"


def test_queued_run_stops_at_once_and_leaves_the_queue(write_run, open_page):
    run = write_run("one", "queued")
    page = open_page("live").press("Stop")
    assert run.status() == "stopped"
    assert "stopped" in badge(page, "one")
    assert page.widget("Resume")


def test_resume_queues_a_run_again(write_run, open_page):
    run = write_run("one", "interrupted", "the trainer died", planned=9)
    page = open_page("live").press("Resume")
    assert run.status() == "queued"
    assert "queued" in badge(page, "one")
    assert page.widget("Stop")
    assert not page.error


def test_stopping_a_finished_run_is_reported(write_run, open_page):
    run = write_run("one", "queued")
    page = open_page("live")
    run.append("status", status="finished")
    page.press("Stop")
    assert page.says("Run 'one' is not running (status: finished).")
    assert "finished" in badge(page, "one")


def test_samples_are_sorted_newest_first(write_run, open_page):
    samples = [{"step": n, "prompt": "Say hi.", "text": f"hi number {n}\nagain"} for n in (10, 20)]
    write_run("one", samples=samples)
    page = open_page("live")
    texts = [e.value for e in page.get("html") if "hi number" in e.value]
    assert ["20" in texts[0], "10" in texts[1]] == [True, True]
    assert "hi number 20\nagain" in texts[0]
    assert page.says("step 20: Say hi.")
    links = [link.label for link in page.run().get("page_link")]
    assert links == ["one"] * 3, "of the run and of its samples, also when drawn from the cache"


def test_queued_run_does_not_show_charts(write_run, open_page):
    write_run("one", "queued").log_path.write_text("waiting")
    page = open_page("live")
    assert not page.get("plotly_chart")
    assert [code.value for code in page.choose("Details", "Log").get("code")] == ["waiting"]


def test_resume_names_the_checkpoint_step(write_run, open_page):
    run = write_run("one", "stopped", "", planned=9)
    page = open_page("live")
    assert page.widget("Resume").help == "No checkpoint yet: training restarts from the beginning."
    for name in ("step-00000004", "step-00000006", "step-00000009.partial", "other"):
        (run.path / "checkpoint" / name).mkdir(parents=True)
    assert page.run().widget("Resume").help == "Resume from the checkpoint at step 6."


def test_latest_losses_are_shown(write_run, open_page):
    write_run("one")
    page = open_page("live")
    assert page.says("Step 6 of 6 · 3 s elapsed · loss 0.6667 · validation loss 0.8333")
    assert not progress(page), "finished runs have no bar"


def test_link_to_an_unknown_run_shows_a_warning(write_run, open_page):
    write_run("one")
    page = open_page("live", run=["<b>gone", "one"])
    assert page.says("Unknown run: <b>gone.")
    assert page.widget("live_run").value == ["one"]
    write_run("two")
    runtime.lab().refresh()
    assert not page.choose("live_run", ["two"]).says("Unknown run")


def test_warnings_are_listed(write_run, open_page):
    write_run("one", warnings=[{"step": 4, "about": "data", "message": "2 examples are left out"}])
    write_run("two")
    page = open_page("live", run=["one", "two"]).choose("Details", "Warnings")
    [table] = page.dataframe
    assert table.value.values.tolist() == [["one", 4, "data", "2 examples are left out"]]
    page.choose("live_run", ["two"])
    assert page.says("No warnings.")


def test_trainer_log_is_shown(write_run, open_page):
    write_run("one").log_path.write_text("epoch 1\n<b>done</b>")
    write_run("two")
    page = open_page("live", run=["one", "two"]).choose("Details", "Log")
    assert [code.value for code in page.get("code")] == [
        "epoch 1\n<b>done</b>",
        "(empty)",
    ]


def test_run_deleted_in_another_tab_disappears(write_run, open_page):
    write_run("one")
    write_run("two")
    page = open_page("live", run=["one", "two"])
    runtime.lab().delete("one")
    runtime.lab().refresh()
    page.run()
    assert page.widget("live_run").value == ["two"]


def test_sidebar_shows_the_queue(write_run, open_page, monkeypatch):
    page = open_page("live")
    assert not page.sidebar.get("page_link")
    monkeypatch.setattr(runtime.lab(), "waiting", lambda: ["one", "two", "three"])
    page.run()
    [link] = page.sidebar.get("page_link")
    assert link.label == "1 running · 2 queued"


def test_run_without_an_event_file_is_shown_as_queued(write_run, open_page):
    run = write_run("one", "queued")
    run.events_path.unlink()
    page = open_page("live")
    assert "queued" in badge(page, "one")
    assert RunDirectory(run.path).status() == "queued"


def test_run_that_ignores_a_stop_can_be_killed(write_run, open_page):
    run = write_run("one", "running", planned=9)
    page = open_page("live").press("Stop")
    assert [(b.label, b.disabled) for b in page.button] == [("Stopping", True)]
    past = time.time() - KILL_AFTER_S - 1
    os.utime(run.stop_path, (past, past))
    page.run()
    assert [(b.label, b.disabled) for b in page.button] == [("Kill", False)]


def test_silent_run_shows_a_warning(write_run, open_page, monkeypatch):
    write_run("one", "running", planned=9)
    page = open_page("live")
    assert not page.says("No events for")
    monkeypatch.setattr(status, "SILENCE_WARNING_S", -1.0)
    assert page.run().says("No events for")
    page.go("results").tick(0)
    assert not page.says("No events for")
