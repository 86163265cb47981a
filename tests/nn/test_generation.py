"""Generation: batch, cache and padding change nothing; greedy is transformers' greedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.nn import lora, pretrained
from core.nn.architecture import Architecture
from core.nn.generation import Sampling, fit_prompt, generate, stream
from core.nn.gpt2 import GPT2

END = 24  # a token that this model writes often, so that answers end at many lengths
ARCH = Architecture(n_layer=2, n_head=4, n_embd=32, context=48, vocabulary=97)


@pytest.fixture(scope="module")
def model() -> GPT2:
    """A GPT-2 whose answers depend on all of its prompt and end at various lengths."""
    model = GPT2(ARCH)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
    return model.eval()


def prompts(n: int = 8, longest: int = 20) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator).tolist()
    return [torch.randint(1, 97, (size,), generator=generator).tolist() for size in lengths]


@torch.no_grad()
def plainly(model: GPT2, prompt: list[int], new_tokens: int) -> list[int]:
    """Greedy without cache, padding or batch: the whole sequence anew for every token."""
    ids = list(prompt)
    for _ in range(new_tokens):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_a_padded_batch_with_cache_answers_as_one_by_one_without(model: GPT2) -> None:
    asked = prompts(16)
    answers = generate(model, asked, Sampling(24), END)
    assert answers == [plainly(model, prompt, 24) for prompt in asked]
    assert len({len(answer) for answer in answers}) > 6


def test_what_prompts_begin_with_is_computed_once(
    model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *ends = prompts(12, 6)
    first, second = (first * 20)[:18], (second * 20)[:19]
    alone = list(range(40, 61))
    asked = [first, first, second, alone, *(first + end for end in ends), second + ends[0]]
    fed = []
    features = GPT2.features

    def counted(self: GPT2, ids: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        fed.append(tuple(ids.shape))
        return features(self, ids, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(GPT2, "features", counted)
        like = [first + end for end in ends]
        generate(model, like, Sampling(1), END)
    assert fed[:2] == [(1, 18), (10, max(map(len, ends)))]
    assert generate(model, asked, Sampling(12), END) == [plainly(model, p, 12) for p in asked]
    assert generate(model, like, Sampling(12), END) == [plainly(model, p, 12) for p in like]


def test_greedy_is_transformers_greedy(tmp_path: Path, save_peer: Callable[..., Any]) -> None:
    peer = save_peer(tmp_path, tied=False, n_embd=16)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    peer.save_pretrained(tmp_path)
    model = pretrained.load(str(tmp_path)).eval()
    asked = prompts(12)
    width = max(map(len, asked))
    ids = torch.tensor([[END] * (width - len(p)) + p for p in asked])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in asked])
    greedy = {"do_sample": False, "pad_token_id": END, "eos_token_id": END}
    whole = peer.generate(ids, attention_mask=mask, max_new_tokens=20, **greedy)
    expected = [row[: row.index(END)] if END in row else row for row in whole[:, width:].tolist()]
    assert generate(model, asked, Sampling(20), END) == expected


def test_adapters_answer_merged_as_unmerged(model: GPT2) -> None:
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

    def counted(self: GPT2, ids: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        rows.append(ids.size(0))
        return features(self, ids, *rest, **named)

    monkeypatch.setattr(GPT2, "features", counted)
    answers = generate(model, prompts(16), Sampling(24), END)
    # The forward pass after token t is computed for the rows that have t + 1 tokens.
    assert rows[0] == 16
    assert rows[1:] == [
        sum(len(a) > t for a in answers) for t in range(max(map(len, answers)))
    ]  # fmt: skip


@pytest.mark.parametrize("sampling", [Sampling(10), Sampling(10, temperature=0.8, top_k=9)])
def test_stream_equals_generate(model: GPT2, sampling: Sampling) -> None:
    for prompt in prompts():
        assert (
            list(stream(model, prompt, sampling, END))
            == generate(model, [prompt], sampling, END)[0]
        )


def test_sampling_hangs_on_the_seed(model: GPT2) -> None:
    def sampled(seed: int) -> list[list[int]]:
        return generate(model, prompts(), Sampling(12, temperature=1.0, seed=seed), END)

    torch.manual_seed(1)
    first = sampled(5)
    torch.manual_seed(2)
    assert sampled(5) == first
    assert sampled(6) != first
    state = torch.get_rng_state()
    sampled(7)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are drawn


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


def test_samples_follow_the_softmax_of_the_k_best(model: GPT2) -> None:
    prompt, draws, k, temperature = [5, 9, 2], 4000, 6, 1.5
    with torch.no_grad():
        logits = model(torch.tensor([prompt]))[0, -1] / temperature
    best = logits.topk(k).indices
    p = torch.softmax(logits[best], -1)
    sampling = Sampling(1, temperature, k, seed=4)
    found = [a[0] if a else END for a in generate(model, [prompt] * draws, sampling, END)]
    assert set(found) <= set(best.tolist())
    shares = torch.tensor([found.count(int(token)) / draws for token in best])
    deviation = (p * (1 - p) / draws).sqrt()
    assert ((shares - p).abs() < 4 * deviation).all()


def test_top_k_beyond_the_vocabulary_is_every_token(model: GPT2) -> None:
    plain = generate(model, prompts(), Sampling(8, 1.0), END)
    assert generate(model, prompts(), Sampling(8, 1.0, top_k=10**6), END) == plain


def test_long_prompts_lose_their_beginning(model: GPT2) -> None:
    long = prompts(1)[0] * 60
    cut = fit_prompt(long, ARCH.context, 10)
    assert cut == long[-38:]
    assert fit_prompt(long[:38], ARCH.context, 10) == long[:38]
    assert len(fit_prompt(long, ARCH.context, 1000)) == 24  # at least half is for the prompt
    assert generate(model, [long], Sampling(10), END) == generate(model, [cut], Sampling(10), END)
    assert list(stream(model, long, Sampling(10), END)) == plainly(model, cut, 10)


def test_answers_end_at_the_contexts_end(model: GPT2) -> None:
    never = 10**6  # no token ends an answer
    prompt = list(range(1, 31))
    assert len(generate(model, [prompt], Sampling(1000), never)[0]) == 24
    assert len(list(stream(model, prompt, Sampling(1000), never))) == 24
    assert len(generate(model, [[1]], Sampling(1000), never)[0]) == 47


def test_the_room_of_an_answer_is_its_own(model: GPT2) -> None:
    never = 10**6
    given = [[1], list(range(1, 21)), [7, 8, 9]]
    answers = generate(model, given, Sampling(1000), never)
    assert [len(answer) for answer in answers] == [47, 28, 45]
    assert answers == [generate(model, [one], Sampling(1000), never)[0] for one in given]


def test_no_room_is_no_answer(model: GPT2) -> None:
    assert generate(model, [[1, 2]], Sampling(0), END) == [[]]
    assert list(stream(model, [1, 2], Sampling(0), END)) == []
