"""Devices and number formats: what is there is found, what is not is told."""

import psutil
import pytest
import torch

from core.errors import UserError
from core.training import hardware

CPU = torch.device("cpu")


def test_a_processor_is_always_there() -> None:
    assert hardware.resolve_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert hardware.resolve_device("auto").type == expected


def test_an_absent_device_is_told() -> None:
    with pytest.raises(
        UserError, match=r"device = 'cuda:99': this machine has none; .* auto or cpu"
    ):
        hardware.resolve_device("cuda:99")


def test_formats_of_a_processor() -> None:
    assert hardware.resolve_precision("fp32", CPU) is torch.float32
    assert hardware.resolve_precision("bf16", CPU) is torch.bfloat16
    # facts of the machine: without AMX, bf16 is a hundred times slower
    fast = torch.cpu._is_amx_tile_supported()
    assert hardware.resolve_precision("auto", CPU) is (torch.bfloat16 if fast else torch.float32)
    with pytest.raises(UserError, match="precision = 'fp16': it needs a CUDA device"):
        hardware.resolve_precision("fp16", CPU)


def test_autocast_is_for_half_precision_only() -> None:
    a = torch.randn(4, 4)
    with hardware.autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16
    with hardware.autocast(CPU, torch.float32):
        assert (a @ a).dtype is torch.float32


def test_measurements_are_plausible() -> None:
    assert hardware.describe(CPU)
    assert hardware.available_memory_mb(CPU) > 10
    before = hardware.peak_memory_mb(CPU)
    block = torch.ones(400, hardware.MIB // 4)  # 400 MiB
    assert hardware.peak_memory_mb(CPU) >= max(before, 400)
    del block
    assert hardware.peak_memory_mb(CPU) >= before
    assert 1e7 < hardware.gemm_flops(CPU, size=128) < 1e14


def test_what_lies_free_between_blocks_in_use_goes_back_to_the_system() -> None:
    blocks = [b"x" * 100_000 * (i % 2 + 1) for i in range(2000)]
    kept = blocks[::10]
    full = psutil.Process().memory_info().rss
    del blocks
    hardware.return_freed_memory()
    assert psutil.Process().memory_info().rss < full - 200 * 2**20
    assert len(kept) == 200
