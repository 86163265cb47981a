"""Fixtures for tests that train: a tiny base model and data set, a Lab, and child processes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from core.config import RunConfig
from core.lab import Lab

ROOT = Path(__file__).parents[1]
WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "owl", "up", "down", "in"]


@pytest.fixture(autouse=True)
def single_threaded_trainers(monkeypatch):
    """Give each trainer one thread. With more, trainers slow each other down on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def lab(runs_dir) -> Iterator[Lab]:
    """An open Lab, closed after the test."""
    opened = Lab(runs_dir)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def base_model(tmp_path_factory) -> Path:
    """A GPT-2 with one layer and width 8, in the Hub's file layout."""
    d = 8
    shapes = {
        "wte.weight": (50257, d),
        "wpe.weight": (64, d),
        "h.0.attn.c_attn.weight": (d, 3 * d),
        "h.0.attn.c_attn.bias": (3 * d,),
        "h.0.attn.c_proj.weight": (d, d),
        "h.0.attn.c_proj.bias": (d,),
        "h.0.mlp.c_fc.weight": (d, 4 * d),
        "h.0.mlp.c_fc.bias": (4 * d,),
        "h.0.mlp.c_proj.weight": (4 * d, d),
        "h.0.mlp.c_proj.bias": (d,),
    }
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    random = torch.Generator().manual_seed(0)
    directory = tmp_path_factory.mktemp("base") / "tiny-base"
    directory.mkdir()
    save_file(
        {name: torch.randn(shape, generator=random) * 0.02 for name, shape in shapes.items()},
        directory / "model.safetensors",
    )
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": d, "n_positions": 64, "vocab_size": 50257}
    (directory / "config.json").write_text(json.dumps(sizes))
    return directory


@pytest.fixture
def settings(tmp_path, base_model) -> Callable[..., RunConfig]:
    """A function that returns settings for a run on 12 short examples, split into 10, 1 and 1."""
    path = tmp_path / "words.json"
    path.write_text(json.dumps([{"instruction": f"Say {w}.", "output": w} for w in WORDS]))
    small: dict[str, Any] = {
        "base_model": str(base_model),
        "dataset": str(path),
        "mask_prompt": True,
        "batch_size": 10,
        "max_new_tokens": 2,
        "sample_prompt": "",
    }
    return lambda **changes: RunConfig.parse(small | changes)


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that runs Python code in a child process, which is killed after the test."""
    started = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
