"""Fixtures for training tests: a run that keeps its events in memory, a small base model on disk and a small data
set."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig


class ListRun:
    """A run that keeps its events in memory.

    Args:
        stop_at: number of steps after which to request a stop.
        die_at: step at which to raise an exception instead of writing the event, as if the trainer had been killed.
    """

    def __init__(
        self,
        directory: Path,
        resumed: bool = False,
        stop_at: int | None = None,
        die_at: int | None = None,
    ) -> None:
        self.directory, self.resumed = directory, resumed
        self.stop_at, self.die_at = stop_at, die_at
        self.plan_path = directory / "plan.json"
        self.events: list[dict[str, Any]] = []

    def emit(self, kind: str, **fields: Any) -> None:
        if kind == "step" and fields["step"] == self.die_at:
            raise KeyboardInterrupt
        self.events.append(json.loads(json.dumps({"event": kind, **fields})))
        if kind == "plan":
            self.plan_path.write_text(json.dumps(fields))

    def sync(self) -> None:
        """Do nothing: there is nothing to make durable."""

    def stop_requested(self) -> bool:
        return self.stop_at is not None and len(self.events_of("step")) >= self.stop_at

    def last_plan(self) -> dict[str, Any] | None:
        return json.loads(self.plan_path.read_text()) if self.plan_path.exists() else None

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def losses(self) -> list[float]:
        return [event["loss"] for event in self.events_of("step")]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, save_peer: Callable[..., Any]) -> Path:
    """A tiny random GPT-2 with the real vocabulary."""
    directory = tmp_path_factory.mktemp("base")
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 96, "vocab_size": 50257}
    save_peer(directory, tied=True, **sizes)
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 examples of different lengths: 20 for training, 2 for testing, 2 for validation."""
    words = ["red", "green", "blue", "one", "two", "three", "house", "tree", "river", "stone"]
    generator = random.Random(1)

    def text(max_words: int) -> str:
        return " ".join(generator.choices(words, k=generator.randint(1, max_words)))

    records = [
        {"instruction": text(8), "input": text(4) if i % 3 else "", "output": text(12)}
        for i in range(24)
    ]
    path = tmp_path_factory.mktemp("data") / "data.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="session")
def new_config(base: Path, data: Path) -> Callable[..., RunConfig]:
    """Return a function that creates a RunConfig for the small model and data set."""

    def make(**values: Any) -> RunConfig:
        defaults = {
            "base_model": str(base),
            "dataset": str(data),
            "device": "cpu",
            "precision": "fp32",
            "method": "full",
            "batch_size": 4,
            "lr": 1e-2,
            "eval_every": 4,
            "eval_batches": 1,
            "sample_every": 6,
            "max_new_tokens": 4,
        }
        return RunConfig.parse(defaults | values)

    return make


@pytest.fixture(scope="session")
def run_in() -> type[ListRun]:
    """Return the run class, for use with any directory."""
    return ListRun


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., ListRun]:
    """Return a function that creates a run in a directory with the given name."""

    def make(name: str = "run", **options: Any) -> ListRun:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        return ListRun(directory, **options)

    return make
