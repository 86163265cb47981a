"""Per-example losses and answers to test examples. Changes no weights and draws no random numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.data.batches import IGNORE_INDEX, Encoded, collate, encode_prompt
from core.data.template import Example
from core.data.tokenizer import END_OF_TEXT, decode
from core.nn.generation import Sampling, fit_prompt, generate
from core.nn.gpt2 import GPT2
from core.statistics.losses import token_mean

ANSWER_BATCH_TOKENS = 8192
"""Maximum number of prompt and answer tokens in a batch of answers."""
LOSS_DECIMALS = 6
"""Decimal places of recorded losses; finer than fp32 differences between machines."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to one test example."""

    index: int
    """Index in the list of examples."""
    text: str
    tokens: int
    cut: bool
    """Whether the answer was cut off at the token limit."""
    prompt_cut: bool
    """Whether the beginning of the prompt was cut off because it did not fit into the context."""

    def event(self, example: Example, dataset_index: int) -> dict[str, Any]:
        """Return the fields of a `generation` event. `dataset_index`: index of the example in the data set."""
        turns = {"turns": example.turns_text} if example.turns else {}
        return {
            "item": dataset_index,
            "instruction": example.instruction,
            "input": example.input,
            "reference": example.output,
            **turns,
            "answer": self.text,
            "tokens": self.tokens,
            "cut": self.cut,
            "prompt_cut": self.prompt_cut,
        }


@dataclass(frozen=True)
class ExampleLosses:
    """Losses of examples, in data set order."""

    dataset_indices: list[int]
    losses: list[float]
    """Mean cross entropy per target token of each example, in nats."""
    tokens: list[int]
    """Number of target tokens of each example."""

    def first(self, count: int) -> "ExampleLosses":
        """Return the losses of the first `count` examples."""
        return ExampleLosses(self.dataset_indices[:count], self.losses[:count], self.tokens[:count])

    def mean(self) -> tuple[float, float | None]:
        """Return the mean loss per target token and its standard error; see `token_mean`."""
        return token_mean(self.losses, self.tokens)

    def event(self, part: str) -> dict[str, list[Any]]:
        """Return the fields of an `eval` event. Their names start with the part: `train` or `val`."""
        losses = [round(loss, LOSS_DECIMALS) for loss in self.losses]
        return {
            f"{part}_indices": self.dataset_indices,
            f"{part}_losses": losses,
            f"{part}_tokens": self.tokens,
        }


def leading(examples: Sequence[Encoded], count: int, first_index: int) -> Sequence[Encoded]:
    """Return the first `count` examples of a split, without those dropped by truncation.

    Dropped examples are not replaced, so runs that differ in `max_length` or `mask_prompt` use the same examples, apart
    from dropped ones. If all are dropped, the first remaining example is used, so that there is always a loss.

    Args:
        examples: the result of `encode_all`, in file order.
        first_index: index of the split's first example in the data set.
    """
    kept = [e for e in examples if e.dataset_index < first_index + count]
    return kept or examples[: min(count, 1)]


@torch.inference_mode()
def example_losses(
    model: GPT2, examples: Sequence[Encoded], batch_size: int, mask_prompt: bool
) -> ExampleLosses:
    """Return the loss of each example. Batches examples by length to reduce padding, which does not affect losses."""
    by_length = sorted(examples, key=lambda example: len(example.ids))
    sums = []
    for start in range(0, len(by_length), batch_size):
        batch = collate(by_length[start : start + batch_size], mask_prompt)
        sums.append(model.sequence_losses(batch.ids, batch.targets))
    indices = [example.dataset_index for example in examples]
    tokens = [sum(t != IGNORE_INDEX for t in e.targets(mask_prompt)) for e in examples]
    by_index = dict(
        zip([e.dataset_index for e in by_length], torch.cat(sums).tolist(), strict=True)
    )
    return ExampleLosses(
        indices, [by_index[i] / n for i, n in zip(indices, tokens, strict=True)], tokens
    )


def answer_all(
    model: GPT2, examples: Sequence[Example], sampling: Sampling
) -> Iterator[list[Answer]]:
    """Answer all examples and yield the answers batch by batch. Prompts of similar length are batched together."""
    limit = sampling.max_new_tokens
    prompts = [encode_prompt(example) for example in examples]
    fitted = [fit_prompt(prompt, model.arch.context, limit) for prompt in prompts]
    for indices in answer_batches(fitted, limit):
        answers = generate(model, [fitted[i] for i in indices], sampling, END_OF_TEXT)
        yield [
            Answer(
                i,
                decode(ids),
                len(ids),
                len(ids) >= min(limit, model.arch.context - len(fitted[i])),
                len(fitted[i]) < len(prompts[i]),
            )
            for i, ids in zip(indices, answers, strict=True)
        ]


def answer_batches(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of the prompts in each batch, longest first, so that memory peaks at the start."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    while order:
        rows = max(1, ANSWER_BATCH_TOKENS // (len(prompts[order[0]]) + max_new_tokens))
        yield order[:rows]
        order = order[rows:]
