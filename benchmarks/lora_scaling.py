"""Effect of the adapter scale with alpha = rank, on the embedded model and data set. Prints JSON.

    python -m benchmarks.lora_scaling [--examples 1020] [--ranks 16 32 64] [--init kaiming] [--seeds 1] [--lr 2e-3]

Trains each rank with each scaling as in the journal: batch size 4, warm-up over a fifth of the steps, cosine decay to a
fifth of the peak, and loss on prompts too. For each combination, reports the following, averaged over seeds:
    scale            factor applied to the adapters' output
    val_loss         on the whole validation set, after the last step
    exact            fraction of test examples answered exactly
    highest_loss     highest training loss after the first tenth of the steps
    relative_update  mean and maximum relative update of all adapted layers
"""

import argparse
import json
import statistics
import tempfile
import typing
from pathlib import Path
from typing import Any

from core.config import LoRAInit, LoRAScaling, RunConfig
from core.data import dataset
from core.data.exact_match import exact_match
from core.nn.lora import adapter_scale
from core.run.directory import RunDirectory
from core.run.events import parse, read_lines
from core.scheduler.trainer_process import main

SCALINGS: tuple[LoRAScaling, ...] = typing.get_args(LoRAScaling)
SETTINGS = {
    "base_model": "gpt2-nano",
    "dataset": "primer",
    "method": "lora",
    "batch_size": 4,
    "warmup_fraction": 0.2,
    "group_by_length": False,
    "precision": "fp32",
    "device": "cpu",
    "eval_every": 1000,
    "sample_prompt": "",
    "max_new_tokens": 40,
}


def measure(settings: dict[str, Any], runs_dir: Path) -> dict[str, float]:
    """Train a run and return its measurements."""
    run = RunDirectory.create(runs_dir, RunConfig.parse(settings))
    main(run)
    lines, _ = read_lines(run.events_path, 0)
    events = [event for line in lines if (event := parse(line))]
    steps, updates, evaluations, answers = (
        [event for event in events if event["event"] == kind]
        for kind in ("step", "update", "eval", "generation")
    )
    settled = steps[len(steps) // 10 :]
    moved = [event["relative_update"] for event in updates]
    return {
        "val_loss": evaluations[-1]["val_loss"],
        "exact": statistics.mean(exact_match(e["answer"], e["reference"]) for e in answers),
        "highest_loss": max(event["loss"] for event in settled),
        "mean_relative_update": statistics.mean(moved),
        "max_relative_update": max(moved),
        "seconds": steps[-1]["seconds"],
    }


def compare(
    examples: int, ranks: list[int], init: LoRAInit, seeds: int, lr: float
) -> list[dict[str, Any]]:
    """Train all combinations and return one row for each."""
    total = len(dataset.load("primer"))
    training_share = RunConfig().train_fraction
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for rank in ranks:
            for scaling in SCALINGS:
                adapters = {"lora_rank": rank, "lora_alpha": rank, "lora_scaling": scaling}
                settings = {**SETTINGS, **adapters, "lora_init": init, "lr": lr, "min_lr": lr / 5}
                settings["max_examples"] = min(total, round(examples / training_share))
                measured = [
                    measure({**settings, "seed": 123 + i}, Path(directory)) for i in range(seeds)
                ]
                means = {name: statistics.mean(m[name] for m in measured) for name in measured[0]}
                rounded = {name: float(f"{value:.4g}") for name, value in means.items()}
                scale = adapter_scale(rank, rank, scaling)
                rows.append({"rank": rank, "scaling": scaling, "scale": scale, **rounded})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=1020, help="training examples")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--init", choices=typing.get_args(LoRAInit), default="kaiming")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    options = parser.parse_args()
    rows = compare(**vars(options))
    print(json.dumps({**vars(options), "runs": rows}, indent=2))
