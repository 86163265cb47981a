"""Token ids of examples, the order of batches, and their padding.

The order is a function of the seed and the epoch alone, so a resumed run needs only its step.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, encode

Item = TypeVar("Item")
IGNORE_INDEX = -100
GROUPED_BATCHES = 50
"""Batches that are sorted by length together when grouping: enough to pad little, few enough to mix."""


@dataclass(frozen=True)
class Encoded:
    """One example as tokens: the prompt, then the response with end-of-text, cut to a maximum length."""

    ids: list[int]
    prompt_length: int
    dataset_index: int

    def targets(self, mask_prompt: bool) -> list[int]:
        """For each token but the last, the one that follows; IGNORED inside a masked prompt."""
        targets = self.ids[1:]
        if mask_prompt:
            hidden = min(self.prompt_length - 1, len(targets))
            targets = [IGNORE_INDEX] * hidden + targets[hidden:]
        return targets


@dataclass(frozen=True)
class Batch:
    """Padded examples. ids and targets are int64 (B, T); targets are IGNORED where padded or masked."""

    ids: Tensor
    targets: Tensor
    dataset_indices: list[int]
    tokens: int
    """Tokens that are not padding."""
    target_tokens: int

    @property
    def padding(self) -> float:
        """Share of the positions that are padding."""
        return 1 - self.tokens / self.ids.numel()


def encode_example(example: Example, dataset_index: int, max_length: int) -> Encoded:
    """Prompt and response are encoded apart, so that the prompt's tokens are those of generation."""
    prompt = encode(format_prompt(example.instruction, example.input))
    ids = [*prompt, *encode(example.output), END_OF_TEXT]
    return Encoded(ids[:max_length], len(prompt), dataset_index)


def encode_all(
    examples: Sequence[Example], max_length: int, mask_prompt: bool, first_index: int = 0
) -> list[Encoded]:
    """All examples that keep at least one target after cutting; `place` is their index in the data set."""
    encoded = (
        encode_example(example, first_index + i, max_length) for i, example in enumerate(examples)
    )
    return [e for e in encoded if any(t != IGNORE_INDEX for t in e.targets(mask_prompt))]


def epoch_order(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[list[int]]:
    """Batches of indices for one epoch: every index once, the last batch possibly short."""
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
    """Which batches each optimiser step of a run takes.

    Args:
        lengths: tokens of each training example.
        grad_accumulation: batches a step.
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
        """The batches of indices of a step, counted from 1."""
        epoch, step_in_epoch = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            order = epoch_order(
                self.lengths, self.batch_size, self.seed, epoch, self.group_by_length
            )
            self._epoch, self._order = epoch, _chunks(order, self.grad_accumulation)
        return self._order[step_in_epoch]


def fingerprint(examples: Sequence[Encoded]) -> str:
    """SHA-256 over the tokens of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(np.asarray(example.ids, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()


def collate(examples: Sequence[Encoded], mask_prompt: bool) -> Batch:
    """Pad examples on the right to the longest."""
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
