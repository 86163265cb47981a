"""Generation does not depend on batching, caching or padding, and greedy decoding matches that of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.nn import lora, pretrained
from core.nn.architecture import Architecture
from core.nn.generation import Sampling, fit_prompt, generate, stream
from core.nn.gpt2 import GPT2

END = 24  # a token that this model often generates, so that answer lengths vary
ARCH = Architecture(n_layer=2, n_head=4, n_embd=32, context=48, vocabulary=97)


@pytest.fixture(scope="module")
def model() -> GPT2:
    """A GPT-2 whose answers depend on the whole prompt and vary in length."""
    model = GPT2(ARCH)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
    return model.eval()


def prompts(n: int = 8, max_length: int = 20) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(1, max_length + 1, (n,), generator=generator).tolist()
    return [torch.randint(1, 97, (size,), generator=generator).tolist() for size in lengths]


@torch.no_grad()
def generate_uncached(model: GPT2, prompt: list[int], new_tokens: int) -> list[int]:
    """Decode greedily without caching, padding or batching, recomputing the whole sequence for every token."""
    ids = list(prompt)
    for _ in range(new_tokens):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_batched_generation_matches_uncached_generation(model: GPT2) -> None:
    batch = prompts(16)
    answers = generate(model, batch, Sampling(24), END)
    assert answers == [generate_uncached(model, prompt, 24) for prompt in batch]
    assert len({len(answer) for answer in answers}) > 6


def test_shared_prompt_prefix_is_computed_once(
    model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *suffixes = prompts(12, 6)
    first, second = (first * 20)[:18], (second * 20)[:19]
    unshared = list(range(40, 61))
    batch = [
        first,
        first,
        second,
        unshared,
        *(first + suffix for suffix in suffixes),
        second + suffixes[0],
    ]
    input_shapes = []
    features = GPT2.features

    def recording_features(
        self: GPT2, ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        input_shapes.append(tuple(ids.shape))
        return features(self, ids, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(GPT2, "features", recording_features)
        shared_prefix = [first + suffix for suffix in suffixes]
        generate(model, shared_prefix, Sampling(1), END)
    assert input_shapes[:2] == [(1, 18), (10, max(map(len, suffixes)))]
    assert generate(model, batch, Sampling(12), END) == [
        generate_uncached(model, p, 12) for p in batch
    ]
    assert generate(model, shared_prefix, Sampling(12), END) == [
        generate_uncached(model, p, 12) for p in shared_prefix
    ]


def test_greedy_decoding_matches_transformers(
    tmp_path: Path, save_peer: Callable[..., Any]
) -> None:
    peer = save_peer(tmp_path, tied=False, n_embd=16)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    peer.save_pretrained(tmp_path)
    model = pretrained.load(str(tmp_path)).eval()
    batch = prompts(12)
    width = max(map(len, batch))
    ids = torch.tensor([[END] * (width - len(p)) + p for p in batch])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
    greedy = {"do_sample": False, "pad_token_id": END, "eos_token_id": END}
    peer_output = peer.generate(ids, attention_mask=mask, max_new_tokens=20, **greedy)
    expected = [
        row[: row.index(END)] if END in row else row for row in peer_output[:, width:].tolist()
    ]
    assert generate(model, batch, Sampling(20), END) == expected


def test_merged_and_unmerged_adapters_generate_the_same(model: GPT2) -> None:
    adapted = GPT2(ARCH)
    adapted.load_state_dict(model.state_dict())
    lora.add_adapters(adapted.eval(), ARCH.lora_targets(), rank=4, alpha=4)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora.adapters(adapted):
            layer.lora_B.normal_(0.0, 0.3)
    unmerged = generate(adapted, prompts(), Sampling(12), END)
    assert unmerged != generate(model, prompts(), Sampling(12), END)
    lora.merge(adapted)
    assert generate(adapted, prompts(), Sampling(12), END) == unmerged


def test_finished_rows_leave_the_batch(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    features = GPT2.features

    def recording_features(
        self: GPT2, ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        rows.append(ids.size(0))
        return features(self, ids, *args, **kwargs)

    monkeypatch.setattr(GPT2, "features", recording_features)
    answers = generate(model, prompts(16), Sampling(24), END)
    # The forward pass after token t includes the rows with more than t tokens.
    assert rows[0] == 16
    assert rows[1:] == [
        sum(len(a) > t for a in answers) for t in range(max(map(len, answers)))
    ]  # fmt: skip


@pytest.mark.parametrize("sampling", [Sampling(10), Sampling(10, temperature=0.8, top_k=9)])
def test_stream_matches_generate(model: GPT2, sampling: Sampling) -> None:
    for prompt in prompts():
        assert (
            list(stream(model, prompt, sampling, END))
            == generate(model, [prompt], sampling, END)[0]
        )


def test_sampling_depends_on_the_seed(model: GPT2) -> None:
    def sampled(seed: int) -> list[list[int]]:
        return generate(model, prompts(), Sampling(12, temperature=1.0, seed=seed), END)

    torch.manual_seed(1)
    first = sampled(5)
    torch.manual_seed(2)
    assert sampled(5) == first
    assert sampled(6) != first
    state = torch.get_rng_state()
    sampled(7)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not used


def test_top_k_of_one_is_greedy(model: GPT2) -> None:
    greedy = generate(model, prompts(), Sampling(12), END)
    assert generate(model, prompts(), Sampling(12, temperature=2.0, top_k=1), END) == greedy
    assert generate(model, prompts(), Sampling(12, temperature=1e-4), END) == greedy


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-37, 1e-38, 1e-45, 1e-300, 5e-324])
@pytest.mark.parametrize("top_k", [None, 3])
def test_tiny_temperatures_are_greedy(model: GPT2, temperature: float, top_k: int | None) -> None:
    greedy = generate(model, prompts(), Sampling(12), END)
    tiny = Sampling(12, temperature=temperature, top_k=top_k)
    assert generate(model, prompts(), tiny, END) == greedy
    assert [list(stream(model, prompt, tiny, END)) for prompt in prompts()] == greedy


def test_samples_follow_the_top_k_softmax(model: GPT2) -> None:
    prompt, draws, k, temperature = [5, 9, 2], 4000, 6, 1.5
    with torch.no_grad():
        logits = model(torch.tensor([prompt]))[0, -1] / temperature
    best = logits.topk(k).indices
    p = torch.softmax(logits[best], -1)
    sampling = Sampling(1, temperature, k, seed=4)
    sampled = [a[0] if a else END for a in generate(model, [prompt] * draws, sampling, END)]
    assert set(sampled) <= set(best.tolist())
    shares = torch.tensor([sampled.count(int(token)) / draws for token in best])
    deviation = (p * (1 - p) / draws).sqrt()
    assert ((shares - p).abs() < 4 * deviation).all()


def test_top_k_above_the_vocabulary_size_keeps_every_token(model: GPT2) -> None:
    plain = generate(model, prompts(), Sampling(8, 1.0), END)
    assert generate(model, prompts(), Sampling(8, 1.0, top_k=10**6), END) == plain


def test_long_prompts_are_truncated_on_the_left(model: GPT2) -> None:
    long_prompt = prompts(1)[0] * 60
    fitted = fit_prompt(long_prompt, ARCH.context, 10)
    assert fitted == long_prompt[-38:]
    assert fit_prompt(long_prompt[:38], ARCH.context, 10) == long_prompt[:38]
    assert len(fit_prompt(long_prompt, ARCH.context, 1000)) == 24  # half the context is kept
    assert generate(model, [long_prompt], Sampling(10), END) == generate(
        model, [fitted], Sampling(10), END
    )
    assert list(stream(model, long_prompt, Sampling(10), END)) == generate_uncached(
        model, fitted, 10
    )


def test_answers_end_at_the_context_length(model: GPT2) -> None:
    unused_token = 10**6  # never generated, so answers do not end early
    prompt = list(range(1, 31))
    assert len(generate(model, [prompt], Sampling(1000), unused_token)[0]) == 24
    assert len(list(stream(model, prompt, Sampling(1000), unused_token))) == 24
    assert len(generate(model, [[1]], Sampling(1000), unused_token)[0]) == 47


def test_each_answer_is_limited_by_its_own_prompt_length(model: GPT2) -> None:
    unused_token = 10**6
    batch = [[1], list(range(1, 21)), [7, 8, 9]]
    answers = generate(model, batch, Sampling(1000), unused_token)
    assert [len(answer) for answer in answers] == [47, 28, 45]
    assert answers == [
        generate(model, [prompt], Sampling(1000), unused_token)[0] for prompt in batch
    ]


def test_zero_new_tokens_give_an_empty_answer(model: GPT2) -> None:
    assert generate(model, [[1, 2]], Sampling(0), END) == [[]]
    assert list(stream(model, [1, 2], Sampling(0), END)) == []
