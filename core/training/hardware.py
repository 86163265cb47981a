"""Device selection, precision, speed and memory. Independent of models."""

import contextlib
import ctypes
import functools
import gc
import platform
import re
import resource
import sys
import time
from pathlib import Path

import psutil
import torch

from core.errors import UserError
from core.machine import cpu_name
from core.metrics import MIB

M_MMAP_THRESHOLD = -3
"""Number of the `mallopt` parameter in glibc's malloc.h."""


def resolve_device(device: str) -> torch.device:
    """Return the device with this name; `auto` prefers a GPU. Raises UserError if it is not available."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    resolved = torch.device(device)
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}.get(
        resolved.type, torch.cuda.device_count()
    )
    if (resolved.index or 0) >= count:
        message = f"device = {device!r}: this machine has no such device; use auto or cpu"
        raise UserError(message)
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype for matrix products. `auto` is bf16 where the hardware accelerates it, and fp32 elsewhere.

    On a CPU without AMX, bf16 matrix products are a hundred times slower than fp32 ones. Raises UserError for fp16
    without a CUDA device.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            fast = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_tile", False)
        return torch.bfloat16 if fast else torch.float32
    if precision == "fp16" and device.type != "cuda":
        message = f"precision = 'fp16': fp16 needs a CUDA device, but the run uses {device.type}; use auto or fp32"
        raise UserError(message)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype as stored in events and manifests, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return a context that computes matrix products in `dtype` and numerically sensitive operations in fp32."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def enable_determinism(device: torch.device) -> None:
    """Make training on a CUDA device bit-reproducible, as it always is on a CPU."""
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads it


def describe(device: torch.device) -> str:
    """Return a readable device name, such as `NVIDIA H100` or the CPU model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        return f"{cpu_name()}, {torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()} ({device.type})"


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in MiB: of the GPU allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    # Unlike VmHWM, `ru_maxrss` in a new process starts at its parent's peak.
    status = Path("/proc/self/status")
    if status.exists():
        [peak] = re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(peak) * 1024 / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def map_large_blocks() -> None:
    """Make glibc return large blocks to the system as soon as they are freed, which saves memory but is slower.

    By default, trainers keep freed blocks for the next step (`core.scheduler.executors.TRAINER_ENVIRONMENT`).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 4 * MIB)


def return_freed_memory() -> None:
    """Return freed heap memory to the system, which glibc otherwise keeps for reuse."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def release_cache() -> None:
    """Release the GPU memory that PyTorch has cached but does not use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory_mb(device: torch.device) -> float:
    """Return the free memory of a device in MiB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB
    return psutil.virtual_memory().available / MIB


def product_rate(precision: str, device: torch.device) -> float:
    """Return the FLOP/s of matrix multiplication. On a GPU, it varies with precision by an order of magnitude."""
    dtype = torch.float32
    if device.type == "cuda":
        with contextlib.suppress(UserError):  # reported when the settings are checked
            dtype = resolve_precision(precision, device)
    return _product_rate(device, dtype)


@functools.cache
def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    return gemm_flops(device, dtype)


def gemm_flops(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Measure the FLOP/s of square matrix multiplication and return the best of six runs."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        _ = a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
