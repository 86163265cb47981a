"""Lab methods used before a launch: planning, checking, measuring, inspecting data sets and trying prompts."""

import json

import pytest

from core.config import RunConfig
from core.errors import ConfigError, UserError
from core.lab import Lab
from core.planning import preflight
from core.run.directory import RunDirectory


@pytest.fixture
def allowed_folder(tmp_path, monkeypatch):
    """The only folder that dashboard users may read from."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    monkeypatch.setenv("DATA_DIRS", str(folder))
    return folder


def test_plan_matches_the_preflight_check(lab, settings):
    config = settings(epochs=3)
    plan = lab.plan(config)
    assert plan.steps == preflight.check(config).steps == 3
    assert plan.problems == []


def test_check_parses_values_and_lists_every_problem(lab, settings):
    values = settings(epochs=3).model_dump()
    config, plan = lab.check(values)
    assert (config, plan.steps) == (settings(epochs=3), 3)
    config, plan = lab.check(values | {"epochs": 0, "dataset": "nowhere.json"})
    assert config is None
    assert plan.steps is None
    assert [problem.field for problem in plan.problems] == ["epochs", "dataset"]


def test_files_outside_the_allowed_folders_are_rejected_unread(lab, settings, allowed_folder):
    config = settings()
    [problem, _] = lab.plan(config).problems
    assert (problem.field, "outside the folders" in problem.message) == ("dataset", True)
    assert lab.plan(config).train_examples is None
    _, plan = lab.check(config.model_dump() | {"epochs": 0})
    assert {problem.field for problem in plan.problems} == {"dataset", "base_model"}
    for action in (lab.launch, lab.measure, lab.find_lr, lab.dataset):
        with pytest.raises(ConfigError, match="outside the folders"):
            action(config)
    assert lab.runs().empty


def test_settings_with_equal_cost_share_a_measurement(lab, settings, wait):
    config = settings(name="a", epochs=2)
    assert lab.measurement(config) is None
    future = lab.measure(config)
    assert lab.measure(config.changed(name="b")) is future, "a measurement is already in progress"
    assert lab.measurement(config.changed(notes="mine")) is future
    assert lab.measurement(config.changed(epochs=3)) is None
    wait(future.done)
    assert future.result().memory_mb > 0
    assert lab.measure(config) is not future, "the first measurement is done"


@pytest.mark.long
def test_learning_rate_test_ignores_name_and_schedule(lab, runs_dir, settings, wait):
    config = settings(name="a")
    assert lab.lr_test(config) is None
    before = sorted(runs_dir.iterdir())
    future = lab.find_lr(config, steps=10)
    assert lab.find_lr(config.changed(name="b")) is future, "a test is already in progress"
    assert lab.lr_test(config.changed(lr=1e-2, schedule="cosine", epochs=3)) is future
    assert lab.lr_test(config.changed(batch_size=5)) is None
    assert lab.lr_test(config.changed(seed=1)) is None
    wait(future.done)
    curve = future.result()
    assert curve.lr[0] == 1e-6
    assert 1 < len(curve.loss) <= 10
    assert sorted(runs_dir.iterdir()) == before
    failed = lab.find_lr(settings(max_length=8))
    wait(failed.done)
    assert "the learning rate test failed: max_length = 8" in str(failed.exception())


def test_next_name_avoids_existing_runs(lab, settings):
    assert lab.next_name(settings(name="a b")) == "a-b"
    lab.launch(settings(name="a b"))
    assert lab.next_name(settings(name="a b")) == "a-b-2"


def test_dataset_is_reloaded_after_relevant_changes(lab, settings):
    config = settings()
    dataset = lab.dataset(config)
    assert dataset.table["part"].tolist() == ["train"] * 10 + ["test", "validation"]
    assert lab.dataset(config.changed(max_length=20)) is dataset, "cached"
    assert len(lab.dataset(config.changed(max_examples=11)).table) == 11
    states = [token.state for token in dataset.tokens(0, config, context=64)]
    assert states[0] == "given"
    assert states[-1] == "learned"
    records = [{"instruction": f"Count to {n}.", "output": f"{n}"} for n in range(20)]
    records += [{"instruction": "Say nothing.", "output": ""}]
    with open(config.dataset, "w") as file:
        json.dump(records, file)
    assert lab.dataset(config).skipped == "1 of 21 records are skipped: empty output (record 21)"
    assert len(lab.dataset(config).table) == 20


def test_dataset_not_yet_downloaded_is_none(lab):
    assert lab.dataset(RunConfig(dataset="some-body/some_data")) is None
    with pytest.raises(UserError, match="file not found"):
        lab.dataset(RunConfig(dataset="nowhere.json"))


def test_generate_streams_an_answer(lab, base_model):
    model = f"base:{base_model}"
    *_, answer = lab.generate(model, "Say red.", max_new_tokens=3)
    assert answer.tokens <= 3
    assert len(list(lab.generate(model, "Say red.", raw=True, max_new_tokens=5, seed=1))) > 1
    assert len(lab.base_hash(model)) == 64
    with pytest.raises(UserError, match="run = 'gone': there is no such run"):
        lab.generate("gone", "Say red.")


def test_read_only_lab_rejects_changes(lab, runs_dir, settings, child):
    lab.save_preferences(lab.preferences())
    RunDirectory.create(runs_dir, settings(name="a"))
    lab.close()
    other_dashboard = child(
        "import sys; from core import Lab; lab = Lab(sys.argv[1]); print(1, flush=True); input()",
        runs_dir,
    )
    assert other_dashboard.stdout.readline() == "1\n"
    with Lab(runs_dir) as read_only_lab:
        for action in (
            lambda: read_only_lab.save_preferences(read_only_lab.preferences()),
            lambda: read_only_lab.move("a", 1),
        ):
            with pytest.raises(UserError, match="Read-only"):
                action()
        assert read_only_lab.checkpoint_step("a") is None
        assert read_only_lab.seconds_since_stop_request("a") is None
