"""The machine: processor, cores, memory, and GPUs as reported by `nvidia-smi`."""

import psutil
import pytest

from core import machine
from core.machine import Gpu


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A function that puts an `nvidia-smi` with this output first on the PATH."""

    def write(output, exit_status=0):
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {exit_status}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


def test_processor_cores_and_memory_are_reported():
    read = machine.read_machine()
    assert read.cpu
    assert 1 <= read.cores <= psutil.cpu_count()
    assert 0 < read.memory_used_mb < read.memory_total_mb
    assert read.memory_total_mb == psutil.virtual_memory().total / 2**20


def test_gpus_are_reported_with_their_memory(nvidia_smi):
    nvidia_smi("NVIDIA H200, 12034, 143771\nNVIDIA GB10, [N/A], [N/A]")
    assert machine.read_machine().gpus == (
        Gpu("NVIDIA H200", 12034.0, 143771.0),
        Gpu("NVIDIA GB10", None, None),
    )


def test_failing_driver_means_no_gpu(nvidia_smi):
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver.", 9)
    assert machine.read_machine().gpus == ()
