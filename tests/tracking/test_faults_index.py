"""Damage to the index and to individual runs: a full disk, corruption, deletion and manual edits.

The run directories are the source of truth. The index recovers from them, errors are reported, other runs are not
affected, and the Lab keeps working.
"""

import contextlib
import json
import os
import random
import shutil
import threading

import pandas as pd
import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.metrics import CURVES
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.tracking.sync import read_index, rebuild_index

FULL_DISK = """
import resource, sys
from pathlib import Path
from core.tracking import queries
from core.lab import Lab

def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def report():
    lab.refresh()
    print(lab.fault, *lab.runs().set_index("name")["step"].to_dict().items(), sep="|", flush=True)

lab = Lab(Path(sys.argv[1]))
limit_file_size(16_384)
report()
sys.stdin.readline()
report()
limit_file_size(resource.RLIM_INFINITY)
report()
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
"""Number of steps per run, high enough to fill several blocks in the index."""
HEADER_BYTES, BLOCK_BYTES = 3 * 4096, 2**18
"""Sizes of the header and the blocks in a DuckDB file."""


def add_run(runs_dir, name, steps=STEPS):
    """Create a finished run with random metrics."""
    run = RunDirectory.create(runs_dir, RunConfig(name=name, notes=f"notes of {name}"))
    generator = random.Random(name)
    grow(run, 2, {"event": "plan", "steps": steps, "steps_per_epoch": steps})
    for n in range(1, steps + 1):
        measured = {key: generator.random() for key in ("loss", "grad_norm", "lr", "tokens_per_s")}
        position = {"step": n, "epoch": n / steps, "tokens": n, "seconds": n / 9}
        grow(
            run,
            2 + n,
            {"event": "step", **position, **measured, "batch": [generator.randrange(9999)]},
        )
    grow(run, steps + 3, {"event": "generation", "item": 1, "instruction": "Say.", "input": "",
                          "reference": "it", "answer": f"it, says {name}"})  # fmt: skip
    grow(run, steps + 4, {"event": "status", "status": "finished"})
    return run


def grow(run, seq, event):
    with run.events_path.open("a") as file:
        file.write(json.dumps({"seq": seq, "time": 100 + seq, **event}) + "\n")


def visible_text(lab, runs=("a", "b")):
    """Return everything that pages show about the given runs, as text."""
    results = lab.runs()
    curves = lab.curves(runs, list(CURVES)[:4])
    frames = [results[results["name"].isin(runs)], pd.DataFrame(lab.states(runs))]
    frames += [lab.answers(runs), *curves.values()]
    return "\n".join(frame.reset_index(drop=True).to_csv() for frame in frames)


@pytest.fixture(autouse=True)
def idle_executor(monkeypatch):
    """An executor named `idle` that does not train anything."""
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)


@contextlib.contextmanager
def open_lab(runs_dir):
    """Open a Lab that does not train anything, and close it on exit."""
    lab = Lab(runs_dir, "idle")
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A read-only folder with two runs and their index, and the text shown for those runs."""
    folder = tmp_path_factory.mktemp("original")
    for name in ("a", "b"):
        add_run(folder, name)
    lab = Lab(folder)
    original_text = visible_text(lab)
    lab.close()
    return folder, original_text


@pytest.fixture
def runs_dir(original, tmp_path):
    """A copy of the original, which a test can damage."""
    return shutil.copytree(original[0], tmp_path / "runs")


def test_index_on_a_full_disk_reports_it_and_catches_up(tmp_path, child):
    add_run(tmp_path, "a", 3)
    process = child(FULL_DISK, tmp_path)
    assert process.stdout.readline() == "None|('a', 3)\n"
    add_run(tmp_path, "b", STEPS)
    process.stdin.write("\n")
    process.stdin.flush()
    fault, *steps = process.stdout.readline().strip().split("|")
    assert fault.startswith("b cannot be indexed: ")
    assert "lab.duckdb" in fault
    assert "('a', 3)" in steps
    assert process.stdout.readline() == f"None|('b', {STEPS})|('a', 3)\n"
    assert process.wait(60) == 0
    with open_lab(tmp_path) as lab:
        assert lab.index_notice is None
        assert [state["step"] for state in lab.states(["a", "b"])] == [3, STEPS]


def block_offsets(content):
    return range(HEADER_BYTES, len(content), BLOCK_BYTES)


def damage_bytes(content, damage, offset):
    if damage == "truncate":
        return content[:offset]
    noise = random.Random(offset).randbytes(min(BLOCK_BYTES, len(content) - offset))
    return content[:offset] + noise + content[offset + len(noise) :]


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("damage", ["truncate", "noise"])
def test_damaged_index_still_shows_every_run(original, runs_dir, damage, stride):
    path = runs_dir / "lab.duckdb"
    content = path.read_bytes()
    offsets = [0, 1, 4096, *block_offsets(content), len(content) - 1]
    assert len(offsets) > 8
    failures, rebuild_count = [], 0
    for offset in offsets[::stride]:
        path.write_bytes(damage_bytes(content, damage, offset))
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


def test_damaged_write_ahead_log_does_not_lose_events(original, runs_dir, child):
    index, log = runs_dir / "lab.duckdb", runs_dir / "lab.duckdb.wal"
    index.unlink()
    child(WRITE_AND_DIE, runs_dir).wait()
    contents = index.read_bytes(), log.read_bytes()
    size = len(contents[1])
    for offset in (0, size // 3, size - 700):
        index.write_bytes(contents[0])
        log.write_bytes(contents[1][:offset] + b"damaged" * 99 + contents[1][offset + 7 * 99 :])
        with open_lab(runs_dir) as lab:
            assert visible_text(lab) == original[1], offset
            assert lab.index_notice, offset


def test_deleted_index_is_recreated_without_a_notice(original, runs_dir):
    (runs_dir / "lab.duckdb").unlink()
    with open_lab(runs_dir) as lab:
        assert visible_text(lab) == original[1]
        assert lab.fault is None
        assert lab.index_notice is None


def test_deleting_the_index_of_an_open_lab_loses_nothing(original, runs_dir):
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


OUTSIDE_TEXT = "A text file outside the runs directory.\n"


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def replace_with_directory(path):
    path.unlink()
    path.mkdir()


def replace_with_link(path):
    target = path.parent.parent.parent / "outside.txt"
    target.write_text(OUTSIDE_TEXT)
    path.unlink()
    path.symlink_to(target)


EDITS = {
    "garbage": lambda path: replace(path, b"nonsense\n" * 99),
    "binary": lambda path: replace(path, bytes(range(256)) * 40),
    "empty": lambda path: replace(path, b""),
    "truncated": lambda path: replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "deeply nested": lambda path: replace(path, b"[" * 100_000 + b"\n"),
    "directory": replace_with_directory,
    "link outside": replace_with_link,
    "dangling link": lambda path: (path.unlink(), path.symlink_to(path.parent / "nowhere")),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/null")),
    "deleted": lambda path: path.unlink(),
}


def attempt(lab, action, **arguments):
    """Return the message of the UserError that an action on the run `bad` raises, or None. Other errors are bugs."""
    try:
        getattr(lab, action)("bad", **arguments)
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"bug: {action}: {type(error).__name__}"
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
            *(attempt(lab, action) for action in ("config", "stop", "resume")),
        ]
        messages.append(attempt(lab, "edit", notes="mine"))
        grow(runs["b"], 99, {"event": "status", "status": "failed", "reason": "later"})
        lab.refresh()
        assert [state["status"] for state in lab.states(["b"])] == ["failed"]
        messages.append(attempt(lab, "delete"))
        lab.refresh()
        assert "sync" in [thread.name for thread in threading.enumerate()]
    assert any(messages) or file_name == "events.jsonl"
    assert not [message for message in messages if "\n" in message or "bug: " in message]
    assert (runs_dir / "a" / "events.jsonl").read_bytes() == events_before["a"]
    assert (runs_dir / "b" / "events.jsonl").read_bytes().startswith(events_before["b"])
    if (tmp_path / "outside.txt").exists():
        assert (tmp_path / "outside.txt").read_text() == OUTSIDE_TEXT
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
