"""Measure a run's memory use and time by running a few of its steps in a separate process (`core.planning.child`).

Peak memory covers two optimizer steps on the longest batch and the KV cache for the longest answers. Time is
extrapolated from the run's first steps. Nothing is written to disk except downloads.
"""

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.config import IDENTITY_FIELDS, RunConfig
from core.planning import child
from core.training.run import NullRun

if TYPE_CHECKING:
    from core.training.trainer import Trainer

TIMING_BUDGET_S = 10.0
"""Time after which no more steps are measured, in seconds."""
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 2, 12


@dataclass(frozen=True)
class Cost:
    """The measured cost of a run."""

    memory_mb: float
    """Peak memory of the process, or of the allocator on a GPU, in MiB."""
    seconds: float
    """Time for all training steps."""
    evaluation_seconds: float
    """Time for all evaluations."""


def key(config: RunConfig) -> str:
    """Return a cache key that is the same for settings with the same cost."""
    return config.model_dump_json(exclude={*IDENTITY_FIELDS})


def start(config: RunConfig) -> Future[Cost]:
    """Run `measure` in the background, one measurement at a time. Measurements do not outlive this process."""
    return child.start(lambda: measure(config))


def measure(config: RunConfig) -> Cost:
    """Measure the cost of a run in a separate process.

    Raises:
        UserError: a step failed, for example because memory ran out.
    """
    return Cost(**child.call("measurement", config))


def run_trial(config: RunConfig) -> Cost:
    """Measure the cost of a run in this process. Raises UserError."""
    from core.training import hardware
    from core.training.trainer import Trainer

    trainer = Trainer(config, NullRun())
    progress, lengths = trainer.progress, trainer.schedule.lengths
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # The second batch is added to the first one's gradients. Further batches do not need more memory.
    longest = [by_length[: config.batch_size]] * min(config.grad_accumulation, 2)
    for step in (1, 2):
        trainer.step(step, longest)
    tokens, seconds = progress.tokens, progress.seconds
    start = time.monotonic()
    for step in range(1, min(MAX_TIMED_STEPS, trainer.schedule.steps) + 1):
        trainer.step(step, trainer.schedule.batches(step))
        if step >= MIN_TIMED_STEPS and time.monotonic() - start > TIMING_BUDGET_S:
            break
    rate = (progress.seconds - seconds) / (progress.tokens - tokens)
    total = config.epochs * sum(length - 1 for length in lengths)
    evaluating_s = _time_evaluations(trainer)
    _fill_answer_cache(trainer)
    memory_mb = hardware.peak_memory_mb(trainer.device)
    return Cost(round(memory_mb, 1), round(rate * total, 1), round(evaluating_s, 1))


def _time_evaluations(trainer: "Trainer") -> float:
    """Return the total time for all evaluations in seconds, extrapolated from one batch."""
    batch = trainer.subset[: trainer.config.batch_size]
    start = time.monotonic()
    trainer.losses_of(batch)
    seconds = time.monotonic() - start
    tokens = sum(len(example.ids) - 1 for example in batch)
    return seconds / tokens * trainer.evaluations.tokens(trainer.token_counts())


def _fill_answer_cache(trainer: "Trainer") -> None:
    """Allocate the KV cache for the longest answers."""
    import torch

    from core.data.batches import encode_prompt
    from core.nn.generation import DecodingBatch, Sampling, fit_prompt
    from core.training import hardware
    from core.training.evaluation import answer_batches

    trainer.end_training()
    model, max_new_tokens = trainer.model, trainer.config.max_new_tokens
    prompts = [encode_prompt(example) for example in trainer.split.test]
    fitted = [fit_prompt(prompt, model.arch.context, max_new_tokens) for prompt in prompts]
    longest = [fitted[i] for i in next(answer_batches(fitted, max_new_tokens))]
    with torch.inference_mode(), hardware.autocast(trainer.device, trainer.dtype):
        for cache in DecodingBatch(model, longest, Sampling(max_new_tokens)).caches:
            cache.k.zero_()  # the operating system allocates memory on the first write
            cache.v.zero_()
