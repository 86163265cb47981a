"""Losses over fixed batches and answers to test examples. Changes no weight and draws no random number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.data.batches import Encoded, collate
from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.nn.generation import Sampling, fit_prompt, generate
from core.nn.gpt2 import GPT2

ANSWER_BATCH_TOKENS = 8192
"""Tokens, those to come included, of the prompts answered together: many short ones or few long ones."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to one test example."""

    index: int
    """Into the list of examples."""
    text: str
    tokens: int
    cut: bool
    """Whether it ended at the limit rather than by itself."""
    prompt_cut: bool
    """Whether the prompt was longer than the context and lost its beginning."""

    def event(self, example: Example, dataset_index: int) -> dict[str, Any]:
        """The fields of a `generation` event. `dataset_index`: of the example in its data set."""
        return {
            "item": dataset_index,
            "instruction": example.instruction,
            "input": example.input,
            "reference": example.output,
            "answer": self.text,
            "tokens": self.tokens,
            "cut": self.cut,
            "prompt_cut": self.prompt_cut,
        }


@torch.inference_mode()
def mean_loss(
    model: GPT2, examples: Sequence[Encoded], batch_size: int, mask_prompt: bool
) -> float:
    """Mean cross entropy a target token, in nats. Examples are batched by length to pad little."""
    losses, tokens = [], 0
    by_length = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(by_length), batch_size):
        batch = collate(by_length[start : start + batch_size], mask_prompt)
        losses.append(model.loss(batch.ids, batch.targets))
        tokens += batch.target_tokens
    return sum(torch.stack(losses).tolist()) / tokens  # a GPU is waited for once


def answer_all(
    model: GPT2, examples: Sequence[Example], sampling: Sampling
) -> Iterator[list[Answer]]:
    """Answer every example, batch by batch, prompts of like length together."""
    limit = sampling.max_new_tokens
    prompts = [encode(format_prompt(example.instruction, example.input)) for example in examples]
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
    """Places of the prompts to answer together. The longest come first: what needs most memory does."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    while order:
        rows = max(1, ANSWER_BATCH_TOKENS // (len(prompts[order[0]]) + max_new_tokens))
        yield order[:rows]
        order = order[rows:]
