"""Answers of runs and bases: the right model, loaded when it must be, and text that only ever grows."""

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
from core.training.build import build_model

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 96, "vocab_size": 50257}
SHORT = Sampling(6)
TINY = GPT2(Architecture(n_layer=1, n_head=1, n_embd=2, context=96))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, save_peer: Callable[..., Any]) -> Any:
    """A directory with a small base model, and transformers' model of it."""
    directory = tmp_path_factory.mktemp("base")
    return directory, save_peer(directory, **SIZES)


@pytest.fixture
def base(saved: Any, tmp_path: Path) -> Path:
    """A copy of the base that a test may change."""
    return Path(shutil.copytree(saved[0], tmp_path / "base"))


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def new_run(base: Path, runs_dir: Path) -> Callable[..., RunDirectory]:
    """A function that makes a run whose weights, or checkpoint, are drawn by a seed."""

    def make(name: str, seed: int | None = None, where: str = "weights") -> RunDirectory:
        config = RunConfig(name=name, base_model=str(base), method="lora", lora_rank=2)
        run = RunDirectory.create(runs_dir, config)
        if seed is not None:
            publish(run, seed, where)
        return run

    return make


def publish(run: RunDirectory, seed: int, where: str = "weights") -> None:
    torch.manual_seed(seed)
    model = build_model(run.config())
    tensors = {k: torch.randn_like(v) for k, v in checkpoints.trainable(model).items()}
    facts = {"base_hash": pretrained.fingerprint(model)}
    checkpoints.publish(run.path / where, {"trainable.safetensors": tensors}, facts)


def said(answerer: Answerer, who: str, prompt: str = "Say it.", **how: Any) -> StreamedAnswer:
    sampling = Sampling(**{"max_new_tokens": 6, **how})
    *_, last = answerer.answer(who, prompt, "", sampling)
    return last


def test_a_base_answers_as_transformers_does(saved: Any, runs_dir: Path) -> None:
    directory, peer = saved
    *_, last = Answerer(runs_dir).answer(f"base:{directory}", "Say it.", "now", SHORT)
    prompt = torch.tensor([encode(format_prompt("Say it.", "now"))])
    ids = peer.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False,
        eos_token_id=END_OF_TEXT, pad_token_id=END_OF_TEXT,
    )  # fmt: skip
    assert last.text == decode(ids[0, prompt.size(1) :].tolist())
    assert (last.tokens, last.prompt_cut) == (6, False)


def test_runs_of_one_base_answer_differently(
    new_run: Callable[..., Any], base: Path, runs_dir: Path
) -> None:
    for seed in (1, 2):
        new_run(f"r{seed}", seed)
    answerer = Answerer(runs_dir)
    texts = [said(answerer, who).text for who in ("r1", "r2", f"base:{base}")]
    assert len(set(texts)) == 3
    assert texts == [said(Answerer(runs_dir), who).text for who in ("r1", "r2", f"base:{base}")]


def test_a_run_without_weights_answers_from_its_newest_checkpoint(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    new_run("done", 3)
    run = new_run("going", 2, "checkpoint/step-00000001")
    answerer = Answerer(runs_dir)
    first = said(answerer, "going").text
    publish(run, 3, "checkpoint/step-00000002")
    assert said(answerer, "going").text == said(answerer, "done").text != first
    publish(run, 2)
    assert said(answerer, "going").text == first


def test_mistakes_are_told_at_once_and_not_at_the_first_token(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    new_run("new")
    answerer = Answerer(runs_dir)
    with pytest.raises(UserError, match="new has no weights yet"):
        answerer.answer("new", "Say it.", "", SHORT)
    with pytest.raises(UserError, match="run = 'old': there is no such run"):
        answerer.answer("old", "Say it.", "", SHORT)
    with pytest.raises(UserError, match="base_model = 'old': there is no such model"):
        answerer.answer("base:old", "Say it.", "", SHORT)
    with pytest.raises(UserError, match="there is no such run"):
        answerer.fingerprint("old")


@pytest.mark.parametrize("who", ["..", "../runs/new", "", ".", "/", "new/", "new/weights"])
def test_a_path_is_no_run(new_run: Callable[..., Any], runs_dir: Path, who: str) -> None:
    new_run("new", 1)
    with pytest.raises(UserError, match="there is no such run"):
        Answerer(runs_dir).answer(who, "Say it.", "", SHORT)


def test_another_vocabulary_can_not_be_asked_in_words(
    save_peer: Callable[..., Any], tmp_path: Path
) -> None:
    save_peer(tmp_path / "other")
    with pytest.raises(UserError, match=r"has 97 tokens; it should have GPT-2's 50,257"):
        Answerer(tmp_path).answer(f"base:{tmp_path / 'other'}", "Say it.", "", SHORT)


def test_a_model_is_loaded_once_and_the_least_used_goes_first(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    for seed in (1, 2, 3):
        new_run(f"r{seed}", seed)
    answerer = Answerer(runs_dir, keep=2)
    first = answerer.model("r1")
    second = answerer.model("r2")
    assert answerer.model("r1") is first
    answerer.model("r3")
    assert answerer.model("r1") is first
    assert answerer.model("r2") is not second


def test_weights_written_anew_take_the_place_of_the_old(
    new_run: Callable[..., Any], runs_dir: Path
) -> None:
    run = new_run("r", 1)
    answerer = Answerer(runs_dir, keep=2)
    old = weakref.ref(answerer.model("r"))
    publish(run, 2)
    answerer.model("r")
    gc.collect()
    assert old() is None


def test_the_base_under_a_run_is_the_base(
    new_run: Callable[..., Any], base: Path, save_peer: Callable[..., Any], runs_dir: Path
) -> None:
    for seed in (1, 2):
        new_run(f"r{seed}", seed)
    answerer = Answerer(runs_dir)
    prints = {answerer.fingerprint(who) for who in ("r1", "r2", f"base:{base}")}
    assert len(prints) == 1
    assert answerer.base_of("r1") == f"base:{base}"
    save_peer(base, seed=5, **SIZES)
    assert answerer.fingerprint(f"base:{base}") not in prints


def test_raw_feeds_the_prompt_as_it_stands(base: Path, runs_dir: Path) -> None:
    answerer, who = Answerer(runs_dir), f"base:{base}"
    whole = format_prompt("Say it.", "now")
    *_, plain = answerer.answer(who, "Say it.", "now", SHORT)
    *_, raw = answerer.answer(who, whole, "", SHORT, raw=True)
    *_, other = answerer.answer(who, "Say it.", "", SHORT, raw=True)
    assert plain == raw != other
    *_, empty = answerer.answer(who, "", "", SHORT, raw=True)
    assert empty.tokens == 6


def test_a_prompt_beyond_the_context_is_cut_and_that_is_told(base: Path, runs_dir: Path) -> None:
    answerer = Answerer(runs_dir)
    pieces = list(answerer.answer(f"base:{base}", "long " * 100, "", SHORT))
    assert all(piece.prompt_cut for piece in pieces)
    assert pieces[-1].tokens == 6
    assert not said(answerer, f"base:{base}").prompt_cut


def test_temperature_draws_by_the_seed(base: Path, runs_dir: Path) -> None:
    answerer, who = Answerer(runs_dir), f"base:{base}"
    draws = [said(answerer, who, temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    greedy = said(answerer, who).text
    assert said(answerer, who, temperature=5.0, top_k=1, seed=9).text == greedy


@given(st.text(max_size=20))
def test_text_only_grows_and_shows_no_half_letters(text: str) -> None:
    """Several tokens may make one letter; the pieces are what is whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "model", lambda self, who: TINY)
        patch.setattr(generation, "stream", lambda *args: iter(encode(text)))
        pieces = [piece.text for piece in Answerer(Path()).answer("x", "Say.", "", SHORT)]
    assert pieces[-1] == text
    assert all(text.startswith(piece) for piece in pieces)
    assert len(pieces) == len(encode(text)) + 1
