"""Training speed and memory, compared with transformers and PEFT on the same examples.

    python -m benchmarks.training --data FILE --model gpt2 --method lora --rank 16 --batch 4 --steps 12

Both sides load the same random weights from the same directory in the Hugging Face layout, use the same examples and
take the same number of optimizer steps. Each runs in a separate process so that peak memory is measured separately.
They alternate step by step, so that other load on the machine affects both equally. The first step is a warm-up and is
not counted. The examples are spread evenly over the range of lengths in the data set. This project batches them as a
run does by default (grouped by length); transformers uses random order and an attention mask, as in its own examples.

Reported for the counted steps (`peer_`: transformers):
    tokens_per_s    tokens per second, excluding padding
    peak_memory_mb  peak resident memory of the process, including loading, in MiB
    padding         share of the computed positions that are padding
    loss            loss on the first examples before training; the benchmark fails unless both sides agree
    gemm_gflops     throughput of a 2048 x 2048 fp32 matrix product: best of five after each step, median over the steps
    roofline        useful operations per second divided by that throughput; see `useful_flops`

The training code for both sides is in `benchmarks.training_sides`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from core.config import LoRAScaling
from core.data import dataset
from core.data.batches import encode_all
from core.data.template import Example
from core.nn.architecture import FAMILY, Architecture
from core.scheduler.executors import TRAINER_ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
EXTRA_EXAMPLES = 2
"""Number of examples not trained on, because every data set needs a test and a validation example."""


class Side:
    """A `benchmarks.training_sides` process that takes one step per request."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.training_sides", name, json.dumps(settings)]
        pipe = subprocess.PIPE
        self.name = name
        env = os.environ | (TRAINER_ENVIRONMENT if name == "ours" else {})
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True
        )

    def advance(self) -> dict[str, Any]:
        """Request the next step. Return its measurements."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise SystemExit(f"{self.name} exited with status {self.process.wait()}")


@contextmanager
def running(name: str, settings: dict[str, Any]) -> Iterator[Side]:
    """Start a side, and kill it at the end of the block."""
    side = Side(name, settings)
    try:
        yield side
    finally:
        side.process.kill()
        side.process.communicate()


def compare(settings: dict[str, Any]) -> dict[str, Any]:
    """Run both sides and return their measurements and ratios.

    Args:
        settings: data, model, method, rank, scaling, dora, batch, steps, tied and seed.
    """
    arch = FAMILY[settings["model"]]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        examples = spread_by_length(settings["data"], settings["batch"] * settings["steps"], arch)
        data = Path(directory) / "data.json"
        data.write_text(
            json.dumps([e.record() for e in examples + examples[:EXTRA_EXAMPLES]]), encoding="utf-8"
        )
        inner = {**settings, "data": str(data), "examples": len(examples), "directory": directory}
        with running("weights", inner) as weights:
            weights.advance()
        names = ("ours", "peer", "gemm")
        our_side, peer_side, gemm_side = (
            stack.enter_context(running(name, inner)) for name in names
        )
        our_ready, peer_ready = our_side.advance(), peer_side.advance()
        if abs(our_ready["loss"] - peer_ready["loss"]) > 1e-4:
            raise SystemExit(
                f"the models differ: loss {our_ready['loss']} versus {peer_ready['loss']}"
            )
        rounds = [
            [side.advance() for side in (our_side, peer_side, gemm_side)]
            for _ in range(settings["steps"] + 1)
        ]
    steps, peer_steps, gemm_steps = ([*column] for column in zip(*rounds, strict=True))
    report = {
        **figures(our_ready, steps, ""),
        **figures(peer_ready, peer_steps, "peer_"),
        "gemm_gflops": statistics.median(gemm_side["gflops"] for gemm_side in gemm_steps),
    }
    flops = useful_flops(arch, settings, sum(step["tokens"] for step in steps[1:]))
    return {
        **report,
        "ratio": report["tokens_per_s"] / report["peer_tokens_per_s"],
        "memory_ratio": report["peak_memory_mb"] / report["peer_peak_memory_mb"],
        "roofline": flops / report["seconds"] / report["gemm_gflops"] / 1e9,
        **settings,
    }


def figures(ready: dict[str, Any], steps: list[dict[str, Any]], prefix: str) -> dict[str, float]:
    """Return one side's totals over all steps except the first."""
    counted = steps[1:]
    tokens, seconds, positions = (
        sum(step[key] for step in counted) for key in ("tokens", "seconds", "positions")
    )
    values = {
        "tokens_per_s": tokens / seconds,
        "peak_memory_mb": steps[-1]["peak_memory_mb"],
        "loading_memory_mb": ready["peak_memory_mb"],
        "padding": 1 - tokens / positions,
        "loss": ready["loss"],
        "tokens": tokens,
        "seconds": seconds,
    }
    return {prefix + key: value for key, value in values.items()}


def spread_by_length(data: str, count: int, arch: Architecture) -> list[Example]:
    """Return `count` examples at even quantiles of the data set's lengths, in file order."""
    examples = dataset.load(data)
    lengths = [len(example.ids) for example in encode_all(examples, arch.context, False)]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    indices = sorted(order[int((i + 0.5) * len(order) / count)] for i in range(count))
    return [examples[i] for i in indices]


def useful_flops(arch: Architecture, settings: dict[str, Any], tokens: int) -> float:
    """Return the number of floating-point operations required to train on this many tokens.

    Counts two operations per multiply-add in the linear layers and the head, forward and backward, excluding padding.
    The matrix products inside attention, norms, GELU, softmax and the optimizer are not counted. Full fine-tuning needs
    three products per layer: the output, the input gradient and the weight gradient. With LoRA, frozen weights do not
    need a gradient; neither does the input to q, k and v in the first block, because nothing below it is trained.
    Adapters need all three products.
    """
    total = 0
    for name, (inputs, outputs) in arch.linear_shapes().items():
        if settings["method"] == "full":
            total += 3 * inputs * outputs
            continue
        is_first = name in ("h.0.attn.q", "h.0.attn.k", "h.0.attn.v")
        total += inputs * outputs * (1 if is_first else 2)
        total += settings["rank"] * (3 * (inputs + outputs) - (inputs if is_first else 0))
    return 2.0 * total * tokens


def table(report: dict[str, Any]) -> str:
    """Format the report as a table."""
    rows = [
        f"{key:<22}{value:>14,.3f}" if isinstance(value, float) else f"{key:<22}{value!s:>14}"
        for key, value in report.items()
    ]
    return "\n".join(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="primer", help="primer or an Alpaca-format file")
    parser.add_argument("--model", default="gpt2", choices=FAMILY)
    parser.add_argument("--method", default="lora", choices=("lora", "full"))
    parser.add_argument("--rank", type=int, default=16, help="LoRA rank")
    parser.add_argument("--scaling", default="alpha/rank", choices=typing.get_args(LoRAScaling))
    parser.add_argument("--dora", action="store_true", help="use DoRA on both sides")
    parser.add_argument("--batch", type=int, default=4, help="examples per step")
    parser.add_argument("--steps", type=int, default=12, help="number of measured optimizer steps")
    parser.add_argument("--tied", action="store_true", help="share the head with the embedding")
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--format", default="table", choices=("table", "json"))
    return parser.parse_args()


def main() -> None:
    settings = vars(arguments())
    output_format = settings.pop("format")
    report = compare(settings)
    print(json.dumps(report, indent=2) if output_format == "json" else table(report))


if __name__ == "__main__":
    main()
