"""The device a run computes on: which, in which number format, how fast, how much memory."""

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

MIB = 2**20
M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


def resolve_device(device: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one. Raises UserError."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    resolved = torch.device(device)
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}.get(
        resolved.type, torch.cuda.device_count()
    )
    if (resolved.index or 0) >= count:
        message = f"device = {device!r}: this machine has none; it should be auto or cpu"
        raise UserError(message)
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The format of matrix products. `auto` is bf16 where the hardware multiplies it fast, else fp32.

    A CPU without AMX multiplies bf16 a hundred times slower than fp32. Raises UserError for fp16
    without a CUDA device.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            fast = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_tile", False)
        return torch.bfloat16 if fast else torch.float32
    if precision == "fp16" and device.type != "cuda":
        message = f"precision = 'fp16': it needs a CUDA device and the run is on {device.type}; it should be auto or fp32"
        raise UserError(message)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype as stored in events and manifests, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Matrix products in `dtype`, everything delicate in fp32."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def enable_determinism(device: torch.device) -> None:
    """Let the same steps give the same bits on a CUDA device, as on a CPU they do anyway."""
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads it


def describe(device: torch.device) -> str:
    """The device's name for people, such as `NVIDIA H100` or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()} ({device.type})"


def peak_memory_mb(device: torch.device) -> float:
    """The most memory held so far, MiB: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    # The kernel hands a new process the peak of the one that started it as `ru_maxrss`; not so VmHWM.
    status = Path("/proc/self/status")
    if status.exists():
        [peak] = re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(peak) * 1024 / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def map_large_blocks() -> None:
    """Let what is made from now on go back to the system when it is freed: less memory for some of the speed.

    By default a trainer keeps freed blocks for its next step (`core.scheduler.executors.ENVIRONMENT`).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 4 * MIB)


def return_freed_memory() -> None:
    """Let the system have what is free between blocks in use; glibc keeps it for the next step."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def release_cache() -> None:
    """Let a GPU have what PyTorch keeps for later; what is still in use stays."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory_mb(device: torch.device) -> float:
    """Memory that a run could have now, MiB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB
    return psutil.virtual_memory().available / MIB


def product_rate(precision: str, device: torch.device) -> float:
    """Operations a second of a matrix product; a GPU's depends on the number format by an order of magnitude."""
    dtype = torch.float32
    if device.type == "cuda":
        with contextlib.suppress(UserError):  # told where settings are checked
            dtype = resolve_precision(precision, device)
    return _product_rate(device, dtype)


@functools.cache
def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    return gemm_flops(device, dtype)


def gemm_flops(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Floating-point operations a second that a square matrix product reaches: best of five."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        _ = a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
