"""Write a folder of many long runs, as trainers would, but without training. Does not use the index.

Used by `benchmarks.load`. Settings, losses and speeds vary between runs; the questions are the same for all.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from core.config import RunConfig
from core.run.directory import RunDirectory

EVALUATIONS, SAMPLE_EVERY, ANSWERS = 40, 100, 110
SUBSET, PROBE, PROBE_INTERVAL = 128, 64, 3
"""Validation and training examples per evaluation, and evaluations per probe. Same as the defaults."""
BATCH = 8
START_TIME = 1_790_000_000.0
"""Unix time of the first run."""
STEP_TEMPLATE = (
    '{"seq":%d,"time":%.3f,"event":"step","step":%d,"epoch":%.6f,"tokens":%d,"seconds":%.6f,"examples":%d,'
    '"padding":%.6f,"lr":0.0005,"loss":%.16f,"grad_norm":%.16f,"tokens_per_s":%.3f,"memory_mb":%.1f,"batch":%s}\n'
)
"""Template for a step's event. The result is the same as from `json.dumps`, but much faster."""


def write_runs(runs_dir: Path, runs: int, steps: int) -> int:
    """Write finished runs with `steps` steps each. Return the total number of events."""
    events = 0
    for number in range(runs):
        run = RunDirectory.create(runs_dir, config(number, steps))
        text, count = event_file(number, steps)
        run.events_path.write_text(text, encoding="utf-8")
        events += count
    return events


def config(number: int, steps: int) -> RunConfig:
    """Return the settings of a run, varied as in a typical sweep."""
    changes = {
        "method": ("full", "lora")[number % 2],
        "lora_rank": (2, 4, 16, 64)[number % 4],
        "lr": (5e-5, 2e-4, 5e-4, 1e-3)[number // 2 % 4],
        "dropout": (0.0, 0.1)[number // 8 % 2],
        "seed": number,
        "epochs": max(1, steps // 250),
        "batch_size": BATCH,
        "tags": f"sweep, part {number % 10}",
        "notes": f"Run {number} of a large folder.",
    }
    return RunConfig.parse({"name": f"load-{number:04}", **changes})


def event_file(number: int, steps: int, finished: bool = True) -> tuple[str, int]:
    """Return the text of a run's event file and the number of events in it.

    Args:
        finished: whether the run ends with the status `finished`. Otherwise, it still appears to be running.
    """
    lines = Lines(START_TIME + 3600 * number)
    lines.add("status", status="queued")
    lines.add("status", status="running", pid=1, started=1.0, host="elsewhere")
    lines.add("plan", steps=steps, steps_per_epoch=250, train_examples=2006, base_hash="be" * 32,
              parameters=14_645_520, trainable=953_616, device="two threads", precision="float32")  # fmt: skip
    _add_training(lines, number, steps)
    if finished:
        _add_answers(lines, number)
        lines.add("status", status="finished", reason=None)
    return "".join(lines.texts), lines.seq


class Lines:
    """The lines of an event file, with their sequence numbers and times."""

    def __init__(self, start: float) -> None:
        self.texts: list[str] = []
        self.seq, self.time = 0, start

    def add(self, kind: str, **fields: Any) -> None:
        """Append an event in the format of `EventWriter`."""
        self.seq += 1
        event = {"seq": self.seq, "time": round(self.time, 3), "event": kind, **fields}
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        self.texts.append(text + "\n")

    def step(self, *values: float | str) -> None:
        """Append the event for a step. `values` are in the order of STEP_TEMPLATE."""
        self.seq += 1
        self.texts.append(STEP_TEMPLATE % (self.seq, self.time, *values))


def _add_training(lines: Lines, number: int, steps: int) -> None:
    rng = np.random.default_rng(number)
    curve = 0.8 + 3 * np.exp(-np.arange(1, steps + 1) / 800)
    losses = (curve + 0.2 * rng.random(steps)).tolist()
    norms, seconds = rng.gamma(4, 0.3, steps).tolist(), (0.05 + rng.random(steps) / 50).tolist()
    tokens = rng.integers(200, 600, steps).tolist()
    batches = rng.integers(0, 2006, (steps, BATCH)).tolist()
    interval = max(1, steps // EVALUATIONS)
    total_tokens, total_s = 0, 0.0
    for step in range(1, steps + 1):
        step_s, step_tokens, loss = seconds[step - 1], tokens[step - 1], losses[step - 1]
        total_tokens, total_s = total_tokens + step_tokens, total_s + step_s
        lines.time += step_s
        batch = str(batches[step - 1]).replace(" ", "")
        lines.step(step, step / 250, total_tokens, total_s, step * BATCH, 0.0625, loss, norms[step - 1],
                   step_tokens / step_s, 900 + step / 100, batch)  # fmt: skip
        if step % interval == 0:
            progress = {
                "step": step,
                "epoch": step / 250,
                "tokens": total_tokens,
                "seconds": round(total_s, 6),
            }
            measured = _losses("val", 2116, SUBSET, loss, rng)
            if step % (PROBE_INTERVAL * interval) == 0:
                measured |= _losses("train", 0, PROBE, loss, rng)
            lines.add("eval", **progress, train_loss=loss, val_loss=loss + 0.1, subset_loss=loss + 0.1,
                      subset_se=0.05, final=step == steps, **measured)  # fmt: skip
        if step % SAMPLE_EVERY == 0:
            prompt = "Suggest an alternate word for 'happy'."
            lines.add("sample", step=step, prompt=prompt, text=f"It is joyful, {step} times.")


def _losses(
    part: str, first: int, count: int, mean: float, rng: np.random.Generator
) -> dict[str, list[Any]]:
    """Return random per-example losses in the format of an evaluation."""
    return {
        f"{part}_indices": [*range(first, first + count)],
        f"{part}_losses": rng.gamma(4, mean / 4, count).round(6).tolist(),
        f"{part}_tokens": rng.integers(20, 90, count).tolist(),
    }


def _add_answers(lines: Lines, number: int) -> None:
    rng = random.Random(number)
    for item in range(ANSWERS):
        expected = f"The result of {item} plus 3 is {item + 3}."
        answer = expected if rng.random() < 0.7 else f"The result is {rng.randrange(99)}."
        lines.add("generation", item=2006 + item, instruction=f"Compute {item} plus 3.", input="",
                  reference=expected, answer=answer, tokens=9, cut=False, prompt_cut=False, memory_mb=494.5)  # fmt: skip
