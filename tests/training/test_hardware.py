"""Device and precision selection, and hardware measurements."""

import psutil
import pytest
import torch

from core.errors import UserError
from core.metrics import MIB
from core.training import hardware

CPU = torch.device("cpu")


def test_cpu_is_always_available() -> None:
    assert hardware.resolve_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert hardware.resolve_device("auto").type == expected


def test_missing_device_is_reported() -> None:
    with pytest.raises(
        UserError, match=r"device = 'cuda:99': this machine has no such device; use auto or cpu"
    ):
        hardware.resolve_device("cuda:99")


def test_cpu_supports_fp32_and_bf16_but_not_fp16() -> None:
    assert hardware.resolve_precision("fp32", CPU) is torch.float32
    assert hardware.resolve_precision("bf16", CPU) is torch.bfloat16
    # This depends on the machine: without AMX, bf16 is a hundred times slower.
    fast = torch.cpu.get_capabilities()["amx_tile"]
    assert hardware.resolve_precision("auto", CPU) is (torch.bfloat16 if fast else torch.float32)
    with pytest.raises(UserError, match="precision = 'fp16': fp16 needs a CUDA device"):
        hardware.resolve_precision("fp16", CPU)


def test_autocast_only_applies_to_half_precision() -> None:
    a = torch.randn(4, 4)
    with hardware.autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16
    with hardware.autocast(CPU, torch.float32):
        assert (a @ a).dtype is torch.float32


def test_measurements_are_plausible() -> None:
    assert hardware.describe(CPU)
    assert hardware.available_memory_mb(CPU) > 10
    peak_before_mb = hardware.peak_memory_mb(CPU)
    block = torch.ones(400, MIB // 4)  # 400 MiB
    assert hardware.peak_memory_mb(CPU) >= max(peak_before_mb, 400)
    del block
    assert hardware.peak_memory_mb(CPU) >= peak_before_mb
    assert 1e7 < hardware.gemm_flops(CPU, size=128) < 1e14


def test_freed_memory_between_live_blocks_is_returned() -> None:
    blocks = [b"x" * 100_000 * (i % 2 + 1) for i in range(2000)]
    retained_blocks = blocks[::10]
    memory_before = psutil.Process().memory_info().rss
    del blocks
    hardware.return_freed_memory()
    assert psutil.Process().memory_info().rss < memory_before - 200 * MIB
    assert len(retained_blocks) == 200
