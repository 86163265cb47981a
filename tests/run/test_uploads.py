"""Uploads are stored by content under a safe name inside the runs folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import allowed_paths
from core.config import RunConfig
from core.errors import ConfigError, UserError
from core.lab import Lab
from core.run import uploads
from core.run.directory import RunDirectory, list_runs

RECORDS = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(40)]
CONTENT = json.dumps(RECORDS).encode()
HOSTILE = [
    *("../../evil.json", "/etc/passwd.json", "..\\..\\evil.json", "a/../../b.json", "..json.json"),
    *(".json", "...json", "con.json", "a\0b.json", "a\nb.json", "-rf.json", "~root.json"),
    *("$(id).json", "<script>.json", "\u202egnp.json", "x" * 5000 + ".json", "\u0135" * 300 + ".json"),
    *("config.json", "events.jsonl", "a.json.partial.json", " .json", "c:evil.json"),
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    path = uploads.store(tmp_path, name, CONTENT)
    assert path.parent.parent == tmp_path / "uploads"
    assert path.read_bytes() == CONTENT
    assert path.name.isprintable()
    assert path.name[0].isalnum()
    assert path.name.endswith((".json", ".jsonl"))
    assert not set(path.name) & set("/\\<>:|$~ ")
    assert list_runs(tmp_path) == []


@given(st.text(max_size=40), st.sampled_from([".json", ".CSV", ".parquet.gz", ".txt", ""]))
def test_any_name_is_stored_safely_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, suffix: str
) -> None:
    runs_dir = tmp_path_factory.getbasetemp() / "any"
    if suffix in (".txt", ""):
        with pytest.raises(UserError, match=r"^upload = '[^\n]*': must be a JSON"):
            uploads.store(runs_dir, name + suffix, CONTENT)
        return
    path = uploads.store(runs_dir, name + suffix, CONTENT)
    assert path.parent.parent == runs_dir.resolve() / "uploads"
    assert len(path.name) < 80
    assert path.name.endswith(suffix.lower())


def test_files_are_addressed_by_their_content(tmp_path: Path) -> None:
    first = uploads.store(tmp_path, "Daten \u00fcber A.JSON", CONTENT)
    assert first.name == "daten-\u00fcber-a.json"
    assert uploads.store(tmp_path, "Daten \u00fcber A.JSON", CONTENT) == first
    other = uploads.store(tmp_path, "Daten \u00fcber A.JSON", CONTENT + b" ")
    assert other.parent != first.parent
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "a.exe", "json", "a.json.zip", ""])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="must be a JSON, JSONL, CSV, TSV or Parquet file"):
        uploads.store(tmp_path, name, CONTENT)
    assert not (tmp_path / "uploads").exists()


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOAD_MB", 1)
    uploads.store(tmp_path, "a.json", b" " * 2**20)
    with pytest.raises(
        UserError, match=r"a\.json: the file is 2 MB, but uploads are limited to 1 MB"
    ):
        uploads.store(tmp_path, "a.json", b" " * 2**21)


@pytest.mark.parametrize("link", ["uploads", "hash"])
def test_links_are_not_followed(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    runs_dir = tmp_path / "runs"
    folder = uploads.store(tmp_path, "a.json", CONTENT).parent.name
    target = runs_dir / "uploads" if link == "uploads" else runs_dir / "uploads" / folder
    target.parent.mkdir(parents=True)
    target.symlink_to(outside)
    with pytest.raises(UserError, match=r"a\.json cannot be stored: .* is a link"):
        uploads.store(runs_dir, "a.json", CONTENT)
    assert not [path for path in outside.rglob("*") if path.is_file()]


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file")
    with pytest.raises(UserError, match=r"a\.json cannot be stored \("):
        uploads.store(tmp_path, "a.json", CONTENT)


def test_run_cannot_be_named_uploads(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, RunConfig(name="uploads")).name == "run-uploads"


def test_lab_accepts_uploads_outside_the_allowed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Callable[..., RunConfig]
) -> None:
    allowed = tmp_path / "inside"
    allowed.mkdir()
    monkeypatch.setenv(allowed_paths.DATA_DIRS_VARIABLE, str(allowed))
    with Lab(tmp_path / "runs", executor="thread") as lab:
        path = lab.upload("mine.json", CONTENT)
        config = RunConfig(dataset=path, device="cpu")
        assert lab.dataset(config).split.first_test_item == 34
        assert lab.check(config.model_dump())[1].problems == []
        assert lab.runs().empty
        secret = tmp_path / "secret.json"
        secret.write_bytes(CONTENT)
        escapes = [str(secret), f"{lab.runs_dir}/uploads/../../secret.json"]
        link = Path(path).with_name("link.json")
        link.symlink_to(secret)
        for escape in (*escapes, str(link), str(tmp_path / "runs" / "lab.duckdb")):
            with pytest.raises(ConfigError, match="outside the folders"):
                lab.dataset(config.changed(dataset=escape))
        (tmp_path / "runs" / "uploads").rename(tmp_path / "moved")
        (tmp_path / "runs" / "uploads").symlink_to(tmp_path)
        with pytest.raises(ConfigError, match="outside the folders"):
            lab.dataset(config.changed(dataset=str(tmp_path / "runs" / "uploads" / "secret.json")))


def test_read_only_lab_refuses_uploads(tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        lab.read_only, lab._queue = "another dashboard", None
        with pytest.raises(UserError, match="Read-only"):
            lab.upload("mine.json", CONTENT)


def test_stored_files_are_listed_newest_first(tmp_path: Path) -> None:
    assert uploads.stored(tmp_path) == []
    paths = [uploads.store(tmp_path, f"{name}.json", CONTENT + name.encode()) for name in "ab"]
    for time, path in enumerate(paths):
        os.utime(path, (time, time))
    assert uploads.stored(tmp_path) == paths[::-1]
