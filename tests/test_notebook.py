"""The Lab in notebooks and scripts: the code in the README, waiting for runs, and fast imports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory

ROOT = Path(__file__).parents[1]
WAIT = """
import sys, time
from core import Lab, RunConfig
lab = Lab(sys.argv[1])
name = lab.launch(RunConfig.model_validate_json(sys.argv[2]))
print(name, flush=True)
try:
    lab.wait(name)
except KeyboardInterrupt:
    step = lab.states([name])[0]["step"]
    while lab.states([name])[0]["step"] <= step:
        time.sleep(0.1)
    print("still training", flush=True)
lab.stop(name)
print(lab.wait(name, progress=False)["status"], flush=True)
lab.close()
"""


def readme_code():
    """Return the Python block under "In a notebook"."""
    section = (ROOT / "README.md").read_text().split("## In a notebook\n")[1].split("\n## ")[0]
    return section.split("```python\n")[1].split("```")[0]


def run_python(code, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_readme_code_trains_a_run_without_streamlit(tmp_path):
    checks = "\nimport sys\nprint('streamlit' in sys.modules)"
    completed = run_python(readme_code() + checks, tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1] == "False"
    assert RunDirectory(tmp_path / "runs" / "first").status() == "finished"
    assert "first finished" in " ".join(completed.stdout.split())
    assert "validation" in completed.stderr, "the progress is shown"
    assert "plotly" in (tmp_path / "losses.html").read_text()


def test_importing_a_submodule_does_not_import_the_lab(tmp_path):
    code = "import json, sys, core, core.config; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(run_python(code, tmp_path).stdout)
    assert "core.config" in modules
    assert not {"core.lab", "duckdb", "pandas", "torch"} & {*modules}
    assert "no attribute 'lob'" in run_python("import core; core.lob", tmp_path).stderr


def test_interrupting_wait_leaves_the_run_in_progress(runs_dir, settings, child, wait):
    process = child(
        WAIT, runs_dir, settings(name="a", epochs=1000, eval_every=1000).model_dump_json()
    )
    run = RunDirectory(runs_dir / process.stdout.readline().strip())
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    wait(lambda: run.events("step"))
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "still training\n"
    assert process.stdout.readline() == "stopped\n"
    assert process.wait(60) == 0


@pytest.mark.long
def test_wait_returns_the_row_for_an_ended_run(lab, settings):
    name = lab.launch(settings(name="a"))
    row = lab.wait(name)
    assert (row["name"], row["status"], row["epochs"]) == ("a", "finished", 1)
    assert row["val_loss"] == lab.evaluations([name])["val_loss"].iloc[-1]


@pytest.mark.long
def test_wait_after_resume_waits_for_the_new_trainer(lab, settings):
    name = lab.launch(settings(name="a"))
    lab.stop(name)
    assert lab.wait(name)["status"] == "stopped"
    lab.resume(name)
    assert lab.wait(name)["status"] == "finished"


def test_wait_raises_the_reason_a_run_failed(lab, settings, runs_dir):
    config = settings(name="a")
    Path(config.dataset).unlink()
    name = lab.launch(config)
    with pytest.raises(UserError, match=r"^a failed: .*file not found"):
        lab.wait(name)
    with pytest.raises(UserError, match="run = 'b': there is no such run"):
        lab.wait("b")


def test_lab_is_closed_at_the_end_of_its_block(runs_dir):
    with Lab(str(runs_dir)) as first:
        assert repr(first) == f"Lab({str(runs_dir)!r})"
    with Lab(runs_dir) as second:
        assert second.read_only is None
    with pytest.raises(ZeroDivisionError), Lab(runs_dir):
        _ = 1 / 0
    Lab(runs_dir).close()
