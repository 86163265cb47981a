"""What tuning does to the embedded base model, on the data set's untouched test part. Prints JSON.

    python -m benchmarks.primer [--seeds 3]

Exact answers, in shares of the test set: of the base, asked with the prompt of a run and fed the beginning of each
statement instead; after full fine-tuning and LoRA of several ranks; and of a model of random weights tuned
alike, which knows nothing. Needs requirements-recipe.txt for the statements.
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
AT_ONCE = 64


def normal(text: str) -> str:
    """Case and punctuation aside."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def completion_share(model: GPT2) -> float:
    """Share of all facts whose statement the model ends rightly when given its beginning."""
    ordered_facts = sorted(facts.all_facts(), key=lambda fact: len(encode(fact.start)))
    right = 0
    for start in range(0, len(ordered_facts), AT_ONCE):
        chunk = ordered_facts[start : start + AT_ONCE]
        prompts = [encode(fact.start.rstrip()) for fact in chunk]
        for fact, ids in zip(
            chunk, generate(model, prompts, Sampling(16), END_OF_TEXT), strict=True
        ):
            right += decode(ids).strip().startswith(fact.answer)
    return right / len(ordered_facts)


def exact_share(model: GPT2) -> float:
    """Share of the test set that the model answers exactly, untuned."""
    test = dataset.split(dataset.load("primer"), RunConfig()).test
    answers = [a for batch in answer_all(model, test, Sampling(40)) for a in batch]
    return sum(normal(a.text) == normal(test[a.index].output) for a in answers) / len(test)


def tuned(settings: dict[str, Any], runs_dir: Path) -> dict[str, float]:
    """Exact answers and seconds of a run."""
    run = RunDirectory.create(runs_dir, RunConfig.parse(settings))
    main(run)
    index = sync.read_index(runs_dir)
    frame = queries.results(index.cursor())
    index.close()
    [row] = frame[frame["name"] == run.name].to_dict("records")
    return {"exact": row["exact"], "seconds": row["seconds"]}


def measure(seeds: int) -> dict[str, Any]:
    """All figures; those of runs as their mean over seeds and each of them."""
    base = pretrained.load("gpt2-nano").eval()
    report: dict[str, Any] = {
        "base_stated": completion_share(base),
        "base_asked": exact_share(base),
    }
    with tempfile.TemporaryDirectory() as directory:
        random = Path(directory) / "random"
        random.mkdir()
        shutil.copy(pretrained.ASSETS / "gpt2-nano" / "config.json", random)
        blank = GPT2(base.arch, tie_weights=True)
        blank.initialize(torch.Generator().manual_seed(0))
        save_file(pretrained.hub_layout(blank), random / "model.safetensors")
        kinds = {"full": DEMO, "random": {**DEMO, "base_model": str(random)}}
        kinds |= {f"lora_{r}": {**DEMO_LORA, "lora_rank": r, "lora_alpha": r} for r in RANKS}
        for name, settings in kinds.items():
            seed_runs = [
                tuned({**settings, "seed": 123 + i}, Path(directory) / "runs") for i in range(seeds)
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
