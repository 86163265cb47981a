"""Disasters of the index and of single runs: no room, noise, deletion, edits by hand. The directories are the truth:
everything is there again, whoever is meant is told, no other run is touched, and the Lab keeps working."""

import contextlib
import json
import os
import random
import shutil

import pandas as pd
import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.metrics import CURVES
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.tracking.sync import read_index, rebuild_index

FULL = """
import resource, sys
from pathlib import Path
from core.tracking import queries
from core.lab import Lab

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def tell():
    lab.refresh()
    print(lab.fault, *lab.runs().set_index("name")["step"].to_dict().items(), sep="|", flush=True)

lab = Lab(Path(sys.argv[1]))
room(16_384)
tell()
sys.stdin.readline()
tell()
room(resource.RLIM_INFINITY)
tell()
lab.close()
"""
WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from core.tracking.sync import read_index
index = read_index(Path(sys.argv[1]))
os.kill(os.getpid(), 9)
"""
STEPS = 3000
"""Of each run: enough that their numbers fill blocks of their own."""
HEADERS, BLOCK = 3 * 4096, 2**18
"""Bytes of a DuckDB file: what comes first, and each piece after it."""


def add_run(runs_dir, name, steps=STEPS):
    """A finished run."""
    run = RunDirectory.create(runs_dir, RunConfig(name=name, notes=f"notes of {name}"))
    draw = random.Random(name)
    grow(run, 2, {"event": "plan", "steps": steps, "steps_per_epoch": steps})
    for n in range(1, steps + 1):
        measured = {key: draw.random() for key in ("loss", "grad_norm", "lr", "tokens_per_s")}
        position = {"step": n, "epoch": n / steps, "tokens": n, "seconds": n / 9}
        grow(run, 2 + n, {"event": "step", **position, **measured, "batch": [draw.randrange(9999)]})
    grow(run, steps + 3, {"event": "generation", "item": 1, "instruction": "Say.", "input": "",
                          "reference": "it", "answer": f"it, says {name}"})  # fmt: skip
    grow(run, steps + 4, {"event": "status", "status": "finished"})
    return run


def grow(run, seq, event):
    with run.events_path.open("a") as file:
        file.write(json.dumps({"seq": seq, "time": 100 + seq, **event}) + "\n")


def visible_text(lab, runs=("a", "b")):
    """All that pages read of some runs, as text."""
    results = lab.runs()
    curves = lab.curves(runs, list(CURVES)[:4])
    frames = [results[results["name"].isin(runs)], pd.DataFrame(lab.states(runs))]
    frames += [lab.answers(runs), *curves.values()]
    return "\n".join(frame.reset_index(drop=True).to_csv() for frame in frames)


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """Runs are queued and never trained."""
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)


@contextlib.contextmanager
def open_lab(runs_dir):
    """A Lab that is always closed."""
    lab = Lab(runs_dir, "idle")
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two runs and their index, and what is seen of them. Not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    for name in ("a", "b"):
        add_run(folder, name)
    lab = Lab(folder)
    original_text = visible_text(lab)
    lab.close()
    return folder, original_text


@pytest.fixture
def runs_dir(original, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(original[0], tmp_path / "runs")


def test_index_on_a_full_disk_reports_it_and_catches_up(tmp_path, child):
    add_run(tmp_path, "a", 3)
    full_process = child(FULL, tmp_path)
    assert full_process.stdout.readline() == "None|('a', 3)\n"
    add_run(tmp_path, "b", STEPS)
    full_process.stdin.write("\n")
    full_process.stdin.flush()
    fault, *steps = full_process.stdout.readline().strip().split("|")
    assert fault.startswith("b cannot be indexed: ")
    assert "lab.duckdb" in fault
    assert "('a', 3)" in steps
    assert full_process.stdout.readline() == f"None|('b', {STEPS})|('a', 3)\n"
    assert full_process.wait(60) == 0
    with open_lab(tmp_path) as lab:
        assert lab.index_notice is None
        assert [state["step"] for state in lab.states(["a", "b"])] == [3, STEPS]


def blocks(content):
    return range(HEADERS, len(content), BLOCK)


def damage_bytes(content, how, offset):
    if how == "cut":
        return content[:offset]
    noise = random.Random(offset).randbytes(min(BLOCK, len(content) - offset))
    return content[:offset] + noise + content[offset + len(noise) :]


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("how", ["cut", "noise"])
def test_damaged_index_still_shows_every_run(original, runs_dir, how, stride):
    path = runs_dir / "lab.duckdb"
    content = path.read_bytes()
    offsets = [0, 1, 4096, *blocks(content), len(content) - 1]
    assert len(offsets) > 8
    failures, rebuild_count = [], 0
    for offset in offsets[::stride]:
        path.write_bytes(damage_bytes(content, how, offset))
        with open_lab(runs_dir) as lab:
            try:
                failures += (
                    [] if visible_text(lab) == original[1] else [f"{offset}: rows are missing"]
                )
            except Exception as error:
                failures += [f"{offset}: {type(error).__name__}: {str(error)[:90]}"]
            rebuild_count += bool(lab.index_notice)
    assert rebuild_count > 0
    assert not failures


def test_damaged_write_ahead_log_loses_no_events(original, runs_dir, child):
    index, log = runs_dir / "lab.duckdb", runs_dir / "lab.duckdb.wal"
    index.unlink()
    child(WRITE_AND_DIE, runs_dir).wait()
    contents = index.read_bytes(), log.read_bytes()
    size = len(contents[1])
    for place in (0, 100, size // 3, size - 2000, size - 700):
        index.write_bytes(contents[0])
        log.write_bytes(contents[1][:place] + b"damaged" * 99 + contents[1][place + 7 * 99 :])
        with open_lab(runs_dir) as lab:
            assert visible_text(lab) == original[1], place
            assert lab.index_notice, place


def test_a_deleted_index_is_a_new_one(original, runs_dir):
    (runs_dir / "lab.duckdb").unlink()
    with open_lab(runs_dir) as lab:
        assert visible_text(lab) == original[1]
        assert lab.fault is None
        assert lab.index_notice is None


def test_deleting_the_index_under_an_open_lab_crashes_nothing(original, runs_dir):
    with open_lab(runs_dir) as lab:
        add_run(runs_dir, "c", 5)
        lab.refresh()
        for path in runs_dir.glob("lab.duckdb*"):
            path.unlink()
        add_run(runs_dir, "d", 7)
        lab.refresh()
        assert [state["step"] for state in lab.states(["c", "d"])] == [5, 7]
        assert visible_text(lab) == original[1]
    with open_lab(runs_dir) as lab:
        assert visible_text(lab) == original[1]
        assert [state["step"] for state in lab.states(["c", "d"])] == [5, 7]
    assert rebuild_index(runs_dir) == 4


ELSEWHERE = "Somebody's own words, which are nobody's settings.\n"


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def as_directory(path):
    path.unlink()
    path.mkdir()


def as_link(path):
    target = path.parent.parent.parent / "elsewhere.txt"
    target.write_text(ELSEWHERE)
    path.unlink()
    path.symlink_to(target)


EDITS = {
    "garbage": lambda path: replace(path, b"nonsense\n" * 99),
    "unreadable bytes": lambda path: replace(path, bytes(range(256)) * 40),
    "nothing": lambda path: replace(path, b""),
    "half of it": lambda path: replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "deep brackets": lambda path: replace(path, b"[" * 100_000 + b"\n"),
    "a directory": as_directory,
    "a link to elsewhere": as_link,
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to(path.parent / "nowhere")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/null")),
    "removed": lambda path: path.unlink(),
}


def attempt_action(lab, action, **arguments):
    """What an action on the run `bad` raises, if it raises: a sentence, or what no user can mend."""
    try:
        getattr(lab, action)("bad", **arguments)
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"a defect: {action}: {type(error).__name__}"
    return ""


@pytest.mark.parametrize("file_name", ["config.json", "events.jsonl"])
@pytest.mark.parametrize("edit", EDITS)
def test_manual_edit_affects_only_its_run(tmp_path, edit, file_name):
    runs_dir = tmp_path / "runs"
    runs = {name: add_run(runs_dir, name, 20) for name in ("a", "bad", "b")}
    events_before = {name: (runs_dir / name / "events.jsonl").read_bytes() for name in ("a", "b")}
    with open_lab(runs_dir) as lab:
        text_before = visible_text(lab)
        EDITS[edit](runs_dir / "bad" / file_name)
        lab.refresh()
        assert visible_text(lab) == text_before
        lab.states(["bad"])
        messages = [
            lab.fault or "",
            *(attempt_action(lab, do) for do in ("config", "stop", "resume")),
        ]
        messages.append(attempt_action(lab, "edit", notes="mine"))
        grow(runs["b"], 99, {"event": "status", "status": "failed", "reason": "later"})
        lab.refresh()
        assert [state["status"] for state in lab.states(["b"])] == ["failed"]
        messages.append(attempt_action(lab, "delete"))
        lab.refresh()
        assert lab._thread.is_alive()
    assert any(messages) or file_name == "events.jsonl"
    assert not [sentence for sentence in messages if "\n" in sentence or "defect" in sentence]
    assert (runs_dir / "a" / "events.jsonl").read_bytes() == events_before["a"]
    assert (runs_dir / "b" / "events.jsonl").read_bytes().startswith(events_before["b"])
    if (tmp_path / "elsewhere.txt").exists():
        assert (tmp_path / "elsewhere.txt").read_text() == ELSEWHERE
    read_index(runs_dir).close()


def test_run_removed_or_renamed_while_the_lab_is_open_is_synced(tmp_path):
    for name in ("a", "b", "gone", "old"):
        add_run(tmp_path, name, 20)
    with open_lab(tmp_path) as lab:
        text_before = visible_text(lab)
        shutil.rmtree(tmp_path / "gone")
        (tmp_path / "old").rename(tmp_path / "new")
        lab.refresh()
        assert lab.fault is None
        assert set(lab.runs()["name"]) == {"a", "b", "new"}
        assert [state["step"] for state in lab.states(["new"])] == [20]
        assert lab.answers(["new"])["answer"].tolist() == ["it, says old"]
        assert visible_text(lab) == text_before
        for name in ("gone", "old"):
            for action in (lab.config, lab.stop, lab.resume, lab.delete):
                with pytest.raises(UserError, match="there is no such run"):
                    action(name)
        lab.edit("new", notes="moved")
        assert lab.config("new").notes == "moved"
        os.utime(tmp_path / "new" / "events.jsonl", (1, 1))
        lab.refresh()
        assert [state["step"] for state in lab.states(["new"])] == [20]
