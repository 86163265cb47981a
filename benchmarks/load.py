"""Speed and memory of the dashboard with 1,000 runs of 6,000 steps, next to targets.

    python -m benchmarks.load --runs 1000 --steps 6000

    ingest_per_s      events per second when building a new index (target: 200,000)
    start_s           time from starting the server until a browser shows its first page, median of three (target: 3)
    open_s            time to open the lab, including syncing the index with all runs; part of `start_s`
    results_s         server time for the Results page (target: 1); `page_s` is the same for each of the other pages
    live_ms           server time for one update of the Live page, from `benchmarks.live_page` (target: 50)
    memory_mb         the server's resident memory after all pages have been opened (target: 1,000)
    updates, gap_s    with ten sessions on Live during training (`benchmarks.watchers`): the lowest number of updates in
                      any session in 25 s, and the longest time between two updates in any session (target: 1.5)
    answer_s          the longest time from an update's request to its last message
    server_cores      CPU cores used by the server while the sessions watch. `watcher_cores` is the same for the
                      sessions, which would normally run on other machines
    run_speed         training speed with the sessions divided by the speed without them (target: 0.95): the median over
                      three 20 s intervals, each divided by the mean of the intervals before and after it. Set
                      `--trainer-threads` below the number of cores to leave a core for the server

Needs Chromium, like the browser tests.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, sync_playwright

from benchmarks import live_page
from benchmarks.load_data import write_runs
from benchmarks.watchers import watch
from core.lab import Lab
from core.presets import preset
from core.run.directory import RunDirectory
from core.run.events import parse
from core.tracking.sync import read_index

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {"ingest_per_s": 200_000, "start_s": 3, "results_s": 1, "live_ms": 50, "memory_mb": 1000, "gap_s": 1.5, "run_speed": 0.95}  # fmt: skip
WATCHERS = 10
INTERVAL_S = 20.0
"""Length of each interval with or without sessions, in seconds."""
ARRIVAL_S = 5.0
"""Time allowed for the sessions to open the page before measuring, in seconds."""
INTERVALS = 3
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
PAGE_TIMES = """
import json, sys, time
from pathlib import Path
from streamlit.testing.v1 import AppTest
times = {}
for page in ("launch", "results", "live", "compare", "scoring", "data"):
    app = AppTest.from_file("app.py", default_timeout=120)
    app.run()
    app.switch_page(f"pages/{page}.py").run()
    start = time.perf_counter()
    app.run()
    times[page] = round(time.perf_counter() - start, 3)
    assert not app.exception, app.exception
print(json.dumps(times))
"""


def measure(runs: int, steps: int, folder: Path) -> dict[str, Any]:
    """Run all measurements and return the report."""
    runs_dir = folder / "runs"
    log_progress(f"writing {runs:,} runs of {steps:,} steps")
    events = write_runs(runs_dir, runs, steps)
    size = sum(path.stat().st_size for path in runs_dir.glob("*/events.jsonl"))
    report: dict[str, Any] = {"runs": runs, "events": events, "gigabytes": round(size / 1e9, 2)}
    log_progress("building the index")
    start = time.perf_counter()
    read_index(runs_dir).close()
    report["ingest_per_s"] = round(events / (time.perf_counter() - start))
    report["index_mb"] = round((runs_dir / "lab.duckdb").stat().st_size / 1e6)
    log_progress("opening the lab")
    start = time.perf_counter()
    lab = Lab(runs_dir)
    report["open_s"] = round(time.perf_counter() - start, 2)
    lab.close()
    log_progress("timing the pages")
    process = subprocess.run(
        [sys.executable, "-c", PAGE_TIMES],
        cwd=ROOT, env=os.environ | {"RUNS_DIR": str(runs_dir)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pages = json.loads(process.stdout.splitlines()[-1])
    report |= {"results_s": pages.pop("results"), "page_s": pages}
    report["live_ms"] = live_page.measure()["median_ms"]
    log_progress("starting the server")
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        report["start_s"] = round(
            statistics.median(startup_time(runs_dir, browser) for _ in range(3)), 2
        )
        report |= measure_server(runs_dir, browser)
        browser.close()
    return report


def startup_time(runs_dir: Path, browser: Browser) -> float:
    """Return the time from starting a server until a browser shows its first page, in seconds."""
    start = time.perf_counter()
    with serving(runs_dir) as (_, address), browser.new_page() as page:
        page.goto(address)
        page.get_by_role("heading", name="Results").wait_for(timeout=60_000)
        return time.perf_counter() - start


def measure_server(runs_dir: Path, browser: Browser) -> dict[str, Any]:
    """Measure a real server: its memory after opening all pages, and its speed with ten sessions watching a run."""
    run = RunDirectory.create(runs_dir, preset("demo").changed(name="training", epochs=200))
    (runs_dir / "queue.json").write_text('["training"]')
    results: dict[str, Any] = {}
    with serving(runs_dir) as (server, address):
        page = browser.new_page()
        for name in ("launch", "results", "live", "compare", "scoring", "data"):
            page.goto(f"{address}/{name}")
            page.get_by_role("heading", name=name.title()).wait_for(timeout=60_000)
            page.wait_for_timeout(2000)
        results["memory_mb"] = round(server.memory_info().rss / 2**20)
        page.goto(f"{address}/live?run=training")
        page.get_by_role("button", name="Resume").or_(page.get_by_role("button", name="Stop")).wait_for(timeout=60_000)  # fmt: skip
        page.close()
        log_progress("training with and without sessions, in turn")
        wait_for_steps(run, 3)
        sessions, server_cores, watcher_cores, ratios = [], [], [], []
        speed_before = speed(run, INTERVAL_S)
        for _ in range(INTERVALS):
            with ThreadPoolExecutor(1) as thread:
                watched = thread.submit(
                    watch, address, "live?run=training", WATCHERS, ARRIVAL_S + INTERVAL_S
                )
                time.sleep(ARRIVAL_S)
                start, used, watcher_used = (
                    time.perf_counter(),
                    seconds_used(server),
                    time.process_time(),
                )
                speed_watched = speed(run, INTERVAL_S)
                elapsed = time.perf_counter() - start
                server_cores.append((seconds_used(server) - used) / elapsed)
                watcher_cores.append((time.process_time() - watcher_used) / elapsed)
                sessions += watched.result()
            speed_after = speed(run, INTERVAL_S)
            ratios.append(2 * speed_watched / (speed_before + speed_after))
            speed_before = speed_after
        results["server_cores"] = round(statistics.median(server_cores), 2)
        results["watcher_cores"] = round(statistics.median(watcher_cores), 2)
        results["updates"] = min(session["updates"] for session in sessions)
        results["gap_s"] = round(max(session["gap"] for session in sessions), 2)
        results["answer_s"] = round(max(session["answer"] for session in sessions), 2)
        results["run_speed"] = round(statistics.median(ratios), 3)
        results["run_speeds"] = [round(ratio, 3) for ratio in ratios]
    return results


def seconds_used(process: psutil.Process) -> float:
    """Return the CPU time that a process has used, in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def speed(run: RunDirectory, seconds: float) -> float:
    """Measure a run for `seconds`. Return the tokens per second in its training steps."""
    offset = run.events_path.stat().st_size
    time.sleep(seconds)
    with run.events_path.open("rb") as file:
        file.seek(offset)
        events = [parse(line) for line in file.read().splitlines()]
    rates = [e["tokens_per_s"] for e in events if e and e["event"] == "step"]
    return statistics.mean(rates)


def wait_for_steps(run: RunDirectory, count: int) -> None:
    """Wait until a run has completed this many steps."""
    while run.events_path.read_text(encoding="utf-8").count('"event":"step"') < count:
        time.sleep(0.2)


@contextlib.contextmanager
def serving(runs_dir: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Serve the dashboard and yield its process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pages.ui.serve", "--server.port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"RUNS_DIR": str(runs_dir)}, stdout=subprocess.DEVNULL
    )
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def log_progress(message: str) -> None:
    """Print a progress message to standard error."""
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument(
        "--trainer-threads",
        type=int,
        help="OMP_NUM_THREADS for the trainer and the server (default: number of cores)",
    )
    parser.add_argument("--format", default="table", choices=("table", "json"))
    args = parser.parse_args()
    if args.trainer_threads:
        os.environ["OMP_NUM_THREADS"] = str(args.trainer_threads)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args.runs, args.steps, Path(folder))
    if args.format == "json":
        print(json.dumps({**report, "targets": TARGETS}, indent=2))
    else:
        for key, value in report.items():
            print(
                f"{key:<16}{value!s:>14}"
                + (f"   target {TARGETS[key]:,}" if key in TARGETS else "")
            )


if __name__ == "__main__":
    main()
