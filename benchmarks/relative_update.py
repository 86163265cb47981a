"""Cost of measuring relative updates, as a fraction of training time. Prints JSON.

    python -m benchmarks.relative_update [--model gpt2] [--method lora] [--dora] [--batch 4] [--length 64] [--steps 5]

Trains a model with random weights on random tokens, and measures every step instead of every tenth. Reports medians of
the CPU time of all threads, which depends less on other load than wall time does:
    step_s      CPU time of a step without the measurement
    measure_s   CPU time of a measurement
    share       measure_s / (UPDATE_INTERVAL step_s), as a fraction of a run's training time
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch

from core.nn import lora
from core.nn.architecture import FAMILY
from core.nn.gpt2 import GPT2
from core.training.optimizers import AdamW
from core.training.relative_update import UPDATE_INTERVAL, UpdateMeter


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures described above."""
    arch = FAMILY[options.model]
    generator = torch.Generator().manual_seed(0)
    model = GPT2(arch)
    model.initialize(generator)
    if options.method == "lora":
        lora.add_adapters(model, arch.lora_targets(), options.rank, options.rank, dora=options.dora)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    meter = UpdateMeter(model)
    ids = torch.randint(arch.vocabulary, (options.batch, options.length), generator=generator)
    steps, measurements = [], []
    for number in range(options.steps + 1):
        start = time.process_time()
        optimizer.zero_grad()
        model.loss(ids, ids.roll(-1, 1)).backward()
        before = time.process_time()
        copies = meter.before(1 + number * UPDATE_INTERVAL)
        assert copies is not None
        copied = time.process_time()
        optimizer.step()
        stepped = time.process_time()
        meter.after(copies)
        end = time.process_time()
        steps.append(before - start + stepped - copied)
        measurements.append(copied - before + end - stepped)
    step_s, measure_s = (statistics.median(times[1:]) for times in (steps, measurements))
    share = measure_s / (UPDATE_INTERVAL * step_s)
    return {"step_s": step_s, "measure_s": measure_s, "share": share, **vars(options)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="gpt2", choices=FAMILY)
    parser.add_argument("--method", default="lora", choices=("lora", "full"))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--batch", type=int, default=4, help="examples per step")
    parser.add_argument("--length", type=int, default=64, help="tokens per example")
    parser.add_argument("--steps", type=int, default=5, help="number of measured steps")
    print(json.dumps(measure(parser.parse_args()), indent=2))
