"""The launch page: its plan, its problems, and the run that comes of it."""

import json
import re
import shutil

from core.config import RunConfig
from core.errors import UserError
from core.planning import measurement, preflight
from core.presets import PRESETS, preset
from core.run.directory import RunDirectory, list_runs
from pages import launch_form
from pages.ui import runtime


def setting(page, name):
    """The widget of a setting."""
    return page.widget(f"setting:{page.session_state['draft_generation']}:{name}")


def give(page, **values):
    """Fill in settings, as a person would: one after the other."""
    for name, value in values.items():
        page.choose(setting(page, name).key, value)
    return page


def beside(page, name):
    """The complaints in the column of a setting."""
    key = setting(page, name).key
    kinds = ("text_input", "number_input", "selectbox", "checkbox", "text_area")
    columns = [c for c in page.columns if any(w.key == key for k in kinds for w in c.get(k))]
    return [error.value.replace("\\", "") for error in columns[-1].error]


def launch_button(page):
    return page.widget("Launch")


def test_the_plan_is_that_of_the_settings(page, line):
    plan = preflight.check(preset("demo"))
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown["Steps"] == str(plan.steps)
    assert shown["Parameters"] == f"{plan.parameters / 1e6:.1f} M"
    assert shown["Trainable"] == shown["Parameters"]
    assert line(page.figure("Learning rate")) == plan.learning_rates
    assert page.says(f"{plan.train_examples:,} examples to train on")
    give(page, epochs=2 * preset("demo").epochs)
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown["Steps"] == str(2 * plan.steps)
    assert len(page.figure("Learning rate")["data"]) == 1


def test_mistakes_stand_beside_their_fields_all_at_once(page):
    assert not launch_button(page).disabled
    give(page, epochs=0, lr=-1.0, dataset="nowhere.json", device="abacus", tags="x" * 300)
    assert launch_button(page).disabled
    assert beside(page, "epochs") == ["it should be greater than or equal to 1"]
    assert beside(page, "lr") == ["it should be greater than 0"]
    assert "file not found" in beside(page, "dataset")[0]
    assert "should be auto, cpu, mps, cuda" in beside(page, "device")[0]
    assert "at most 200 characters" in beside(page, "tags")[0]
    assert beside(page, "batch_size") == []
    [told] = [e.value for e in page.error if "To be mended" in e.value]
    titles = ["Tags", "Epochs", "Learning rate", "Device", "Data set"]
    assert re.findall(r"\*\*(.+?)\*\*", told) == titles
    assert page.says("Epochs**: it should be greater than or equal to 1")


def test_skipped_records_are_listed_in_the_plan(page, tmp_path):
    records = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(40)]
    records[6]["output"] = ""
    records[8]["history"] = ["earlier"]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(records))
    give(page, dataset=str(path))
    assert not launch_button(page).disabled
    assert page.says("1 of 40 records are skipped: empty output (record 7)")
    assert page.says("unused keys (with record counts): history (1)")
    assert page.dataframe[0].value.values.tolist() == [["record 7", "empty output"]]
    assert page.says("33 examples to train on")
    give(page, empty_outputs="keep")
    assert page.says("34 examples to train on")
    assert not page.says("left out")


def test_mended_mistakes_are_gone(page):
    give(page, epochs=0, dataset="nowhere.json")
    give(page, epochs=2, dataset="primer")
    assert not page.error
    assert not launch_button(page).disabled


def test_settings_that_contradict_each_other(page):
    give(page, train_fraction=0.95, min_lr=0.1, dataset="nowhere.json")
    assert "nothing is left to validate on" in beside(page, "test_fraction")[0]
    assert beside(page, "min_lr") == ["it should be at most lr = 0.0001"]
    assert "file not found" in beside(page, "dataset")[0]
    assert beside(page, "train_fraction") == []


def test_an_emptied_field_is_a_mistake_and_no_crash(page):
    give(page, base_model="", dataset="", sample_prompt="", name="")
    assert beside(page, "base_model") == ["it should have at least 1 character"]
    assert beside(page, "dataset") == ["it should have at least 1 character"]
    assert page.says("**Base model**: it should have at least 1 character")
    assert not page.says("It will be called")


def test_what_does_not_fit_is_refused_with_what_would(page):
    give(page, base_model="gpt2-xl", batch_size=4096, dataset="primer")
    [message] = beside(page, "batch_size")
    assert "MB are free" in message
    assert launch_button(page).disabled


def test_a_data_set_that_is_not_here_is_announced(page, monkeypatch, tmp_path):
    give(page, dataset="some-body/some_data")
    assert not launch_button(page).disabled
    assert page.says("some-body/some_data will be downloaded at the launch")
    assert {m.label: m.value for m in page.metric}["Steps"] == "—"


def test_one_click_launches_the_demo_and_opens_live(page, runs_dir):
    page.press("Launch the demo")
    [run] = list_runs(runs_dir)
    assert run.config() == preset("demo")
    assert page.title[0].value == "Live"
    assert page.widget("live_runs").value == ["demo"]
    assert run.status() == "queued"


def test_a_launch_has_exactly_the_settings_of_the_form(page, runs_dir):
    values = {
        "name": "Mein Lauf", "tags": "first, second", "seed": 7, "notes": "why not", "dropout": 0.1,
        "max_examples": 40, "method": "lora", "lora_rank": 4, "lora_alpha": 8.0, "epochs": 2,
        "lora_targets": "mlp", "lora_last_layers": 2, "optimizer": "sgd", "lr": 3e-4, "min_lr": 1e-5,
        "warmup_fraction": 0.25, "grad_clip": None, "group_by_length": False, "mask_prompt": True,
        "sample_prompt": "Say hello.", "precision": "fp32", "max_length": 100, "train_fraction": 0.7,
    }  # fmt: skip
    give(page, **values)
    page.press("Launch")
    [run] = list_runs(runs_dir)
    expected = preset("demo").changed(**values, parent=None)
    assert run.config() == expected.changed(name="mein-lauf")
    assert page.widget("live_runs").value == ["mein-lauf"]


def test_settings_without_effect_neither_hinder_nor_enter(page, runs_dir):
    give(page, method="lora", lora_rank=0)
    assert launch_button(page).disabled
    give(page, method="full", min_lr=None, warmup_fraction=0.2)
    assert not launch_button(page).disabled
    page.press("Launch")
    [run] = list_runs(runs_dir)
    assert run.config() == preset("demo").changed(min_lr=None, warmup_fraction=0.2)


def test_a_clone_has_the_settings_of_its_parent_and_names_it(page, write_run, runs_dir):
    parent = write_run("one", method="lora", lora_rank=3, lr=2e-4, tags="a, b", notes="mine")
    page.run()
    runtime.lab().refresh()
    page.run().choose("source", "clone of one")
    assert setting(page, "lora_rank").value == 3
    assert setting(page, "tags").value == "a, b"
    assert setting(page, "notes").value == ""
    assert page.says("It will be called **one-2**.")
    page.press("Launch")
    [clone] = [run for run in list_runs(runs_dir) if run.name != "one"]
    expected = parent.config().changed(parent="one", notes="", name=clone.name)
    assert clone.config() == expected
    assert clone.name == "one-2"


def test_a_run_called_like_a_preset_can_be_cloned(write_run, open_page):
    write_run("demo", lr=0.5)
    page = open_page("launch")
    assert setting(page, "lr").value == preset("demo").lr
    assert page.choose("source", "clone of demo").session_state["draft"]["parent"] == "demo"
    assert setting(page, "lr").value == 0.5


def test_a_run_with_damaged_settings_cannot_be_cloned_and_says_so(write_run, open_page):
    run = write_run("one")
    run.config_path.write_text("{]")
    page = open_page("launch").choose("source", "clone of one")
    assert page.says("one: config.json cannot be read")
    assert setting(page, "lr").value == preset("demo").lr


def test_the_form_outlives_a_visit_elsewhere(write_run, page):
    page.choose("source", "run_12")
    give(page, tags="a, b", lr=0.002, lora_rank=5)
    page.go("results").go("launch")
    assert page.widget("source").value == "run_12"
    assert setting(page, "tags").value == "a, b"
    assert setting(page, "lr").value == 0.002
    assert setting(page, "lora_rank").value == 5


def changes(page):
    """Return the list of changes next to the Launch button."""
    lists = [c.value for c in page.caption if "\u2192" in c.value]
    lines = "\n".join(lists).replace("\\", "").replace("\u2060", "").splitlines()
    return [line.removeprefix("- ") for line in lines]


def test_changes_from_the_source_are_listed(page):
    assert changes(page) == []
    assert page.says("Same settings as demo.")
    page.choose("source", "run_12")
    assert changes(page) == []
    give(page, lr=1e-4, optimizer="sgd", mask_prompt=True, grad_clip=None, tags="a, b")
    give(page, notes="two\nlines " + "x" * 100)
    assert page.says("Changed from run_12")
    assert changes(page) == [
        "Tags: none → a, b",
        "Notes: none → two lines …",
        "Mask prompt: off → on",
        f"{RunConfig.model_fields['optimizer'].title}: adamw → sgd",
        "Learning rate: 5e-5 → 1e-4",
        "Gradient clipping: 1 → none",
    ]
    give(page, lr=5e-5, optimizer="adamw", mask_prompt=False, grad_clip=1.0, tags="", notes="")
    assert changes(page) == []


def test_irrelevant_settings_are_not_listed_as_changes(page):
    give(page, method="lora", lora_rank=5)
    assert changes(page) == ["Method: full → lora", "Rank: 16 → 5"]
    give(page, method="full")
    assert changes(page) == []


def test_reset_discards_every_edit(page):
    page.choose("source", "run_12")
    assert not page.widgets("Reset")
    give(page, optimizer="sgd", lr=0.5, lora_rank=2)
    page.go("results").go("launch").press("Reset")
    assert page.widget("source").value == "run_12"
    values = {name: setting(page, name).value for name in ("optimizer", "lr", "lora_rank")}
    assert values == {"optimizer": "adamw", "lr": 5e-5, "lora_rank": 16}
    assert not page.widgets("Reset")
    assert launch_form.settings(page.session_state["draft"])["optimizer"] == "adamw"


def test_reset_discards_edits_without_effect(page):
    give(page, method="lora", lora_rank=5, lora_targets="mlp")
    give(page, method="full")
    assert changes(page) == []
    page.press("Reset")
    assert not page.widgets("Reset")
    give(page, method="lora")
    assert setting(page, "lora_rank").value == preset("demo").lora_rank
    assert setting(page, "lora_targets").value == "all"


def test_reset_is_offered_for_no_source_as_it_is(page, write_run):
    write_run("one", tags="a, b", lr=3.3e-7, min_lr=1e-9, grad_clip=None, notes="mine")
    runtime.lab().refresh()
    for source in (*PRESETS, "clone of one"):
        page.run().choose("source", source)
        assert not page.widgets("Reset"), source


def test_selecting_another_source_discards_every_edit(page):
    give(page, optimizer="sgd")
    page.choose("source", "run_12").choose("source", "demo")
    assert setting(page, "optimizer").value == "adamw"
    assert changes(page) == []


def test_source_is_still_shown_after_its_run_was_deleted(page, write_run):
    write_run("one", optimizer="sgd")
    runtime.lab().refresh()
    page.run().choose("source", "clone of one")
    runtime.lab().delete("one")
    runtime.lab().refresh()
    assert page.run().widget("source").value == "clone of one"
    assert page.says("Same settings as clone of one.")
    give(page, lr=0.25)
    assert setting(page.press("Reset"), "lr").value == RunConfig().lr
    assert setting(page, "optimizer").value == "sgd"
    page.choose("source", "demo")
    assert setting(page, "optimizer").value == "adamw"


def test_damaged_source_keeps_the_form_and_the_previous_source(write_run, open_page):
    write_run("one").config_path.write_text("{]")
    page = give(open_page("launch"), lr=0.25).choose("source", "clone of one")
    assert page.widget("source").value == "demo"
    assert changes(page) == ["Learning rate: 1e-4 → 0.25"]


def test_a_disk_that_takes_nothing_is_a_sentence(page, runs_dir):
    runtime.lab()
    shutil.move(runs_dir, runs_dir.with_name("moved"))
    runs_dir.write_text("a file where the runs were")
    page.press("Launch")
    assert page.says("cannot be written to")
    page.press("Launch the demo")
    assert page.title[0].value == "Launch"
    assert page.says("cannot be written to")


def test_time_and_memory_are_measured_for_these_settings(page, dataset, wait):
    give(page, dataset=str(dataset), batch_size=5, epochs=1, method="lora", max_new_tokens=2)
    page.press("Measure time and memory")
    assert page.widget("Measure time and memory").disabled
    _, future = page.session_state["measuring"]
    wait(future.done)
    cost = future.result()
    shown = {metric.label: metric.value for metric in page.run().metric}
    assert shown["Memory, measured"] == f"{cost.memory_mb / 1024:.1f} GB"
    assert "Time, measured" in shown
    give(page, name="another name costs the same")
    assert any(metric.label == "Memory, measured" for metric in page.metric)
    give(page, batch_size=4)
    assert not any(metric.label == "Memory, measured" for metric in page.metric)


def test_what_is_measured_to_be_too_large_is_refused(page, dataset, wait, monkeypatch):
    give(page, dataset=str(dataset), batch_size=5, epochs=1, max_new_tokens=2)
    page.press("Measure time and memory")
    wait(page.session_state["measuring"][1].done)
    cost = page.session_state["measuring"][1].result()
    estimated = preflight.check(RunConfig.parse(launch_form.settings(page.session_state["draft"])))
    assert not launch_button(page.run()).disabled
    free = min(cost.memory_mb, estimated.memory_mb) - 1.0
    monkeypatch.setattr(preflight.estimate, "RUNTIME_MB", 0)
    monkeypatch.setattr(preflight.hardware, "available_memory_mb", lambda device: free)
    assert launch_button(page.run()).disabled
    [message] = beside(page, "batch_size")
    assert f"would need about {cost.memory_mb:,.0f} MB" in message


def test_a_measurement_that_fails_says_why(page, wait, monkeypatch):
    def fail(config):
        raise UserError("there is *no* room")

    monkeypatch.setattr(measurement, "measure", fail)
    page.press("Measure time and memory")
    wait(page.session_state["measuring"][1].done)
    assert page.run().says("there is *no* room")
    assert not launch_button(page).disabled


def test_a_run_launched_from_the_form_is_trained_to_its_end(
    monkeypatch, runs_dir, open_page, dataset, wait, line
):
    monkeypatch.setenv("EXECUTOR", "process")
    small = {
        "name": "real",
        "dataset": str(dataset),
        "batch_size": 5,
        "epochs": 1,
        "method": "lora",
    }
    small |= {"lora_rank": 2, "max_new_tokens": 2, "sample_prompt": ""}
    page = give(open_page("launch"), **small).press("Launch")
    run = RunDirectory(runs_dir / "real")
    wait(lambda: run.status() not in ("queued", "running"))
    assert run.status() == "finished", run.log_tail()
    assert run.config() == preset("demo").changed(**small)
    runtime.lab().refresh()
    page.run()
    events = [json.loads(row) for row in run.events_path.read_text().splitlines()]
    losses = [(e["step"], e["loss"]) for e in events if e["event"] == "step"]
    assert len(losses) == 2
    assert line(page.figure("Training loss")) == losses
    assert any("finished" in element.value for element in page.markdown)
