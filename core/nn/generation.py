"""Text generation with a key-value cache: in batches for test sets, streamed for interactive use.

Works on token ids, independently of the tokenizer. Sources: Fan et al. 2018 for top-k sampling, Kwon et al. 2023
for sharing the keys and values of a common prefix.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.nn.gpt2 import GPT2, KVCache
from core.nn.loss import head_logits

SHARED_PREFIX_TOKENS = 16
"""Prompts with the same first 16 tokens are grouped, and their common prefix is computed once."""


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token.

    Args:
        temperature: divisor of the logits. 0 means greedy, as do values too small for the dtype of the logits.
        top_k: sample from the k most likely tokens; None samples from all.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 123


def fit_prompt(prompt: list[int], context: int, max_new_tokens: int) -> list[int]:
    """Truncate a prompt on the left to reserve `max_new_tokens`, at most half of the context, for the answer."""
    max_prompt_tokens = context - min(max_new_tokens, context // 2)
    return prompt[-max_prompt_tokens:]


@torch.inference_mode()
def stream(model: GPT2, prompt: Sequence[int], sampling: Sampling, end: int) -> Iterator[int]:
    """Yield the tokens that follow a prompt until `end`, the token limit or the end of the context."""
    prompt = fit_prompt(list(prompt), model.arch.context, sampling.max_new_tokens)
    batch = DecodingBatch(model, [prompt], sampling)
    for _ in range(batch.new_tokens):
        token = int(batch.next_tokens()[0])
        if token == end:
            return
        yield token
        batch.advance()


@torch.inference_mode()
def generate(
    model: GPT2, prompts: Sequence[Sequence[int]], sampling: Sampling, end: int
) -> list[list[int]]:
    """Return the tokens that follow each prompt, without `end`.

    Prompts are left-padded to the length of the longest prompt, so batch prompts of similar length together. Finished
    rows are removed from the batch.
    """
    limit = sampling.max_new_tokens
    fitted = [fit_prompt(list(prompt), model.arch.context, limit) for prompt in prompts]
    free_positions = [model.arch.context - len(prompt) for prompt in fitted]
    answers: list[list[int]] = [[] for _ in prompts]
    active_rows = list(range(len(prompts)))
    batch = DecodingBatch(model, fitted, sampling)
    for _ in range(batch.new_tokens):
        tokens = batch.next_tokens().tolist()
        continuing = [row for row, token in enumerate(tokens) if token != end]
        for row in continuing:
            answers[active_rows[row]].append(tokens[row])
        continuing = [
            row
            for row in continuing
            if len(answers[active_rows[row]]) < free_positions[active_rows[row]]
        ]
        if len(continuing) < len(active_rows):
            active_rows = [active_rows[row] for row in continuing]
            batch.keep(continuing)
        if not active_rows:
            break
        batch.advance()
    return answers


class DecodingBatch:
    """Sequences that are decoded together, with their caches, next-token logits and newest tokens."""

    def __init__(self, model: GPT2, prompts: list[list[int]], sampling: Sampling) -> None:
        device = model.wte.weight.device
        shortest, longest = (f(len(prompt) for prompt in prompts) for f in (min, max))
        self.model, self.sampling = model, sampling
        self.new_tokens = min(sampling.max_new_tokens, model.arch.context - shortest)
        self.generator = torch.Generator(device).manual_seed(sampling.seed)
        pads = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
        self.pads = pads[:, None]  # (B, 1)
        self.length = longest
        self.caches = self._empty_caches(len(prompts), longest + self.new_tokens)
        shared_length = self._compute_shared_prefixes(prompts)
        self.logits = self._forward(ids[:, shared_length:])
        self.tokens = torch.empty(0)

    def _empty_caches(self, rows: int, capacity: int) -> list[KVCache]:
        arch, weight = self.model.arch, self.model.wte.weight
        device = weight.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else weight.dtype
        shape = (rows, arch.n_head, capacity, arch.head_dim)

        def empty() -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        return [KVCache(empty(), empty()) for _ in range(arch.n_layer)]

    def _compute_shared_prefixes(self, prompts: list[list[int]]) -> int:
        """Compute each common prefix once and copy its keys and values to all rows that share it.

        Returns the number of columns that are filled in every row.
        """
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            groups[tuple(prompt[:SHARED_PREFIX_TOKENS])].append(row)
        shared_length = self.length - 1  # the last token is computed later, for its logits
        for rows in groups.values():
            prefix = _common_prefix([prompts[row] for row in rows]) if len(rows) > 1 else []
            caches = self._empty_caches(1, len(prefix))
            if prefix:
                self.model.features(torch.tensor([prefix], device=self.pads.device), caches=caches)
            for row in rows:
                start = self.length - len(prompts[row])
                end = start + len(prefix)
                shared_length = min(shared_length, end)
                for batch_cache, prefix_cache in zip(self.caches, caches, strict=True):
                    batch_cache.k[row, :, start:end], batch_cache.v[row, :, start:end] = (
                        prefix_cache.k[0],
                        prefix_cache.v[0],
                    )
        for cache in self.caches:
            cache.length = shared_length
        return shared_length

    def _forward(self, ids: Tensor) -> Tensor:
        """Process the newest tokens (B, T). Return the logits at the last position, (B, vocabulary)."""
        keys = torch.arange(self.length, device=ids.device)
        queries = keys[-ids.size(1) :]
        positions = (queries - self.pads).clamp(min=0)  # (B, T)
        visible = (keys >= self.pads)[:, None, :]  # (B, 1, keys)
        causal = keys <= queries[:, None]  # (T, keys)
        # Padding attends to itself, because attention over zero keys is NaN.
        mask = (visible & causal) | (keys == queries[:, None])  # (B, T, keys)
        x = self.model.features(ids, positions, mask[:, None], self.caches)
        return head_logits(self.model.lm_head, x[:, -1])

    def next_tokens(self) -> Tensor:
        """Choose the next token for each row, (B,)."""
        logits, s = self.logits, self.sampling
        if s.temperature < torch.finfo(logits.dtype).tiny:
            self.tokens = logits.argmax(-1)
            return self.tokens
        if s.top_k is not None and s.top_k < logits.size(-1):
            smallest = logits.topk(s.top_k).values[:, -1:]  # (B, 1)
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        # Shift the largest logit to 0 first. Otherwise, a small temperature gives infinite logits and NaN in softmax.
        p = torch.softmax((logits - logits.amax(-1, keepdim=True)) / s.temperature, -1)
        self.tokens = torch.multinomial(p, 1, generator=self.generator)[:, 0]
        return self.tokens

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows."""
        index = torch.tensor(rows, device=self.pads.device, dtype=torch.long)
        self.tokens, self.pads = self.tokens[index], self.pads[index]
        for cache in self.caches:
            cache.keep(index)

    def advance(self) -> None:
        """Process the tokens that were just chosen."""
        self.length += 1
        self.logits = self._forward(self.tokens[:, None])


def _common_prefix(prompts: list[list[int]]) -> list[int]:
    # Every prompt that sorts between these two has the prefix they share.
    first, last = min(prompts), max(prompts)
    matches = (a == b for a, b in zip(first, last, strict=False))
    return list(itertools.compress(first, itertools.takewhile(bool, matches)))
