"""Fixtures for browser tests: a dashboard server, Chromium and a run full of markup and scripts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from core.config import RunConfig
from core.run.directory import RunDirectory

ROOT = Path(__file__).parents[2]
QUIET = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
TIMEOUT_MS = 60_000
HOSTILE = (
    "<script>window.pwned = 1</script> <img src=x onerror='window.pwned = 2'> "
    "[link](javascript:alert(3)) $x^2$ :material/delete: https://a.bc/d **bold** &lt;b&gt;"
)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("dashboard") / "runs"


@pytest.fixture(scope="module")
def hostile(runs_dir):
    """A run with HOSTILE in every text field."""
    config = RunConfig(name="hostile", notes=f"notes {HOSTILE}")
    run = RunDirectory.create(runs_dir, config)
    run.append("plan", steps=1, steps_per_epoch=1)
    position = {"step": 1, "epoch": 1.0, "tokens": 1, "seconds": 1.0}
    run.append("step", **position, lr=1e-3, loss=1.0, grad_norm=1.0, tokens_per_s=1.0)
    run.append("sample", step=1, prompt=f"prompt {HOSTILE}", text=f"sample {HOSTILE}")
    texts = {
        "instruction": f"ask {HOSTILE}",
        "input": f"input {HOSTILE}",
        "answer": f"answer {HOSTILE}",
    }
    run.append("generation", item=1, reference=f"reference {HOSTILE}", **texts)
    run.append("status", status="failed", reason=f"reason {HOSTILE}")
    return run


@pytest.fixture(scope="module")
def address(runs_dir, hostile, tmp_path_factory):
    """URL of a dashboard server, which must shut down cleanly and must not log a traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    # Slow the demo down; otherwise, it finishes before the test can stop it.
    slow = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, "RUNS_DIR": str(runs_dir), **slow}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "pages.ui.serve", "--server.port", str(port)],
            cwd=ROOT, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(server, url)
        yield url
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()
        server.wait()


def _wait_for(server, url):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server exited"
        try:
            urllib.request.urlopen(f"{url}/_stcore/health").close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    pytest.fail("the server did not respond within 60 s")


@pytest.fixture(scope="session")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "Chromium not found: install it, or set CHROMIUM to its path"
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser_context(chromium):
    """A browser context shared by all tabs, so that Streamlit's scripts load from its cache."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    context.close()


@pytest.fixture
def open_tab(browser_context, address):
    """A function that opens a path in a new tab. The test fails on any JavaScript error or dialog."""
    browser_errors = []

    def open(path=""):
        tab = browser_context.new_page()
        tab.on("pageerror", lambda error: browser_errors.append(f"{tab.url}: {error}"))
        tab.on("dialog", lambda dialog: browser_errors.append(f"{tab.url}: {dialog.message}"))
        tab.goto(f"{address}/{path}")
        return tab

    yield open
    for tab in browser_context.pages:
        tab.close()
    assert not browser_errors
