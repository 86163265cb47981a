"""Dashboard users can only open paths inside the allowed folders, even through symbolic links."""

import json

import pytest

from core import allowed_paths
from core.errors import ConfigError, UserError
from core.lab import Lab
from core.run.directory import RunDirectory


@pytest.fixture
def allowed_dir(tmp_path, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.setenv(allowed_paths.DATA_DIRS_VARIABLE, str(folder))
    return folder


def rejected_fields(**values):
    """Return the fields whose path is outside the allowed folders."""
    return [problem.field for problem in allowed_paths.problems(values)]


def test_paths_inside_are_allowed(allowed_dir):
    (allowed_dir / "data.json").write_text("[]")
    assert not rejected_fields(dataset=str(allowed_dir / "data.json"), base_model=str(allowed_dir))
    assert not rejected_fields(dataset=str(allowed_dir / "missing.json"))
    assert not rejected_fields(dataset=str(allowed_dir / "sub" / ".." / "data.json"))


@pytest.mark.parametrize("name", ["primer", "alpaca", "owner/name", "gpt2", "", None, "\0", "x" * 5000])  # fmt: skip
def test_names_are_not_treated_as_paths(allowed_dir, name):
    assert not rejected_fields(dataset=name, base_model=name)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc", "/", "/nowhere/at/all", "../secret.json", "~/secret.json"]
)
def test_paths_outside_are_rejected_even_if_missing(allowed_dir, path, monkeypatch):
    monkeypatch.chdir(allowed_dir)
    assert rejected_fields(dataset=path, base_model=path) == ["dataset", "base_model"]


def test_symlinks_are_resolved(allowed_dir, tmp_path):
    (tmp_path / "secret.json").write_text("[]")
    (allowed_dir / "link.json").symlink_to(tmp_path / "secret.json")
    (allowed_dir / "loop.json").symlink_to(allowed_dir / "loop.json")
    (allowed_dir / "model").mkdir()
    (allowed_dir / "model" / "model.safetensors").symlink_to(tmp_path / "secret.json")
    (allowed_dir / "outside").symlink_to(tmp_path)
    (allowed_dir / "inside.json").symlink_to(allowed_dir / "data.json")
    for path in ("link.json", "outside/secret.json", "../secret.json", "loop.json"):
        assert rejected_fields(dataset=str(allowed_dir / path)) == ["dataset"], path
    assert rejected_fields(base_model=str(allowed_dir / "model")) == ["base_model"]
    assert not rejected_fields(dataset=str(allowed_dir / "inside.json"))


def test_several_directories_can_be_allowed(allowed_dir, tmp_path, monkeypatch):
    second_dir = tmp_path / "other"
    second_dir.mkdir()
    monkeypatch.setenv(allowed_paths.DATA_DIRS_VARIABLE, f"{allowed_dir}:{second_dir}")
    assert allowed_paths.allowed() == [allowed_dir.resolve(), second_dir.resolve()]
    assert not rejected_fields(dataset=str(second_dir / "data.json"))


def test_home_and_project_parent_are_allowed_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv(allowed_paths.DATA_DIRS_VARIABLE, raising=False)
    project = tmp_path / "somewhere" / "project"
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(allowed_paths.tempfile, "tempdir", str(tmp_path / "tmp"))
    assert not rejected_fields(dataset=str(project.parent / "data" / "mine.json"))
    assert not rejected_fields(dataset="~/mine.json")
    assert rejected_fields(dataset=str(tmp_path / "else.json")) == ["dataset"]
    monkeypatch.chdir("/usr")  # its parent is the root directory, which is not allowed
    assert rejected_fields(dataset="/etc/passwd") == ["dataset"]


def test_launch_rejects_a_data_set_outside_the_allowed_folders(allowed_dir, tmp_path, settings):
    lab = Lab(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"dataset = .*: outside the folders"):
        lab.launch(settings())
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    lab.close()


def test_symlinks_in_a_run_are_not_followed(tmp_path, settings):
    secret = tmp_path / "secret"
    secret.write_text('{"name": "a"}')
    lab = Lab(tmp_path / "runs")
    run = tmp_path / "runs" / "theirs"
    run.mkdir()
    for name in ("config.json", "events.jsonl", "trainer.log", "trainer.lock"):
        (run / name).symlink_to(secret)
    lab.refresh()
    assert "theirs cannot be indexed" in lab.fault
    opened_run = RunDirectory(run)
    assert opened_run.log_tail() == ""
    with pytest.raises(UserError, match="symbolic"):
        opened_run.append("status", status="finished")
    lab.close()
    assert json.loads(secret.read_text()) == {"name": "a"}
