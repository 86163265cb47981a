"""Kill trainers and dashboards at random moments, and see whether anything is lost.

    python -m benchmarks.chaos --kills 200 --seed 1

A dashboard here is a process with an open `Lab` that resumes what is interrupted; its trainers are real ones on
the embedded model, full and LoRA, some with accumulation and dropout. Every now and then SIGKILL goes to the
trainer, the dashboard or both; a dashboard that is gone is started again, and sometimes killed before it is open.
What must hold, or this exits with 1:

    - every run ends `finished`, its last loss and its weights those of the same run undisturbed, to the bit;
    - the index opens, and holds each event that reached the disk once, rewinds taken into account;
    - a run whose trainer was killed is marked within 5 s where a dashboard is there to see it;
    - no process is left.

Reported: kills by kind, of how many runs, those before a first checkpoint, and the longest time to `interrupted`.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.run.events import parse
from core.scheduler.executors import run_in_process
from core.tracking.schema import EVENT_TABLES, REWINDABLE_TABLES
from core.tracking.sync import read_index

ROOT = Path(__file__).resolve().parent.parent
MARKED_WITHIN_S = 5.0
"""Seconds within which a dashboard has to mark a run whose trainer was killed."""
MAX_PAUSE_S = 5.0
"""Longest pause between two kills, in seconds."""
OPENING_S = 1.0
"""Seconds within which one that opens is killed: it takes about as long."""
DASHBOARD = """
import sys, time
from pathlib import Path
from core.errors import UserError
from core.lab import Lab
from core.run.directory import list_runs
lab = Lab(Path(sys.argv[1]))
assert lab.driver_pid is None, "another dashboard is still there"
print("open", flush=True)
while True:
    for run in list_runs(lab.runs_dir):
        if run.status() in ("interrupted", "queued") and run.name not in lab.waiting():
            try:
                lab.resume(run.name)
            except UserError as error:
                print(error, file=sys.stderr)
    time.sleep(0.2)
"""
COMMON: dict[str, Any] = {
    "base_model": "gpt2-nano",
    "tie_weights": True,
    "batch_size": 4,
    "epochs": 2,
    "lr": 1e-3,
    "eval_every": 7,
    "sample_every": 11,
    "max_new_tokens": 4,
    "checkpoint_every": 6,
    "device": "cpu",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "lora_rank": 8},
    "full-dropout": {"method": "full", "dropout": 0.1, "grad_accumulation": 2},
    "lora-dropout": {"method": "lora", "lora_dropout": 0.1, "min_lr": 1e-4, "warmup_fraction": 0.2},
}


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    early: int = 0
    """Trainers killed before their run had a checkpoint."""
    slowest: float = 0.0
    """Seconds from the death of a trainer to `interrupted`, at most."""
    wrong: list[str] = field(default_factory=list)


class Dashboard:
    """The process that drives the runs."""

    def __init__(self, runs_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DASHBOARD, str(runs_dir)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> "Dashboard":
        """Until it is open."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "open\n":
            raise SystemExit(f"the dashboard did not open: status {self.process.wait()}")
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", default="table", choices=("table", "json"))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # so that a trainer of ours counts as the dashboard's does
    with tempfile.TemporaryDirectory() as directory:
        start = time.monotonic()
        tally, runs = torment(Path(directory), args.kills, random.Random(args.seed))
    report = {
        "kills": tally.kills.total(),
        **dict(sorted(tally.kills.items())),
        "runs": runs,
        "before_first_checkpoint": tally.early,
        "slowest_to_interrupted": round(tally.slowest, 2),
        "seconds": round(time.monotonic() - start, 1),
        "wrong": tally.wrong,
    }
    if args.format == "json":
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{key:<26}{value}" for key, value in report.items()))
    sys.exit(1 if tally.wrong else 0)


def torment(directory: Path, kills: int, rng: random.Random) -> tuple[Tally, int]:
    """Runs one after the other, until so many kills have been dealt out; what was found, and of how many runs."""
    data = directory / "data.json"
    data.write_text(json.dumps(examples()))
    expected = {name: undisturbed(directory / "alone", name, data) for name in VARIANTS}
    runs_dir, tally, count = directory / "runs", Tally(), 0
    dashboard = Dashboard(runs_dir).wait()
    while tally.kills.total() < kills:
        variant = [*VARIANTS][count % len(VARIANTS)]
        run = RunDirectory.create(runs_dir, config(f"{variant}-{count}", variant, data))
        count += 1
        while not finishes(run, rng.uniform(0, MAX_PAUSE_S)) and tally.kills.total() < kills:
            dashboard = strike(run, dashboard, rng, tally)
        if not finishes(run, 120):
            tally.wrong.append(f"{run.name} did not finish: it is {run.status()}")
        elif outcome(run) != expected[variant]:
            tally.wrong.append(f"{run.name} ended elsewhere than undisturbed: {outcome(run)}")
        print(f"{tally.kills.total():>4} kills  {run.name}", file=sys.stderr, flush=True)
    dashboard.kill()
    tally.wrong += miscounted(runs_dir)
    if not until(lambda: not trainers(runs_dir), 10):
        tally.wrong.append("a trainer is left")
    return tally, count


def strike(run: RunDirectory, dashboard: Dashboard, rng: random.Random, tally: Tally) -> Dashboard:
    """Kill the trainer, the dashboard or both; the dashboard that is there afterwards."""
    kind = rng.choice(("trainer", "dashboard", "both"))
    pids = trainers(run.path)
    if kind == "trainer" and not pids:
        kind = "dashboard"  # between two trainers
    early = bool(pids) and not [*(run.path / "checkpoint").glob("step-*[0-9]")]
    killed_at = time.time()
    if kind != "trainer":
        dashboard.kill()
    if kind != "dashboard":
        tally.early += early
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
    tally.kills[kind] += 1
    if kind != "trainer":
        while rng.random() < 1 / 3:
            opening = Dashboard(run.path.parent)
            time.sleep(rng.uniform(0, OPENING_S))
            opening.kill()
            tally.kills["opening"] += 1
        return Dashboard(run.path.parent).wait()
    if until(lambda: settled(run, killed_at) is not None, 2 * MARKED_WITHIN_S):
        delay_s = (settled(run, killed_at) or killed_at) - killed_at
        tally.slowest = max(tally.slowest, delay_s)
        if delay_s > MARKED_WITHIN_S:
            tally.wrong.append(f"{run.name} was marked only after {delay_s:.1f} s")
    else:
        tally.wrong.append(f"{run.name} was not marked when its trainer was killed")
    return dashboard


def finishes(run: RunDirectory, seconds: float) -> bool:
    """Whether it does within so long."""
    return until(lambda: run.status() == "finished", seconds)


def settled(run: RunDirectory, since: float) -> float | None:
    """The time of the first word since then: a last one, or, where the trainer had said none yet, its successor's."""
    ends = ("interrupted", "finished", "running")
    return next((e["time"] for e in run.statuses() if e["status"] in ends and e["time"] >= since - 0.01), None)  # fmt: skip


def trainers(path: Path) -> list[int]:
    """Processes that train the run of that directory, or any run below it."""
    pids = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        named = any(word.startswith(str(path.resolve())) for word in words)
        if (
            "core.scheduler.trainer_process" in words
            and named
            and process.info["status"] != "zombie"
        ):
            pids.append(process.pid)
    return pids


def examples() -> list[dict[str, str]]:
    """Sixty short ones."""
    words = [f"{color} {n}" for color in ("red", "blue", "green", "black") for n in range(15)]
    return [{"instruction": f"Say {word}.", "output": f"It is {word}."} for word in words]


def config(name: str, variant: str, data: Path) -> RunConfig:
    return RunConfig.parse({**COMMON, **VARIANTS[variant], "name": name, "dataset": str(data)})


def undisturbed(runs_dir: Path, variant: str, data: Path) -> tuple[Any, ...]:
    """The outcome of a run that nobody kills."""
    run = RunDirectory.create(runs_dir, config(variant, variant, data))
    run_in_process(run)
    if run.status() != "finished":
        raise SystemExit(f"{variant} does not even finish undisturbed: {run.log_tail()}")
    return outcome(run)


def outcome(run: RunDirectory) -> tuple[Any, ...]:
    """The last losses, the losses of all steps, the hashes of the weights, the answers."""
    events_by_kind = replayed(run)
    last = max(events_by_kind["eval"].values(), key=lambda event: event["seq"])
    steps = [event["loss"] for event in events_by_kind["step"].values()]
    manifest = json.loads((run.path / "weights" / "manifest.json").read_text())
    answers = sorted((e["item"], e["answer"]) for e in events_by_kind["generation"].values())
    hashes = sorted(entry["sha256"] for entry in manifest["files"].values())
    return last["train_loss"], last["val_loss"], steps, hashes, answers


def replayed(run: RunDirectory) -> dict[str, dict[int, dict[str, Any]]]:
    """Events by kind and number, as a reader of the file itself sees them after all rewinds."""
    events_by_kind: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in EVENT_TABLES}
    for line in run.events_path.read_bytes().splitlines():
        event = parse(line)
        if event is None:
            continue
        if event["event"] == "rewind":
            for kind in REWINDABLE_TABLES:
                held = events_by_kind[kind].items()
                events_by_kind[kind] = {seq: e for seq, e in held if e["step"] <= event["step"]}
            events_by_kind["generation"] = {}
        elif event["event"] in events_by_kind:
            events_by_kind[event["event"]][event["seq"]] = event
    return events_by_kind


def miscounted(runs_dir: Path) -> list[str]:
    """Where the index, as the last dashboard left it and brought up to date, is not what the files say."""
    wrong = []
    with contextlib.closing(read_index(runs_dir)) as index:
        if index.path is None or index.rebuilt:
            wrong.append(f"the index did not open as it was: {index.rebuilt or 'it is held'}")
        names = [path.parent.name for path in runs_dir.glob("*/config.json")]
        for name in names:
            events_by_kind = replayed(RunDirectory(runs_dir / name))
            for kind, events in events_by_kind.items():
                query = f'select seq from "{kind}" where run = ? order by seq'
                rows = [seq for (seq,) in index.cursor().execute(query, [name]).fetchall()]
                if rows != sorted(events):
                    wrong.append(f"{name}: {len(rows)} of {kind} indexed, {len(events)} on disk")
    return wrong


def until(condition: Any, seconds: float) -> bool:
    """Wait for a condition, at most so long; whether it came."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(result)


if __name__ == "__main__":
    main()
