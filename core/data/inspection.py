"""Statistics about a data set before training: lengths, truncated and learned tokens, and train-test duplicates."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rapidfuzz import fuzz, process

from core.config import EmptyOutputs, RunConfig
from core.data import dataset
from core.data.batches import IGNORE_INDEX, encode_example
from core.data.dataset import Records, Split
from core.data.template import Example
from core.data.tokenizer import decode
from core.errors import UserError

NO_LIMIT = 10**9
MIN_DUPLICATE_SIMILARITY = 90.0
"""Minimum similarity of a near-duplicate: rapidfuzz's `ratio` of instruction, input and output, 0 to 100."""
COMPARE_CHUNK = 256
"""Number of test examples compared with the whole training set at a time."""
State = Literal["given", "learned", "cut"]


@dataclass(frozen=True)
class Token:
    """A token as text and its role in training: given, learned (a target) or cut off.

    If a character consists of several tokens, the last one has the character as its text and the others are empty.
    """

    text: str
    state: State


@dataclass(frozen=True)
class InspectedDataset:
    """A data set, its split, and the table of its examples; see `table` for the columns."""

    records: Records
    split: Split
    table: pd.DataFrame
    min_similarity: float = MIN_DUPLICATE_SIMILARITY

    @functools.cached_property
    def skipped(self) -> str | None:
        """A message about the skipped records; None if there are none."""
        return dataset.skipped_summary(self.records)

    @property
    def columns(self) -> str:
        """The column mapping, such as `instruction ← question, output ← answer (detected)`."""
        return str(self.records.columns)

    @functools.cached_property
    def unused_keys(self) -> str | None:
        """A message about the record keys that training ignores; None if there are none."""
        return dataset.unused_summary(self.records)

    @functools.cached_property
    def duplicates(self) -> pd.DataFrame:
        """Test examples that resemble a training example; see `duplicates`."""
        return duplicates(self.split, self.min_similarity)

    def tokens(self, item: int, config: RunConfig, context: int) -> list["Token"]:
        """Return an example as the model sees it; see `tokens`."""
        return tokens(self.records.examples[item], config, context)


def inspect(config: RunConfig) -> InspectedDataset:
    """Read, split and tokenize a run's data set. Cached until its files change.

    Raises:
        NotDownloadedError: the data set is not on this machine.
        UserError: the data set cannot be read, or a split is empty.
    """
    source = config.dataset, config.max_examples, config.empty_outputs, config.columns
    fractions = config.train_fraction, config.test_fraction
    return _inspect(*source, *fractions, dataset.stamps(config.dataset))


@functools.lru_cache(maxsize=3)
def _inspect(
    name: str,
    max_examples: int | None,
    empty_outputs: EmptyOutputs,
    columns: str,
    train_fraction: float,
    test_fraction: float,
    stamps: object,
) -> InspectedDataset:
    """Return the inspected data set. `stamps` is part of the cache key."""
    records = dataset.read(name, max_examples, empty_outputs, download=False, columns=columns)
    config = RunConfig(dataset=name, train_fraction=train_fraction, test_fraction=test_fraction)
    split = dataset.split(records.examples, config)
    return InspectedDataset(records, split, table(split))


def table(split: Split) -> pd.DataFrame:
    """Return a table of all examples in file order: item, part, tokens, prompt_tokens, instruction, input, output.

    `tokens` counts the prompt, the response and end-of-text before truncation. `prompt_tokens` counts the tokens before
    the first response.
    """
    rows: list[dict[str, Any]] = []
    for part, examples in vars(split).items():
        for example in examples:
            encoded = encode_example(example, 0, NO_LIMIT)
            size = {"tokens": len(encoded.ids), "prompt_tokens": encoded.response_start}
            rows.append({"item": len(rows), "part": part, **size, **example.record()})
    return pd.DataFrame(rows)


def tokens(example: Example, config: RunConfig, context: int) -> list[Token]:
    """Return an example as the model sees it. The first token is never a target because no token precedes it."""
    encoded = encode_example(example, 0, NO_LIMIT)
    limit = min(config.max_length or context, context)
    targets = [IGNORE_INDEX, *encoded.targets(config.mask_prompt)]
    result, pending_ids = [], []
    for position, token in enumerate(encoded.ids):
        pending_ids.append(token)
        text = decode(pending_ids)
        if "\ufffd" in text and position + 1 < len(encoded.ids):
            text = ""  # the character is incomplete without the next token
        else:
            pending_ids = []
        is_target = targets[position] != IGNORE_INDEX
        state: State = "cut" if position >= limit else "learned" if is_target else "given"
        result.append(Token(text, state))
    return result


def batch(
    dataset: InspectedDataset | None,
    indices: Sequence[int] | None,
    limit: int,
    tokens: int | None,
) -> pd.DataFrame:
    """Return a table of the examples in a batch: item, tokens, trained, instruction, input, output.

    Args:
        dataset: the run's data set, or None if it is not on this machine.
        indices: data set indices of the examples, or None if they were not recorded.
        limit: examples are truncated to this many tokens; `trained` is the number of tokens left.
        tokens: number of tokens that the batch had in training, or None if it was not recorded.

    Raises:
        UserError: the examples are not available, or their token counts show that the data set has changed.
    """
    if not indices:
        raise UserError("The examples of this step were not recorded.")
    if dataset is None:
        raise UserError("The data set of this run is not on this machine.")
    unchanged = all(0 <= index < len(dataset.table) for index in indices)
    if unchanged:
        examples = dataset.table.iloc[list(indices)]
        trained = examples["tokens"].clip(upper=limit)
        # The last token of an example is only a target, so training does not count it.
        unchanged = tokens is None or int((trained - 1).sum()) == tokens
    if not unchanged:
        raise UserError("The data set has changed since this run was trained on it.")
    columns = ["item", "tokens", "trained", "instruction", "input", "output"]
    return examples.assign(trained=trained)[columns].reset_index(drop=True)


def duplicates(split: Split, min_similarity: float = MIN_DUPLICATE_SIMILARITY) -> pd.DataFrame:
    """Return test examples that resemble a training example, most similar first.

    Columns: test and train (data set indices), similarity, and same_prompt (whether instruction and input are equal,
    ignoring case and whitespace). Pairs with the same prompt are included regardless of similarity.
    """
    train, test = ([_normalized(*e.texts) for e in part] for part in (split.train, split.test))
    same_prompt = {
        _prompt(e): train_index for train_index, e in reversed([*enumerate(split.train)])
    }
    rows = []
    for start in range(0, len(test), COMPARE_CHUNK):
        chunk = test[start : start + COMPARE_CHUNK]
        scores = process.cdist(
            chunk, train, scorer=fuzz.ratio, score_cutoff=min_similarity, workers=-1
        )
        for i, (train_index, score) in enumerate(
            zip(scores.argmax(1), scores.max(1), strict=True), start
        ):
            prompt = _prompt(split.test[i])
            if score < min_similarity:
                if prompt not in same_prompt:
                    continue
                train_index = same_prompt[prompt]
                score = fuzz.ratio(test[i], train[train_index])
            is_same_prompt = prompt == _prompt(split.train[train_index])
            rows.append(
                (
                    split.first_test_item + i,
                    int(train_index),
                    round(float(score), 1),
                    is_same_prompt,
                )
            )
    frame = pd.DataFrame(rows, columns=["test", "train", "similarity", "same_prompt"])
    return frame.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)


def _prompt(example: Example) -> str:
    return _normalized(example.instruction, example.input)


def _normalized(*texts: str) -> str:
    return re.sub(r"\s+", " ", " ".join(texts)).strip().casefold()
