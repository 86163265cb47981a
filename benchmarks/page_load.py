"""Time until each page of the dashboard shows its first heading, in Chromium, with many runs. Prints JSON.

Also prints the server's CPU time per visit, which depends less on other load.

Each page is opened by its URL in a new tab, as if from a copied link; Streamlit's own scripts come from the browser's
cache. The first visit after the server starts is reported separately, because it loads PyTorch and the index.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import psutil
from playwright.sync_api import BrowserContext, sync_playwright

from benchmarks.load_data import write_runs

ROOT = Path(__file__).parents[1]
RUN = "load-0000"
PAGES = {
    "results": "",
    "launch": "launch",
    "live": f"live?run={RUN}",
    "compare": "compare",
    "scoring": "scoring",
    "data": "data",
    "run": f"run?name={RUN}",
}
START_TIMEOUT_S = 60.0
TAB_TIMEOUT_MS = 120_000


def measure(runs: int, steps: int, visits: int, pages: list[str]) -> dict[str, object]:
    """Return the duration of the first visit, and the medians over `visits` visits to each page."""
    with tempfile.TemporaryDirectory() as directory:
        write_runs(Path(directory), runs, steps)
        with dashboard(Path(directory)) as (address, server), sync_playwright() as playwright:
            chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            context.set_default_timeout(TAB_TIMEOUT_MS)
            first = seconds_to_heading(context, address)
            times: dict[str, list[float]] = {page: [] for page in pages}
            cpu_times: dict[str, list[float]] = {page: [] for page in pages}
            for _ in range(visits + 1):  # the first round fills caches
                for page in pages:
                    url = f"{address}/{PAGES[page]}"
                    before = cpu_seconds(server)
                    times[page].append(seconds_to_heading(context, url))
                    cpu_times[page].append(cpu_seconds(server) - before)
            browser.close()

    def summary(values: dict[str, list[float]]) -> dict[str, float]:
        return {page: round(statistics.median(values[page][1:]), 2) for page in pages}

    return {
        "runs": runs,
        "steps": steps,
        "first_visit_s": round(first, 2),
        "median_s": summary(times),
        "median_server_cpu_s": summary(cpu_times),
    }


def cpu_seconds(server: psutil.Process) -> float:
    """Return the CPU time that a process has used so far."""
    used = server.cpu_times()
    return used.user + used.system


def seconds_to_heading(context: BrowserContext, url: str) -> float:
    """Open a URL in a new tab. Return the seconds until its first heading is visible."""
    tab = context.new_page()
    start = time.perf_counter()
    tab.goto(url, wait_until="commit")
    tab.get_by_role("heading").first.wait_for()
    elapsed = time.perf_counter() - start
    tab.close()
    return elapsed


@contextmanager
def dashboard(runs_dir: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a folder of runs. Yields the address and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "pages.ui.serve", "--server.port", str(port)],
        cwd=ROOT,
        env={**os.environ, "RUNS_DIR": str(runs_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/_stcore/health").close()
                break
            except URLError:
                time.sleep(0.1)
        yield address, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=250, help="steps per run")
    parser.add_argument("--visits", type=int, default=5, help="timed visits per page")
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES))
    args = parser.parse_args()
    print(json.dumps(measure(args.runs, args.steps, args.visits, args.pages)))
