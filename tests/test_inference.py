"""Answers from runs and base models: which weights are used, when they are reloaded, and how text is streamed."""

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.config import RunConfig
from core.data.template import format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.errors import UserError
from core.inference import Answerer, StreamedAnswer
from core.nn import generation, pretrained
from core.nn.architecture import Architecture
from core.nn.generation import Sampling
from core.nn.gpt2 import GPT2
from core.run.directory import RunDirectory
from core.training import checkpoints
from core.training.trainer import build_model

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 96, "vocab_size": 50257}
SHORT = Sampling(6)
TINY = GPT2(Architecture(n_layer=1, n_head=1, n_embd=2, context=96))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, save_peer: Callable[..., Any]) -> Any:
    """A directory with a small base model, and the transformers model saved there."""
    directory = tmp_path_factory.mktemp("base")
    return directory, save_peer(directory, **SIZES)


@pytest.fixture
def base(saved: Any, tmp_path: Path) -> Path:
    """A copy of the base model that tests may modify."""
    return Path(shutil.copytree(saved[0], tmp_path / "base"))


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def new_run(base: Path, runs_dir: Path) -> Callable[..., RunDirectory]:
    """Return a function that creates a run with random weights, or a random checkpoint."""

    def make(name: str, seed: int | None = None, subdirectory: str = "weights") -> RunDirectory:
        config = RunConfig(name=name, base_model=str(base), method="lora", lora_rank=2)
        run = RunDirectory.create(runs_dir, config)
        if seed is not None:
            publish(run, seed, subdirectory)
        return run

    return make


def publish(run: RunDirectory, seed: int, subdirectory: str = "weights") -> None:
    torch.manual_seed(seed)
    model = build_model(run.config())
    tensors = {k: torch.randn_like(v) for k, v in checkpoints.trainable(model).items()}
    manifest = {"base_hash": pretrained.fingerprint(model)}
    checkpoints.publish(run.path / subdirectory, {"trainable.safetensors": tensors}, manifest)


def final_answer(
    answerer: Answerer, model_name: str, prompt: str = "Say it.", **options: Any
) -> StreamedAnswer:
    sampling = Sampling(**{"max_new_tokens": 6, **options})
    *_, last = answerer.answer(model_name, prompt, "", sampling)
    return last


def test_base_answer_matches_transformers(saved: Any, runs_dir: Path) -> None:
    directory, peer = saved
    *_, last = Answerer(runs_dir).answer(f"base:{directory}", "Say it.", "now", SHORT)
    prompt = torch.tensor([encode(format_prompt("Say it.", "now"))])
    ids = peer.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False,
        eos_token_id=END_OF_TEXT, pad_token_id=END_OF_TEXT,
    )  # fmt: skip
    assert last.text == decode(ids[0, prompt.size(1) :].tolist())
    assert (last.tokens, last.prompt_cut) == (6, False)


def test_runs_with_the_same_base_answer_differently(
    new_run: Callable[..., Any], base: Path, runs_dir: Path
) -> None:
    for seed in (1, 2):
        new_run(f"r{seed}", seed)
    answerer = Answerer(runs_dir)
    texts = [final_answer(answerer, model_name).text for model_name in ("r1", "r2", f"base:{base}")]
    assert len(set(texts)) == 3
    assert texts == [
        final_answer(Answerer(runs_dir), model_name).text
        for model_name in ("r1", "r2", f"base:{base}")
    ]


def test_run_without_weights_answers_from_its_newest_checkpoint(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    new_run("finished", 3)
    run = new_run("running", 2, "checkpoint/step-00000001")
    answerer = Answerer(runs_dir)
    first = final_answer(answerer, "running").text
    publish(run, 3, "checkpoint/step-00000002")
    assert (
        final_answer(answerer, "running").text == final_answer(answerer, "finished").text != first
    )
    publish(run, 2)
    assert final_answer(answerer, "running").text == first


def test_errors_are_raised_before_the_first_token(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    new_run("new")
    answerer = Answerer(runs_dir)
    with pytest.raises(UserError, match="new has no weights yet"):
        answerer.answer("new", "Say it.", "", SHORT)
    with pytest.raises(UserError, match="run = 'old': there is no such run"):
        answerer.answer("old", "Say it.", "", SHORT)
    with pytest.raises(UserError, match="base_model = 'old': unknown model"):
        answerer.answer("base:old", "Say it.", "", SHORT)
    with pytest.raises(UserError, match="there is no such run"):
        answerer.fingerprint("old")


@pytest.mark.parametrize("model_name", ["..", "../runs/new", "", ".", "/", "new/", "new/weights"])
def test_path_is_not_a_run_name(
    new_run: Callable[..., Any], runs_dir: Path, model_name: str
) -> None:
    new_run("new", 1)
    with pytest.raises(UserError, match="there is no such run"):
        Answerer(runs_dir).answer(model_name, "Say it.", "", SHORT)


def test_model_with_a_different_vocabulary_is_refused(
    save_peer: Callable[..., Any], tmp_path: Path
) -> None:
    save_peer(tmp_path / "other")
    with pytest.raises(
        UserError, match="a vocabulary of 97 tokens; prompts require GPT-2's vocabulary of 50,257"
    ):
        Answerer(tmp_path).answer(f"base:{tmp_path / 'other'}", "Say it.", "", SHORT)


def test_least_recently_used_model_is_evicted(new_run: Callable[..., Any], runs_dir: Path) -> None:
    for seed in (1, 2, 3):
        new_run(f"r{seed}", seed)
    answerer = Answerer(runs_dir, max_models=2)
    first = answerer.model("r1")
    second = answerer.model("r2")
    assert answerer.model("r1") is first
    answerer.model("r3")
    assert answerer.model("r1") is first
    assert answerer.model("r2") is not second


def test_rewritten_weights_replace_the_cached_ones(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    run = new_run("r", 1)
    answerer = Answerer(runs_dir, max_models=2)
    old = weakref.ref(answerer.model("r"))
    publish(run, 2)
    answerer.model("r")
    gc.collect()
    assert old() is None


def test_adapters_do_not_change_the_shared_base(
    new_run: Callable[..., Any], base: Path, save_peer: Callable[..., Any], runs_dir: Path
) -> None:
    for seed in (1, 2):
        new_run(f"r{seed}", seed)
    answerer = Answerer(runs_dir)
    fingerprints = {answerer.fingerprint(name) for name in ("r1", "r2", f"base:{base}")}
    assert len(fingerprints) == 1
    assert answerer.base_of("r1") == f"base:{base}"
    save_peer(base, seed=5, **SIZES)
    assert answerer.fingerprint(f"base:{base}") not in fingerprints


def test_raw_prompt_is_used_unchanged(base: Path, runs_dir: Path) -> None:
    answerer, model_name = Answerer(runs_dir), f"base:{base}"
    full_prompt = format_prompt("Say it.", "now")
    *_, plain = answerer.answer(model_name, "Say it.", "now", SHORT)
    *_, raw = answerer.answer(model_name, full_prompt, "", SHORT, raw=True)
    *_, raw_answer = answerer.answer(model_name, "Say it.", "", SHORT, raw=True)
    assert plain == raw != raw_answer
    *_, empty = answerer.answer(model_name, "", "", SHORT, raw=True)
    assert empty.tokens == 6


def test_prompt_longer_than_the_context_is_truncated_and_reported(
    base: Path, runs_dir: Path
) -> None:
    answerer = Answerer(runs_dir)
    pieces = list(answerer.answer(f"base:{base}", "long " * 100, "", SHORT))
    assert all(piece.prompt_cut for piece in pieces)
    assert pieces[-1].tokens == 6
    assert not final_answer(answerer, f"base:{base}").prompt_cut


def test_samples_depend_on_the_seed(base: Path, runs_dir: Path) -> None:
    answerer, model_name = Answerer(runs_dir), f"base:{base}"
    draws = [
        final_answer(answerer, model_name, temperature=1.5, seed=seed).text for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    greedy = final_answer(answerer, model_name).text
    assert final_answer(answerer, model_name, temperature=5.0, top_k=1, seed=9).text == greedy


@given(st.text(max_size=20))
def test_streamed_text_only_grows_and_has_no_partial_characters(text: str) -> None:
    """A character can take several tokens and is shown only when complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "model", lambda self, model_name: TINY)
        patch.setattr(generation, "stream", lambda *args: iter(encode(text)))
        pieces = [piece.text for piece in Answerer(Path()).answer("x", "Say.", "", SHORT)]
    assert pieces[-1] == text
    assert all(text.startswith(piece) for piece in pieces)
    assert len(pieces) == len(encode(text)) + 1
