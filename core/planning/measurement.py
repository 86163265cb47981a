"""Measure a run's memory use and time by running a few of its steps in a separate process.

Peak memory covers two optimizer steps on the longest batch and the KV cache for the longest answers. Time is
extrapolated from the run's first steps. Nothing is written to disk except downloads.
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

TIMING_BUDGET_S = 10.0
"""Time after which no more steps are measured, in seconds."""
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 2, 12
COST_FREE_FIELDS = ("name", "notes", "tags", "parent")
"""Settings that affect neither memory nor time."""

_measuring = threading.Lock()  # simultaneous measurements would distort each other


@dataclass(frozen=True)
class Cost:
    """The measured cost of a run."""

    memory_mb: float
    """Peak memory of the process, or of the allocator on a GPU, in MiB."""
    seconds: float
    """Time for all training steps."""


def key(config: RunConfig) -> str:
    """Return a cache key that is the same for settings with the same cost."""
    return config.model_dump_json(exclude=set(COST_FREE_FIELDS))


def start(config: RunConfig) -> Future[Cost]:
    """Run `measure` in the background, one measurement at a time. Measurements do not outlive this process."""
    future: Future[Cost] = Future()

    def main() -> None:
        try:
            with _measuring:
                future.set_result(measure(config))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=main, name="measurement", daemon=True).start()
    return future


def measure(config: RunConfig) -> Cost:
    """Measure the cost of a run in a separate process.

    Raises:
        UserError: a step failed, for example because memory ran out.
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
            "the measurement was killed, probably because the run needs more memory than this machine has"
        )
    if completed.returncode:
        last_line = (completed.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the measurement failed: {last_line}")
    return Cost(**json.loads(completed.stdout))


class NullRun:
    """A run that discards its events."""

    directory = Path(os.devnull)
    resumed = False

    def emit(self, kind: str, **fields: Any) -> None: ...

    def sync(self) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def last_plan(self) -> None:
        return None


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
    _fill_answer_cache(trainer)
    return Cost(round(hardware.peak_memory_mb(trainer.device), 1), round(rate * total, 1))


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


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    with contextlib.suppress(OSError):
        # If memory runs out, the kernel kills this process instead of the dashboard.
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        print(json.dumps(asdict(run_trial(RunConfig.parse(json.load(sys.stdin))))))
    except UserError as error:
        sys.exit(str(error))
