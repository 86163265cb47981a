"""The trash: deleted runs can be restored until it is emptied."""

import threading

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run import trash
from core.run.directory import RunDirectory, RunHeldError, list_runs
from core.scheduler.executors import EXECUTORS


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path, RunConfig(name="one", notes="mine"))
    run.move_to_trash()
    return run


def test_deleted_run_can_be_restored(run, tmp_path):
    assert not run.path.exists()
    assert list_runs(tmp_path) == []
    [trashed] = trash.contents(tmp_path)
    assert trashed.name == "one"
    assert trash.restore(tmp_path, trashed.id) == "one"
    assert run.config().notes == "mine"
    assert trash.contents(tmp_path) == []


def test_run_with_a_reused_name_is_not_overwritten(run, tmp_path):
    second = RunDirectory.create(tmp_path, RunConfig(name="one", notes="second"))
    [trashed] = trash.contents(tmp_path)
    with pytest.raises(UserError, match="another run has this name"):
        trash.restore(tmp_path, trashed.id)
    assert second.config().notes == "second"
    second.move_to_trash()
    newest, oldest = trash.contents(tmp_path)
    assert newest.deleted_at >= oldest.deleted_at
    trash.restore(tmp_path, newest.id)
    assert RunDirectory(tmp_path / "one").config().notes == "second"


def test_emptying_the_trash_deletes_runs_permanently(run, tmp_path):
    [trashed] = trash.contents(tmp_path)
    trash.empty(tmp_path)
    assert trash.contents(tmp_path) == []
    with pytest.raises(UserError, match="no longer in the trash"):
        trash.restore(tmp_path, trashed.id)
    trash.empty(tmp_path)


def test_other_files_in_the_trash_are_ignored(run, tmp_path):
    (tmp_path / trash.TRASH_FOLDER / "not a run").mkdir()
    assert [trashed.name for trashed in trash.contents(tmp_path)] == ["one"]
    with pytest.raises(UserError, match="no longer in the trash"):
        trash.restore(tmp_path, "../one")


def test_links_in_the_trash_are_ignored(run, tmp_path):
    [trashed] = trash.contents(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / trash.TRASH_FOLDER / "1-linked").symlink_to(outside)
    assert trash.contents(tmp_path) == [trashed]
    trash.empty(tmp_path)
    assert outside.is_dir()


def test_linked_trash_is_not_used(tmp_path):
    outside = tmp_path / "outside"
    (outside / "1-data").mkdir(parents=True)
    (tmp_path / trash.TRASH_FOLDER).symlink_to(outside)
    assert trash.contents(tmp_path) == []
    trash.empty(tmp_path)
    run = RunDirectory.create(tmp_path, RunConfig(name="one"))
    with pytest.raises(UserError, match="is a link"):
        run.move_to_trash()
    assert (outside / "1-data").is_dir()
    assert run.path.is_dir()


def test_restored_run_is_queued_again(tmp_path, monkeypatch):
    ended = threading.Event()
    monkeypatch.setitem(EXECUTORS, "waiting", lambda run: ended.wait())
    with Lab(tmp_path, "waiting") as lab:
        lab.launch(RunConfig(name="first"))
        lab.launch(RunConfig(name="second"))
        id = lab.delete("second")
        assert lab.waiting() == ["first"]
        lab.restore(id)
        assert lab.waiting() == ["first", "second"]
        ended.set()


def test_running_run_cannot_be_deleted(tmp_path):
    run = RunDirectory.create(tmp_path, RunConfig(name="busy"))
    with run.lock(), pytest.raises(RunHeldError):
        run.move_to_trash()
    assert run.path.exists()


def test_runs_get_different_colors_and_keep_them(tmp_path):
    runs = [RunDirectory.create(tmp_path, RunConfig(name=f"run {i}")) for i in range(8)]
    assert len({run.config().color for run in runs}) == 8
    chosen = RunDirectory.create(tmp_path, RunConfig(color="#123456"))
    assert chosen.config().color == "#123456"
