"""Executors: train a run in a separate process or in the calling thread.

An executor returns when the run has ended. The outcome is recorded in the run's events.
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
"""Time from a stop request until the trainer is killed. Long enough for a long step and a large checkpoint."""
ROOT = Path(__file__).parents[2]
TRAINER_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "GOMP_SPINCOUNT": "1000",
    "GLIBC_TUNABLES": (
        f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={64 * MIB}"
        f":glibc.malloc.trim_threshold={16 * 1024 * MIB}:glibc.malloc.tcache_count=0"
    ),
}
"""Environment variables for a trainer process.

- CUBLAS_WORKSPACE_CONFIG makes matrix multiplication on a GPU deterministic.
- GOMP_SPINCOUNT limits busy-waiting by OpenMP threads, which would slow down other processes.
- GLIBC_TUNABLES keeps the memory of freed tensors for the next step, in huge pages. Otherwise the kernel maps and
  zeroes it again, page by page. The thread cache is off because its small blocks keep free memory from coalescing.
"""

Executor = Callable[[RunDirectory], None]


def run_in_process(run: RunDirectory, grace: float = STOP_GRACE_S) -> None:
    """Train in a child process with its own session, so that a crash or signal in one does not affect the other."""
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
    # After a normal exit, the trainer has written the final status, and the run may already be queued again.
    if code := process.wait():
        exit_description = f"signal {-code}" if code < 0 else f"exit status {code}"
        reason = f"the trainer exited unexpectedly ({exit_description}); see the log"
        if code == -signal.SIGKILL and stop_requested_at is None:
            reason += f". The operating system kills processes that use too much memory: {memory_advice(run)}"
        run.mark_ended(reason)


def run_in_thread(run: RunDirectory) -> None:
    """Train in the calling thread, for debugging and notebooks."""
    main(run)


EXECUTORS: dict[str, Executor] = {"process": run_in_process, "thread": run_in_thread}
