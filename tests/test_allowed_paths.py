"""Paths that a dashboard's user types stay inside the allowed folders, links included."""

import json

import pytest

from core import allowed_paths
from core.errors import ConfigError, UserError
from core.lab import Lab
from core.run.directory import RunDirectory


@pytest.fixture
def inside(tmp_path, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.setenv(allowed_paths.DATA_DIRS_VARIABLE, str(folder))
    return folder


def wrong(**values):
    """Fields whose path leads out."""
    return [problem.field for problem in allowed_paths.problems(values)]


def test_what_lies_inside_may_be_read(inside):
    (inside / "data.json").write_text("[]")
    assert not wrong(dataset=str(inside / "data.json"), base_model=str(inside))
    assert not wrong(dataset=str(inside / "not-there.json"))
    assert not wrong(dataset=str(inside / "sub" / ".." / "data.json"))


@pytest.mark.parametrize("name", ["primer", "alpaca", "owner/name", "gpt2", "", None, "\0", "x" * 5000])  # fmt: skip
def test_names_are_no_paths(inside, name):
    assert not wrong(dataset=name, base_model=name)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc", "/", "/nowhere/at/all", "../secret.json", "~/secret.json"]
)
def test_what_lies_outside_is_refused_whether_it_is_there_or_not(inside, path, monkeypatch):
    monkeypatch.chdir(inside)
    assert wrong(dataset=path, base_model=path) == ["dataset", "base_model"]


def test_links_are_followed_to_their_end(inside, tmp_path):
    (tmp_path / "secret.json").write_text("[]")
    (inside / "link.json").symlink_to(tmp_path / "secret.json")
    (inside / "loop.json").symlink_to(inside / "loop.json")
    (inside / "model").mkdir()
    (inside / "model" / "model.safetensors").symlink_to(tmp_path / "secret.json")
    (inside / "way-out").symlink_to(tmp_path)
    (inside / "fine.json").symlink_to(inside / "data.json")
    for path in ("link.json", "way-out/secret.json", "../secret.json", "loop.json"):
        assert wrong(dataset=str(inside / path)) == ["dataset"], path
    assert wrong(base_model=str(inside / "model")) == ["base_model"]
    assert not wrong(dataset=str(inside / "fine.json"))


def test_several_folders_may_be_named(inside, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv(allowed_paths.DATA_DIRS_VARIABLE, f"{inside}:{other}")
    assert allowed_paths.allowed() == [inside.resolve(), other.resolve()]
    assert not wrong(dataset=str(other / "data.json"))


def test_by_default_home_and_what_lies_beside_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv(allowed_paths.DATA_DIRS_VARIABLE, raising=False)
    project = tmp_path / "somewhere" / "project"
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(allowed_paths.tempfile, "tempdir", str(tmp_path / "tmp"))
    assert not wrong(dataset=str(project.parent / "data" / "mine.json"))
    assert not wrong(dataset="~/mine.json")
    assert wrong(dataset=str(tmp_path / "else.json")) == ["dataset"]
    monkeypatch.chdir("/usr")  # the folder that holds it is all of the machine
    assert wrong(dataset="/etc/passwd") == ["dataset"]


def test_a_laboratory_launches_nothing_from_outside(inside, tmp_path, settings):
    lab = Lab(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"dataset = .*: it lies outside the folders"):
        lab.launch(settings())
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    lab.close()


def test_a_link_in_a_run_leads_nowhere(tmp_path, settings):
    secret = tmp_path / "secret"
    secret.write_text('{"name": "a"}')
    lab = Lab(tmp_path / "runs")
    run = tmp_path / "runs" / "theirs"
    run.mkdir()
    for name in ("config.json", "events.jsonl", "trainer.log", "trainer.lock"):
        (run / name).symlink_to(secret)
    lab.refresh()
    assert "theirs cannot be indexed" in lab.fault
    found = RunDirectory(run)
    assert found.log_tail() == ""
    with pytest.raises(UserError, match="symbolic"):
        found.append("status", status="finished")
    lab.close()
    assert json.loads(secret.read_text()) == {"name": "a"}
