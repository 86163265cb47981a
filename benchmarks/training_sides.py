"""The two processes started by `benchmarks.training`: `python -m benchmarks.training_sides SIDE SETTINGS`.

A side is a generator that advances once per line on standard input. Its measurements are printed as lines of JSON:
first the loss and memory after loading, then the result of each optimizer step.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data import dataset
from core.data.batches import Encoded, encode_all
from core.nn.architecture import FAMILY
from core.training import hardware

Settings = dict[str, Any]
Measured = dict[str, float]
CPU = torch.device("cpu")


def weights(settings: Settings) -> Iterator[Measured]:
    """Use transformers to save a full-size model with random weights for both sides to load."""
    from transformers import GPT2Config, GPT2LMHeadModel

    arch = FAMILY[settings["model"]]
    torch.manual_seed(settings["seed"])
    config = GPT2Config(
        vocab_size=arch.vocabulary,
        n_positions=arch.context,
        n_embd=arch.n_embd,
        n_layer=arch.n_layer,
        n_head=arch.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=settings["tied"],
    )
    GPT2LMHeadModel(config).save_pretrained(settings["directory"])
    yield {}


def ours(settings: Settings) -> Iterator[Measured]:
    """Train with this project's trainer."""
    from core.config import RunConfig
    from core.training.evaluation import mean_loss
    from core.training.trainer import Trainer

    count = settings["examples"]
    config = RunConfig(
        base_model=settings["directory"],
        tie_weights=settings["tied"],
        dataset=settings["data"],
        train_fraction=(count + 0.5) / (count + 2),
        test_fraction=1.2 / (count + 2),
        method=settings["method"],
        lora_rank=settings["rank"],
        lora_alpha=settings["rank"],
        batch_size=settings["batch"],
        seed=settings["seed"],
        device="cpu",
        precision="fp32",
    )
    run = _Run(Path(settings["directory"]))
    trainer = Trainer(config, run)
    first = trainer.train_set[: settings["batch"]]
    yield _ready(mean_loss(trainer.model, first, settings["batch"], mask_prompt=False))
    for step in [1, *range(1, settings["steps"] + 1)]:
        start = time.perf_counter()
        trainer.step(step, trainer.schedule.batches(step))
        seconds = time.perf_counter() - start
        tokens = sum(len(trainer.train_set[i].ids) - 1 for i in run.newest["batch"])
        yield _step(seconds, tokens, tokens / (1 - run.newest["padding"]))


class _Run:
    """A run that keeps only the latest event."""

    resumed = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.newest: dict[str, Any] = {}

    def emit(self, kind: str, **fields: Any) -> None:
        self.newest = fields

    def sync(self) -> None:
        pass

    def stop_requested(self) -> bool:
        return False

    def last_plan(self) -> None:
        return None


def peer(settings: Settings) -> Iterator[Measured]:
    """Train with transformers as in its documentation: from_pretrained, PEFT, attention masks, torch's AdamW."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(settings["directory"])
    if settings["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        rank = settings["rank"]
        names = ["c_attn", "c_proj", "c_fc", "lm_head"]
        model = get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=rank, target_modules=names, task_type="CAUSAL_LM")
        )
    examples = dataset.load(settings["data"])[: settings["examples"]]
    encoded = encode_all(examples, FAMILY[settings["model"]].context, mask_prompt=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.1)
    size = settings["batch"]
    with torch.inference_mode():
        yield _ready(model(**_pad(encoded[:size])).loss.item())
    model.train()
    order = np.random.default_rng(settings["seed"]).permutation(len(encoded)).tolist()
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    for batch in [batches[0], *batches]:
        start = time.perf_counter()
        inputs = _pad([encoded[i] for i in batch])
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds = time.perf_counter() - start
        rows, width = inputs["input_ids"].shape
        yield _step(seconds, sum(len(encoded[i].ids) - 1 for i in batch), rows * (width - 1))


def _pad(examples: list[Encoded]) -> dict[str, torch.Tensor]:
    """Return inputs for a transformers model, right-padded, with the padding masked and ignored in the loss."""
    rows = [torch.tensor(example.ids) for example in examples]
    ids, labels, mask = (
        torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        for tensors, value in ((rows, 50256), (rows, -100), ([torch.ones_like(r) for r in rows], 0))
    )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gemm(settings: Settings) -> Iterator[Measured]:
    """Measure the machine's matrix multiplication throughput."""
    while True:
        yield {"gflops": hardware.gemm_flops(CPU, size=2048) / 1e9}


def _ready(loss: float) -> Measured:
    return {"loss": loss, "peak_memory_mb": hardware.peak_memory_mb(CPU)}


def _step(seconds: float, tokens: int, positions: float) -> Measured:
    memory = hardware.peak_memory_mb(CPU)
    return {"seconds": seconds, "tokens": tokens, "positions": positions, "peak_memory_mb": memory}


if __name__ == "__main__":
    side = {"weights": weights, "ours": ours, "peer": peer, "gemm": gemm}[sys.argv[1]]
    answers = side(json.loads(sys.argv[2]))
    for _ in sys.stdin:
        print(json.dumps(next(answers)), flush=True)
