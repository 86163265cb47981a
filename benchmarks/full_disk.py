"""Fill the disk under a dashboard and its trainers at random times, and check that nothing is lost.

    python -m benchmarks.full_disk --strikes 30 --seed 1

The runs are stored on a small tmpfs, so this needs permission to mount one (root on Linux). At random times, a file
takes up all but a few kilobytes of the space and is deleted a few seconds later. Exits with status 1 unless:

    - a run that fails can be resumed, and its result is bit-identical to that of an uninterrupted run;
    - a launch while the disk is full either works or raises a UserError;
    - the dashboard answers queries while the disk is full, and says so if its index is out of date;
    - in the end, the index contains every event on disk exactly once, after rewinds are applied.

A strike is one such period with a full disk. Reports the number of strikes, how many strikes left the index out of
date, how many runs they ended, how many launches were refused, and the reasons that were given.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos import (
    VARIANTS,
    config,
    examples,
    index_errors,
    outcome,
    uninterrupted_outcome,
    until,
)
from core.errors import UserError
from core.lab import Lab
from core.run.directory import ENDED_STATUSES, RunDirectory

TMPFS_SIZE = "2g"
"""Size of the tmpfs: enough for two checkpoints of each gpt2-nano run, the index and the event files."""
MAX_FREE_BYTES = 64 << 10
"""Maximum free space while the disk is full, in bytes."""
MAX_FULL_S = 4.0
"""Maximum time the disk stays full, in seconds."""
MAX_PAUSE_S = 6.0
"""Maximum time between two strikes, in seconds."""


@dataclass
class Tally:
    """Counts of strikes and their effects, and failures."""

    strikes: int = 0
    ended: int = 0
    refused: int = 0
    behind: int = 0
    """Number of strikes during which the dashboard reported an outdated index."""
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strikes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    # Results are bit-identical only with the same number of threads everywhere.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as directory:
        tally = run_stress_test(Path(directory), args.strikes, random.Random(args.seed))
    print(json.dumps(tally.__dict__, indent=2))
    sys.exit(1 if tally.failures else 0)


def run_stress_test(directory: Path, strikes: int, rng: random.Random) -> Tally:
    """Train one run after another until the disk has been filled `strikes` times."""
    data = directory / "data.json"
    data.write_text(json.dumps(examples()))
    expected = {name: uninterrupted_outcome(directory / "alone", name, data) for name in VARIANTS}
    tally, count = Tally(), 0
    with small_disk(directory / "small") as disk:
        runs_dir = disk / "runs"
        lab = Lab(runs_dir)
        while tally.strikes < strikes:
            variant = [*VARIANTS][count % len(VARIANTS)]
            run = RunDirectory(runs_dir / lab.launch(config(f"{variant}-{count}", variant, data)))
            count += 1
            train_under_strikes(lab, run, strikes, rng, tally)
            if run.status() == "finished" and outcome(run) != expected[variant]:
                tally.failures.append(
                    f"{run.name} differs from the uninterrupted run: {outcome(run)}"
                )
            print(f"{tally.strikes:>4} strikes  {run.name}", file=sys.stderr, flush=True)
        lab.close()
        tally.failures += index_errors(runs_dir)
    return tally


def train_under_strikes(
    lab: Lab, run: RunDirectory, strikes: int, rng: random.Random, tally: Tally
) -> None:
    """Fill the disk repeatedly until the run has finished, and resume the run whenever it ends early."""
    while run.status() != "finished":
        if tally.strikes < strikes:
            until(lambda: run.status() == "finished", rng.uniform(0, MAX_PAUSE_S))
            strike(lab, run, rng, tally)
        elif not until(lambda: run.status() in ENDED_STATUSES, 120):
            tally.failures.append(f"{run.name} did not end: its status is {run.status()}")
            return
        resume(lab, run, tally)


def strike(lab: Lab, run: RunDirectory, rng: random.Random, tally: Tally) -> None:
    """Fill the disk for a few seconds. While it is full, query the dashboard and launch a run."""
    ballast = lab.runs_dir.parent / "ballast"
    end = time.monotonic() + rng.uniform(0.5, MAX_FULL_S)
    free_bytes = rng.randrange(MAX_FREE_BYTES)
    tally.strikes += 1
    behind = False
    with ballast.open("wb", buffering=0) as file:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                fill(file.fileno(), lab.runs_dir, free_bytes)
            lab.runs()
            behind |= lab.fault is not None
            time.sleep(0.05)
        try:
            other = lab.launch(run.config().changed(name="during-strike"))
            lab.stop(other)
            lab.delete(other)
        except UserError as error:
            tally.refused += 1
            tally.reasons[normalized(str(error), lab.runs_dir)] += 1
    ballast.unlink()
    tally.behind += behind


def fill(descriptor: int, path: Path, free_bytes: int) -> None:
    """Write zeros to an open file until at most `free_bytes` are left on the disk."""
    while (free := os.statvfs(path).f_bavail * os.statvfs(path).f_frsize) > free_bytes:
        os.write(descriptor, bytes(min(free - free_bytes, 1 << 22)))


def resume(lab: Lab, run: RunDirectory, tally: Tally) -> None:
    """Resume a run that ended because the disk was full."""
    if run.status() not in ("failed", "interrupted", "stopped"):
        return
    tally.ended += 1
    reason = str(run.statuses()[-1].get("reason"))
    tally.reasons[normalized(reason, lab.runs_dir)] += 1
    if not until(lambda: run.name not in lab.waiting(), 30):
        tally.failures.append(f"{run.name} has ended but is still in the queue")
    lab.resume(run.name)


def normalized(reason: str, runs_dir: Path) -> str:
    """Replace the paths in a reason so that equal reasons are counted together."""
    words = reason.replace(str(runs_dir), "RUNS").split()
    return " ".join("RUNS/..." if word.startswith("RUNS") else word for word in words)


@contextlib.contextmanager
def small_disk(mount_point: Path) -> Iterator[Path]:
    """Mount a tmpfs of limited size."""
    mount_point.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_SIZE}", "tmpfs", mount_point], check=True
    )
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", mount_point], check=True)


if __name__ == "__main__":
    main()
