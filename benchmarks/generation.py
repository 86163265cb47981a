"""Speed of answering a test set, compared with transformers' `generate` and with uncached generation.

    python -m benchmarks.generation --data FILE --prompts 128 --new-tokens 64

All three decode greedily with the same random weights for GPT-2 124M. Almost every answer reaches the token limit,
because a model with random weights rarely emits the end-of-text token. This project and transformers alternate batch by
batch, so that other load on the machine affects both equally. Transformers takes the prompts in data set order with the
same batch sizes, left-padded and masked as in its documentation. This project batches prompts of similar length.
Without a cache, only a few prompts are measured, one at a time.

Reported:
    tokens_per_s            new tokens per second (`peer_`: transformers, `uncached_`: without a cache)
    ratio, uncached_ratio   our rate divided by theirs
    same                    share of answers identical to those from transformers; below 1 if rounding changes a token
"""

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from core.data import dataset
from core.data.template import format_prompt
from core.data.tokenizer import END_OF_TEXT, encode
from core.nn import pretrained
from core.nn.generation import Sampling, generate
from core.training.evaluation import answer_batches

UNCACHED = 2
"""Number of prompts to answer without a cache, which is slow."""


@torch.inference_mode()
def uncached(peer: Any, prompt: list[int], new_tokens: int) -> list[int]:
    """Decode a prompt greedily, recomputing the whole sequence for each token."""
    ids = torch.tensor([prompt])
    for _ in range(new_tokens):
        next_ids = peer(ids, use_cache=False).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, next_ids[:, None]], 1)
    return ids[0, len(prompt) :].tolist()


def batched(peer: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Decode a batch with transformers' `generate`."""
    width = max(map(len, prompts))
    ids = torch.tensor([[END_OF_TEXT] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    generated = peer.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=END_OF_TEXT,
    )
    return generated[:, width:].tolist()


def compare(data: str, count: int, new_tokens: int, batch: int | None) -> dict[str, Any]:
    """Measure all three methods and return their rates and ratios."""
    torch.manual_seed(123)
    peer = GPT2LMHeadModel(GPT2Config()).eval()
    with tempfile.TemporaryDirectory() as directory:
        peer.save_pretrained(directory)
        model = pretrained.load(directory, tie_weights=True).eval()
    examples = dataset.load(data)[:count]
    prompts = [encode(format_prompt(example.instruction, example.input)) for example in examples]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    groups = (
        [by_length[i : i + batch] for i in range(0, len(prompts), batch)]
        if batch
        else [*answer_batches(prompts, new_tokens)]
    )
    sampling = Sampling(new_tokens)
    outputs: dict[int, list[int]] = {}
    peer_outputs: dict[int, list[int]] = {}
    seconds = peer_seconds = 0.0
    generate(model, prompts[:2], Sampling(2), END_OF_TEXT)
    batched(peer, prompts[:2], 2)
    for indices in groups:
        start = time.perf_counter()
        results = generate(model, [prompts[i] for i in indices], sampling, END_OF_TEXT)
        seconds += time.perf_counter() - start
        outputs |= zip(indices, results, strict=True)
        peer_indices = range(len(peer_outputs), len(peer_outputs) + len(indices))
        start = time.perf_counter()
        results = batched(peer, [prompts[i] for i in peer_indices], new_tokens)
        peer_seconds += time.perf_counter() - start
        peer_outputs |= zip(peer_indices, results, strict=True)
    sample_indices = by_length[:: max(1, len(prompts) // UNCACHED)][:UNCACHED]
    start = time.perf_counter()
    uncached_outputs = [uncached(peer, prompts[i], new_tokens) for i in sample_indices]
    uncached_seconds = time.perf_counter() - start
    rate = sum(map(len, outputs.values())) / seconds
    peer_rate = sum(map(len, peer_outputs.values())) / peer_seconds
    uncached_rate = sum(map(len, uncached_outputs)) / uncached_seconds
    return {
        "tokens_per_s": rate,
        "peer_tokens_per_s": peer_rate,
        "uncached_tokens_per_s": uncached_rate,
        "ratio": rate / peer_rate,
        "uncached_ratio": rate / uncached_rate,
        "same": sum(outputs[i] == peer_outputs[i] for i in outputs) / len(outputs),
        "prompts": len(prompts),
        "new_tokens": new_tokens,
        "batches": [len(group) for group in groups],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="primer", help="primer or an Alpaca-format file")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, help="prompts per batch (default: as in a run)")
    args = parser.parse_args()
    report = compare(args.data, args.prompts, args.new_tokens, args.batch)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
