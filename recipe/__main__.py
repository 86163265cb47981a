"""Rebuild the embedded base model and data set: `python -m recipe`. Takes less than an hour on two cores.

Pretraining is an ordinary run, so its progress is shown in the dashboard.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import save_file

from core.config import RunConfig
from core.nn import pretrained
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import main
from core.training.run import Outcome, Run
from recipe import facts
from recipe.corpus import Writer
from recipe.pretraining import BLOCK_TOKENS, Pretrainer, blocks
from recipe.primer import primer

ASSETS = Path(__file__).parent.parent / "core" / "assets"
SPLIT_SEED = 1
STEPS = 2600
VALIDATION_BLOCKS = 64
"""Number of text blocks held out for validation."""
PRETRAINING = {
    "base_model": "gpt2-nano",
    "dataset": "primer",
    "method": "full",
    "tie_weights": True,
    "batch_size": 32,
    "epochs": 1,
    "lr": 3e-3,
    "min_lr": 1e-4,
    "warmup_fraction": 0.02,
    "weight_decay": 0.05,
    "eval_every": 250,
    "eval_examples": 32,
    "probe_examples": 32,
    "checkpoint_every": 500,
    "group_by_length": False,
    "sample_prompt": "",
    "precision": "fp32",
    "device": "cpu",
    "notes": "Pretraining of the embedded base model from random weights on generated text.",
}


def build(
    out: Annotated[
        Path, typer.Option(help="Output directory for the data set and the model.")
    ] = ASSETS,
    runs_dir: Annotated[Path, typer.Option(help="Directory for the pretraining run.")] = Path(
        "runs"
    ),
    steps: Annotated[int, typer.Option(help="Number of optimizer steps.", min=1)] = STEPS,
) -> None:
    """Generate the data set, pretrain the base model, and write primer.json and gpt2-nano/model.safetensors."""
    fact_list = facts.all_facts()
    examples, _ = primer(fact_list, SPLIT_SEED)
    text = json.dumps([e.record() for e in examples], indent=1, ensure_ascii=False)
    (out / "primer.json").write_text(text + "\n", encoding="utf-8")

    def pretrain(config: RunConfig, run: Run) -> Outcome:
        count = steps * config.batch_size + VALIDATION_BLOCKS
        rows = blocks(Writer(fact_list, config.seed).documents(), count * BLOCK_TOKENS + 1)
        trainer = Pretrainer(config, run, rows[VALIDATION_BLOCKS:], rows[:VALIDATION_BLOCKS])
        outcome = trainer.fit()
        if outcome == "finished":
            weights = pretrained.hub_layout(trainer.full_model())
            halves = {name: tensor.half() for name, tensor in weights.items()}
            save_file(halves, out / "gpt2-nano" / "model.safetensors", {"format": "pt"})
        return outcome

    run = RunDirectory.create(runs_dir, RunConfig.parse({**PRETRAINING, "name": "pretraining"}))
    main(run, signals=True, train=pretrain)
    print(f"{run.name}: {run.statuses()[-1]}")


if __name__ == "__main__":
    typer.run(build)
