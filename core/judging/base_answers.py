"""Answer the runs' test examples with the pretrained base models, as a baseline for the leaderboard.

Answers are cached as events in `runs/pretrained/`, so each example is answered only once.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from core.data.template import Example
from core.errors import UserError
from core.file_lock import acquire
from core.judging.answers import Base
from core.run.events import EventWriter, parse, read_lines

if TYPE_CHECKING:  # imports torch
    from core.nn.gpt2 import GPT2


def answer_missing(
    runs_dir: Path,
    base: Base,
    examples: Sequence[tuple[int, Example]],
    load: "Callable[[], tuple[GPT2, str]]",
    stop: threading.Event,
) -> dict[Example, str]:
    """Answer the examples that have no cached answer, then return all cached answers.

    Args:
        examples: examples with their data set indices.
        load: returns the model and the hash of its weights; called only if an answer is missing.
        stop: set to return early, after the current batch.

    Raises:
        UserError: the model cannot be loaded, its weights have changed since training, another process is
            using this base model, or the cache cannot be written.
    """
    path = runs_dir / f"{base.name}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire(path.with_suffix(".lock"))
        if lock is None:
            raise UserError(
                f"Another process is generating answers with {base.name}. Wait until it finishes."
            )
        try:
            with closing(EventWriter(path)) as writer:
                answers_by_example = _read_answers(path)
                remaining = [
                    (dataset_index, e)
                    for dataset_index, e in examples
                    if e not in answers_by_example
                ]
                if remaining:
                    _generate_answers(writer, base, remaining, load, stop)
                return _read_answers(path)
        finally:
            os.close(lock)
    except OSError as error:
        raise UserError(f"Cannot write to {path}: {error}") from None


def _generate_answers(
    writer: EventWriter,
    base: Base,
    remaining: Sequence[tuple[int, Example]],
    load: "Callable[[], tuple[GPT2, str]]",
    stop: threading.Event,
) -> None:
    from core.nn.generation import Sampling
    from core.training.evaluation import answer_all

    model, weights = load()
    if weights != base.weights:
        message = "the weights have changed since training; score without the base model"
        raise UserError(f"base_model = {base.model!r}: {message}")
    examples = [example for _, example in remaining]
    for answers in answer_all(model, examples, Sampling(base.max_new_tokens)):
        for answer in answers:
            dataset_index, example = remaining[answer.index]
            writer.append("generation", **answer.event(example, dataset_index))
        if stop.is_set():
            return


def _read_answers(path: Path) -> dict[Example, str]:
    answers_by_example: dict[Example, str] = {}
    lines, offset = read_lines(path, 0)
    while lines:
        for e in map(parse, lines):
            if e and e["event"] == "generation":
                fields = ("instruction", "input", "reference", "answer")
                texts = [e[name] for name in fields if isinstance(e.get(name), str)]
                if len(texts) == len(fields):
                    example = Example.restored((texts[0], texts[1], texts[2]), e.get("turns"))
                    answers_by_example[example] = texts[3]
        lines, offset = read_lines(path, offset)
    return answers_by_example
