"""Runs resumed after a stop, a kill or damage to a checkpoint are bit-identical to uninterrupted ones."""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig, upgraded
from core.errors import UserError
from core.nn import lora
from core.training import resumption
from core.training.trainer import Trainer, load_trained, train

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]
Uninterrupted = Callable[[str], Any]
LONG = pytest.mark.long
RANDOM: dict[str, Any] = {
    "dropout": 0.1,
    "grad_accumulation": 2,
    "epochs": 3,
    "batch_size": 3,
    "mask_prompt": True,
    "checkpoint_every": 2,
    "min_lr": 1e-3,
    "warmup_fraction": 0.3,
}
STEPS = 12
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full tied": {"method": "full", "tie_weights": True},
    "lora": {"method": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.2},
    "pissa, dora, lora+": {
        "method": "lora",
        "lora_init": "pissa",
        "lora_dora": True,
        "lora_plus_ratio": 4.0,
        "lora_targets": "attention, lm_head",
    },
    "momentum": {"method": "full", "optimizer": "sgd", "momentum": 0.9, "schedule": "linear"},
    "muon": {"method": "full", "optimizer": "muon", "decay_scope": "matrices"},
    "muon lora": {"method": "lora", "lora_rank": 4, "optimizer": "muon", "schedule": "wsd"},
    "last layers": {"method": "full", "trained_weights": "last_layers", "trained_layers": 1},
    "head": {"method": "full", "trained_weights": "head", "tie_weights": True},
}
SLOW = ("full tied", "muon lora", "last layers", "head")
"""Methods tested for resuming only in `make test-long`."""


@pytest.fixture(scope="module")
def uninterrupted(
    new_config: NewConfig, run_in: type, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Return a function that trains an uninterrupted run with a given method. Each method is trained only once."""

    @functools.cache
    def make(method: str) -> Any:
        run = run_in(tmp_path_factory.mktemp("uninterrupted"))
        assert train(new_config(**RANDOM, **METHODS[method]), run) == "finished"
        assert len(run.events_of("step")) == STEPS
        return run

    return make


def weights(run: Any) -> str:
    [path] = (run.directory / "weights").glob("*.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checkpoint_names(run: Any) -> list[str]:
    return sorted(path.name for path in (run.directory / "checkpoint").iterdir())


def comparable(run: Any, kind: str, after_step: int = 0) -> list[dict[str, Any]]:
    """Return the events of one kind, without measured times and memory."""
    measured = {"seconds", "tokens_per_s", "memory_mb"}
    events = [e for e in run.events_of(kind) if e.get("step", after_step + 1) > after_step]
    return [{k: v for k, v in event.items() if k not in measured} for event in events]


def assert_same_from(step: int, resumed: Any, uninterrupted: Any) -> None:
    """Assert that the events after a step, the answers and the weights match those of the uninterrupted run."""
    for kind in ("step", "update", "eval", "sample", "generation"):
        expected = comparable(uninterrupted, kind, after_step=step)
        assert comparable(resumed, kind) == expected, kind
    assert len(resumed.events_of("step")) == STEPS - step
    assert weights(resumed) == weights(uninterrupted)


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, marks=[LONG] if method in SLOW else []) for method in METHODS],
)
def test_resume_after_a_stop_is_bit_identical(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted, method: str
) -> None:
    config = new_config(**RANDOM, **METHODS[method])
    stopped = new_run("stopped", stop_at=5)
    assert train(config, stopped) == "stopped"
    assert len(stopped.events_of("step")) == 5
    assert stopped.losses() == uninterrupted(method).losses()[:5]
    assert not (stopped.directory / "weights").exists()

    resumed = new_run("stopped", resumed=True)
    assert train(config, resumed) == "finished"
    assert [e["step"] for e in resumed.events_of("rewind")] == [5]
    assert resumed.events[0]["event"] == "rewind"
    assert_same_from(5, resumed, uninterrupted(method))


def test_resume_uses_the_saved_components_of_pissa(
    new_config: NewConfig,
    new_run: NewRun,
    uninterrupted: Uninterrupted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Components may differ on another machine."""
    method = "pissa, dora, lora+"
    config = new_config(**RANDOM, **METHODS[method])
    train(config, new_run("moved", stop_at=5))
    compute = lora.principal_components
    monkeypatch.setattr(lora, "principal_components", lambda w, rank: compute(w.flip(1), rank))
    resumed = new_run("moved", resumed=True)
    assert train(config, resumed) == "finished"
    assert_same_from(5, resumed, uninterrupted(method))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_resume_after_a_kill_is_bit_identical(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted, method: str
) -> None:
    config = new_config(**RANDOM, **METHODS[method])
    killed = new_run("killed", die_at=8)
    with pytest.raises(KeyboardInterrupt):
        train(config, killed)
    assert checkpoint_names(killed) == ["step-00000004", "step-00000006"]

    resumed = new_run("killed", resumed=True)
    assert train(config, resumed) == "finished"
    assert [e["step"] for e in resumed.events_of("rewind")] == [6]
    assert_same_from(6, resumed, uninterrupted(method))
    p = resumed.events_of("step")[-1]
    assert (p["examples"], p["tokens"]) == tuple(
        uninterrupted(method).events_of("step")[-1][k] for k in ("examples", "tokens")
    )


def test_repeated_resume_is_bit_identical(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted
) -> None:
    config = new_config(**RANDOM, **METHODS["lora"])
    losses = []
    for _ in range(STEPS - 1):
        piece = new_run("pieces", resumed=bool(losses), stop_at=1)
        assert train(config, piece) == "stopped"
        losses += piece.losses()
    last = new_run("pieces", resumed=True)
    assert train(config, last) == "finished"
    assert losses + last.losses() == uninterrupted("lora").losses()
    assert weights(last) == weights(uninterrupted("lora"))


def damage_file(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text("{")


def damage_random_state(checkpoint: Path) -> None:
    (checkpoint / "random.safetensors").unlink()


def delete_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_file,
        damage_random_state,
        pytest.param(damage_manifest, marks=LONG),
        pytest.param(delete_manifest, marks=LONG),
    ],
)
def test_damaged_checkpoint_falls_back_to_the_previous_one(
    new_config: NewConfig,
    new_run: NewRun,
    uninterrupted: Uninterrupted,
    damage: Callable[[Path], None],
) -> None:
    config = new_config(**RANDOM, **METHODS["lora"])
    stopped = new_run("stopped", stop_at=7)
    train(config, stopped)
    assert checkpoint_names(stopped) == ["step-00000006", "step-00000007"]
    damage(stopped.directory / "checkpoint" / "step-00000007")

    resumed = new_run("stopped", resumed=True)
    assert train(config, resumed) == "finished"
    assert [e["step"] for e in resumed.events_of("rewind")] == [6]
    [warning] = resumed.events_of("warning")
    assert "step-00000007" in warning["message"]
    assert "damaged" in warning["message"]
    assert warning["about"] == "checkpoint"
    assert_same_from(6, resumed, uninterrupted("lora"))


def test_run_without_valid_checkpoint_restarts_from_step_0(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    stopped = new_run("stopped", stop_at=7)
    train(config, stopped)
    for checkpoint in (stopped.directory / "checkpoint").iterdir():
        damage_file(checkpoint)

    resumed = new_run("stopped", resumed=True)
    assert train(config, resumed) == "finished"
    assert [e["step"] for e in resumed.events_of("rewind")] == [-1]  # all progress is lost
    assert len(resumed.events_of("warning")) == 2
    assert len(resumed.events_of("step")) == STEPS
    assert resumed.losses() == uninterrupted("full").losses()
    assert weights(resumed) == weights(uninterrupted("full"))


def test_restarted_run_replaces_damaged_later_checkpoints(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted
) -> None:
    """New checkpoints have lower step numbers than the damaged ones."""
    config = new_config(**RANDOM, **METHODS["full"])
    train(config, new_run("restarted", stop_at=7))
    checkpoints = new_run("restarted").directory / "checkpoint"
    for checkpoint in checkpoints.iterdir():
        damage_file(checkpoint)
    train(config, new_run("restarted", resumed=True, stop_at=2))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000002"]
    resumed = new_run("restarted", resumed=True)
    assert train(config, resumed) == "finished"
    assert resumed.events_of("rewind")[-1]["step"] == 2
    assert weights(resumed) == weights(uninterrupted("full"))


def test_changed_data_is_reported(new_config: NewConfig, new_run: NewRun, tmp_path: Path) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    data = tmp_path / "data.json"
    data.write_bytes(Path(config.dataset).read_bytes())
    config = config.changed(dataset=str(data))
    train(config, new_run("changed", stop_at=3))
    records = json.loads(data.read_text())
    data.write_text(json.dumps([{**records[0], "output": "else"}, *records[1:]]))
    resumed = new_run("changed", resumed=True)
    train(config, resumed)
    [warning] = resumed.events_of("warning")
    assert warning["message"].startswith("the data set has changed since step 3;")


def test_run_killed_before_its_first_checkpoint_restarts(
    new_config: NewConfig, new_run: NewRun
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    with pytest.raises(KeyboardInterrupt):
        train(config, new_run("killed", die_at=1))
    resumed = new_run("killed", resumed=True)
    assert train(config, resumed) == "finished"
    assert [e["step"] for e in resumed.events_of("rewind")] == [-1]
    assert len(resumed.events_of("step")) == STEPS


def test_incomplete_checkpoint_is_ignored(new_config: NewConfig, new_run: NewRun) -> None:
    config = new_config(**RANDOM, **METHODS["lora"])
    stopped = new_run("stopped", stop_at=4)
    train(config, stopped)
    folder = stopped.directory / "checkpoint"
    shutil.copytree(folder / "step-00000004", folder / "step-00000006.partial")
    resumed = new_run("stopped", resumed=True)
    train(config, resumed)
    assert [e["step"] for e in resumed.events_of("rewind")] == [4]
    assert not resumed.events_of("warning")


@pytest.mark.parametrize("stop_at", [0, 1, 11])
def test_stop_ends_within_two_steps(new_config: NewConfig, new_run: NewRun, stop_at: int) -> None:
    run = new_run(stop_at=stop_at)
    assert train(new_config(**RANDOM, **METHODS["lora"]), run) == "stopped"
    assert stop_at <= len(run.events_of("step")) <= stop_at + 2
    newest = checkpoint_names(run)[-1]
    assert newest == f"step-{len(run.events_of('step')):08d}"
    manifest = json.loads((run.directory / "checkpoint" / newest / "manifest.json").read_text())
    assert manifest["progress"]["step"] == manifest["step"] == len(run.events_of("step"))


def test_stop_while_answering_keeps_the_weights(new_config: NewConfig, new_run: NewRun) -> None:
    config = new_config(**RANDOM, **METHODS["lora"])
    run = new_run(stop_at=STEPS)
    assert train(config, run) == "stopped"
    assert len(run.events_of("step")) == STEPS
    load_trained(config, run.directory)
    resumed = new_run(resumed=True)
    assert train(config, resumed) == "finished"
    assert [e["step"] for e in resumed.events_of("rewind")] == [STEPS]
    assert not resumed.events_of("step")
    assert sorted(e["item"] for e in resumed.events_of("generation")) == [20, 21]


def test_weights_from_a_stopped_run_can_be_loaded(new_config: NewConfig, new_run: NewRun) -> None:
    config = new_config(**RANDOM, **METHODS["lora"])
    run = new_run(stop_at=5)
    trainer = Trainer(config, run)
    assert trainer.fit() == "stopped"
    loaded = load_trained(config, run.directory)
    trained = trainer.model.lm_head
    difference = loaded.lm_head.lora_B - trained.lora_B
    assert difference.abs().max() == 0


CHANGED: list[tuple[str, dict[str, Any], str]] = [
    ("full", {"batch_size": 2}, "batch_size = 2 (was 3)"),
    ("full", {"grad_accumulation": 1}, "grad_accumulation = 1 (was 2)"),
    ("full", {"epochs": 1}, "epochs = 1 (was 3)"),
    ("full", {"seed": 7}, "seed = 7 (was 123)"),
    ("full", {"group_by_length": False}, "group_by_length = False (was True)"),
    ("full", {"optimizer": "sgd"}, "optimizer = sgd (was adamw)"),
    ("full", {"schedule": "linear"}, "schedule = linear (was auto)"),
    ("full", {"beta2": 0.95}, "beta2 = 0.95 (was 0.999)"),
    ("full", {"decay_scope": "matrices"}, "decay_scope = matrices (was all)"),
    ("full", {"trained_weights": "head"}, "trained_weights = head (was all)"),
    ("full", {"lr": 5e-3}, "lr = 0.005 (was 0.01)"),
    ("full", {"min_lr": None}, "min_lr = none (was 0.001)"),
    ("full", {"max_length": 64}, "max_length = 64 (was none)"),
    ("full", {"mask_prompt": False}, "mask_prompt = False (was True)"),
    ("full", {"max_examples": 22}, "max_examples = 22 (was none)"),
    ("full", {"train_fraction": 0.5}, "train_fraction = 0.5 (was 0.85)"),
    ("full", {"tie_weights": True}, "tie_weights = True (was False)"),
    ("full", {"method": "lora"}, "method = lora (was full)"),
    ("lora", {"lora_rank": 2}, "lora_rank = 2 (was 4)"),
    ("lora", {"lora_alpha": 16.0}, "lora_alpha = 16.0 (was 8.0)"),
    ("lora", {"lora_targets": "mlp"}, "lora_targets = mlp (was all)"),
    ("lora", {"lora_scaling": "alpha"}, "lora_scaling = alpha (was alpha/rank)"),
    ("lora", {"seed": 7, "epochs": 2}, "seed = 7 (was 123), epochs = 2 (was 3)"),
]


@pytest.fixture(scope="module")
def stopped_runs(
    new_config: NewConfig, run_in: type, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Directories of runs that were stopped after step 5, keyed by method. Tests must not change them."""
    directories = {}
    for method in ("full", "lora"):
        directories[method] = tmp_path_factory.mktemp(method) / "stopped"
        directories[method].mkdir()
        config = new_config(**RANDOM, **METHODS[method])
        train(config, run_in(directories[method], stop_at=5))
    return directories


@pytest.mark.parametrize(("method", "changes", "message"), CHANGED, ids=lambda value: str(value))
def test_resume_with_changed_settings_fails_and_keeps_the_checkpoint(
    new_config: NewConfig,
    run_in: type,
    stopped_runs: dict[str, Path],
    method: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    config = new_config(**RANDOM, **METHODS[method])
    resumed = run_in(stopped_runs[method], resumed=True)
    before = checkpoint_names(resumed)
    with pytest.raises(UserError, match="stopped cannot resume from step 5") as rejected:
        train(config.changed(**changes), resumed)
    assert message in str(rejected.value)
    assert "`python -m core resume stopped --restart`" in str(rejected.value)
    assert not resumed.events
    assert checkpoint_names(resumed) == before
    with pytest.raises(UserError) as early:  # the check performed by commands and pages
        resumption.check_newest(resumed.directory, config.changed(**changes))
    assert message in str(early.value)


def test_resume_with_restored_settings_is_bit_identical(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted
) -> None:
    config = new_config(**RANDOM, **METHODS["lora"])
    train(config, new_run("stopped", stop_at=5))
    with pytest.raises(UserError):
        train(config.changed(batch_size=2), new_run("stopped", resumed=True))
    resumed = new_run("stopped", resumed=True)
    assert train(config, resumed) == "finished"
    assert_same_from(5, resumed, uninterrupted("lora"))


def test_resume_allows_changes_to_settings_that_do_not_affect_training(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    train(config, new_run("stopped", stop_at=5))
    free = config.changed(
        name="other", notes="a note", tags="x", eval_every=2, checkpoint_every=3, sample_every=4,
        sample_prompt="", nonfinite="skip", max_new_tokens=3, lora_rank=7,
    )  # fmt: skip
    resumption.check_newest(new_run("stopped").directory, free)
    resumed = new_run("stopped", resumed=True)
    assert train(free, resumed) == "finished"
    assert weights(resumed) == weights(uninterrupted("full"))


def test_settings_that_determine_the_data_order_must_not_change() -> None:
    ordered = {"batch_size", "grad_accumulation", "epochs", "seed", "group_by_length"}
    assert ordered < set(resumption.FIXED)
    free = {"name", "notes", "tags", "parent", "device", "precision", "compile", "nonfinite"}
    assert not free & set(resumption.FIXED)


def rewrite_manifests(run: Any, change: Callable[[dict[str, Any]], object]) -> None:
    for path in (run.directory / "checkpoint").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))


def delete_settings(manifest: dict[str, Any]) -> None:
    """Remove the settings, which older versions did not record."""
    for key in ("settings", "train_examples", "precision", "ignores_warmup"):
        del manifest[key]


UNCHECKED = "changes to config.json before this resume could not be checked"


def test_checkpoints_without_recorded_settings_resume(
    new_config: NewConfig, new_run: NewRun, uninterrupted: Uninterrupted
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    stopped = new_run("stopped", stop_at=5)
    train(config, stopped)
    rewrite_manifests(stopped, delete_settings)
    resumption.check_newest(stopped.directory, config.changed(seed=7))
    piece = new_run("stopped", resumed=True, stop_at=2)
    assert train(config, piece) == "stopped"
    [warning] = piece.events_of("warning")
    assert warning["message"].endswith(UNCHECKED)
    with pytest.raises(UserError, match=r"seed = 7 \(was 123\)"):  # recorded since this resume
        resumption.check_newest(stopped.directory, config.changed(seed=7))
    resumed = new_run("stopped", resumed=True)
    assert train(config, resumed) == "finished"
    assert not resumed.events_of("warning")
    assert weights(resumed) == weights(uninterrupted("full"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2}, "number of steps = 15 (was 12), number of steps per epoch = 5 (was 4)"),
        ({"epochs": 1}, "number of steps = 4 (was 12)"),
        ({"max_examples": 22}, "number of training examples = 18 (was 20)"),
    ],
)
def test_resume_compares_counts_with_the_last_plan_from_an_older_version(
    new_config: NewConfig, new_run: NewRun, changes: dict[str, Any], message: str
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    stopped = new_run("stopped", stop_at=2)
    train(config, stopped)
    rewrite_manifests(stopped, delete_settings)
    before = checkpoint_names(stopped)
    resumed = new_run("stopped", resumed=True)
    with pytest.raises(UserError, match="stopped cannot resume from step 2") as rejected:
        train(config.changed(**changes), resumed)
    assert message in str(rejected.value)
    assert not resumed.events
    assert checkpoint_names(resumed) == before


def test_setting_missing_from_the_checkpoint_counts_as_its_default(
    new_config: NewConfig, new_run: NewRun
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    stopped = new_run("stopped", stop_at=2)
    train(config, stopped)
    rewrite_manifests(stopped, lambda facts: facts["settings"].pop("weight_decay"))
    for name in ("schedule", "beta1", "momentum", "decay_scope", "trained_weights"):
        rewrite_manifests(stopped, lambda facts, name=name: facts["settings"].pop(name))
    resumption.check_newest(stopped.directory, config)
    with pytest.raises(UserError, match=r"weight_decay = 0\.5 \(was 0\.1\)"):
        resumption.check_newest(stopped.directory, config.changed(weight_decay=0.5))


def test_resume_allows_a_moved_data_set_but_not_a_different_one(
    new_config: NewConfig, new_run: NewRun, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    train(config, new_run("moved", stop_at=5))
    moved, other = tmp_path / "moved.json", tmp_path / "other.json"
    moved.write_bytes(Path(config.dataset).read_bytes())
    records = json.loads(moved.read_text())
    other.write_text(json.dumps([*records[1:], records[0]]))
    with pytest.raises(UserError, match=r"dataset = \S+other\.json \(was \S+data\.json\)"):
        train(config.changed(dataset=str(other)), new_run("moved", resumed=True))
    resumed = new_run("moved", resumed=True)
    assert train(config.changed(dataset=str(moved)), resumed) == "finished"
    assert weights(resumed) == weights(uninterrupted("full"))


def test_resume_fails_if_the_data_set_grew(
    new_config: NewConfig, new_run: NewRun, tmp_path: Path
) -> None:
    config = new_config(**RANDOM, **METHODS["full"])
    data = tmp_path / "data.json"
    data.write_bytes(Path(config.dataset).read_bytes())
    config = config.changed(dataset=str(data))
    train(config, new_run("grown", stop_at=3))
    records = json.loads(data.read_text())
    data.write_text(json.dumps(records * 2))
    with pytest.raises(UserError, match=r"number of training examples = 40 \(was 20\)"):
        train(config, new_run("grown", resumed=True))


def test_runs_started_by_older_versions_keep_their_constant_rate(
    new_config: NewConfig, new_run: NewRun
) -> None:
    constant = RANDOM | {"min_lr": None} | METHODS["full"]
    uninterrupted_run = new_run("uninterrupted")
    train(new_config(**constant | {"warmup_fraction": 0.0}), uninterrupted_run)
    old = new_run("old", stop_at=2)
    train(new_config(**constant | {"warmup_fraction": 0.0}), old)
    rewrite_manifests(old, delete_settings)
    config = new_config(**constant | {"warmup_fraction": 0.9})  # ignored by older versions
    first = new_run("old", resumed=True, stop_at=2)
    assert train(config, first) == "stopped"
    unchecked, constant_rate = (event["message"] for event in first.events_of("warning"))
    assert unchecked.endswith(UNCHECKED)
    assert constant_rate.startswith("the learning rate stays constant")
    resumed = new_run("old", resumed=True)
    assert train(config, resumed) == "finished"
    assert {event["lr"] for event in resumed.events_of("step")} == {config.lr}
    assert weights(resumed) == weights(uninterrupted_run)
    [warning] = resumed.events_of("warning")
    assert warning["message"].startswith("the learning rate stays constant")


BEST = {"keep_weights": "best", "eval_every": 1, "lr": 10.0, "checkpoint_every": 1,
        "min_lr": 1e-3, "warmup_fraction": 0.95, "grad_clip": None}  # fmt: skip
"""Settings that warm up to a learning rate so high that the loss is lowest early on, on any hardware."""


def damage_weights(directory: Path) -> None:
    [path] = directory.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])


def weights_facts(run: Any) -> dict[str, Any]:
    return json.loads((run.directory / "weights" / "manifest.json").read_text())


def weights_warnings(run: Any) -> list[str]:
    return [e["message"] for e in run.events_of("warning") if e["about"] == "weights"]


@pytest.mark.parametrize("stop_at", [9, pytest.param(STEPS, marks=LONG)])
def test_resume_keeps_the_best_weights(
    new_config: NewConfig, new_run: NewRun, stop_at: int
) -> None:
    config = new_config(**RANDOM | METHODS["full"] | BEST)
    uninterrupted_run = new_run("uninterrupted")
    train(config, uninterrupted_run)
    train(config, new_run("stopped", stop_at=stop_at))
    resumed = new_run("stopped", resumed=True)
    train(config.changed(eval_every=100), resumed)
    assert weights_facts(resumed)["step"] == weights_facts(uninterrupted_run)["step"] < 9
    assert weights(resumed) == weights(uninterrupted_run)
    assert weights_warnings(resumed) == []


@pytest.mark.parametrize(
    ("damage", "stop_at"),
    [
        (damage_weights, 9),
        pytest.param(damage_weights, STEPS, marks=LONG),
        pytest.param(shutil.rmtree, 9, marks=LONG),
        pytest.param(shutil.rmtree, STEPS, marks=LONG),
    ],
)
def test_lost_best_weights_are_reported(
    new_config: NewConfig, new_run: NewRun, stop_at: int, damage: Callable[[Path], object]
) -> None:
    config = new_config(**RANDOM | METHODS["full"] | BEST)
    stopped = new_run("stopped", stop_at=stop_at)
    train(config, stopped)
    best_step = min(stopped.events_of("eval")[1:], key=lambda e: e["val_loss"])["step"]
    damage(stopped.directory / "weights")
    resumed = new_run("stopped", resumed=True)
    train(config, resumed)
    [message] = weights_warnings(resumed)
    kept_step = weights_facts(resumed)["step"]
    assert kept_step > best_step
    assert message == (
        f"the best weights (step {best_step}) are not available; the weights of step {kept_step} are kept instead"
    )


def test_changed_eval_examples_reset_the_best_weights(
    new_config: NewConfig, new_run: NewRun
) -> None:
    config = new_config(**RANDOM | METHODS["full"] | BEST, eval_examples=1)
    train(config, new_run("stopped", stop_at=5))
    resumed = new_run("stopped", resumed=True)
    train(config.changed(eval_examples=2), resumed)
    assert weights_facts(resumed)["step"] > 5
    assert weights_facts(resumed)["eval_examples"] == 2
    assert weights_warnings(resumed) == []


def with_eval_batches(manifest: dict[str, Any]) -> None:
    """Record evaluations as older versions did. A batch of three covers the two validation examples."""
    for evaluation in (manifest, manifest.get("best") or {}):
        if evaluation.pop("eval_examples", None):
            evaluation["eval_batches"] = 1


def test_best_weights_from_an_older_version_are_kept(
    new_config: NewConfig, new_run: NewRun
) -> None:
    settings = RANDOM | METHODS["full"] | BEST
    config = new_config(**settings)
    stopped = new_run("stopped", stop_at=9)
    train(config, stopped)
    best_step = weights_facts(stopped)["step"]
    rewrite_manifests(stopped, with_eval_batches)
    path = stopped.directory / "weights" / "manifest.json"
    facts = json.loads(path.read_text())
    with_eval_batches(facts)
    path.write_text(json.dumps(facts))
    earlier = {**config.model_dump(), "eval_batches": 1}
    del earlier["eval_examples"], earlier["probe_examples"]
    upgraded_config = RunConfig.parse(upgraded(earlier))
    assert upgraded_config.eval_examples == 3
    resumed = new_run("stopped", resumed=True)
    train(upgraded_config, resumed)
    assert weights_facts(resumed)["step"] == best_step < 9
    assert weights_warnings(resumed) == []


def test_resume_keeps_the_automatic_evaluation_interval(
    new_config: NewConfig, new_run: NewRun
) -> None:
    config = new_config(**RANDOM | METHODS["full"] | {"eval_every": None, "epochs": 4})
    uninterrupted_run = new_run("uninterrupted")
    train(config, uninterrupted_run)
    stopped = new_run("stopped", stop_at=5)
    train(config, stopped)
    resumed = new_run("stopped", resumed=True)
    train(config, resumed)
    evaluations = [stopped.events_of("eval") + resumed.events_of("eval")]
    evaluations.append(uninterrupted_run.events_of("eval"))
    for events in evaluations:
        for event in events:
            del event["seconds"]
    assert evaluations[0] == evaluations[1]
    # A later version may choose another interval for new runs.
    train(config, new_run("other", stop_at=5))
    plan_path = new_run("other").plan_path
    plan = json.loads(plan_path.read_text())
    assert plan["eval_every"] == 2
    plan_path.write_text(json.dumps({**plan, "eval_every": 3}))
    other = new_run("other", resumed=True)
    train(config, other)
    assert [event["step"] for event in other.events_of("eval")] == [6, 9, 12, 15, 16]
    assert other.events_of("plan")[0]["eval_every"] == 3
