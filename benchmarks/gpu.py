"""Time and memory for three of the journal's recipes on a GPU, next to the journal's figures and our targets.

    python -m benchmarks.gpu                    measure a few steps of each recipe and extrapolate
    python -m benchmarks.gpu --whole            train each recipe to the end
    python -m benchmarks.gpu --base gpt2-nano   use the small model, to try this out without a GPU

Weights are random unless `--hub` is given: time and memory depend only on their shapes. Unless a data set is given, the
examples consist of random words and have the same lengths as Alpaca's.

Reported for each recipe, next to the journal's figures (`journal_`) and the upper limits for an H100 (`aim_`):
    minutes     time for all training steps
    memory_gb   peak memory in the GPU's allocator, or in the process if there is no GPU
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.nn.architecture import FAMILY
from core.planning import measurement
from core.presets import PRESETS, preset
from core.run.directory import RunDirectory
from core.scheduler.executors import run_in_process

RECIPES: dict[str, dict[str, Any]] = {
    "run_1": {"journal_memory_gb": None, "aim_minutes": 2.0, "aim_memory_gb": None},
    "run_4": {"journal_memory_gb": 38.5, "aim_minutes": None, "aim_memory_gb": 16.0},
    "run_11": {"journal_memory_gb": 10.9, "aim_minutes": None, "aim_memory_gb": 15.0},
}
CHANGES: dict[str, dict[str, Any]] = {"run_11": {"batch_size": 8}}
"""Settings that the targets assume and that differ from the journal's."""
EXAMPLES = 14_000
"""Number of examples. 85% of them are used for training, which matches the journal's 12,000 or so."""
WORDS = ("red", "green", "fast", "house", "river", "write", "because", "often", "small", "steps")


def write_random_examples(path: Path, count: int) -> str:
    """Write a data set with answers as long as Alpaca's: 12 to 700 words, with a median of 45. Return its path."""
    rng = random.Random(123)

    def text(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=words))

    records = [
        {
            "instruction": text(rng.randint(5, 20)),
            "output": text(min(700, max(12, int(rng.lognormvariate(3.8, 0.8))))),
        }
        for _ in range(count)
    ]
    path.write_text(json.dumps(records))
    return str(path)


def random_weights(name: str, directory: Path) -> str:
    """Save a randomly initialized model of this size in the Hub's format. Return its path."""
    from transformers import GPT2Config, GPT2LMHeadModel

    arch = FAMILY[name]
    sizes = {"n_layer": arch.n_layer, "n_head": arch.n_head, "n_embd": arch.n_embd}
    path = directory / name
    if not path.exists():
        GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(path)
    return str(path)


def train(config: RunConfig, directory: Path) -> measurement.Cost:
    """Train a run to the end and read its time and memory from its events."""
    run = RunDirectory.create(directory, config)
    run_in_process(run)
    if run.status() != "finished":
        sys.exit(f"{run.name}: {run.status()}\n{run.log_tail()}")
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    seconds = max(event.get("seconds", 0.0) for event in events)
    return measurement.Cost(max(event.get("memory_mb", 0.0) for event in events), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--whole", action="store_true", help="train each recipe to the end")
    parser.add_argument("--data", help="data set to use instead of random examples")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--base", help="base model to use in every recipe")
    parser.add_argument(
        "--hub",
        action="store_true",
        help="download weights from the Hub instead of using random ones",
    )
    parser.add_argument(
        "--recipe", choices=RECIPES, action="append", help="run only this recipe; can be repeated"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        data = args.data or write_random_examples(directory / "examples.json", args.examples)
        results = {}
        for name in args.recipe or RECIPES:
            config = preset(name)
            base = args.base or config.base_model
            if not (args.base or args.hub):
                base = random_weights(base, directory)
            changes = {"base_model": base, "dataset": data, **CHANGES.get(name, {})}
            config = config.changed(**changes, max_examples=args.examples)
            cost = train(config, directory) if args.whole else measurement.measure(config)
            journal = PRESETS[name].journal
            results[name] = {
                "minutes": round(cost.seconds / 60, 2),
                "memory_gb": round(cost.memory_mb / 1024, 2),
                "journal_minutes": journal.minutes if journal else None,
                "journal_hardware": journal.hardware if journal else None,
                **RECIPES[name],
            }
            print(json.dumps({name: results[name]}), file=sys.stderr)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
