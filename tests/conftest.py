"""Shared test setup: Hypothesis profiles, a fake model Hub, and reference GPT-2 models from transformers."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.hub_server import Hub, serving

pytest_plugins = ["tests.run_fixtures"]

# No deadlines, because timing is unreliable on a busy machine.
settings.register_profile("project", deadline=None, max_examples=30)
settings.register_profile("long", deadline=None, max_examples=500)
settings.load_profile("project")

# Shells make background commands ignore SIGINT, and child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A second thread does not speed up a tiny model, but it slows down a busy machine considerably.
torch.set_num_threads(1)


@pytest.fixture
def wait() -> Callable[..., None]:
    """A function that polls a condition and fails the test if it does not hold within `timeout` seconds."""

    def until(condition: Callable[[], object], timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"condition not met within {timeout:g} s"
            time.sleep(0.05)

    return until


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fake Hugging Face Hub with an empty cache, used by this process and its children."""
    from huggingface_hub import constants

    with serving() as server:
        url_template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url_template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


@pytest.fixture(scope="session")
def save_peer() -> Callable[..., Any]:
    """A function that creates a small random GPT2LMHeadModel from transformers and saves it to a directory.

    Norms and biases are random too, so that comparisons fail if any of them are not loaded.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    def save(directory: Path, tied: bool = True, seed: int = 0, **sizes: int) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 48, "vocab_size": 97}
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(
            **(shape | sizes),
            **no_dropout,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
        model = GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(directory)
        return model

    return save
