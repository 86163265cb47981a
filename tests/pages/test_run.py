"""The run page: header, edits, tiles, charts, the batch of a step, tabs and links."""

import json

import pytest

from core.data.batches import encode_example
from core.data.dataset import load
from pages.ui import runtime


@pytest.fixture
def write_batch(write_run, dataset):
    """A function that writes a run on `dataset` whose step 2 trained on the first two examples."""

    def write(name="one", path=dataset, **settings):
        run = write_run(name, steps=1, planned=2, dataset=str(path), **settings)
        lengths = [len(encode_example(e, 0, 10**9).ids) - 1 for e in load(str(path))[:2]]
        position = {"step": 2, "epoch": 1.0, "tokens": 10 + sum(lengths), "seconds": 1.0}
        run.append("step", **position, lr=5e-5, loss=0.5, grad_norm=2.0, tokens_per_s=9.0,
                   padding=0.125, batch=[0, 1])  # fmt: skip
        return run

    return write


def tile(page, label):
    [match] = [metric.value for metric in page.metric if metric.label == label]
    return match


@pytest.mark.parametrize("query", [{"name": "<b>gone"}, {}])
def test_unknown_run_links_to_results(write_run, open_page, query):
    write_run("one")
    page = open_page("run", **query)
    assert page.says("Unknown run: <b>gone." if query else "This link doesn't specify a run.")
    assert [link.label for link in page.get("page_link")] == ["Results"]


@pytest.mark.parametrize(
    ("status", "reason", "button"),
    [
        ("queued", None, "Stop"),
        ("running", None, "Stop"),
        ("stopped", None, "Resume"),
        ("failed", "the loss became nan at step 3", "Resume"),
        ("finished", None, None),
    ],
)
def test_status_reason_and_action_are_shown(write_run, open_page, status, reason, button):
    write_run("one", status, reason)
    page = open_page("run", name="one")
    assert page.title[0].value == "one"
    assert any("-badge[" in m.value and status in m.value for m in page.markdown)
    assert [b.label for b in page.button if b.label in ("Stop", "Resume")] == [button] * bool(
        button
    )
    assert page.says(reason or "")


def test_tiles_show_the_best_evaluation_and_dashes_for_missing_values(write_run, open_page):
    write_run("one", steps=7)  # evaluated at steps 3 and 6
    page = open_page("run", name="one")
    assert tile(page, "Best validation loss") == "0.8333 @ 6"
    assert tile(page, "Train/validation gap") == "+0.3333"
    assert tile(page, "Time") == "4 s"
    assert [tile(page, label) for label in ("Exact answers", "Score")] == ["—", "—"]


def test_queued_run_has_no_charts(write_run, open_page):
    write_run("one", "queued")
    page = open_page("run", name="one")
    assert not page.get("plotly_chart")
    assert tile(page, "Best validation loss") == "—"


def test_charts_share_an_axis_and_mark_best_step_warm_up_and_clipping(write_run, open_page, line):
    run = write_run("one", steps=10, warmup_fraction=0.3, grad_clip=2.5, lr=3e-4)
    run.write_config(run.config().changed(lr=5e-4))  # the recorded rates start below the peak
    page = open_page("run", name="one")
    loss = page.figure("Loss")
    names = ["training, per step", "validation", "training", "best validation, step 9"]
    assert [trace["name"] for trace in loss["data"]] == names
    assert line(loss, 0) == [(n, 4 / n) for n in range(1, 11)]
    assert line(loss, 1) == [(n, 5 / n) for n in (3, 6, 9)]
    assert line(loss, 3) == [(9, 5 / 9)]
    assert line(page.figure("Learning rate")) == [(n, 3e-4) for n in range(1, 11)]
    shapes = loss["layout"]["shapes"]
    assert [(s["x1"], s["yref"]) for s in shapes if s["type"] == "rect"] == [(3, "y2 domain")]
    assert [(s["y0"], s["yref"]) for s in shapes if s["type"] == "line"] == [(2.5, "y3")]
    assert len(page.get("plotly_chart")) == 1
    page.choose("run_system", True)
    assert line(page.figure("Tokens per second"))[0] == (1, 21)
    assert line(page.figure("Peak memory so far"))[0] == (1, 501)
    page.choose("run_log", True)
    assert page.figure("Loss")["layout"]["yaxis"]["type"] == "log"


def test_step_shows_its_batch(write_batch, open_page):
    write_batch()
    page = open_page("run", name="one", step="2")
    assert page.says("loss 0.5000 · learning rate 5e-5 · gradient norm 2.0000 · 2 examples")
    assert page.says("padding 12.5%")
    [batch] = [t.value for t in page.dataframe if "Prompt" in t.value and "open" in t.value]
    assert batch["open"].tolist() == ["0", "1"]
    assert batch["Prompt"].tolist() == ["Say red.", "Say blue."]
    page.press("close_batch")
    assert not page.says("Batch of step")


def test_changed_or_missing_data_set_is_reported(write_batch, open_page, tmp_path, dataset):
    path = tmp_path / "words.json"
    path.write_text(dataset.read_text())
    write_batch(path=path)
    records = json.loads(path.read_text())
    records[0]["output"] = "something much longer than before"
    path.write_text(json.dumps(records))
    page = open_page("run", name="one", step="2")
    assert page.says("The data set has changed since this run was trained on it.")
    assert page.says("loss 0.5000")
    path.unlink()
    assert open_page("run", name="one", step="2").says("file not found")


def test_color_and_tags_are_saved(write_run, open_page):
    run = write_run("one", tags="a, b")
    page = open_page("run", name="one")
    assert page.widget("tags:one").value == ["a", "b"]
    page.get("color_picker")[0].set_value("#123456").run()
    assert run.config().color == "#123456"
    page.widget("tags:one").set_value(["b"]).run()
    assert run.config().tags == ("b",)
    assert open_page("run", name="one").widget("tags:one").value == ["b"]


def test_parent_and_changes_are_shown(write_run, open_page):
    write_run("old", grad_clip=1.0)
    write_run("new", parent="old", grad_clip=None, lora_rank=8)
    page = open_page("run", name="new")
    assert "old" in [link.label for link in page.get("page_link")]
    assert page.says("rank 16 → 8 · gradient clipping 1 → none")
    page = open_page("run", name="new", tab="Settings")
    table = page.dataframe[0].value.set_index("Setting")
    assert table.loc["Gradient clipping"].tolist() == ["none", "1", "1", "changed"]
    runtime.lab().delete("old")
    runtime.lab().refresh()
    assert open_page("run", name="new").says("old, which no longer exists.")


def test_run_can_be_archived_and_deleted(write_run, open_page):
    run = write_run("one")
    page = open_page("run", name="one").press("Archive")
    assert run.config().archived
    page.press("Unarchive")
    assert not run.config().archived
    page.press("Delete")
    assert page.title[0].value == "Results"
    assert [trashed.name for trashed in runtime.lab().trash()] == ["one"]


def test_clone_and_score_open_their_pages(write_run, open_page, answer):
    write_run("one", answers=(answer(9, "Say up.", "up", "up"),))
    page = open_page("run", name="one").press("Clone")
    assert page.title[0].value == "Launch"
    page = open_page("run", name="one").press("Score")
    assert page.title[0].value == "Scoring"
    assert page.widget("scoring_run").value == ["one"]


def test_answers_can_be_filtered_and_read_in_full(write_run, open_page, answer):
    answers = (
        answer(9, "Say up.", "up", "up", exact=True),
        answer(10, "Say down.", "down", "<b>left</b>", exact=False),
    )
    write_run("one", answers=answers)
    page = open_page("run", name="one")
    assert page.dataframe[0].value["Item"].tolist() == [9, 10]
    page.choose("run_kind", "Not exact")
    assert page.dataframe[0].value["Answer"].tolist() == ["<b>left</b>"]
    page.tick(0)
    assert page.says("&lt;b&gt;left&lt;/b&gt;")
    assert page.says("Prompt (item 10)")
    page.choose("run_kind", "All").choose("run_answer", "nothing like this")
    assert page.says("No matching answers.")


def test_samples_are_a_table_of_prompts_by_steps(write_run, open_page):
    samples = [{"step": n, "prompt": "Say <i>hi</i>.", "text": f"hi {n}"} for n in (100, 2000)]
    write_run("one", samples=samples)
    page = open_page("run", name="one", tab="Samples")
    [table] = [h.value for h in page.get("html") if "<table>" in h.value]
    assert "Say &lt;i&gt;hi&lt;/i&gt;." in table
    assert table.index("Step 100") < table.index("Step 2,000")
    assert table.index("hi 100") < table.index("hi 2000")


def test_settings_tab_can_show_all_settings(write_run, open_page):
    write_run("one", lora_rank=8)
    page = open_page("run", name="one", tab="Settings")
    assert page.dataframe[0].value.values.tolist() == [["Rank", "8", "16"]]
    page.choose("run_all", True)
    assert len(page.dataframe[0].value) > 40


def test_tabs_show_data_notes_files_and_log(write_run, open_page, dataset, tmp_path):
    run = write_run("one", dataset=str(dataset))
    run.log_path.write_text("epoch 1\n<b>done</b>")
    (run.path / "secret").symlink_to(tmp_path)
    page = open_page("run", name="one", tab="Data")
    assert (tile(page, "Train"), tile(page, "Test")) == ("10", "1")
    page = open_page("run", name="one", tab="Notes")
    page.widget("notes:one").set_value("a finding").run()
    assert run.config().notes == "a finding"
    files = open_page("run", name="one", tab="Files").dataframe[0].value
    assert {"config.json", "events.jsonl", "trainer.log"} <= {*files["File"]}
    assert "secret" not in {*files["File"]}
    page = open_page("run", name="one", tab="Log")
    assert [code.value for code in page.get("code")] == ["epoch 1\n<b>done</b>"]


def test_opening_another_run_clears_the_selected_step(write_batch, open_page):
    write_batch("one")
    write_batch("two")
    page = open_page("run", name="one", step="2")
    assert page.widget("run_step").value == 2
    page.go("run", name="two")
    assert page.widget("run_step").value is None
    assert not page.says("Batch of step")


def test_invalid_step_in_a_link_is_ignored(write_batch, open_page):
    write_batch("one")
    for step in ("0", "-1", "3", "x"):
        page = open_page("run", name="one", step=step)
        assert page.widget("run_step").value is None
    write_batch("two")
    runtime.lab().refresh()
    assert page.go("run", name="two", step="3").widget("run_step").value is None


def test_charts_can_be_frozen_while_the_run_is_active(write_run, open_page, line):
    run = write_run("one", "running", planned=9)
    page = open_page("run", name="one").choose("follow", False)
    event_fields = {"epoch": 3.5, "tokens": 70, "seconds": 3.5, "lr": 1e-3, "grad_norm": 1.0}
    run.append("step", step=7, loss=0.25, tokens_per_s=9.0, **event_fields)
    runtime.lab().refresh()
    assert page.run().get("progress")[0].proto.text.startswith("Step 7 of 9")
    assert line(page.figure("Loss"))[-1][0] == 6
    assert line(page.choose("follow", True).figure("Loss"))[-1] == (7, 0.25)


def test_link_to_a_run_created_since_the_last_sync_shows_the_run(write_run, open_page):
    page = open_page("results")
    write_run("fresh")
    page.go("run", name="fresh")
    assert page.title[0].value == "fresh"
    assert not page.warning
