"""Time to build and write the event for one training step. Prints JSON.

Calls the trainer's `record_step` with a real event file and batches of a typical size.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from core.config import RunConfig
from core.data.batches import Batch
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import ActiveRun
from core.training.trainer import Trainer

EVENTS = 5000


def measure(events: int = EVENTS) -> dict[str, float]:
    """Return the median and 99th percentile of the time per event, in microseconds."""
    with tempfile.TemporaryDirectory() as directory:
        config = RunConfig(epochs=10)
        active = ActiveRun(RunDirectory.create(Path(directory), config))
        trainer = Trainer(config, active)
        ids = torch.zeros(4, 64, dtype=torch.long)
        batch = Batch(
            ids, ids, dataset_indices=[11, 222, 3333, 44444], tokens=200, target_tokens=150
        )
        times = []
        for _ in range(events):
            start = time.perf_counter()
            trainer.record_step([batch], 0.25, lr=5e-5, loss=1.2345678, grad_norm=0.8765432)
            times.append((time.perf_counter() - start) * 1e6)
        active.close()
    percentile = statistics.quantiles(times, n=100)[98]
    return {"median_us": round(statistics.median(times), 1), "p99_us": round(percentile, 1)}


if __name__ == "__main__":
    print(json.dumps(measure()))
