"""What a run costs, measured: a few of its steps in a process that is thrown away.

Two optimiser steps on the longest batch and the keys and values of the longest answers give the peak of
memory, some of the run's own first steps the time. Nothing is written.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import RunConfig
from core.errors import UserError
from core.scheduler.executors import ROOT, TRAINER_ENVIRONMENT

if TYPE_CHECKING:
    from core.training.trainer import Trainer

TIMING_BUDGET_S, MIN_TIMED_STEPS, MAX_TIMED_STEPS = 10.0, 2, 12
"""How long, and how many, of the run's own steps are timed."""
COST_FREE_FIELDS = ("name", "notes", "tags", "parent")
"""Settings that cost nothing."""

_one_at_a_time = threading.Lock()  # two would measure each other


@dataclass(frozen=True)
class Cost:
    """Peak memory of the process, MiB (on a GPU: of its allocator), and seconds of all training steps."""

    memory_mb: float
    seconds: float


def key(config: RunConfig) -> str:
    """Equal for settings of equal cost."""
    return config.model_dump_json(exclude=set(COST_FREE_FIELDS))


def start(config: RunConfig) -> Future[Cost]:
    """`measure` in the background, one after the other. The process ends with this one."""
    future: Future[Cost] = Future()

    def main() -> None:
        try:
            with _one_at_a_time:
                future.set_result(measure(config))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=main, name="measurement", daemon=True).start()
    return future


def measure(config: RunConfig) -> Cost:
    """The cost of a run, measured in a process of its own.

    Raises:
        UserError: the steps cannot be taken, as when memory does not suffice.
    """
    completed = subprocess.run(
        [sys.executable, "-m", "core.planning.measurement", str(os.getpid())],
        cwd=ROOT,
        env={**TRAINER_ENVIRONMENT, **os.environ},
        input=json.dumps(config.model_dump()),
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if completed.returncode < 0:
        raise UserError(
            "the measurement was killed: most likely the memory of this machine is too small for the run"
        )
    if completed.returncode:
        last_line = (completed.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the measurement failed: {last_line}")
    return Cost(**json.loads(completed.stdout))


class NullRun:
    """A run that nobody records."""

    directory = Path(os.devnull)
    resumed = False

    def emit(self, kind: str, **fields: Any) -> None: ...

    def sync(self) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def last_plan(self) -> None:
        return None


def run_trial(config: RunConfig) -> Cost:
    """Take the steps right here. Raises UserError."""
    from core.training import hardware
    from core.training.trainer import Trainer

    trainer = Trainer(config, NullRun())
    progress, lengths = trainer.progress, trainer.schedule.lengths
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # A second batch meets the gradients of the first; further ones are like it.
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
    _answer(trainer)
    return Cost(round(hardware.peak_memory_mb(trainer.device), 1), round(rate * total, 1))


def _answer(trainer: "Trainer") -> None:
    """Hold what answering the longest test prompts holds at its end."""
    import torch

    from core.data.template import format_prompt
    from core.data.tokenizer import encode
    from core.nn.generation import DecodingBatch, Sampling, fit_prompt
    from core.training import hardware
    from core.training.evaluation import answer_batches

    trainer.end_training()
    model, max_new_tokens = trainer.model, trainer.config.max_new_tokens
    prompts = [encode(format_prompt(e.instruction, e.input)) for e in trainer.split.test]
    fitted = [fit_prompt(prompt, model.arch.context, max_new_tokens) for prompt in prompts]
    longest = [fitted[i] for i in next(answer_batches(fitted, max_new_tokens))]
    with torch.inference_mode(), hardware.autocast(trainer.device, trainer.dtype):
        for cache in DecodingBatch(model, longest, Sampling(max_new_tokens)).caches:
            cache.k.zero_()  # memory counts once it is written to
            cache.v.zero_()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    with contextlib.suppress(OSError):
        # Should memory run out, the kernel takes this process rather than the dashboard.
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        print(json.dumps(asdict(run_trial(RunConfig.parse(json.load(sys.stdin))))))
    except UserError as error:
        sys.exit(str(error))
