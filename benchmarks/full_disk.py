"""Fill the disk under a dashboard and its trainer at random moments, and see whether anything is lost.

    python -m benchmarks.full_disk --strikes 30 --seed 1

The runs lie on a small tmpfs of their own, which takes the right to mount one (root on Linux). Every now and then
all of its room is taken, but for some kilobytes, and given back a few seconds later. What must hold, or this exits with 1:

    - a run that fails of it says that no space is left; resumed, it ends as the same run undisturbed, to the bit;
    - a launch meanwhile is refused in one sentence or works;
    - the dashboard answers queries meanwhile, and says so where its index is behind; once there is room it catches up;
    - the index holds each event that reached the disk once, rewinds taken into account.

Reported: strikes, how many made a run end, launches refused, and the reasons that were told.
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

from benchmarks.chaos import VARIANTS, config, examples, miscounted, outcome, undisturbed, until
from core.errors import UserError
from core.lab import Lab
from core.run.directory import ENDED_STATUSES, RunDirectory

TMPFS_SIZE = "2g"
"""Of the tmpfs: two checkpoints of each run of gpt2-nano, and what else there is."""
MAX_FREE_BYTES = 64 << 10
"""Bytes left of it at most."""
MAX_FULL_S = 4.0
"""Seconds that it stays full at most."""
MAX_PAUSE_S = 6.0
"""Seconds between two strikes at most."""


@dataclass
class Tally:
    """What was done, and what came of it."""

    strikes: int = 0
    ended: int = 0
    refused: int = 0
    behind: int = 0
    """Strikes during which the dashboard said that its index was."""
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strikes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # so that a trainer of ours counts as the dashboard's does
    with tempfile.TemporaryDirectory() as directory:
        tally = torment(Path(directory), args.strikes, random.Random(args.seed))
    print(json.dumps(tally.__dict__, indent=2))
    sys.exit(1 if tally.wrong else 0)


def torment(directory: Path, strikes: int, rng: random.Random) -> Tally:
    """Runs one after the other, until the disk was full so often."""
    data = directory / "data.json"
    data.write_text(json.dumps(examples()))
    expected = {name: undisturbed(directory / "alone", name, data) for name in VARIANTS}
    tally, count = Tally(), 0
    with small_disk(directory / "small") as disk:
        runs_dir = disk / "runs"
        lab = Lab(runs_dir)
        while tally.strikes < strikes:
            variant = [*VARIANTS][count % len(VARIANTS)]
            run = RunDirectory(runs_dir / lab.launch(config(f"{variant}-{count}", variant, data)))
            count += 1
            strain(lab, run, strikes, rng, tally)
            if run.status() == "finished" and outcome(run) != expected[variant]:
                tally.wrong.append(f"{run.name} ended elsewhere than undisturbed: {outcome(run)}")
            print(f"{tally.strikes:>4} strikes  {run.name}", file=sys.stderr, flush=True)
        lab.close()
        tally.wrong += miscounted(runs_dir)
    return tally


def strain(lab: Lab, run: RunDirectory, strikes: int, rng: random.Random, tally: Tally) -> None:
    """Strike until the run has finished, and resume it whenever it ended."""
    while run.status() != "finished":
        if tally.strikes < strikes:
            until(lambda: run.status() == "finished", rng.uniform(0, MAX_PAUSE_S))
            strike(lab, run, rng, tally)
        elif not until(lambda: run.status() in ENDED_STATUSES, 120):
            tally.wrong.append(f"{run.name} does not end: it is {run.status()}")
            return
        go_on(lab, run, tally)


def strike(lab: Lab, run: RunDirectory, rng: random.Random, tally: Tally) -> None:
    """Take all room for some seconds; meanwhile ask the dashboard, and launch."""
    ballast = lab.runs_dir.parent / "ballast"
    end = time.monotonic() + rng.uniform(0.5, MAX_FULL_S)
    spared = rng.randrange(MAX_FREE_BYTES)
    tally.strikes += 1
    behind = False
    with ballast.open("wb", buffering=0) as file:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                fill(file.fileno(), lab.runs_dir, spared)
            lab.runs()
            behind |= lab.fault is not None
            time.sleep(0.05)
        try:
            other = lab.launch(run.config().changed(name="meanwhile"))
            lab.stop(other)
            lab.delete(other)
        except UserError as error:
            tally.refused += 1
            tally.reasons[shortened(str(error), lab.runs_dir)] += 1
    ballast.unlink()
    tally.behind += behind


def fill(descriptor: int, path: Path, spared: int) -> None:
    """Write zeros to an open file until so little is left."""
    while (free := os.statvfs(path).f_bavail * os.statvfs(path).f_frsize) > spared:
        os.write(descriptor, bytes(min(free - spared, 1 << 22)))


def go_on(lab: Lab, run: RunDirectory, tally: Tally) -> None:
    """Resume a run that ended of a full disk."""
    if run.status() not in ("failed", "interrupted", "stopped"):
        return
    tally.ended += 1
    reason = str(run.statuses()[-1].get("reason"))
    tally.reasons[shortened(reason, lab.runs_dir)] += 1
    if not until(lambda: run.name not in lab.waiting(), 30):
        tally.wrong.append(f"{run.name} has ended and stays in the queue")
    lab.resume(run.name)


def shortened(reason: str, runs_dir: Path) -> str:
    """A reason without what is different each time."""
    words = reason.replace(str(runs_dir), "RUNS").split()
    return " ".join("RUNS/..." if word.startswith("RUNS") else word for word in words)


@contextlib.contextmanager
def small_disk(mount_point: Path) -> Iterator[Path]:
    """A directory that holds only so much."""
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
