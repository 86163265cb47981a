"""What a data set is like before anything is trained on it: lengths, what is cut, what is learned, and
which test examples the training set gives away.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rapidfuzz import fuzz, process

from core.config import RunConfig
from core.data.batches import encode_example
from core.data.dataset import Split
from core.data.template import Example
from core.data.tokenizer import decode

NO_LIMIT = 10**9
MIN_DUPLICATE_SIMILARITY = 90.0
"""Least similarity, 0 to 100, of instruction, input and output together that is called a near-duplicate."""
COMPARE_CHUNK = 256
"""Test examples compared with the whole training set at a time."""
State = Literal["given", "learned", "cut"]


@dataclass(frozen=True)
class Token:
    """A token as text and what training does with it: given, learned (a target) or cut off.

    A character that takes several tokens is the text of the last of them; the others are empty.
    """

    text: str
    state: State


def table(split: Split) -> pd.DataFrame:
    """Every example in file order: item, part, tokens, prompt_tokens, instruction, input, output.

    Tokens are those of prompt and response with end-of-text, nothing cut.
    """
    rows: list[dict[str, Any]] = []
    for part, examples in vars(split).items():
        for example in examples:
            encoded = encode_example(example, 0, NO_LIMIT)
            size = {"tokens": len(encoded.ids), "prompt_tokens": encoded.prompt_length}
            rows.append({"item": len(rows), "part": part, **size, **vars(example)})
    return pd.DataFrame(rows)


def tokens(example: Example, config: RunConfig, context: int) -> list[Token]:
    """The example as the model sees it. The first token is never a target: nothing comes before it."""
    encoded = encode_example(example, 0, NO_LIMIT)
    limit = min(config.max_length or context, context)
    first_target = encoded.prompt_length if config.mask_prompt else 1
    result, pending_ids = [], []
    for position, token in enumerate(encoded.ids):
        pending_ids.append(token)
        text = decode(pending_ids)
        if "\ufffd" in text and position + 1 < len(encoded.ids):
            text = ""  # not whole before the next token
        else:
            pending_ids = []
        state: State = (
            "cut" if position >= limit else "learned" if position >= first_target else "given"
        )
        result.append(Token(text, state))
    return result


def duplicates(split: Split, min_similarity: float = MIN_DUPLICATE_SIMILARITY) -> pd.DataFrame:
    """Test examples that a training example resembles, most alike first: test, train, similarity.

    `same_prompt` tells that instruction and input are the same but for case and white space. Similarity
    is that of rapidfuzz's `ratio`; test and train are items of the data set.
    """
    train, test = ([_normal(*vars(e).values()) for e in part] for part in (split.train, split.test))
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
    return _normal(example.instruction, example.input)


def _normal(*texts: str) -> str:
    return re.sub(r"\s+", " ", " ".join(texts)).strip().casefold()
