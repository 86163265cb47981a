"""A rehearsal's memory is that of the run, it can fail with a sentence, and it ends with its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from core import rehearsal
from core.config import RunConfig
from core.errors import UserError
from core.tracking.executors import ROOT, run_in_process
from core.tracking.rundir import RunDirectory

SHORT = {"max_examples": 60, "epochs": 1, "train_fraction": 0.6, "test_fraction": 0.3}
TEXT = "the quick brown fox jumps over the lazy dog and comes back again by night "


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 of 124M with random weights, in the hub's format."""
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(GPT2Config()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples from some twenty to some two hundred tokens long."""
    path = tmp_path_factory.mktemp("data") / "examples.json"
    records = [{"instruction": f"Say it {i}.", "output": TEXT * (i % 12 + 1)} for i in range(60)]
    path.write_text(json.dumps(records))
    return path


def peak_mb(run: RunDirectory) -> float:
    """The most memory that the run's trainer held, answers included."""
    events = map(json.loads, run.events_path.read_text().splitlines())
    return max(event.get("memory_mb", 0.0) for event in events)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("base", ["gpt2-nano", "gpt2"])
def test_measured_memory_is_within_a_tenth_of_the_runs(
    base: str, method: str, gpt2: Path, dataset: Path, tmp_path: Path
) -> None:
    values = {**SHORT, "method": method, "dataset": str(dataset), "max_new_tokens": 12}
    values |= {"base_model": base, "batch_size": 16, "sample_prompt": ""}
    if base == "gpt2":
        values |= {"base_model": str(gpt2), "batch_size": 2, "max_examples": 20}
    config = RunConfig.parse(values)
    cost = rehearsal.measure(config)
    run = RunDirectory.create(tmp_path, config)
    run_in_process(run)
    assert run.status() == "finished", run.log_tail()
    assert cost.memory_mb == pytest.approx(peak_mb(run), rel=0.1)
    assert cost.seconds > 0


def test_settings_that_cost_nothing_have_no_part_in_the_key() -> None:
    config = RunConfig()
    named = config.changed(name="other", notes="long", tags=["a"])
    assert rehearsal.key(named) == rehearsal.key(config)
    assert rehearsal.key(config.changed(batch_size=3)) != rehearsal.key(config)


def test_steps_that_cannot_be_taken_are_one_sentence(dataset: Path) -> None:
    config = RunConfig.parse(
        {**SHORT, "dataset": str(dataset), "lr": 10.0, "grad_clip": None, "method": "full"}
    )
    with pytest.raises(UserError, match="the rehearsal failed: training diverged") as caught:
        rehearsal.measure(config)
    assert "\n" not in str(caught.value)


def test_a_rehearsal_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch, dataset: Path) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run = subprocess.run

    def kill(command: list[str], **kwargs: object) -> object:
        return run([sys.executable, "-c", killed], **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", kill)
    with pytest.raises(UserError, match="memory of this machine is too small"):
        rehearsal.measure(RunConfig())


def test_a_rehearsal_ends_with_the_process_that_asked_for_it(
    wait: Callable[[Callable[[], bool]], None],
) -> None:
    asking = "from core import rehearsal; from core.config import RunConfig; rehearsal.measure(RunConfig())"
    parent = subprocess.Popen([sys.executable, "-c", asking], cwd=ROOT, env={**os.environ})
    try:
        wait(lambda: bool(psutil.Process(parent.pid).children()))
        [child] = psutil.Process(parent.pid).children()
        time.sleep(1.0)  # it has begun to look after its parent
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait(lambda: not child.is_running())
    finally:
        parent.kill()
