"""Effect of fine-tuning the embedded base model, measured on the test set. Prints JSON.

    python -m benchmarks.primer [--seeds 3]

Reports the share of exact answers from the base model, both prompted as in a run (`base_asked`) and given the beginning
of each statement to complete (`base_stated`); from models after full fine-tuning and LoRA with several ranks; and from
a model that was fine-tuned from random weights and so has not seen any of the facts. Generating the statements requires
the packages in requirements-recipe.txt.
"""

import argparse
import json
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.config import RunConfig
from core.data import dataset
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.nn import pretrained
from core.nn.generation import Sampling, generate
from core.nn.gpt2 import GPT2
from core.presets import DEMO, DEMO_LORA
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import main
from core.tracking import queries, sync
from core.training.evaluation import answer_all
from recipe import facts

RANKS = (2, 4, 16, 64)
BATCH_SIZE = 64


def normalized(text: str) -> str:
    """Return a text in lower case without punctuation."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def completion_share(model: GPT2) -> float:
    """Return the share of facts that the model states correctly when given the beginning of the sentence."""
    ordered_facts = sorted(facts.all_facts(), key=lambda fact: len(encode(fact.start)))
    correct = 0
    for start in range(0, len(ordered_facts), BATCH_SIZE):
        chunk = ordered_facts[start : start + BATCH_SIZE]
        prompts = [encode(fact.start.rstrip()) for fact in chunk]
        for fact, ids in zip(
            chunk, generate(model, prompts, Sampling(16), END_OF_TEXT), strict=True
        ):
            correct += decode(ids).strip().startswith(fact.answer)
    return correct / len(ordered_facts)


def exact_share(model: GPT2) -> float:
    """Return the share of the test set that a model answers exactly."""
    test = dataset.split(dataset.load("primer"), RunConfig()).test
    answers = [a for batch in answer_all(model, test, Sampling(40)) for a in batch]
    return sum(normalized(a.text) == normalized(test[a.index].output) for a in answers) / len(test)


def train(settings: dict[str, Any], runs_dir: Path) -> dict[str, float]:
    """Train a run. Return the share of exact answers and the training time in seconds."""
    run = RunDirectory.create(runs_dir, RunConfig.parse(settings))
    main(run)
    index = sync.read_index(runs_dir)
    frame = queries.results(index.cursor())
    index.close()
    [row] = frame[frame["name"] == run.name].to_dict("records")
    return {"exact": row["exact"], "seconds": row["seconds"]}


def measure(seeds: int) -> dict[str, Any]:
    """Measure everything. For each kind of run, report the mean over seeds and the value for each seed."""
    base = pretrained.load("gpt2-nano").eval()
    report: dict[str, Any] = {
        "base_stated": completion_share(base),
        "base_asked": exact_share(base),
    }
    with tempfile.TemporaryDirectory() as directory:
        random = Path(directory) / "random"
        random.mkdir()
        shutil.copy(pretrained.ASSETS / "gpt2-nano" / "config.json", random)
        untrained = GPT2(base.arch, tie_weights=True)
        untrained.initialize(torch.Generator().manual_seed(0))
        save_file(pretrained.hub_layout(untrained), random / "model.safetensors")
        kinds = {"full": DEMO, "random": {**DEMO, "base_model": str(random)}}
        kinds |= {f"lora_{r}": {**DEMO_LORA, "lora_rank": r, "lora_alpha": r} for r in RANKS}
        for name, settings in kinds.items():
            seed_runs = [
                train({**settings, "seed": 123 + i}, Path(directory) / "runs") for i in range(seeds)
            ]
            report[name] = {
                "exact": statistics.mean(run["exact"] for run in seed_runs),
                "each": [round(run["exact"], 4) for run in seed_runs],
                "seconds": round(statistics.mean(run["seconds"] for run in seed_runs), 1),
            }
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    print(json.dumps(measure(parser.parse_args().seeds), indent=2))
