"""Time to queue the runs of a large study and to compute the effects over many runs. Prints JSON.

The queue's executor does nothing, so that only the Lab's own work is measured. The runs for the effects are finished
without training: each has an evaluation whose loss depends on its settings and its seed. PyTorch and SciPy are imported
before the clock starts, as in a dashboard that has been open for a while. CPU times are less affected by other load.
"""

import argparse
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.config import RunConfig
from core.lab import Lab
from core.planning import preflight  # noqa: F401 - imported before the clock starts
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.studies import effects  # noqa: F401
from core.studies.sweep import Sweep, parse_axis

SEEDS = 5
AXES = (
    "lr=log 1e-5..1e-2 x 10",
    "lora_rank=lora_alpha=2,4,8,16,32",
    "lora_scaling=alpha,alpha/rank",
)


def sweep(runs: int) -> Sweep:
    """Return a random sweep with this number of runs."""
    axes = [parse_axis(text) for text in (*AXES, "weight_decay=0,0.05,0.1,0.2")]
    return Sweep(RunConfig(max_examples=50), tuple(axes), tuple(range(SEEDS)), "random", runs)


def measure(queued: int, compared: int) -> dict[str, float]:
    """Return elapsed times and CPU times in seconds.

    Args:
        queued: number of runs to queue.
        compared: number of finished runs for the effects.
    """
    EXECUTORS["idle"] = lambda run: time.sleep(3600)
    times: dict[str, float] = {"queued_runs": queued, "compared_runs": compared}
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(folder, "idle")
        with timed(times, "queueing"):
            names = lab.sweep(sweep(queued), "queued")
        assert len(names) == queued
    with tempfile.TemporaryDirectory() as folder:
        planned = sweep(compared)
        random = np.random.default_rng(0)
        for member in planned.members("compared"):
            identity = {"name": member.name, "seed": member.seed, "study": "compared"}
            config = planned.base.changed(**member.values, **identity)
            finish(RunDirectory.create(Path(folder), config), random)
        reader = Lab(folder, "idle")
        for metric in ("val_loss", "exact"):
            with timed(times, f"effects_{metric}"):
                table = reader.effects(metric)
            times[f"effects_{metric}"] = len(table)
        reader.close(0)
    return {name: round(value, 3) for name, value in times.items()}


@contextlib.contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    """Record the elapsed time and the CPU time of a block."""
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    times[f"{name}_s"] = time.perf_counter() - start
    times[f"{name}_cpu_s"] = time.process_time() - cpu_start


def finish(run: RunDirectory, random: np.random.Generator) -> None:
    """Write the events of a finished run with a loss and a few answers."""
    config = run.config()
    loss = 2 + abs(math.log10(config.lr) + 3) / 5 + random.normal(0, 0.02)
    progress = {"epoch": 1.0, "tokens": 1, "seconds": 1.0, "train_loss": None}
    with run.lock():
        run.append("plan", steps=10, steps_per_epoch=10, train_examples=10)
        for step, value in ((0, 4.0), (10, loss)):
            measured = {"val_loss": value, "subset_loss": value, "final": step == 10}
            run.append("eval", step=step, **progress, **measured)
        for item in range(20):
            texts = {"instruction": f"Question {item}", "input": "", "reference": "yes"}
            answer = "yes" if random.random() < 0.5 else "no"
            run.append("generation", item=item, **texts, answer=answer, tokens=1)
        run.append("status", status="finished", reason=None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=500)
    parser.add_argument("--compared", type=int, default=1000)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.queued, arguments.compared)))
