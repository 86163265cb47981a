"""The server as started by `make app`, before any page is opened."""

import contextlib
import signal
import socket
import subprocess
import sys
import tomllib

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.run.events import EventWriter
from core.scheduler.executors import ROOT


def test_server_config_sets_loopback_and_xsrf_protection():
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    server = config["server"]
    assert server["address"] == "127.0.0.1"
    assert server["enableXsrfProtection"] is server["enableCORS"] is True
    assert config["client"]["showErrorDetails"] == "none"


def test_dead_runs_become_interrupted_at_startup(runs_dir, monkeypatch, wait):
    run = RunDirectory.create(runs_dir, RunConfig(name="dead"))
    with contextlib.closing(EventWriter(run.events_path)) as events:
        events.append("status", status="running")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("EXECUTOR", "process")
    command = [sys.executable, "-m", "pages.ui.serve", "--server.port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait(lambda: run.status() == "interrupted", timeout=30)
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
    finally:
        server.kill()
