"""The Launch page: estimates, validation, and launched runs."""

import json
import re
import shutil

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.planning import lr_test, measurement, preflight
from core.presets import PRESETS, preset
from core.run.directory import RunDirectory, list_runs
from core.views.formats import memory
from pages import launch_form
from pages.ui import runtime


def setting(page, name):
    """Return the widget for a setting."""
    kinds = ("text_input", "number_input", "selectbox", "checkbox", "text_area", "toggle")
    [widget] = [w for kind in kinds for w in page.get(kind) if setting_name(w) == name]
    return widget


def setting_name(widget):
    """Return the name of a widget's setting, or None if it has none."""
    key = widget.key or ""
    return key.split(":")[2] if key.startswith("setting:") else None


def fill_settings(page, **values):
    """Fill in settings one at a time, as a user would."""
    for name, value in values.items():
        widget = setting(page, name)
        if widget.type == "text_input" and not isinstance(value, str):  # numbers typed as text
            value = "" if value is None else str(value)
        page.choose(widget.key, value)
    return page


def field_errors(page, name):
    """Return the error messages below a setting."""
    siblings = _siblings(page.main, setting(page, name).key)
    return [e.value.replace("\\", "") for e in siblings if e.type == "error"]


def _siblings(block, key):
    """Return all elements of the block that directly contains the widget with this key, or None."""
    children = list(block.children.values())
    if any(getattr(child, "key", None) == key for child in children):
        return children
    found = (_siblings(child, key) for child in children if hasattr(child, "children"))
    return next((siblings for siblings in found if siblings), None)


def form_config(page):
    """Return the config that the form would launch."""
    return RunConfig.parse(launch_form.settings(page.session_state["draft"]))


def launch_button(page):
    return page.widget("Launch")


def links(page):
    """Return the query strings of the links to runs and to Live, by label."""
    found = [link.proto for link in page.get("page_link")]
    return {link.label.replace("\\", ""): link.query_string for link in found}


def test_plan_follows_the_settings(page, line):
    plan = preflight.check(preset("demo"))
    metrics = {metric.label: metric.value for metric in page.metric}
    assert metrics["Steps"] == str(plan.steps)
    assert metrics["Parameters"] == f"{plan.parameters / 1e6:.1f} M"
    assert metrics["Trainable"] == metrics["Parameters"]
    assert line(page.figure("Learning rate")) == plan.learning_rates
    assert page.says(f"{plan.train_examples:,} training,")
    fill_settings(page, epochs=2 * preset("demo").epochs)
    metrics = {metric.label: metric.value for metric in page.metric}
    assert metrics["Steps"] == str(2 * plan.steps)
    assert len(page.figure("Learning rate")["data"]) == 1


def test_all_errors_are_shown_next_to_their_fields(page):
    assert not launch_button(page).disabled
    fill_settings(page, epochs=0, lr=-1.0, dataset="nowhere.json", device="abacus", tags="x" * 300)
    assert launch_button(page).disabled
    assert field_errors(page, "epochs") == ["Must be at least 1"]
    assert field_errors(page, "lr") == ["Must be greater than 0"]
    assert "file not found" in field_errors(page, "dataset")[0].lower()
    assert "Must be auto, cpu, mps, cuda" in field_errors(page, "device")[0]
    assert "at most 200 characters" in field_errors(page, "tags")[0]
    assert field_errors(page, "batch_size") == []
    [summary] = [e.value for e in page.error if "Fix before launching" in e.value]
    titles = ["Tags", "Epochs", "Learning rate", "Device", "Data set"]
    assert re.findall(r"\*\*(.+?)\*\*", summary) == titles


def test_skipped_records_are_listed_in_the_plan(page, tmp_path):
    records = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(40)]
    records[6]["output"] = ""
    records[8]["history"] = ["earlier"]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(records))
    fill_settings(page, dataset=str(path))
    assert not launch_button(page).disabled
    assert page.says("1 of 40 records are skipped: empty output (record 7)")
    assert page.says("unused keys (with record counts): history (1)")
    assert page.dataframe[0].value.values.tolist() == [["record 7", "empty output"]]
    assert page.says("33 training,")
    fill_settings(page, empty_outputs="keep")
    assert page.says("34 training,")
    assert not page.says("are skipped")
    fill_settings(page, epochs=1)
    assert page.says("1 evaluation, one every")


def test_uploaded_data_set_is_selected_and_checked(page, runs_dir):
    fill_settings(page, epochs=3)
    pairs = "".join(f"Say {n}.,{n}\n" for n in range(40))
    content = f"question,answer\n{pairs}".encode()
    page.widget("upload").set_value(("Pairs.CSV", content, "text/csv")).run()
    [path] = (runs_dir / "uploads").glob("*/pairs.csv")
    assert setting(page, "dataset").value == str(path)
    assert setting(page, "epochs").value == 3
    assert page.says("Columns: instruction ← question, output ← answer (detected)")
    assert page.says("34 training,")
    assert not launch_button(page).disabled
    page.widget("upload").set_value(("none.csv", b"a,b\n1,2\n", "text/csv")).run()
    assert "its columns (a, b) match no known format" in field_errors(page, "dataset")[0].lower()
    assert launch_button(page).disabled
    fill_settings(page, columns="instruction=a")
    assert "Must name the columns" in field_errors(page, "columns")[0]


def test_fixed_errors_disappear(page):
    fill_settings(page, epochs=0, dataset="nowhere.json")
    fill_settings(page, epochs=2, dataset="primer")
    assert not page.error
    assert not launch_button(page).disabled


def test_contradictory_settings_are_reported(page):
    fill_settings(page, train_fraction=0.95, min_lr=0.1, dataset="nowhere.json")
    assert "Leaves no examples for validation" in field_errors(page, "test_fraction")[0]
    assert field_errors(page, "min_lr") == ["Must be at most lr = 0.0001"]
    assert "file not found" in field_errors(page, "dataset")[0].lower()
    assert field_errors(page, "train_fraction") == []


def test_empty_required_fields_are_reported(page):
    fill_settings(page, base_model="", dataset="", sample_prompt="", name="")
    assert field_errors(page, "base_model") == ["Must have at least 1 character"]
    assert field_errors(page, "dataset") == ["Must have at least 1 character"]
    assert page.says("**Base model**: must have at least 1 character")
    assert page.says("**Data set**: must have at least 1 character")
    assert not page.says("Run name:")


def test_batch_too_large_for_memory_is_refused(page):
    fill_settings(page, base_model="gpt2-xl", batch_size=4096, dataset="primer")
    [message] = field_errors(page, "batch_size")
    assert "MB is free" in message
    assert launch_button(page).disabled


def test_pending_data_set_download_is_announced(page, monkeypatch, tmp_path):
    fill_settings(page, dataset="some-body/some_data")
    assert not launch_button(page).disabled
    assert page.says("some-body/some_data will be downloaded at launch")
    assert {m.label: m.value for m in page.metric}["Steps"] == "—"


def test_config_is_parsed_once_per_rerun(page, monkeypatch):
    parsed = []
    original_parse = RunConfig.parse.__func__

    def parse(cls, values):
        parsed.append(values)
        return original_parse(cls, values)

    monkeypatch.setattr(RunConfig, "parse", classmethod(parse))
    fill_settings(page, epochs=3)
    assert not launch_button(page).disabled
    assert [values["epochs"] for values in parsed] == [3]


def test_one_click_launches_the_demo(page, runs_dir):
    page.press("Launch the demo")
    [run] = list_runs(runs_dir)
    assert run.config().changed(color="") == preset("demo")
    assert run.status() == "queued"
    assert page.title[0].value == "Launch"
    assert links(page) == {"demo": "name=demo", "Watch in Live": "run=demo"}
    fill_settings(page, epochs=3)
    assert not page.widgets("Launch the demo"), "it would ignore the edit"


def test_launched_run_has_exactly_the_form_settings(page, runs_dir):
    values = {
        "name": "Mein Lauf", "tags": "first, second", "seed": 7, "notes": "why not", "dropout": 0.1,
        "max_examples": 40, "method": "lora", "alpha_lock": False, "lora_rank": 4, "lora_alpha": 8.0, "epochs": 2,
        "lora_targets": "mlp", "lora_last_layers": 2, "optimizer": "sgd", "lr": 3e-4, "min_lr": 1e-5,
        "warmup_fraction": 0.25, "grad_clip": None, "group_by_length": False, "mask_prompt": True,
        "sample_prompt": "Say hello.", "precision": "fp32", "max_length": 100, "train_fraction": 0.7,
    }  # fmt: skip
    fill_settings(page, **values)
    page.press("Launch")
    [run] = list_runs(runs_dir)
    del values["alpha_lock"]
    expected = preset("demo").changed(**values, parent=None)
    assert run.config().changed(color="") == expected.changed(name="mein-lauf")
    assert links(page)["mein-lauf"] == "name=mein-lauf"


def test_settings_without_effect_are_not_validated_or_stored(page, runs_dir):
    fill_settings(page, method="lora", lora_rank=0)
    assert launch_button(page).disabled
    fill_settings(page, method="full", min_lr=None, warmup_fraction=0.2)
    assert not launch_button(page).disabled
    page.press("Launch")
    [run] = list_runs(runs_dir)
    assert run.config().changed(color="") == preset("demo").changed(
        min_lr=None, warmup_fraction=0.2
    )


def test_clone_copies_the_parent_settings_and_names_the_parent(page, write_run, runs_dir):
    parent = write_run("one", method="lora", lora_rank=3, lr=2e-4, tags="a, b", notes="mine")
    page.run()
    runtime.lab().refresh()
    page.run().choose("source", "clone of one")
    assert setting(page, "lora_rank").value == 3
    assert setting(page, "tags").value == "a, b"
    assert setting(page, "notes").value == ""
    assert page.says("Run name: **one-2**")
    page.press("Launch")
    [clone] = [run for run in list_runs(runs_dir) if run.name != "one"]
    expected = parent.config().changed(parent="one", notes="", name=clone.name, color="")
    assert clone.config().changed(color="") == expected
    assert clone.name == "one-2"


def test_run_named_like_a_preset_can_be_cloned(write_run, open_page):
    write_run("demo", lr=0.5)
    page = open_page("launch")
    assert setting(page, "lr").value == "1e-4"
    assert page.choose("source", "clone of demo").session_state["draft"]["parent"] == "demo"
    assert setting(page, "lr").value == "0.5"


def test_run_with_damaged_settings_cannot_be_cloned(write_run, open_page):
    run = write_run("one")
    run.config_path.write_text("{]")
    page = open_page("launch").choose("source", "clone of one")
    assert page.says("one: config.json cannot be read")
    assert setting(page, "lr").value == "1e-4"


def test_form_keeps_its_values_after_visiting_another_page(write_run, page):
    page.choose("source", "run_12")
    fill_settings(page, tags="a, b", lr=0.002, lora_rank=5)
    page.go("results").go("launch")
    assert page.widget("source").value == "run_12"
    assert setting(page, "tags").value == "a, b"
    assert setting(page, "lr").value == "0.002"
    assert setting(page, "lora_rank").value == 5


def changes(page):
    """Return the list of changes next to the form."""
    lines = [element.value for element in page.markdown if "\u2192" in element.value]
    return [line.replace("\\", "").replace("\u2060", "").replace("**", "") for line in lines]


def test_changes_from_the_source_are_listed(page):
    assert changes(page) == []
    assert page.says("Same settings as preset demo.")
    page.choose("source", "run_12")
    assert changes(page) == []
    fill_settings(page, lr=1e-4, optimizer="sgd", mask_prompt=True, grad_clip=None, tags="a, b")
    fill_settings(page, notes="two\nlines " + "x" * 100)
    assert page.says("Changes from preset run_12")
    assert changes(page) == [
        "Tags: none → a, b",
        "Notes: none → two lines …",
        "Mask prompt: off → on",
        f"{RunConfig.model_fields['optimizer'].title}: adamw → sgd",
        "Learning rate: 5e-5 → 1e-4",
        "Gradient clipping: 1 → none",
    ]
    fill_settings(
        page, lr=5e-5, optimizer="adamw", mask_prompt=False, grad_clip=1.0, tags="", notes=""
    )
    assert changes(page) == []


def test_each_change_can_be_undone(page):
    page.choose("source", "run_12")
    fill_settings(page, lr="fast", lora_rank=8, grad_clip=None, tags="a, b")
    page.press("undo:lr")
    assert setting(page, "lr").value == "5e-5"
    assert changes(page) == [
        "Tags: none → a, b",
        "Rank: 16 → 8",
        "Alpha: 16 → 8",
        "Gradient clipping: 1 → none",
    ]
    assert not launch_button(page).disabled
    page.press("undo:grad_clip").press("undo:lora_rank")
    assert setting(page, "grad_clip").value == 1.0
    assert changes(page.press("undo:tags")) == []
    assert not page.widgets("Reset")


def test_undoing_alpha_unlocks_it_if_the_source_does(page):
    page.choose("source", "run_13")  # rank 16, alpha 32
    fill_settings(page, alpha_lock=True)
    assert changes(page) == ["Alpha: 32 → 16"]
    page.press("undo:lora_alpha")
    assert (setting(page, "lora_alpha").value, setting(page, "alpha_lock").value) == (32, False)


def test_irrelevant_settings_are_not_listed_as_changes(page):
    fill_settings(page, method="lora", lora_rank=5)
    assert changes(page) == ["Method: full → lora", "Rank: 16 → 5", "Alpha: 16 → 5"]
    fill_settings(page, method="full")
    assert changes(page) == []


def test_reset_discards_every_edit(page):
    page.choose("source", "run_12")
    assert not page.widgets("Reset")
    fill_settings(page, optimizer="sgd", lr=0.5, lora_rank=2)
    page.go("results").go("launch").press("Reset")
    assert page.widget("source").value == "run_12"
    values = {name: setting(page, name).value for name in ("optimizer", "lr", "lora_rank")}
    assert values == {"optimizer": "adamw", "lr": "5e-5", "lora_rank": 16}
    assert not page.widgets("Reset")
    assert launch_form.settings(page.session_state["draft"])["optimizer"] == "adamw"


def test_reset_discards_edits_without_effect(page):
    fill_settings(page, method="lora", lora_rank=5, lora_targets="mlp")
    fill_settings(page, method="full")
    assert changes(page) == []
    assert page.says("Only settings that have no effect differ.")
    page.press("Reset")
    assert not page.widgets("Reset")
    fill_settings(page, method="lora")
    assert setting(page, "lora_rank").value == preset("demo").lora_rank
    assert setting(page, "lora_targets").value == "all"


def test_reset_is_hidden_for_unchanged_sources(page, write_run):
    write_run("one", tags="a, b", lr=3.3e-7, min_lr=1e-9, grad_clip=None, notes="mine")
    runtime.lab().refresh()
    for source in (*PRESETS, "clone of one"):
        page.run().choose("source", source)
        assert not page.widgets("Reset"), source


def test_selecting_another_source_discards_every_edit(page):
    fill_settings(page, optimizer="sgd")
    page.choose("source", "run_12").choose("source", "demo")
    assert setting(page, "optimizer").value == "adamw"
    assert changes(page) == []


def test_source_stays_selected_after_its_run_is_deleted(page, write_run):
    write_run("one", optimizer="sgd")
    runtime.lab().refresh()
    page.run().choose("source", "clone of one")
    runtime.lab().delete("one")
    runtime.lab().refresh()
    assert page.run().widget("source").value == "clone of one"
    assert page.says("Same settings as run one.")
    fill_settings(page, lr=0.25)
    assert setting(page.press("Reset"), "lr").value == "5e-5"
    assert setting(page, "optimizer").value == "sgd"
    page.choose("source", "demo")
    assert setting(page, "optimizer").value == "adamw"


def test_damaged_source_keeps_the_form_and_the_previous_source(write_run, open_page):
    write_run("one").config_path.write_text("{]")
    page = fill_settings(open_page("launch"), lr=0.25).choose("source", "clone of one")
    assert page.widget("source").value == "demo"
    assert changes(page) == ["Learning rate: 1e-4 → 0.25"]


def test_unwritable_runs_directory_is_reported_at_launch(page, runs_dir):
    runtime.lab()
    shutil.move(runs_dir, runs_dir.with_name("moved"))
    runs_dir.write_text("a file instead of a directory")
    page.press("Launch")
    assert page.says("cannot be written to")
    page.press("Launch the demo")
    assert page.title[0].value == "Launch"
    assert page.says("cannot be written to")


def test_time_and_memory_are_measured_for_the_current_settings(page, dataset, wait):
    fill_settings(
        page, dataset=str(dataset), batch_size=5, epochs=1, method="lora", max_new_tokens=2
    )
    page.press("Measure time and memory")
    assert page.widget("Measure time and memory").disabled
    future = runtime.lab().measurement(form_config(page))
    wait(future.done)
    cost = future.result()
    metrics = {metric.label: metric.value for metric in page.run().metric}
    assert metrics["Measured memory"] == memory(cost.memory_mb)
    assert "Measured time" in metrics
    fill_settings(page, name="does not affect the cost")
    assert any(metric.label == "Measured memory" for metric in page.metric)
    fill_settings(page, batch_size=4)
    assert not any(metric.label == "Measured memory" for metric in page.metric)


def test_suggested_learning_rate_is_shown_and_can_be_used(page, dataset, wait, line):
    fill_settings(page, dataset=str(dataset), batch_size=5, trained_weights="last_layers")
    fill_settings(page, max_new_tokens=2, notes="typed before")
    page.press("Find a learning rate")
    assert page.widget("Find a learning rate").disabled
    future = runtime.lab().lr_test(form_config(page))
    wait(future.done)
    curve = future.result()
    figure = page.run().figure("Loss at increasing learning rates")
    assert line(figure, 1) == [*zip(curve.lr, curve.smoothed, strict=True)]
    assert figure["layout"]["xaxis"]["type"] == "log"
    assert figure["layout"]["shapes"][0]["x0"] == curve.suggestion
    fill_settings(page, min_lr=None)
    page.press("Use this rate")
    assert float(setting(page, "lr").value) == curve.suggestion
    assert setting(page, "notes").value == "typed before"
    assert page.figure("Loss at increasing learning rates")
    assert page.widget("Use this rate").disabled
    fill_settings(page, epochs=0)
    assert page.widget("Find a learning rate").disabled
    fill_settings(page, epochs=1, batch_size=4)
    assert not page.widgets("Use this rate")


def test_failed_learning_rate_test_shows_an_error(page, wait, monkeypatch):
    def fail(config, steps):
        raise UserError("out of *space*")

    monkeypatch.setattr(lr_test, "find_lr", fail)
    page.press("Find a learning rate")
    wait(runtime.lab().lr_test(form_config(page)).done)
    assert page.run().says("out of *space*")
    assert not launch_button(page).disabled


def test_schedule_is_drawn_in_the_form(page, line):
    fill_settings(page, schedule="wsd", decay_fraction=0.5, warmup_fraction=0.0, min_lr=None)
    rates = [rate for _, rate in line(page.figure("Learning rate"))]
    assert rates[0] == preset("demo").lr
    assert rates[-1] == 0.0
    assert rates.count(preset("demo").lr) == pytest.approx(len(rates) / 2, abs=2)
    fill_settings(page, schedule="constant")
    assert {rate for _, rate in line(page.figure("Learning rate"))} == {preset("demo").lr}


def test_configuration_measured_too_large_is_refused(page, dataset, wait, monkeypatch):
    fill_settings(page, dataset=str(dataset), batch_size=5, epochs=1, max_new_tokens=2)
    page.press("Measure time and memory")
    future = runtime.lab().measurement(form_config(page))
    wait(future.done)
    cost = future.result()
    estimated = preflight.check(form_config(page))
    assert not launch_button(page.run()).disabled
    free = min(cost.memory_mb, estimated.memory_mb) - 1.0
    monkeypatch.setattr(preflight.estimate, "RUNTIME_MB", 0)
    monkeypatch.setattr(preflight.hardware, "available_memory_mb", lambda device: free)
    assert launch_button(page.run()).disabled
    [message] = field_errors(page, "batch_size")
    assert f"needs about {cost.memory_mb:,.0f} MB" in message


def test_failed_measurement_shows_its_reason(page, wait, monkeypatch):
    def fail(config):
        raise UserError("out of *space*")

    monkeypatch.setattr(measurement, "measure", fail)
    page.press("Measure time and memory")
    wait(runtime.lab().measurement(form_config(page)).done)
    assert page.run().says("out of *space*")
    assert not launch_button(page).disabled


def test_run_launched_from_the_form_finishes(monkeypatch, runs_dir, open_page, dataset, wait, line):
    monkeypatch.setenv("EXECUTOR", "process")
    small = {
        "name": "real",
        "dataset": str(dataset),
        "batch_size": 5,
        "epochs": 1,
        "method": "lora",
    }
    small |= {"lora_rank": 2, "max_new_tokens": 2, "sample_prompt": ""}
    page = fill_settings(open_page("launch"), **small).press("Launch")
    page.go("live", run="real")
    run = RunDirectory(runs_dir / "real")
    wait(lambda: run.status() not in ("queued", "running"))
    assert run.status() == "finished", run.log_tail()
    assert run.config().changed(color="") == preset("demo").changed(**small, lora_alpha=2)
    runtime.lab().refresh()
    page.run()
    events = [json.loads(row) for row in run.events_path.read_text().splitlines()]
    losses = [(e["step"], e["loss"]) for e in events if e["event"] == "step"]
    assert len(losses) == 2
    assert line(page.figure("Training loss")) == losses
    assert any("finished" in element.value for element in page.markdown)


def test_form_keeps_its_settings_after_a_launch(page, runs_dir):
    fill_settings(page, name="mine", lr=3e-4, tags="a").press("Launch")
    assert page.title[0].value == "Launch"
    assert links(page)["mine"] == "name=mine"
    assert changes(page) == []
    assert page.says("Same settings as run mine.")
    assert page.query_params["from"] == "mine"
    fill_settings(page, seed=7)
    assert changes(page) == ["Seed: 123 → 7"]
    page.press("Launch")
    assert links(page)["mine-2"] == "name=mine-2"
    assert "mine" not in links(page)
    first, second = sorted(list_runs(runs_dir), key=lambda run: run.name)
    assert first.config().parent is None
    expected = first.config().changed(name="mine-2", parent="mine", seed=7, color="")
    assert second.config().changed(color="") == expected


def test_unchanged_source_can_be_launched_twice(page, runs_dir):
    page.press("Launch").press("Launch")
    assert page.says("Same settings as preset demo.")
    assert page.says("Run name: **demo-3**")
    assert {run.config().parent for run in list_runs(runs_dir)} == {None}


def test_launched_run_is_no_longer_linked_after_it_is_deleted(page):
    page.press("Launch")
    assert "demo" in links(page)
    runtime.lab().stop("demo")
    runtime.lab().delete("demo")
    runtime.lab().refresh()
    assert "demo" not in links(page.run())


def test_own_runs_are_listed_before_presets(open_page, write_run):
    for name in ("first", "second", "hidden"):
        write_run(name, archived=name == "hidden")
    page = open_page("launch")
    options = page.widget("source").options
    created = runtime.lab().runs()["name"].tolist()
    assert options[:2] == [f"clone of {name}" for name in created if name != "hidden"]
    assert options[2:] == [f"{name}: {PRESETS[name].title}" for name in PRESETS]


@pytest.mark.parametrize(
    ("address", "source", "kept"),
    [
        ("one", "clone of one", "one"),
        ("demo", "clone of demo", "demo"),
        ("preset:demo", "demo", "preset:demo"),
        ("run_12", "run_12", "run_12"),
        ("hidden", "clone of hidden", "hidden"),
    ],
)
def test_url_names_the_source(open_page, write_run, address, source, kept):
    write_run("one"), write_run("demo"), write_run("hidden", archived=True)
    page = open_page("launch", **{"from": address})
    assert page.widget("source").value == source
    assert page.query_params["from"] == kept
    page.choose("source", "run_13")
    assert page.query_params["from"] == "run_13"
    assert page.go("results").go("launch").query_params["from"] == "run_13"


@pytest.mark.parametrize("address", ["no*where", "clone of one", "preset:one", "preset:"])
def test_unknown_source_in_the_url_is_reported(open_page, write_run, address):
    write_run("one")
    page = open_page("launch", **{"from": address})
    assert page.says(f"Unknown run or preset: {address}.")
    assert page.widget("source").value == "demo"
    page.choose("source", "run_12")
    assert not page.warning
    assert page.query_params["from"] == "run_12"


def test_link_to_a_damaged_run_shows_an_error(open_page, write_run):
    write_run("one").config_path.write_text("{]")
    page = open_page("launch", **{"from": "one"})
    assert page.says("one: config.json cannot be read")
    assert page.widget("source").value == "demo"


def test_edits_are_kept_only_if_the_same_link_is_opened_again(open_page, write_run):
    write_run("one"), write_run("two")
    page = fill_settings(open_page("launch", **{"from": "one"}), seed=7)
    page.go("results").go("launch", **{"from": "one"})
    assert changes(page) == ["Seed: 123 → 7"]
    page.go("results").go("launch", **{"from": "two"})
    assert page.widget("source").value == "clone of two"
    assert changes(page) == []


def test_new_run_with_the_name_of_the_preset_does_not_replace_the_source(page, write_run):
    page.choose("source", "run_12")
    fill_settings(page, seed=7)
    write_run("run_12")
    runtime.lab().refresh()
    assert page.run().widget("source").value == "run_12"
    assert changes(page) == ["Seed: 123 → 7"]
