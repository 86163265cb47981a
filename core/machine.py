"""The processor, GPUs and memory of this machine.

Does not import torch, so the first page loads quickly. GPUs are read from `nvidia-smi`; without it, none are listed.
"""

import csv
import functools
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.metrics import MIB

NVIDIA_SMI_TIMEOUT_S = 5.0
"""Timeout for `nvidia-smi`, which hangs if the driver does."""


@dataclass(frozen=True)
class Gpu:
    """A GPU. Memory is in MiB, or None if the driver does not report it."""

    name: str
    memory_used_mb: float | None
    memory_total_mb: float | None


@dataclass(frozen=True)
class Machine:
    """The processor, the number of cores that this process may use, memory in MiB, and GPUs."""

    cpu: str
    cores: int
    memory_used_mb: float
    memory_total_mb: float
    gpus: tuple[Gpu, ...] = ()


def read_machine() -> Machine:
    """Return this machine's hardware and current memory use."""
    memory = psutil.virtual_memory()
    used_mb = (memory.total - memory.available) / MIB
    return Machine(cpu_name(), _core_count(), used_mb, memory.total / MIB, _gpus())


@functools.cache
def cpu_name() -> str:
    """Return the model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _core_count() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only; respects the limits of a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[Gpu, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = ["--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            [command, *query], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = csv.reader(result.stdout.splitlines(), skipinitialspace=True)
    return tuple(Gpu(row[0], _number(row[1]), _number(row[2])) for row in rows if len(row) == 3)


def _number(text: str) -> float | None:
    """Parse a number. Return None for `[N/A]`, which GPUs with shared memory report."""
    try:
        return float(text)
    except ValueError:
        return None
