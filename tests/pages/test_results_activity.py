"""Current activity on Results: the current run, the queue and the machine."""

import threading

import pytest

from core.config import RunConfig
from core.machine import Gpu, Machine
from core.scheduler.executors import EXECUTORS
from pages import results_activity
from pages.ui import runtime


@pytest.fixture
def busy_queue(open_page, monkeypatch, wait):
    """A function that launches runs. The first keeps running until the test ends."""
    ended = threading.Event()

    def train(run):
        with run.lock():  # so that the run counts as alive
            run.append("status", status="running", pid=1, host="here")
            run.append("plan", steps=8, steps_per_epoch=8)
            position = {"step": 2, "epoch": 0.25, "tokens": 9, "seconds": 60.0}
            run.append("step", **position, lr=1e-3, loss=1.0, grad_norm=1.0)
            ended.wait(60)
            run.append("status", status="finished")

    def launch(*names):
        open_page("results")  # opens the lab
        lab = runtime.lab()
        for name in names:
            lab.launch(RunConfig(name=name))
        wait(lambda: lab.runs().set_index("name")["status"].get(names[0]) == "running", 10)

    monkeypatch.setitem(EXECUTORS, "idle", train)
    yield launch
    ended.set()


def test_machine_is_shown_while_nothing_runs(open_page, monkeypatch):
    gpus = (Gpu("NVIDIA H200", 12_288.0, 143_771.0), Gpu("NVIDIA GB10", None, None))
    machine = Machine("Abacus 3000", 16, 4096.0, 65_536.0, gpus)
    monkeypatch.setattr("core.lab.read_machine", lambda: machine)
    results_activity._machine.clear()
    page = open_page("results")
    assert page.says("Nothing is running. The queue is empty.")
    assert page.says(
        "**NVIDIA H200**, 12.0 GB of 140.4 GB · **NVIDIA GB10**, — of — · "
        "**Abacus 3000**, 16 cores · 4.0 GB of 64.0 GB memory used"
    )
    results_activity._machine.clear()


def test_running_and_queued_runs_are_shown_and_can_be_reordered(busy_queue, open_page):
    busy_queue("one", "two", "three")
    page = open_page("results")
    links = {link.label for link in page.get("page_link")}
    assert links == {"1 running · 2 queued", "one", "two", "three"}
    [progress] = page.get("progress")
    assert progress.proto.text == "Step 2 of 8 · 3 min left"
    page.press("down:two")
    assert runtime.lab().waiting() == ["one", "three", "two"]
    page.press("withdraw:three")
    assert runtime.lab().waiting() == ["one", "two"]
    page.press("activity_stop:one")
    assert page.widget("activity_stop:one").disabled
    assert runtime.lab().seconds_since_stop_request("one") is not None
    assert open_page("data").get("page_link")[0].label == "1 running · 1 queued"


def test_resuming_at_startup_can_be_enabled(open_page):
    page = open_page("results").choose("resume_interrupted", True)
    assert runtime.lab().preferences().resume_interrupted
    page.choose("resume_interrupted", False)
    assert not runtime.lab().preferences().resume_interrupted
