"""Run directories: names, lookup, settings, locks across processes and threads, final statuses, and deletion."""

import json
import os
import signal
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.config import RunConfig
from core.errors import UserError
from core.run.directory import RunDirectory, RunHeldError, list_runs
from core.run.names import next_name, slug

HOLD = """
import sys, time
from pathlib import Path
from core.run.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def create(runs_dir, name="a", **settings):
    return RunDirectory.create(runs_dir, RunConfig(name=name, **settings))


def status_reasons(run):
    return [(event["status"], event.get("reason")) for event in run.statuses()]


@given(st.text())
@example("../../etc/passwd")
@example("..")
@example(".hidden")
@example("CON")
@example("con.txt")
@example("COM0")
@example("com¹.tar.gz")  # NFKC turns the superscript into a digit
@example("a" * 59 + "." + "b" * 300)
@example("é" * 300)
@example("日本語")
@example("queue.json")
@example("lab.duckdb")
@example("a\0b/c\\d:e")
@example("-rf")
@example("")
@example("𠀀" * 100)
@example("e\u0301t")
@example("\u0301accent")
@example("a\u202eb\u200f\u2066c")
@example("\u3164\u115f")
@example("İ")
@example("क\u093f")
def test_slug_is_one_safe_path_component(name):
    result = slug(name)
    assert result == Path(result).name == PureWindowsPath(result).name
    assert not PureWindowsPath(result).is_reserved()
    assert result[0].isalnum()
    assert result[-1] not in "-._ "
    assert result.isprintable()
    assert all(c in "-._" or unicodedata.category(c)[0] in "LNM" for c in result)
    assert result == unicodedata.normalize("NFC", result)
    assert slug(result) == result
    assert 0 < len(result) <= 64
    assert len(result.encode()) <= 190
    assert result.split(".")[0] not in ("lab", "queue")


def test_slug_is_readable():
    assert slug("Größe 1.5e-5, LoRA_16") == "größe-1.5e-5-lora_16"


@pytest.mark.parametrize(
    ("name", "expected_name"),
    [
        ("学习率实验", "学习率实验"),
        ("Обучение №2", "обучение-no2"),
        ("تجربة", "تجربة"),
        ("कीमत", "कीमत"),
        ("e\u0301tude", "étude"),
        ("\uff46\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44\uff54\uff48", "full-width"),
        ("a\u202eb", "ab"),
        ("🚀 run", "run"),
        ("My run", "my-run"),
    ],
)
def test_slug_keeps_letters_from_every_script(tmp_path, name, expected_name):
    assert slug(name) == expected_name
    assert create(tmp_path, name).name == expected_name
    assert RunDirectory.find(tmp_path, expected_name).config().name == expected_name
    assert create(tmp_path, name).name == f"{expected_name}-2"
    names = [run.name for run in list_runs(tmp_path)]
    assert names == sorted([expected_name, f"{expected_name}-2"])


def test_longest_name_leaves_room_for_suffixes(tmp_path):
    names = [create(tmp_path, "𠀀" * 200).name for _ in range(11)]
    assert names[10] == "𠀀" * 45 + "-11"
    assert len(f"{names[10]}.jsonl".encode()) < 255


def test_create_writes_settings_under_a_unique_name_and_the_first_event(tmp_path):
    runs = [create(tmp_path, "My run", seed=7) for _ in range(3)]
    assert [run.name for run in runs] == ["my-run", "my-run-2", "my-run-3"]
    for run in runs:
        assert run.config().name == run.name
        assert run.config().seed == 7
        assert status_reasons(run) == [("queued", None)]
        assert run.status() == "queued"


def test_next_name_matches_the_created_name(tmp_path):
    for name in ("My run", "my run", ""):
        config = RunConfig.parse({"name": name})
        names = [next_name(tmp_path, config) for _ in range(2)]
        assert names == [RunDirectory.create(tmp_path, config).name] * 2
    assert next_name(tmp_path / "not there", config) == "gpt2-nano-lora"


def test_unnamed_run_is_named_after_model_and_method(tmp_path):
    assert create(tmp_path, "").name == "gpt2-nano-lora"


def test_concurrent_calls_create_separate_directories(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: create(tmp_path), range(40)))
    assert len({run.name for run in runs}) == 40
    assert all(run.config().name == run.name and run.status() == "queued" for run in runs)


def test_settings_store_absolute_paths_and_unchanged_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("words.json").write_text("[]")
    Path("mine").mkdir()
    Path("gpt2").mkdir()
    run = create(tmp_path / "runs", dataset="words.json", base_model="mine")
    assert run.config().dataset == str(tmp_path / "words.json")
    assert run.config().base_model == str(tmp_path / "mine")
    for dataset in ("primer", "alpaca", "owner/name", "~unknown-user/x.json"):
        run = create(tmp_path / "runs", dataset=dataset, base_model="gpt2")
        assert (run.config().dataset, run.config().base_model) == (dataset, "gpt2")


def test_unusable_runs_directory_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UserError, match="cannot be written to"):
            create(directory)


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../runs/a", "a/", "./a", "a/../a", "link", "x" * 300, "a\0", "nothing"]
)
def test_find_never_leaves_the_runs_directory(tmp_path, name):
    runs_dir = tmp_path / "runs"
    create(runs_dir)
    outside_run = create(tmp_path / "elsewhere")
    (runs_dir / "link").symlink_to(outside_run.path)
    for directory in (tmp_path, runs_dir):
        (directory / "config.json").write_text("{}")
    with pytest.raises(UserError, match="there is no such run; available: a"):
        RunDirectory.find(runs_dir, name)
    with pytest.raises(UserError):
        RunDirectory.find(runs_dir, str(runs_dir / "a"))
    assert RunDirectory.find(runs_dir, "a").path == runs_dir / "a"


def test_find_lists_the_runs_only_for_the_error(tmp_path, monkeypatch):
    create(tmp_path)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert RunDirectory.find(tmp_path, "a").name == "a"
    assert listed == []
    with pytest.raises(UserError, match="available: a"):
        RunDirectory.find(tmp_path, "b")
    assert listed == [tmp_path]


def test_only_directories_with_settings_are_runs(tmp_path):
    assert list_runs(tmp_path / "nowhere") == []
    for name in ("b", "a"):
        create(tmp_path, name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert [run.name for run in list_runs(tmp_path)] == ["a", "b"]


def test_settings_are_replaced_atomically(tmp_path):
    run = create(tmp_path)
    with run.config_path.open() as open_file:
        run.write_config(run.config().changed(notes="better than b"))
        assert (
            json.load(open_file)["notes"] == ""
        )  # concurrent readers must see the complete old file
    assert run.config().notes == "better than b"
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.json",
        "events.jsonl",
        "trainer.lock",
    ]


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"epochs": "many"}', '{"no_such": 1}'])
def test_damaged_settings_are_reported(tmp_path, text):
    run = create(tmp_path)
    run.config_path.write_text(text)
    with pytest.raises(UserError):
        run.config()


def test_lock_is_visible_to_other_processes_and_released_on_death(tmp_path, child, wait):
    run = create(tmp_path)
    run.append("status", status="running")
    holder = child(HOLD, run.path)
    assert holder.stdout.readline() == "held\n"
    assert run.is_alive()
    with pytest.raises(RunHeldError, match="a is being trained; stop it first"), run.lock(0):
        pass
    assert run.mark_ended("the trainer died") == "running"
    with pytest.raises(RunHeldError):
        run.delete()
    assert run.config_path.exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not run.is_alive()
    assert run.mark_ended("the trainer died") == "interrupted"
    assert status_reasons(run)[-1] == ("interrupted", "the trainer died")
    run.delete()
    assert not run.path.exists()


def test_lock_excludes_threads_and_waits(tmp_path):
    run = create(tmp_path)
    with run.lock():
        assert run.is_alive()
        with pytest.raises(RunHeldError), run.lock(0.05):  # the lock is not reentrant
            pass
    acquired, release = threading.Event(), threading.Event()

    def hold():
        with run.lock():
            acquired.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    acquired.wait(10)
    threading.Timer(0.1, release.set).start()
    with run.lock(timeout=10):
        assert release.is_set()
    thread.join()


def test_lock_is_released_on_error(tmp_path):
    run = create(tmp_path)
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    assert not run.is_alive()


def test_liveness_checks_do_not_block_each_other_or_writers(tmp_path):
    run = create(tmp_path)
    stop_event = threading.Event()

    def poll_alive():
        observations = []
        while not stop_event.is_set():
            observations.append(run.is_alive())
        return observations

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(poll_alive) for _ in range(3)]
        for _ in range(50):
            with run.lock():
                pass
        stop_event.set()
        assert any(len(future.result()) > 10 for future in futures)
    stop_event.clear()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(poll_alive) for _ in range(3)]
        threading.Timer(0.2, stop_event.set).start()
        assert not any(any(future.result()) for future in futures)


def test_liveness_check_does_not_recreate_a_deleted_run(tmp_path):
    run = create(tmp_path)
    run.delete()
    assert not run.is_alive()
    assert run.mark_ended("deleted") == "queued"
    with pytest.raises(UserError, match="a was deleted"), run.lock():
        pass
    with pytest.raises(UserError, match="a: the stop request cannot be written"):
        run.request_stop()
    assert run.statuses() == []
    assert run.log_tail() == ""
    assert not run.path.exists()


def test_waiter_on_a_deleted_run_does_not_lock_its_successor(tmp_path):
    run = create(tmp_path)
    outcome = []

    def wait_for_lock():
        try:
            with run.lock(timeout=10):
                outcome.append("entered")
        except UserError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=wait_for_lock)
    with run.lock():
        thread.start()
        for name in ("config.json", "events.jsonl"):
            (run.path / name).unlink()
        threading.Event().wait(0.2)  # wait until the thread has opened the lock file
        (run.path / "trainer.lock").unlink()
        run.path.rmdir()
    thread.join()
    assert outcome == ["a was deleted"]


def test_interrupted_deletion_does_not_leave_a_run_behind(tmp_path, monkeypatch):
    run = create(tmp_path)
    (run.path / "weights").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError("disk error")))
    with pytest.raises(UserError, match=r"cannot be deleted .disk error"):
        run.delete()
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize("final_status", ["stopped", "interrupted", "failed", "finished"])
def test_mark_ended_keeps_a_final_status(tmp_path, final_status):
    run = create(tmp_path)
    run.append("status", status=final_status)
    assert run.mark_ended("again") == final_status
    assert len(run.statuses()) == 2


def test_mark_ended_uses_and_clears_a_stop_request(tmp_path):
    run = create(tmp_path)
    run.request_stop()
    assert run.mark_ended("withdrawn") == "stopped"
    assert run.stop_request() is None


def test_mark_ended_changes_only_the_given_statuses(tmp_path):
    run = create(tmp_path)
    assert run.mark_ended("it died", from_statuses=("running",)) == "queued"
    run.append("status", status="running")
    assert run.mark_ended("it died", from_statuses=("running",)) == "interrupted"


def test_stop_request_returns_the_requested_status(tmp_path):
    run = create(tmp_path)
    assert run.stop_request() is None
    for requested, expected in {
        "interrupted": "interrupted",
        "stopped": "stopped",
        "": "stopped",
    }.items():
        run.request_stop(requested)
        assert run.stop_request() == expected
    run.clear_stop_request()
    run.clear_stop_request()
    assert run.stop_request() is None


def test_status_comes_from_the_last_complete_event(tmp_path):
    run = create(tmp_path)
    run.append("status", status="running")
    run.append("generation", answer='"event":"status","status":"finished"')
    with run.events_path.open("ab") as file:
        file.write(
            b'\0"event":"status"\n{"seq":9,"event":"status"}\n{"seq":10,"event":"status","st'
        )
    assert run.status() == "running"


def test_log_tail_is_the_end_of_the_log(tmp_path):
    run = create(tmp_path)
    assert run.log_tail() == ""
    run.log_path.write_bytes(b"x" * 9000 + "é end\n".encode())
    assert run.log_tail(7) == "é end\n"
    assert len(run.log_tail()) < 4001


def test_files_are_listed_without_links_and_special_files(tmp_path):
    run = create(tmp_path / "runs")
    (run.path / "weights").mkdir()
    (run.path / "weights" / "model.safetensors").write_bytes(b"12345")
    (run.path / os.fsdecode(b"bad\xff")).write_bytes(b"1")
    (run.path / "link").symlink_to("/etc/passwd")
    (run.path / "folder").symlink_to("/etc")
    os.mkfifo(run.path / "pipe")
    files = dict(run.files())
    assert files["weights/model.safetensors"] == 5
    assert files["bad\ufffd"] == 1
    assert files["config.json"] == run.config_path.stat().st_size
    assert not {"link", "folder", "pipe"} & {name.partition("/")[0] for name in files}
