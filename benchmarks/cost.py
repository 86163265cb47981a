"""Time and memory per training step for different sequence lengths, batch sizes and models, varied one at a time.

    python -m benchmarks.cost --method lora > table.md

Each row is measured in a separate process, on examples of equal length, using random weights with the real shapes.
Prints a Markdown table. `times` is the step time relative to the baseline (124M, 256 tokens, batch 2), which is
measured in every group. On a GPU, memory is what PyTorch's allocator reports.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu import random_weights
from core.config import RunConfig
from core.data.template import format_prompt
from core.data.tokenizer import encode
from core.planning import measurement
from core.views.tables import markdown

BASELINE = {"model": "gpt2", "length": 256, "batch": 2}
CHANGED: dict[str, list[Any]] = {
    "length": [64, 128, 256, 512, 1024],
    "batch": [1, 2, 4, 8],
    "model": ["gpt2-nano", "gpt2", "gpt2-medium"],
}
STEPS = 2


def examples(path: Path, length: int, batch: int) -> str:
    """Write a data set of `length`-token examples: enough for all steps, plus a test and a validation example."""
    prompt = len(encode(format_prompt("Go on.", "")))
    output = " go" * (length - prompt - 1)
    record = {"instruction": "Go on.", "output": output}
    path.write_text(json.dumps([record] * (STEPS * batch + 2)))
    return str(path)


def measure(point: dict[str, Any], method: str, directory: Path) -> dict[str, Any]:
    """Measure the seconds per step and the peak memory for one combination."""
    model, length, batch = point["model"], point["length"], point["batch"]
    base = model if model == "gpt2-nano" else random_weights(model, directory)
    count = STEPS * batch
    config = RunConfig.parse({
        "base_model": base, "dataset": examples(directory / "data.json", length, batch),
        "method": method, "batch_size": batch, "epochs": 1, "max_new_tokens": 1,
        "train_fraction": count / (count + 2), "test_fraction": 1 / (count + 2),
    })  # fmt: skip
    cost = measurement.measure(config)
    return {**point, "seconds_per_step": cost.seconds / STEPS, "memory_gb": cost.memory_mb / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--method", choices=("full", "lora"), default="lora")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        rows = []
        for name, values in CHANGED.items():
            # The baseline is measured again in each group, because the machine's speed may drift.
            measured = {
                value: measure(BASELINE | {name: value}, args.method, directory) for value in values
            }
            baseline_s = measured[BASELINE[name]]["seconds_per_step"]
            rows += [
                {**row, "times": row["seconds_per_step"] / baseline_s} for row in measured.values()
            ]
    print(markdown(rows))


if __name__ == "__main__":
    main()
