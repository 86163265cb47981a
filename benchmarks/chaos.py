"""Kill trainers and dashboards at random times, and check that nothing is lost.

    python -m benchmarks.chaos --kills 200 --seed 1

The dashboard is a process with an open `Lab` that resumes interrupted runs. Its trainers fine-tune the embedded model,
fully or with LoRA, some with gradient accumulation and dropout. At random times, SIGKILL is sent to the trainer, the
dashboard or both. A killed dashboard is restarted and sometimes killed again while it opens. Exits with status 1
unless:

    - every run finishes, and its losses, weights and answers are bit-identical to those of an uninterrupted run;
    - the index opens and contains every event on disk exactly once, after rewinds are applied;
    - a run whose trainer was killed is marked as interrupted within 5 s if the dashboard is running;
    - no processes are left running.

Reports the number of kills by kind, the number of runs, the number of trainers killed before their first checkpoint,
and the longest time it took to mark a run as `interrupted`.
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
MAX_MARK_DELAY_S = 5.0
"""Maximum time from a trainer's death until its run gets a new status, in seconds."""
MAX_PAUSE_S = 5.0
"""Maximum time between two kills, in seconds."""
MAX_OPENING_S = 1.0
"""Maximum delay before a dashboard is killed while it opens, in seconds. Opening takes about this long."""
DASHBOARD = """
import sys, time
from pathlib import Path
from core.errors import UserError
from core.lab import Lab
from core.run.directory import list_runs
lab = Lab(Path(sys.argv[1]))
assert lab.driver_pid is None, "another dashboard is still running"
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
    """Kill counts and failures."""

    kills: Counter[str] = field(default_factory=Counter)
    early: int = 0
    """Number of trainers killed before their run had a checkpoint."""
    slowest: float = 0.0
    """Longest time from a trainer's death until its run was marked as `interrupted`, in seconds."""
    failures: list[str] = field(default_factory=list)


class Dashboard:
    """A dashboard process, which drives the runs."""

    def __init__(self, runs_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DASHBOARD, str(runs_dir)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> "Dashboard":
        """Wait until the lab is open."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "open\n":
            raise SystemExit(f"the dashboard failed to open: exit status {self.process.wait()}")
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
    # Results are bit-identical only with the same number of threads everywhere.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as directory:
        start = time.monotonic()
        tally, runs = run_stress_test(Path(directory), args.kills, random.Random(args.seed))
    report = {
        "kills": tally.kills.total(),
        **dict(sorted(tally.kills.items())),
        "runs": runs,
        "before_first_checkpoint": tally.early,
        "slowest_to_interrupted": round(tally.slowest, 2),
        "seconds": round(time.monotonic() - start, 1),
        "failures": tally.failures,
    }
    if args.format == "json":
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{key:<26}{value}" for key, value in report.items()))
    sys.exit(1 if tally.failures else 0)


def run_stress_test(directory: Path, kills: int, rng: random.Random) -> tuple[Tally, int]:
    """Train one run after another until `kills` kills have been made. Return the tally and the number of runs."""
    data = directory / "data.json"
    data.write_text(json.dumps(examples()))
    expected = {name: uninterrupted_outcome(directory / "alone", name, data) for name in VARIANTS}
    runs_dir, tally, count = directory / "runs", Tally(), 0
    dashboard = Dashboard(runs_dir).wait()
    while tally.kills.total() < kills:
        variant = [*VARIANTS][count % len(VARIANTS)]
        run = RunDirectory.create(runs_dir, config(f"{variant}-{count}", variant, data))
        count += 1
        while not finishes(run, rng.uniform(0, MAX_PAUSE_S)) and tally.kills.total() < kills:
            dashboard = kill_at_random(run, dashboard, rng, tally)
        if not finishes(run, 120):
            tally.failures.append(f"{run.name} did not finish: its status is {run.status()}")
        elif outcome(run) != expected[variant]:
            tally.failures.append(f"{run.name} differs from the uninterrupted run: {outcome(run)}")
        print(f"{tally.kills.total():>4} kills  {run.name}", file=sys.stderr, flush=True)
    dashboard.kill()
    tally.failures += index_errors(runs_dir)
    if not until(lambda: not trainers(runs_dir), 10):
        tally.failures.append("a trainer is still running")
    return tally, count


def kill_at_random(
    run: RunDirectory, dashboard: Dashboard, rng: random.Random, tally: Tally
) -> Dashboard:
    """Kill the trainer, the dashboard or both. Return the dashboard that is running afterward."""
    kind = rng.choice(("trainer", "dashboard", "both"))
    pids = trainers(run.path)
    if kind == "trainer" and not pids:
        kind = "dashboard"  # no trainer is running
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
            time.sleep(rng.uniform(0, MAX_OPENING_S))
            opening.kill()
            tally.kills["opening"] += 1
        return Dashboard(run.path.parent).wait()
    if until(lambda: marked_at(run, killed_at) is not None, 2 * MAX_MARK_DELAY_S):
        delay_s = (marked_at(run, killed_at) or killed_at) - killed_at
        tally.slowest = max(tally.slowest, delay_s)
        if delay_s > MAX_MARK_DELAY_S:
            tally.failures.append(f"{run.name} took {delay_s:.1f} s to get a new status")
    else:
        tally.failures.append(f"{run.name} did not get a new status after its trainer was killed")
    return dashboard


def finishes(run: RunDirectory, seconds: float) -> bool:
    """Wait up to `seconds` for the run to finish. Return whether it did."""
    return until(lambda: run.status() == "finished", seconds)


def marked_at(run: RunDirectory, since: float) -> float | None:
    """Return the time of the run's first status change after `since`. Starting again as `running` counts too."""
    ends = ("interrupted", "finished", "running")
    return next((e["time"] for e in run.statuses() if e["status"] in ends and e["time"] >= since - 0.01), None)  # fmt: skip


def trainers(path: Path) -> list[int]:
    """Return the pids of trainers whose command line mentions `path` or a path below it."""
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
    """Return sixty short examples."""
    words = [f"{color} {n}" for color in ("red", "blue", "green", "black") for n in range(15)]
    return [{"instruction": f"Say {word}.", "output": f"It is {word}."} for word in words]


def config(name: str, variant: str, data: Path) -> RunConfig:
    return RunConfig.parse({**COMMON, **VARIANTS[variant], "name": name, "dataset": str(data)})


def uninterrupted_outcome(runs_dir: Path, variant: str, data: Path) -> tuple[Any, ...]:
    """Train a run without killing it, and return its outcome."""
    run = RunDirectory.create(runs_dir, config(variant, variant, data))
    run_in_process(run)
    if run.status() != "finished":
        raise SystemExit(f"{variant} failed without being killed: {run.log_tail()}")
    return outcome(run)


def outcome(run: RunDirectory) -> tuple[Any, ...]:
    """Return a run's final losses, the loss at each step, the weight hashes and the answers."""
    events_by_kind = replayed(run)
    last = max(events_by_kind["eval"].values(), key=lambda event: event["seq"])
    steps = [event["loss"] for event in events_by_kind["step"].values()]
    manifest = json.loads((run.path / "weights" / "manifest.json").read_text())
    answers = sorted((e["item"], e["answer"]) for e in events_by_kind["generation"].values())
    hashes = sorted(entry["sha256"] for entry in manifest["files"].values())
    return last["train_loss"], last["val_loss"], steps, hashes, answers


def replayed(run: RunDirectory) -> dict[str, dict[int, dict[str, Any]]]:
    """Return events by kind and sequence number, read from the event file with rewinds applied."""
    events_by_kind: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in EVENT_TABLES}
    for line in run.events_path.read_bytes().splitlines():
        event = parse(line)
        if event is None:
            continue
        if event["event"] == "rewind":
            for kind in REWINDABLE_TABLES:
                events = events_by_kind[kind].items()
                events_by_kind[kind] = {seq: e for seq, e in events if e["step"] <= event["step"]}
            events_by_kind["generation"] = {}
        elif event["event"] in events_by_kind:
            events_by_kind[event["event"]][event["seq"]] = event
    return events_by_kind


def index_errors(runs_dir: Path) -> list[str]:
    """Sync the index that the last dashboard left behind, and list its differences from the event files."""
    errors = []
    with contextlib.closing(read_index(runs_dir)) as index:
        if index.path is None or index.rebuilt:
            errors.append(f"the index could not be opened: {index.rebuilt or 'it is locked'}")
        names = [path.parent.name for path in runs_dir.glob("*/config.json")]
        for name in names:
            events_by_kind = replayed(RunDirectory(runs_dir / name))
            for kind, events in events_by_kind.items():
                query = f'select seq from "{kind}" where run = ? order by seq'
                rows = [seq for (seq,) in index.cursor().execute(query, [name]).fetchall()]
                if rows != sorted(events):
                    errors.append(
                        f"{name}: {len(rows)} {kind} events indexed, {len(events)} on disk"
                    )
    return errors


def until(condition: Any, seconds: float) -> bool:
    """Wait up to `seconds` for a condition. Return whether it was met."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(result)


if __name__ == "__main__":
    main()
