"""Studies on disk: planned runs are created exactly once, even after a crash, and damaged files are reported."""

import json
from dataclasses import replace

import pytest

from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory, list_runs
from core.scheduler.executors import EXECUTORS
from core.studies import study
from core.studies.sweep import Sweep, parse_axis

BASE = RunConfig(max_examples=50)
SWEEP = Sweep(BASE, (parse_axis("lr=1e-4,3e-4"),), (1, 2))


@pytest.fixture(autouse=True)
def idle_executor(monkeypatch):
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)


@pytest.fixture
def lab(tmp_path):
    with Lab(tmp_path, "idle") as lab:
        yield lab


def names(runs_dir):
    return [run.name for run in list_runs(runs_dir)]


def test_study_creates_and_queues_every_run(lab):
    created = lab.sweep(SWEEP, "Rate", "Which learning rate?")
    assert created == names(lab.runs_dir) == ["rate-1", "rate-2", "rate-3", "rate-4"]
    assert {lab.config(name).study for name in created} == {"rate"}
    assert [(lab.config(n).lr, lab.config(n).seed) for n in created] == [
        (1e-4, 1), (3e-4, 1), (1e-4, 2), (3e-4, 2),
    ]  # fmt: skip
    [row] = lab.studies()
    assert (row["name"], row["runs"], row["seeds"]) == ("rate", 4, 2)
    assert row["axes"] == {"lr": [1e-4, 3e-4]}
    assert row["question"] == "Which learning rate?"
    assert set(lab.waiting()) <= {*created}


def test_seed_noise_is_available_from_the_lab(lab):
    assert lab.seed_noise().columns.tolist() == [
        "method", "base_model", "dataset", "sd", "low", "high", "df",
    ]  # fmt: skip
    assert lab.seed_noise("exact").empty
    with pytest.raises(UserError, match="unknown metric"):
        lab.seed_noise("nothing")


def test_study_is_named_after_the_varied_settings(lab):
    other = Sweep(BASE, (parse_axis("batch_size=2,4"), parse_axis("lr=1e-4,3e-4")), (1,))
    assert lab.sweep(SWEEP)[0] == "lr-1"
    assert lab.sweep(other)[0] == "batch_size-lr-1"
    RunDirectory.create(lab.runs_dir, RunConfig(name="lr-2-1"))
    assert lab.sweep(SWEEP)[0] == "lr-3-1"
    RunDirectory.create(lab.runs_dir, RunConfig(name="rate-1"))
    with pytest.raises(UserError, match="run named rate-1 already exists"):
        lab.sweep(SWEEP, "rate")


def test_runs_missing_after_a_crash_are_created_once(tmp_path):
    planned = study.plan(tmp_path, "rate", SWEEP)
    RunDirectory.create(tmp_path, planned.config(planned.members[0]))
    with Lab(tmp_path, "idle") as lab:  # the next start of the dashboard
        assert names(tmp_path) == [member.name for member in planned.members]
        lab.stop("rate-4")
        lab.delete("rate-4")
    with Lab(tmp_path, "idle") as lab:
        assert "rate-4" not in names(tmp_path), "a deleted run stays deleted"
        assert lab.studies()[0]["deleted"] == 1


def test_repeating_a_sweep_adds_nothing(tmp_path):
    planned = study.plan(tmp_path, "rate", SWEEP)
    assert len(study.create_runs(tmp_path, planned)) == 4
    assert study.create_runs(tmp_path, study.find(tmp_path, "rate")) == []
    with pytest.raises(UserError, match="study with this name already exists"):
        study.plan(tmp_path, "rate", SWEEP)
    RunDirectory.create(tmp_path, RunConfig(name="other-2"))
    with pytest.raises(UserError, match="run named other-2 already exists"):
        study.plan(tmp_path, "other", SWEEP)


def test_extension_adds_seeds_and_values_and_marks_the_study_exploratory(tmp_path):
    planned = study.plan(tmp_path, "rate", SWEEP)
    study.create_runs(tmp_path, planned)
    more = study.extended(study.find(tmp_path, "rate"), more_seeds=1)
    assert [(m.name, m.seed) for m in more.members[4:]] == [("rate-5", 3), ("rate-6", 3)]
    assert more.is_exploratory
    assert not planned.is_exploratory
    assert study.create_runs(tmp_path, more) == ["rate-5", "rate-6"]
    wider = study.extended(study.find(tmp_path, "rate"), axis="lr", values=[1e-3])
    assert [(m.values, m.seed) for m in wider.members[6:]] == [({"lr": 1e-3}, s) for s in (1, 2, 3)]
    with pytest.raises(UserError, match="nothing to add"):
        study.extended(wider, axis="lr", values=[1e-3])
    with pytest.raises(UserError, match="available: lr"):
        study.extended(wider, axis="batch_size", values=[1])


def test_paused_study_continues(lab):
    lab.sweep(SWEEP, "rate")
    current = lab.waiting()[:1]
    lab.pause_study("rate")
    assert lab.studies()[0]["is_paused"]
    assert lab.studies()[0]["queued"] <= len(current)
    lab.continue_study("rate")
    assert lab.studies()[0]["queued"] == 4
    assert not lab.studies()[0]["is_paused"]


def test_extension_does_not_create_deleted_runs_again(tmp_path):
    operations.sweep(tmp_path, "rate", SWEEP)
    RunDirectory.find(tmp_path, "rate-2").delete()
    assert operations.extend_study(tmp_path, "rate", 1) == ["rate-5", "rate-6"]
    RunDirectory.find(tmp_path, "rate-5").delete()
    assert operations.extend_study(tmp_path, "rate", 1) == ["rate-7", "rate-8"]
    assert names(tmp_path) == ["rate-1", "rate-3", "rate-4", "rate-6", "rate-7", "rate-8"]
    extended = study.find(tmp_path, "rate")
    study.write(tmp_path, replace(extended, is_complete=False))  # as after a crash
    assert study.create_runs(tmp_path, extended) == []


def test_files_outside_the_allowed_folders_cannot_be_varied(lab, monkeypatch):
    monkeypatch.setenv("DATA_DIRS", str(lab.runs_dir))
    outside = Sweep(BASE, (parse_axis("dataset=primer,/etc/data.json"),), (1,))
    with pytest.raises(UserError, match="outside the folders"):
        lab.sweep(outside, "data")
    lab.sweep(Sweep(BASE, (parse_axis("dataset=primer,alpaca"),), (1,)), "data")
    with pytest.raises(UserError, match="outside the folders"):
        lab.extend_study("data", axis="dataset", values=["/etc/data.json"])


def test_sweep_leaves_out_deleted_and_damaged_runs_and_reused_names(tmp_path):
    operations.sweep(tmp_path, "rate", SWEEP)
    for name in ("rate-1", "rate-2"):
        RunDirectory.find(tmp_path, name).delete()
    RunDirectory.create(tmp_path, RunConfig(name="rate-2"))
    RunDirectory.find(tmp_path, "rate-3").config_path.write_text("not json")
    assert operations.sweep(tmp_path, "rate", SWEEP) == ["rate-4"]
    assert operations.pause_study(tmp_path, "rate") == ["rate-4"]


def test_sweep_with_a_long_name_can_be_repeated(tmp_path):
    name = "learning rates and ranks for instruction tuning"
    created = operations.sweep(tmp_path, name, SWEEP)
    assert operations.sweep(tmp_path, name, SWEEP) == created == names(tmp_path)


def test_texts_of_a_study_can_be_edited(lab):
    lab.sweep(SWEEP, "rate", "Which rate?")
    lab.edit_study("rate", notes="Two seeds.", summary="3e-4 is better.")
    lab.edit_study("rate", question="Which learning rate?")
    found = lab.study("rate")
    assert (found.question, found.notes) == ("Which learning rate?", "Two seeds.")
    assert found.summary == "3e-4 is better."
    lab.edit_study("rate", summary="")
    assert lab.study("rate").summary == ""
    with pytest.raises(UserError, match="unknown study"):
        lab.edit_study("other", notes="x")


def test_study_files_without_a_summary_can_be_read(tmp_path):
    study.plan(tmp_path, "rate", SWEEP)
    path = tmp_path / "studies" / "rate.json"
    saved = json.loads(path.read_text())
    del saved["summary"]
    path.write_text(json.dumps(saved))
    assert study.find(tmp_path, "rate").summary == ""


def edit(**values):
    return lambda text: json.dumps(json.loads(text) | values)


def edit_member(**values):
    def change(text):
        saved = json.loads(text)
        saved["members"][0] |= values
        return json.dumps(saved)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "not json", "cannot be read"),
        (lambda text: text.replace('"rate-1"', '"../rate-1"'), "invalid name"),
        (lambda text: text.replace('"axes"', '"removed"'), "cannot be read"),
        (lambda text: text.replace('"lora_rank": 16', '"lora_rank": -1'), "lora_rank"),
        (lambda text: json.dumps([]), "cannot be read"),
        (edit(seeds=["a"]), "seeds"),
        (edit(seeds=[]), "seeds"),
        (edit(members=[]), "there are no runs"),
        (edit(mode="other"), "unknown mode"),
        (edit(max_runs="x"), "max_runs"),
        (edit(axes=[{"fields": ["name"], "values": ["x"]}]), "'name' cannot be varied"),
        (edit_member(name="rate-2"), "same name"),
        (edit_member(seed="x"), "seed of rate-1"),
        (edit_member(values=[1]), "rate-1 changes a setting"),
        (edit_member(values={"study": "x"}), "rate-1 changes a setting"),
    ],
)
def test_invalid_study_file_raises_user_error(tmp_path, change, message):
    study.plan(tmp_path, "rate", SWEEP)
    path = tmp_path / "studies" / "rate.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        study.find(tmp_path, "rate")
    with Lab(tmp_path, "idle") as lab:
        assert message in lab.studies()[0]["error"]


def test_unknown_study_lists_the_others(tmp_path):
    with pytest.raises(UserError, match="there are no studies"):
        study.find(tmp_path, "rate")
    study.plan(tmp_path, "rate", SWEEP)
    with pytest.raises(UserError, match="available: rate"):
        study.find(tmp_path, "../rate")
