"""The trainer on a simulated GPU, which knows shapes but no numbers: whoever asks it for one has to wait."""

import json
import subprocess
import sys

from core.nn.architecture import FAMILY
from core.scheduler.executors import ROOT


def test_a_step_waits_for_the_gpu_once() -> None:
    command = ["-m", "benchmarks.simulated_gpu", "--base", "gpt2-nano", "--examples", "100"]
    done = subprocess.run(
        [sys.executable, *command, "--recipe", "run_4", "--recipe", "run_11"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    full, lora = json.loads(done.stdout).values()
    assert full["reads"] == lora["reads"] == 1
    weights = 4 * FAMILY["gpt2-nano"].parameters() / 2**30
    assert full["memory_gb"] > 4 * weights  # with gradients and two moments
    assert lora["memory_gb"] < lora["estimate_gb"]
