"""Tokenized examples, batch order and padding.

The order depends only on the seed and the epoch, so a run can resume from its step number alone.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from core.data.template import Example
from core.data.tokenizer import END_OF_TEXT, encode

Item = TypeVar("Item")
IGNORE_INDEX = -100
"""Target at positions excluded from the loss; the default `ignore_index` of `F.cross_entropy`."""
GROUPED_BATCHES = 50
"""Number of batches sorted by length together: enough to reduce padding, few enough to keep the order random."""


@dataclass(frozen=True)
class Encoded:
    """A tokenized example: prompt, response and end-of-text, truncated to a maximum length."""

    ids: list[int]
    prompt_length: int
    """Number of tokens before the last response, before truncation."""
    dataset_index: int
    spans: tuple[tuple[int, int], ...] = ()
    """Ranges (start, end) of target tokens, which override `mask_prompt`. If empty, `mask_prompt` decides."""

    @property
    def response_start(self) -> int:
        """Position of the first target if prompts are masked."""
        return self.spans[0][0] if self.spans else self.prompt_length

    def first_target(self, mask_prompt: bool) -> int:
        """Return the position of the first target. At least 1, because the first token is never predicted."""
        return max(1, self.response_start) if self.spans or mask_prompt else 1

    def targets(self, mask_prompt: bool) -> list[int]:
        """Return the next token at each position except the last, or IGNORE_INDEX if that token is not a target."""
        if not self.spans:
            masked = min(self.first_target(mask_prompt) - 1, len(self.ids) - 1)
            return [IGNORE_INDEX] * masked + self.ids[1 + masked :]
        learned = [IGNORE_INDEX] * len(self.ids)
        for start, end in self.spans:
            learned[start:end] = self.ids[start:end]
        return learned[1:]


@dataclass(frozen=True)
class Batch:
    """Padded examples. `ids` and `targets` are int64 (B, T); padded and masked targets are IGNORE_INDEX."""

    ids: Tensor
    targets: Tensor
    dataset_indices: list[int]
    tokens: int
    """Number of tokens, excluding padding."""
    target_tokens: int
    """Number of targets, excluding IGNORE_INDEX."""


def encode_example(example: Example, dataset_index: int, max_length: int) -> Encoded:
    """Tokenize an example. Prompts and responses are encoded separately, so that prompts match those in generation."""
    ids: list[int] = []
    spans = []
    prompt_length = 0
    for turn in example.all_turns():
        ids += encode(turn.prompt)
        prompt_length = len(ids)
        ids += [*encode(turn.response), END_OF_TEXT]
        spans.append((prompt_length, len(ids)))
    if example.learned == "all":
        spans = [(0, len(ids))]
    return Encoded(
        ids[:max_length],
        prompt_length,
        dataset_index,
        () if example.learned == "setting" else tuple(spans),
    )


def encode_prompt(example: Example) -> list[int]:
    """Return the tokens before the last response, the prompt for generation."""
    encoded = encode_example(example, 0, sys.maxsize)
    return encoded.ids[: encoded.prompt_length]


def encode_all(
    examples: Sequence[Example], max_length: int, mask_prompt: bool, first_index: int = 0
) -> list[Encoded]:
    """Tokenize examples and drop those without a target after truncation. `dataset_index` counts from `first_index`."""
    encoded = (
        encode_example(example, first_index + i, max_length) for i, example in enumerate(examples)
    )
    return [e for e in encoded if any(t != IGNORE_INDEX for t in e.targets(mask_prompt))]


def epoch_order(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[list[int]]:
    """Return the batches of one epoch as lists of indices. Every index occurs once; one batch may be smaller."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    if not group_by_length:
        return _chunks(order.tolist(), batch_size)
    by_length = np.asarray(lengths)
    batches = []
    for bucket in _chunks(order.tolist(), batch_size * GROUPED_BATCHES):
        batches += _chunks(sorted(bucket, key=lambda i: (by_length[i], i)), batch_size)
    return [batches[i] for i in random.permutation(len(batches))]


class Schedule:
    """The batches of each optimizer step of a run.

    Args:
        lengths: number of tokens of each training example.
        grad_accumulation: batches per step.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        grad_accumulation: int,
        epochs: int,
        seed: int,
        group_by_length: bool,
    ) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.grad_accumulation, self.group_by_length = grad_accumulation, group_by_length
        batches = -(-len(lengths) // batch_size)
        self.steps_per_epoch = -(-batches // grad_accumulation)
        self.steps = self.steps_per_epoch * epochs
        self._epoch, self._order = -1, [[[0]]]

    def batches(self, step: int) -> list[list[int]]:
        """Return the batches of a step as lists of indices. Steps count from 1."""
        epoch, step_in_epoch = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            order = epoch_order(
                self.lengths, self.batch_size, self.seed, epoch, self.group_by_length
            )
            self._epoch, self._order = epoch, _chunks(order, self.grad_accumulation)
        return self._order[step_in_epoch]


def fingerprint(examples: Sequence[Encoded]) -> str:
    """Return the SHA-256 of the tokens and spans of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(np.asarray(example.ids, dtype=np.int64).tobytes() + b"|")
        digest.update(repr(example.spans).encode() if example.spans else b"")
    return digest.hexdigest()


def collate(examples: Sequence[Encoded], mask_prompt: bool) -> Batch:
    """Pad examples on the right to the longest and stack them."""
    width = max(len(example.ids) for example in examples) - 1
    ids = torch.full((len(examples), width), END_OF_TEXT)
    targets = torch.full((len(examples), width), IGNORE_INDEX)
    for row, example in enumerate(examples):
        length = len(example.ids) - 1
        ids[row, :length] = torch.tensor(example.ids[:-1])
        targets[row, :length] = torch.tensor(example.targets(mask_prompt))
    return Batch(
        ids,
        targets,
        dataset_indices=[example.dataset_index for example in examples],
        tokens=sum(len(example.ids) - 1 for example in examples),
        target_tokens=int((targets != IGNORE_INDEX).sum()),
    )


def _chunks(items: list[Item], size: int) -> list[list[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
