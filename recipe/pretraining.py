"""Pretrain the embedded base model with the project's own trainer.

Only a few thousand of GPT-2's tokens occur in the text. All other tokens share one embedding row, and the logarithm of
their number is added to its logit. This is equivalent to a full softmax with those rows tied, at a fraction of the
cost. After training, the shared row is copied to each of these tokens.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.config import RunConfig
from core.data.batches import Encoded
from core.data.tokenizer import END_OF_TEXT, encode
from core.nn.architecture import FAMILY, Architecture
from core.nn.gpt2 import GPT2
from core.training.run import Run
from core.training.trainer import Trainer

NANO = FAMILY["gpt2-nano"]
BLOCK_TOKENS = 128
"""Length of a training example in tokens. Prompts and answers in the data set are shorter."""
UNSEEN_TOKEN_SD = 0.02
"""Standard deviation of the noise added to the rows of tokens that do not occur, so that they differ."""


def blocks(documents: Iterable[str], tokens: int) -> list[list[int]]:
    """Concatenate documents up to at least `tokens` tokens and cut them into rows of BLOCK_TOKENS + 1."""
    ids: list[int] = []
    for document in documents:
        ids += [*encode(document), END_OF_TEXT]
        if len(ids) >= tokens:
            break
    return [ids[i : i + BLOCK_TOKENS + 1] for i in range(0, len(ids) - BLOCK_TOKENS, BLOCK_TOKENS)]


class Reduced(GPT2):
    """GPT-2 with a reduced vocabulary.

    It has one row per token that occurs, plus a final row shared by the `unseen_tokens` remaining tokens.
    """

    shift: Tensor

    def __init__(self, arch: Architecture, unseen_tokens: int) -> None:
        super().__init__(arch, tie_weights=True)
        shift = torch.zeros(arch.vocabulary)
        shift[-1] = math.log(unseen_tokens)
        self.register_buffer("shift", shift, persistent=False)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy over the full vocabulary."""
        is_target = targets != -100
        logits = F.linear(self.features(ids)[is_target], self.lm_head.weight, self.shift)
        return F.cross_entropy(logits, targets[is_target], reduction="sum")

    @torch.no_grad()
    def sequence_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy of each sequence (B,) over the full vocabulary."""
        return torch.stack([self.loss(ids[i : i + 1], targets[i : i + 1]) for i in range(len(ids))])


class Pretrainer(Trainer):
    """A trainer that is given its model and examples instead of deriving them from the settings."""

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        train: Sequence[list[int]],
        validation: Sequence[list[int]],
    ) -> None:
        self.token_ids = sorted(
            set(itertools.chain.from_iterable(itertools.chain(train, validation)))
        )
        token_index = {token: i for i, token in enumerate(self.token_ids)}
        self.encoded_sets = [
            [Encoded([token_index[t] for t in row], 0, i) for i, row in enumerate(rows)]
            for rows in (train, validation)
        ]
        super().__init__(config, run)

    def _build_model(self) -> GPT2:
        arch = replace(NANO, vocabulary=len(self.token_ids) + 1)
        model = Reduced(arch, NANO.vocabulary - len(self.token_ids))
        model.initialize(torch.Generator().manual_seed(self.config.seed))
        return model

    def _encode(self) -> tuple[list[Encoded], list[Encoded]]:
        return self.encoded_sets[0], self.encoded_sets[1]

    def _warn_at_start(self) -> None:
        """Do not warn: all rows have the same length, and there is no base model."""

    def full_model(self) -> GPT2:
        """Return the model with GPT-2's full vocabulary."""
        model = GPT2(NANO, tie_weights=True)
        state: dict[str, Any] = dict(self.model.state_dict())
        rows = state.pop("wte.weight")
        state.pop("lm_head.weight")
        generator = torch.Generator().manual_seed(self.config.seed)
        embedding = torch.randn(NANO.vocabulary, NANO.n_embd, generator=generator) * UNSEEN_TOKEN_SD
        embedding += rows[-1]
        embedding[self.token_ids] = rows[:-1]
        model.load_state_dict({**state, "wte.weight": embedding, "lm_head.weight": embedding})
        return model.eval()
