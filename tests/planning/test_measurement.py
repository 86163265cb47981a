"""Measurements: memory compared with that of entire runs, errors, and how the process ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.config import RunConfig
from core.errors import UserError
from core.planning import measurement, preflight
from core.scheduler.executors import ROOT, TRAINER_ENVIRONMENT
from core.training.trainer import Trainer

SHORT = {"max_examples": 10, "epochs": 1, "train_fraction": 0.4, "test_fraction": 0.5}
TEXT = "the quick brown fox jumps over the lazy dog and comes back again by night "


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 (124M) with random weights, in the Hub's format."""
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(GPT2Config()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of similar length, so that all batches are about as wide as the widest."""
    path = tmp_path_factory.mktemp("data") / "examples.json"
    records = [{"instruction": f"Say it {i}.", "output": TEXT * (i % 2 + 4)} for i in range(60)]
    path.write_text(json.dumps(records))
    return path


TRAIN = """
import sys
from core.planning import measurement
from core.config import RunConfig
from core.training import hardware
from core.training.trainer import Trainer

trainer = Trainer(RunConfig.model_validate_json(sys.argv[1]), measurement.NullRun())
trainer.save_checkpoint = lambda: None  # would write 2 GB and does not affect memory
trainer.fit()
trainer.answer_test_set()
print(hardware.peak_memory_mb(trainer.device))
"""


def peak_mb(config: RunConfig) -> float:
    """Return the peak memory of an entire run in MiB."""
    env = {**TRAINER_ENVIRONMENT, **os.environ}
    command = [sys.executable, "-c", TRAIN, config.model_dump_json()]
    return float(subprocess.run(command, cwd=ROOT, env=env, stdout=-1, check=True).stdout)


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.long)])
@pytest.mark.parametrize("base", ["gpt2-nano", pytest.param("gpt2", marks=pytest.mark.long)])
def test_measured_memory_is_within_ten_percent_of_the_run(
    base: str, method: str, gpt2: Path, dataset: Path
) -> None:
    values = {**SHORT, "method": method, "dataset": str(dataset), "max_new_tokens": 12}
    values |= {"base_model": base, "batch_size": 2, "sample_prompt": "", "eval_batches": 1}
    if base == "gpt2":
        values |= {"base_model": str(gpt2), "tie_weights": True}
    config = RunConfig.parse(values)
    cost = measurement.measure(config)
    assert cost.memory_mb == pytest.approx(peak_mb(config), rel=0.1)
    assert cost.seconds > 0


def test_peak_memory_with_grad_checkpointing_is_close_to_the_estimate(dataset: Path) -> None:
    values = {**SHORT, "method": "lora", "dataset": str(dataset), "max_new_tokens": 12}
    values |= {"base_model": "gpt2-nano", "sample_prompt": "", "grad_checkpointing": True}
    config = RunConfig.parse(values)
    estimated_mb = preflight.check(config).memory_mb
    assert estimated_mb == pytest.approx(peak_mb(config), rel=0.15)


def test_longest_batch_is_measured_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mixed.json"
    records = [{"instruction": "Go on.", "output": "go " * (1 + 7 * i % 10)} for i in range(20)]
    path.write_text(json.dumps(records))
    values = {"dataset": str(path), "batch_size": 3, "grad_accumulation": 4, "max_new_tokens": 1}
    recorded_steps, step = [], Trainer.step

    def recorded(self: Trainer, number: int, batches: list[list[int]]) -> None:
        recorded_steps.append((number, batches, self.schedule))
        step(self, number, batches)

    monkeypatch.setattr(Trainer, "step", recorded)
    measurement.run_trial(RunConfig.parse(values))
    schedule = recorded_steps[0][2]
    longest_lengths = sorted(schedule.lengths)[-3:]
    for _, batches, _ in recorded_steps[:2]:
        assert [sorted(schedule.lengths[i] for i in batch) for batch in batches] == [
            longest_lengths
        ] * 2
    assert [batches for _, batches, _ in recorded_steps[2:]] == [
        schedule.batches(number) for number in range(1, len(recorded_steps) - 1)
    ]
    assert len(recorded_steps) > 3


@pytest.mark.long
def test_generation_memory_is_measured(
    dataset: Path, tmp_path: Path, save_peer: Callable[..., Any]
) -> None:
    """With many thin layers, the KV cache (200 MB) needs more memory than a short training step."""
    save_peer(tmp_path, n_layer=48, n_embd=64, n_head=2, n_positions=1024, vocab_size=50257)
    values = {"base_model": str(tmp_path), "dataset": str(dataset), "batch_size": 1}
    values |= {"method": "lora", "lora_rank": 4}
    values |= {"train_fraction": 0.3, "test_fraction": 0.6, "max_examples": 60, "epochs": 1}
    short_peak, long_peak = (
        measurement.measure(RunConfig.parse({**values, "max_new_tokens": tokens})).memory_mb
        for tokens in (1, 900)
    )
    # Part of the cache fits into memory that the training steps have freed, so the peak grows by less.
    assert long_peak - short_peak > 15


def test_cache_key_ignores_settings_that_do_not_affect_cost() -> None:
    config = RunConfig()
    renamed_config = config.changed(name="other", notes="long", tags=["a"])
    assert measurement.key(renamed_config) == measurement.key(config)
    assert measurement.key(config.changed(batch_size=3)) != measurement.key(config)


def test_failed_measurement_is_reported_in_one_line() -> None:
    with pytest.raises(UserError, match=r"the measurement failed: .*nowhere\.json") as caught:
        measurement.measure(RunConfig(dataset="nowhere.json"))
    assert "\n" not in str(caught.value)


def test_killed_measurement_is_reported(monkeypatch: pytest.MonkeyPatch, dataset: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run = subprocess.run

    def kill(command: list[str], **kwargs: object) -> object:
        return run([sys.executable, "-c", code], **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", kill)
    with pytest.raises(UserError, match="needs more memory than this machine has"):
        measurement.measure(RunConfig())


def test_measurement_ends_with_its_parent_process(
    wait: Callable[[Callable[[], bool]], None],
) -> None:
    code = "from core.planning import measurement; from core.config import RunConfig; measurement.measure(RunConfig())"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ})
    try:
        wait(lambda: bool(psutil.Process(parent.pid).children()))
        [child] = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait(lambda: not child.is_running())
    finally:
        parent.kill()
