"""Pruning: which runs are pruned, what is recorded, and how studies and effects treat them."""

import io
import math

import pytest
from rich.console import Console

from core import operations
from core.config import RunConfig
from core.lab import Lab
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.scheduler.trainer_process import main
from core.studies import study
from core.studies.pruning import MIN_OTHERS, Pruner, is_pruned, pruned_at
from core.studies.sweep import Sweep, parse_axis

SHARES = range(10, 101, 10)
AXIS = parse_axis("lr=1e-6,1e-5,1e-4,1e-3,1e-2")
PLANNED = Sweep(RunConfig(max_examples=50), (AXIS,), (1,), prune=True)


def curve(loss, end=100, start=4.0):
    """Losses that fall linearly from `start` to `loss`."""
    return [(share, start + (loss - start) * share / 100) for share in SHARES if share <= end]


GOOD = [curve(loss) for loss in (1.0, 1.1, 1.2, 1.3)]


@pytest.mark.parametrize(
    ("own", "others", "share"),
    [
        (curve(3.0), GOOD, 20),
        (curve(0.9), GOOD, None),
        (curve(1.05), GOOD, None),  # in the better half
        (curve(3.0), GOOD[: MIN_OTHERS - 1], None),
        (curve(3.0, end=10), GOOD, None),  # not compared yet
        ([*curve(1.0, end=30), *curve(3.5)[3:]], GOOD, 40),
        ([*curve(1.0, end=70), *curve(3.5)[7:]], GOOD, 80),
        ([*curve(1.0, end=90), (100, 9.0)], GOOD, None),  # finished
        (curve(3.0), [], None),
        ([], GOOD, None),
        (curve(3.0), [[], [], *GOOD[:2]], None),
        (curve(3.0), [curve(1.0, end=10) for _ in range(5)], None),
    ],
)
def test_runs_that_are_worse_than_most_are_pruned(own, others, share):
    assert pruned_at(own, others) == share


def test_runs_are_compared_at_the_same_share_of_their_steps():
    sparse = [(25, 3.6), (50, 3.0), (75, 2.0)]
    assert pruned_at(sparse, [sparse, *GOOD]) == 25
    assert pruned_at(curve(1.0), [sparse, sparse, sparse]) is None


def write_run(run, losses, status="finished", steps=50):
    """Write events as a trainer would, from losses by share of the steps."""
    progress = {"epoch": 1.0, "tokens": 1, "seconds": 1.0, "train_loss": None}
    with run.lock():
        run.append("status", status="running")
        run.append("plan", steps=steps, steps_per_epoch=steps, train_examples=10)
        for share, loss in [(0, 4.0), *losses]:
            event = {"val_loss": loss, "subset_loss": loss, "final": share == 100}
            run.append("eval", step=share * steps // 100, **progress, **event)
        if status != "running":
            run.append("status", status=status, reason=None)


@pytest.fixture
def study_dir(tmp_path):
    """A folder with a study whose first four runs have finished and whose fifth is running."""
    operations.sweep(tmp_path, "s", PLANNED)
    for number, losses in enumerate(GOOD, 1):
        write_run(RunDirectory(tmp_path / f"s-{number}"), losses)
    write_run(RunDirectory(tmp_path / "s-5"), curve(3.0, end=20), "running")
    return tmp_path


def test_worse_run_is_asked_to_stop_with_a_reason(study_dir):
    found, run = study.find(study_dir, "s"), RunDirectory(study_dir / "s-5")
    assert Pruner(study_dir).check(found, "s-5")
    assert run.stop_request() == "stopped"
    assert is_pruned("stopped", run.stop_reason())
    assert (
        run.stop_reason() == "pruned after 20% of the steps: worse than most other runs with seed 1"
    )
    assert not Pruner(study_dir).check(found, "s-5"), "already asked"
    run.mark_ended("the trainer died")
    assert is_pruned(run.status(), run.statuses()[-1]["reason"])


def test_resumed_run_is_not_pruned_again(study_dir):
    found, run = study.find(study_dir, "s"), RunDirectory(study_dir / "s-5")
    Pruner(study_dir).check(found, "s-5")
    run.mark_ended("the trainer died")
    operations.requeue(study_dir, "s-5")
    write_run(run, curve(3.0, end=40), "running")
    assert not Pruner(study_dir).check(found, "s-5")


def test_runs_are_not_pruned_without_the_option_or_by_other_seeds(study_dir):
    found = study.find(study_dir, "s")
    plain = Sweep(PLANNED.base, PLANNED.axes, PLANNED.seeds)
    assert not Pruner(study_dir).check(study.Study("s", plain, found.members, True, 1), "s-5")
    others = [study.Member(m.name, m.values, 2) for m in found.members[:4]]
    members = (*others, found.members[4])
    assert not Pruner(study_dir).check(study.Study("s", PLANNED, members, True, 1), "s-5")


def test_run_that_reuses_the_name_of_a_member_is_left_alone(study_dir):
    RunDirectory(study_dir / "s-5").delete()
    run = RunDirectory.create(study_dir, RunConfig(name="s-5"))
    write_run(run, curve(3.0, end=40), "running")
    assert not Pruner(study_dir).check(study.find(study_dir, "s"), "s-5")


def test_stopped_runs_are_not_counted_as_pruned(study_dir):
    run = RunDirectory(study_dir / "s-5")
    with run.lock():
        run.append("status", status="stopped", reason=None)
    [row] = operations.studies(study_dir, operations.read_runs(study_dir)[0])
    assert (row["pruned"], row["finished"]) == (0, 4)


def test_restarted_run_is_compared_by_its_new_losses(study_dir):
    found, run = study.find(study_dir, "s"), RunDirectory(study_dir / "s-5")
    with run.lock():
        run.append("rewind", step=-1)
    write_run(run, curve(0.5, end=10), "running")
    assert not Pruner(study_dir).check(found, "s-5")
    write_run(run, [(20, math.nan)], "running")
    assert not Pruner(study_dir).check(found, "s-5"), (
        "a loss that is not finite is left to the trainer"
    )


def test_lab_prunes_the_current_run(tmp_path, monkeypatch, wait):
    def train(config, active):
        """Train with a loss that depends on the learning rate, until a stop is requested."""
        steps, wanted = 10, 1 + config.lr * 200
        active.emit("plan", steps=steps, steps_per_epoch=steps, train_examples=10)
        progress = {"epoch": 1.0, "tokens": 1, "seconds": 1.0, "train_loss": None}
        for step in range(steps + 1):
            loss = 4.0 + (wanted - 4.0) * step / steps
            event = {"val_loss": loss, "subset_loss": loss, "final": step == steps}
            active.emit("eval", step=step, **progress, **event)
            if config.lr == 1e-2 and step == 3:
                wait(active.stop_requested)
                return "stopped"
        return "finished"

    monkeypatch.setitem(EXECUTORS, "fake", lambda run: main(run, train=train))
    with Lab(tmp_path, "fake") as lab:
        lab.sweep(PLANNED, "s")
        wait(lambda: lab.studies()[0]["pruned"] == 1)
        runs = lab.runs().set_index("name")
        assert runs.loc["s-5", "status"] == "stopped"
        assert runs.loc["s-5", "reason"].startswith("pruned after 20% of the steps")
        assert len(lab.evaluations(["s-5"])) == 4, "the curves stay"
        table = lab.effects(study="s")
        assert 1e-2 not in [*table["from"], *table["to"]]
        assert not any(sum(diverged) for diverged in table["diverged"])


def test_sweep_prunes_the_current_run(tmp_path, monkeypatch, wait):
    def train(config, active):
        progress = {"epoch": 1.0, "tokens": 1, "seconds": 1.0, "train_loss": None}
        active.emit("plan", steps=10, steps_per_epoch=10, train_examples=10)
        for step, loss in ((0, 4.0), (1, 3.9), (2, 3.8)):
            event = {"val_loss": loss, "subset_loss": loss, "final": False}
            active.emit("eval", step=step, **progress, **event)
        wait(active.stop_requested)
        return "stopped"

    monkeypatch.setitem(EXECUTORS, "fake", lambda run: main(run, train=train))
    monkeypatch.setattr(operations, "PRUNING_INTERVAL_S", 0.05)
    operations.sweep(tmp_path, "s", PLANNED)
    for number, losses in enumerate(GOOD, 1):
        write_run(RunDirectory(tmp_path / f"s-{number}"), losses)
    console = Console(file=io.StringIO())
    assert operations.train_member(tmp_path, "s-5", "fake", console) == "pruned"
    assert RunDirectory(tmp_path / "s-5").statuses()[-1]["reason"].startswith("pruned after 20%")


def test_sweep_does_not_resume_a_pruned_run(study_dir):
    run = RunDirectory(study_dir / "s-5")
    Pruner(study_dir).check(study.find(study_dir, "s"), "s-5")
    run.mark_ended("the trainer died")
    console = Console(file=io.StringIO())
    assert operations.train_member(study_dir, "s-5", "thread", console) == "pruned"
    assert operations.continue_study(study_dir, "s") == []
