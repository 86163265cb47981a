"""One Lab per process across reruns, sessions and hot reloads, with an error message if it cannot be opened."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from core.lab import Lab
from core.run.directory import RunDirectory
from core.scheduler.queue import Queue
from core.tracking.index import INDEX_FILE, Index
from pages.ui import runtime

ROOT = Path(__file__).parents[3]
PAGES = ("launch", "live", "results", "compare")


def threads():
    return [t.name for t in threading.enumerate() if t.name in ("queue", "sync")]


class SlowScoring:
    """A scoring job whose pending requests take a second to finish."""

    going = True

    def stop(self):
        self.requested_at = time.monotonic()

    def join(self, timeout):
        time.sleep(min(timeout, max(0.0, self.requested_at + 1.0 - time.monotonic())))


def test_scoring_and_trainer_are_stopped_in_parallel(open_page, monkeypatch):
    open_page("live")
    original_close, close_calls = Queue.close, []

    def close(queue, *timeout):
        if not close_calls:  # only the first call is slow
            time.sleep(1.0)
            close_calls.append(time.monotonic())
        original_close(queue, *timeout)

    monkeypatch.setattr(Queue, "close", close)
    runtime.lab().scoring.job = SlowScoring()
    scoring = runtime.lab().scoring.job
    runtime.release()
    assert scoring.requested_at < close_calls[0], "both were asked before either was awaited"


@pytest.fixture
def reload():
    """A function that drops the project's modules, as Streamlit does after a source file changes."""
    modules_before = {n: m for n, m in sys.modules.items() if n.split(".")[0] in ("core", "pages")}

    def forget():
        for name in [n for n in sys.modules if n.split(".")[0] in ("core", "pages")]:
            del sys.modules[name]

    yield forget
    runtime.release()
    forget()
    sys.modules.update(modules_before)  # other tests keep references to these


@pytest.mark.parametrize("name", PAGES)
def test_every_page_renders_without_runs(open_page, name):
    page = open_page(name)
    assert page.title[0].value.lower() == name
    assert not page.error
    assert not page.warning


def test_all_sessions_share_one_lab(open_page):
    first = open_page("launch")
    lab = runtime.lab()
    open_page("results").run()
    first.go("live").go("compare").run()
    assert runtime.lab() is lab
    assert sorted(threads()) == ["queue", "sync"]


def test_hot_reload_keeps_a_single_lab(write_run, open_page, reload):
    write_run("one")
    page = open_page("results")
    lab = runtime.lab()
    reload()
    page.run()
    reopened = open_page("live")
    assert reopened.widget("live_run").value == ["one"]
    assert sys.modules["pages.ui.runtime"] is not runtime
    assert sys.modules["pages.ui.runtime"].lab() is lab
    assert sorted(threads()) == ["queue", "sync"]
    reopened.go("launch").press("Launch the demo")
    reloaded_preset = sys.modules["core.presets"].preset("demo")
    assert lab.config("demo").changed(color="").model_dump() == reloaded_preset.model_dump()


def test_release_closes_the_lab(open_page, runs_dir):
    open_page("live")
    lab = runtime.lab()
    assert runtime.is_open(lab)
    runtime.release()
    assert not runtime.is_open(lab)
    assert threads() == []
    Index(runs_dir / INDEX_FILE).close()  # the lock has been released
    runtime.release()  # a second release is harmless
    open_page("live")
    assert sorted(threads()) == ["queue", "sync"]


def test_second_dashboard_is_read_only_until_it_takes_over(open_page, runs_dir, write_run):
    write_run("one", "stopped")
    code = "import sys; from core.lab import Lab; from pathlib import Path; "
    code += "lab = Lab(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read(); lab.close()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(runs_dir)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "open\n"
        page = open_page("live")
        expected_text = (
            f"Read-only: another dashboard (pid {holder.pid}) is using this folder. Make changes"
        )
        assert page.says(expected_text)
        page.press("Resume")
        assert page.toast[0].value.startswith(r"Read\-only")
        assert RunDirectory(runs_dir / "one").status() == "stopped"
    finally:
        holder.communicate("")
    assert page.run().says("the dashboard that owned these runs has exited")
    assert not page.press("Take over").run().says("Read-only")
    assert runtime.lab().driver_pid is None


def test_unwritable_runs_directory_is_reported(open_page, runs_dir):
    runs_dir.write_text("a file")
    [error] = open_page("live").error
    assert "cannot be written to" in error.value.replace("\\", "")


def test_read_only_runs_directory_is_shown(open_page, monkeypatch, write_run, runs_dir):
    write_run("one", "stopped")
    monkeypatch.setenv("RUNS_DIR", "/sys/kernel")  # not writable, even for root
    page = open_page("live")
    assert page.says("Read-only: /sys/kernel cannot be written to")
    assert page.says("No runs yet")
    page.go("launch").press("Launch the demo")
    assert page.says("Read-only: /sys/kernel cannot be written to")
    monkeypatch.setenv("RUNS_DIR", str(runs_dir))  # simulate that the folder has become writable
    page.go("live").press("Retry")
    assert not page.says("Read-only")
    assert page.press("Resume").says("one")
    assert RunDirectory(runs_dir / "one").status() == "queued"


def test_unknown_executor_is_reported(open_page, monkeypatch, runs_dir):
    monkeypatch.setenv("EXECUTOR", "abacus")
    [error] = open_page("live").error
    assert "executor = 'abacus': must be process or thread" in error.value.replace("\\", "")
    Lab(runs_dir).close()  # no lock is left behind


def test_rebuilt_index_is_reported(open_page, write_run, runs_dir):
    write_run("one")
    (runs_dir / INDEX_FILE).write_bytes(b"not a database " * 1000)
    page = open_page("results")
    assert page.says("The index was rebuilt from the run directories")
    assert page.dataframe[0].value["name"].tolist() == ["one"]


def test_every_page_names_a_run_that_cannot_be_indexed(open_page, write_run, runs_dir):
    write_run("intact")
    write_run("broken")
    config = runs_dir / "broken" / "config.json"
    page = open_page("live")
    config.unlink()
    config.mkdir()
    runtime.lab().refresh()
    assert page.run().says("broken cannot be indexed")


def test_direct_link_shows_the_navigation_on_a_new_server(open_page, monkeypatch):
    monkeypatch.setattr(PagesManager, "uses_pages_directory", True)
    page = open_page("live")
    assert PagesManager.uses_pages_directory is False
    titles = {info["page_name"] for info in page._registered_pages.values()}
    assert titles == {"Launch", "Data", "Live", "Results", "Studies", "Compare", "Scoring", "Run"}


def busy_page():
    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx
    from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

    from pages.ui import runtime

    if st.query_params.get("clicked"):
        st.title("clicked page")
    elif "drawn" in st.session_state:
        st.title("same page")
    else:
        st.session_state["drawn"] = True
        # Simulate a click in the browser while this page is busy.
        get_script_run_ctx().script_requests.request_rerun(RerunData(query_string="clicked=1"))
        runtime.rerun()


def test_click_during_a_rerun_is_not_lost():
    assert [title.value for title in AppTest.from_function(busy_page).run().title] == [
        "clicked page"
    ]


def test_frozen_garbage_is_collected_later(open_page, monkeypatch):
    open_page("live")

    class Cycle:
        pass

    cycle = Cycle()
    cycle.itself = cycle
    garbage = weakref.ref(cycle)
    monkeypatch.setattr(runtime, "FREEZE_INTERVAL_S", -1.0)
    runtime.freeze_garbage_collection("Live")
    del cycle
    runtime.freeze_garbage_collection("Live")
    assert garbage() is not None
    monkeypatch.setattr(runtime, "FULL_COLLECTION_INTERVAL_S", -1.0)
    runtime.freeze_garbage_collection("Live")
    assert garbage() is None
    assert gc.get_freeze_count() > 0
