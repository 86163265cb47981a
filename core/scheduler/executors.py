"""Where a run computes: in a process of its own, or in this thread.

An executor takes a run to its end and returns; the run's events say how it went.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from core.metrics import MIB
from core.run.directory import RunDirectory
from core.run.files import open_regular
from core.scheduler.processes import kill_tree
from core.scheduler.trainer_process import main, memory_advice

STOP_GRACE_S = 300.0
"""Seconds between a request to stop and killing the trainer: a long step and a large checkpoint fit in."""
ROOT = Path(__file__).parents[2]
TRAINER_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "GOMP_SPINCOUNT": "1000",
    "GLIBC_TUNABLES": (
        f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={64 * MIB}"
        f":glibc.malloc.trim_threshold={16 * 1024 * MIB}:glibc.malloc.tcache_count=0"
    ),
}
"""Of a trainer. Threads that wait for each other spin shortly and then sleep, so that they share the machine. The memory
of freed tensors lies in large pages and is kept for the next step, or the system would hand it out anew, page by page
and zeroed; small blocks set aside for reuse would lie in the way of large ones. On a GPU, equal products give equal bits."""

Executor = Callable[[RunDirectory], None]


def run_in_process(run: RunDirectory, grace: float = STOP_GRACE_S) -> None:
    """Train in a spawned process of its own session: no crash of one reaches the other."""
    with open_regular(run.log_path, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "core.scheduler.trainer_process", str(run.path.resolve())],
            cwd=ROOT,
            env={**TRAINER_ENVIRONMENT, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stop_requested_at = None
    while process.poll() is None:
        time.sleep(0.05)
        stop_requested_at = (
            (stop_requested_at or time.monotonic()) if run.stop_path.exists() else None
        )
        if stop_requested_at and time.monotonic() - stop_requested_at > grace:
            kill_tree(process.pid)
    # One that ended by itself has written its last word, and the run may be queued again by now.
    if code := process.wait():
        exit_description = f"signal {-code}" if code < 0 else f"exit status {code}"
        reason = f"the trainer ended without a last word ({exit_description}); see its log"
        if code == -signal.SIGKILL and stop_requested_at is None:
            reason += f". The system kills what takes too much memory: {memory_advice(run)}"
        run.mark_ended(reason)


def run_in_thread(run: RunDirectory) -> None:
    """Train right here: for debugging and notebooks."""
    main(run)


EXECUTORS: dict[str, Executor] = {"process": run_in_process, "thread": run_in_thread}
