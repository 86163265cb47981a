"""Run a measurement or a learning rate test in a child process that exits when this process does.

The settings and the result are passed as JSON.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from core.config import RunConfig
from core.errors import UserError
from core.scheduler.executors import ROOT, TRAINER_ENVIRONMENT

TASKS = {
    "measurement": ("core.planning.measurement", "run_trial"),
    "learning rate test": ("core.training.lr_finder", "find_lr"),
}
"""Module and function for each task. The function takes a RunConfig and keyword arguments and returns a dataclass."""
Result = TypeVar("Result")

_running = threading.Lock()  # simultaneous tasks would distort each other's timings


def start(task: Callable[[], Result]) -> Future[Result]:
    """Call `task` in a background thread. Tasks run one at a time, and their child processes exit with this process."""
    future: Future[Result] = Future()

    def main() -> None:
        try:
            with _running:
                future.set_result(task())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=main, name="planning", daemon=True).start()
    return future


def call(task: str, config: RunConfig, **options: Any) -> dict[str, Any]:
    """Run one of TASKS in a separate process and return the fields of its result.

    Raises:
        UserError: the task failed, for example because memory ran out.
    """
    completed = subprocess.run(
        [sys.executable, "-m", "core.planning.child", str(os.getpid())],
        cwd=ROOT,
        env={**TRAINER_ENVIRONMENT, **os.environ},
        input=json.dumps({"task": task, "config": config.model_dump(), "options": options}),
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if completed.returncode < 0:
        raise UserError(
            f"the {task} was killed, probably because the run needs more memory than this machine has"
        )
    if completed.returncode:
        last_line = (completed.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the {task} failed: {last_line}")
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_exit_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    with contextlib.suppress(OSError):
        # If memory runs out, the kernel kills this process instead of the dashboard.
        Path("/proc/self/oom_score_adj").write_text("1000")
    order = json.load(sys.stdin)
    module, function = TASKS[order["task"]]
    try:
        config = RunConfig.parse(order["config"])
        result = getattr(importlib.import_module(module), function)(config, **order["options"])
        print(json.dumps(vars(result)))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
