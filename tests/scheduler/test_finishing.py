"""The end of a run: which files remain, and whether a run killed at any point can be resumed or has finished."""

import hashlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from core.errors import UserError
from core.lab import Lab
from core.operations import requeue
from core.run.directory import RunDirectory
from core.scheduler.queue import Queue
from core.scheduler.trainer_process import main
from core.training.checkpoints import read_weights
from core.training.trainer import load_trained, train

KEEP = ("last", "best", "none")
SHORT = {
    "epochs": 4,
    "checkpoint_every": 1,
    "eval_every": 1,
    "lr": 5.0,
    "grad_clip": None,
    "max_new_tokens": 8,
}
"""Settings with four steps and a learning rate so high that the loss is lowest after the first step."""
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@pytest.fixture
def create(runs_dir, settings):
    return lambda keep: RunDirectory.create(
        runs_dir, settings(name="a", keep_weights=keep, **SHORT)
    )


def weights_hash(run: RunDirectory) -> str | None:
    """Return the hash of the published weights, or None if there are none."""
    paths = list((run.path / "weights").glob("*.safetensors"))
    return hashlib.sha256(paths[0].read_bytes()).hexdigest() if paths else None


def answers(run: RunDirectory) -> list[str]:
    return [event["answer"] for event in run.events("generation")]


def folders(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.path.iterdir() if path.is_dir())


def die_at_file_event(number: int, run_path: Path) -> None:
    """Kill this process just before its n-th change to one of the run's files or directories."""
    remaining = number

    def hook(event: str, args: tuple) -> None:
        nonlocal remaining
        if event not in FILE_EVENTS:
            return
        deletes_by_relative_name = (
            event in ("os.remove", "os.rmdir") and args[1] != -1
        )  # from rmtree
        if not (deletes_by_relative_name or str(args[0]).startswith(f"{run_path}/")):
            return
        if event == "open" and (args[0] == str(run_path / "events.jsonl") or args[1] == "r"):
            return
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("keep", KEEP)
def test_finished_run_keeps_the_chosen_weights_but_not_its_checkpoints(create, keep) -> None:
    run = create(keep)
    main(run)
    assert run.status() == "finished", run.log_tail()
    assert folders(run) == ([] if keep == "none" else ["weights"])
    assert len(answers(run)) == 1


def test_best_weights_have_the_lowest_validation_loss_and_answer_the_test_set(create) -> None:
    run = create("best")
    main(run)
    losses = {event["step"]: event["val_loss"] for event in run.events("eval") if event["step"]}
    best_step = min(losses, key=losses.__getitem__)
    assert best_step < 4, f"the best step must come before the last one: {losses}"
    facts, _ = read_weights(run.path / "weights")
    assert (facts["step"], facts["val_loss"]) == (best_step, losses[best_step])
    [event] = run.events("weights")
    assert (event["step"], event["val_loss"]) == (best_step, losses[best_step])
    last_run = create("last")
    main(last_run)
    assert read_weights(last_run.path / "weights")[0]["step"] == 4
    assert answers(run) != answers(last_run)
    assert f"weights from step {best_step}, which had the lowest validation loss" in run.log_tail()


def test_loading_a_run_without_weights_raises_the_reason(create) -> None:
    run = create("none")
    main(run)
    with pytest.raises(
        UserError, match=r"^a has no weights: with keep_weights = none, a run deletes"
    ):
        load_trained(run.config(), run.path)


class LeaveCheckpoints(RunDirectory):
    """A run whose trainer dies right after writing the status `finished`."""

    def discard_checkpoints(self) -> None:
        """Do nothing."""


def finish_with_leftovers(run: RunDirectory) -> None:
    main(LeaveCheckpoints(run.path))
    assert run.status() == "finished", run.log_tail()
    assert run.checkpoints_path.is_dir()


def recover_by_lab(run: RunDirectory) -> None:
    with Lab(run.path.parent) as lab:
        assert lab.runs()["disk_mb"][0] == pytest.approx(run.disk_bytes() / 2**20)


def recover_by_queue(run: RunDirectory) -> None:
    queue = Queue(run.path.parent, main)
    queue.add(run.name)
    while queue.names():
        time.sleep(0.01)
    queue.close()


RECOVER = {"trainer": main, "queue": recover_by_queue, "lab": recover_by_lab}


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("recover", RECOVER)
def test_checkpoints_left_by_a_killed_trainer_are_deleted(create, recover, keep) -> None:
    run = create(keep)
    finish_with_leftovers(run)
    RECOVER[recover](run)
    assert folders(run) == ([] if keep == "none" else ["weights"])


def test_finished_run_from_an_older_version_keeps_its_checkpoints(create) -> None:
    run = create("last")
    finish_with_leftovers(run)
    with run.lock():
        run.append("status", status="finished", reason=None)
    for recover in RECOVER.values():
        recover(run)
    assert folders(run) == ["checkpoint", "weights"]


def test_restart_can_use_the_disk_space_that_it_frees(create, monkeypatch) -> None:
    run = create("last")
    usage = shutil.disk_usage(run.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    with run.lock():
        run.append("status", status="stopped")
    with pytest.raises(UserError, match="of disk space"):
        requeue(run.path.parent, run.name, restart=True)
    run.checkpoints_path.mkdir()
    with (run.checkpoints_path / "large").open("wb") as file:
        file.truncate(100 * 2**20)
    requeue(run.path.parent, run.name, restart=True)
    assert run.status() == "queued"
    assert not run.checkpoints_path.exists()


def test_editing_keep_weights_during_training_has_no_effect(create) -> None:
    run = create("last")

    def train_and_edit(config, active):
        outcome = train(config, active)
        run.write_config(config.changed(keep_weights="none"))
        return outcome

    main(run, train=train_and_edit)
    assert folders(run) == ["weights"]


AT_EVERY_EVENT = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("keep", "stride"),
    [("best", 13), *(pytest.param(keep, 1, marks=AT_EVERY_EVENT) for keep in KEEP)],
)
def test_run_killed_at_any_point_resumes_or_has_finished(create, keep, stride) -> None:
    intact_run = create(keep)
    main(intact_run)
    assert intact_run.status() == "finished", intact_run.log_tail()
    statuses, event_number = [], 0
    while True:
        event_number += stride
        run = create(keep)
        pid = os.fork()
        if pid == 0:
            die_at_file_event(event_number, run.path)
            try:
                main(run)
            finally:
                os._exit(0)
        _, exit_status = os.waitpid(pid, 0)
        status = run.status()
        statuses.append(status)
        if os.WIFSIGNALED(exit_status):
            run.mark_ended("the trainer died")
            if status != "finished":
                requeue(run.path.parent, run.name)
                main(run)
        assert run.status() == "finished", (event_number, run.log_tail())
        assert folders(run) == folders(intact_run), event_number
        assert weights_hash(run) == weights_hash(intact_run)
        assert answers(run)[-1:] == answers(intact_run), event_number
        if not os.WIFSIGNALED(exit_status):
            break
        run.delete()
    assert "finished" in statuses[:-1], "no process was killed after the final status"
    assert "running" in statuses
