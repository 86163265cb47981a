"""Mean losses and answers to test examples. Changes no weights and draws no random numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.data.batches import Encoded, collate, encode_prompt
from core.data.template import Example
from core.data.tokenizer import END_OF_TEXT, decode
from core.nn.generation import Sampling, fit_prompt, generate
from core.nn.gpt2 import GPT2

ANSWER_BATCH_TOKENS = 8192
"""Maximum number of prompt and answer tokens in a batch of answers."""


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
    """Whether the prompt did not fit into the context and lost its beginning."""

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


@torch.inference_mode()
def mean_loss(
    model: GPT2, examples: Sequence[Encoded], batch_size: int, mask_prompt: bool
) -> float:
    """Return the mean cross-entropy per target token, in nats. Batches examples by length to reduce padding."""
    losses, tokens = [], 0
    by_length = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(by_length), batch_size):
        batch = collate(by_length[start : start + batch_size], mask_prompt)
        losses.append(model.loss(batch.ids, batch.targets))
        tokens += batch.target_tokens
    return sum(torch.stack(losses).tolist()) / tokens  # the only GPU synchronization


def answer_all(
    model: GPT2, examples: Sequence[Example], sampling: Sampling
) -> Iterator[list[Answer]]:
    """Answer all examples, and yield the answers of each batch. Prompts of similar length are batched together."""
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
