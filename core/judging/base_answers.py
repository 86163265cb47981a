"""What a pretrained base answers to the test examples of its runs: the first row of every leaderboard.

Kept as events in `runs/pretrained/`, so each example is answered once.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from core.data.template import Example
from core.errors import UserError
from core.judging.answers import Base
from core.run.events import EventWriter, parse, read_lines
from core.run.lock import acquire

if TYPE_CHECKING:  # it brings torch
    from core.nn.gpt2 import GPT2


def answer_missing(
    runs_dir: Path,
    base: Base,
    examples: Sequence[tuple[int, Example]],
    load: "Callable[[], tuple[GPT2, str]]",
    stop: threading.Event,
) -> dict[Example, str]:
    """Answer those examples that have no answer yet; every answer there is then.

    Args:
        examples: each with its place in the data set.
        load: the model and the hash of its weights; called only where something is to be answered.

    Raises:
        UserError: the model cannot be had or is no longer the one that was tuned; or another answers just now.
    """
    path = runs_dir / f"{base.name}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire(path.with_suffix(".lock"))
        if lock is None:
            raise UserError(f"{base.name} is being answered by another process; wait for it")
        try:
            with closing(EventWriter(path)) as writer:
                answers_by_example = _answered(path)
                remaining = [
                    (dataset_index, e)
                    for dataset_index, e in examples
                    if e not in answers_by_example
                ]
                if remaining:
                    _answer(writer, base, remaining, load, stop)
                return _answered(path)
        finally:
            os.close(lock)
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error})") from None


def _answer(
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
        message = f"base_model = {base.model!r}: its weights are no longer those that were tuned; score without the base"
        raise UserError(message)
    examples = [example for _, example in remaining]
    for answers in answer_all(model, examples, Sampling(base.max_new_tokens)):
        for answer in answers:
            dataset_index, example = remaining[answer.index]
            writer.append("generation", **answer.event(example, dataset_index))
        if stop.is_set():
            return


def _answered(path: Path) -> dict[Example, str]:
    answers_by_example: dict[Example, str] = {}
    lines, offset = read_lines(path, 0)
    while lines:
        for e in map(parse, lines):
            if e and e["event"] == "generation":
                fields = ("instruction", "input", "reference", "answer")
                texts = [e[name] for name in fields if isinstance(e.get(name), str)]
                if len(texts) == len(fields):
                    answers_by_example[Example(*texts[:3])] = texts[3]
        lines, offset = read_lines(path, offset)
    return answers_by_example
