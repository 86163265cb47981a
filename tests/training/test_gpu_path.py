"""The trainer on a simulated GPU, which tracks shapes but not values and counts synchronizations."""

import json
import subprocess
import sys

from core.nn.architecture import FAMILY
from core.scheduler.executors import ROOT


def test_step_synchronizes_with_the_gpu_once() -> None:
    command = ["-m", "benchmarks.simulated_gpu", "--base", "gpt2-nano", "--examples", "100"]
    completed = subprocess.run(
        [sys.executable, *command, "--recipe", "run_4", "--recipe", "run_11"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    full_counts, lora_counts = json.loads(completed.stdout).values()
    assert full_counts["reads"] == lora_counts["reads"] == 1
    weights = 4 * FAMILY["gpt2-nano"].parameters() / 2**30
    assert full_counts["memory_gb"] > 4 * weights  # includes gradients and two moments
    assert lora_counts["memory_gb"] < lora_counts["estimate_gb"]
