"""Hub data sets: names that refer to the Hub, and downloads from a loopback server with the Hub's client."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from core.data import dataset, hub
from core.errors import UserError
from tests.hub_server import Hub

RECORDS = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(6)]


@pytest.mark.parametrize("name", ["owner/name", "a_b/c-d.e", "x/y2", "a.json/b"])
def test_owner_and_name_is_a_hub_data_set(name: str) -> None:
    assert hub.repository(name) == name


def test_alpaca_is_an_alias_of_a_hub_data_set() -> None:
    assert hub.repository("alpaca") == "tatsu-lab/alpaca"


@pytest.mark.parametrize(
    "name",
    [
        *("primer", "data.json", "data/x.json", "data/x.jsonl", "data/x.parquet", "data/x.csv"),
        *("data/x.json.gz", "data/x.jsonl.zst", "data/x.JSON", "data/x.ndjson", "data/x.arrow"),
        *("./x", "../x", "/x/y", "~/x", "a/b/c", "a b/c", "a/", "/", "", "a/..", "a--b/c"),
        *("-a/b", "a/b.", "ünï/x", "x/" + "y" * 300),
    ],
)  # fmt: skip
def test_anything_else_is_a_path(name: str) -> None:
    assert hub.repository(name) is None


def test_existing_file_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text(json.dumps(RECORDS))
    monkeypatch.chdir(tmp_path)
    assert hub.repository("owner/name") is None
    assert len(dataset.load("owner/name")) == 6


@pytest.mark.parametrize("name", ["none", "x.pdf", "file.parquet.crdownload", "x.xlsx"])
def test_missing_file_in_a_local_folder_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.repository(f"data/{name}") is None
    with pytest.raises(UserError, match="file not found"):
        dataset.load(f"data/{name}")
    assert hub.repository(f"owner/{name}") == f"owner/{name}"


@given(st.text("ab-._/~é \x00", max_size=12) | st.text(max_size=120))
def test_hub_client_accepts_every_recognized_name(name: str) -> None:
    if (repository_id := hub.repository(name)) is not None:
        validate_repo_id(repository_id)


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Callable[..., list[str]]:
    """Return a function that serves files as `owner/name` on the Hub and returns the requested paths."""
    server: Hub = request.getfixturevalue("hub")  # an argument would shadow the module

    def start(files: dict[str, bytes]) -> list[str]:
        server.datasets["owner/name"] = files
        return server.paths

    return start


def test_data_set_is_downloaded_once(serve: Callable[..., list[str]]) -> None:
    requests = serve({"README.md": b"# hello", "data/train.json": json.dumps(RECORDS).encode()})
    with pytest.raises(
        hub.NotDownloadedError, match=r"dataset = 'owner/name': it has not been downloaded yet"
    ):
        hub.files("owner/name", download=False)
    assert requests == []
    assert [example.output for example in dataset.load("owner/name")] == list("012345")
    assert not any("README" in path for path in requests)
    requests.clear()
    [path] = hub.files("owner/name", download=False)
    assert (path.name, requests) == ("train.json", [])
    assert len(dataset.load("owner/name", 2, download=False)) == 2


def test_parquet_is_preferred_over_other_formats(
    serve: Callable[..., list[str]], tmp_path: Path
) -> None:
    pd.DataFrame(RECORDS).to_parquet(tmp_path / "x.parquet")
    serve({"a.parquet": (tmp_path / "x.parquet").read_bytes(), "info.json": b"{}"})
    assert [path.name for path in hub.files("owner/name", download=True)] == ["a.parquet"]
    assert dataset.load("owner/name")[5].instruction == "Say 5."


@pytest.mark.parametrize("missing", range(4))
def test_one_format_is_chosen_and_plain_files_are_preferred(
    serve: Callable[..., list[str]], missing: int
) -> None:
    frame = pd.DataFrame(RECORDS)
    files = {
        "train.json": json.dumps(RECORDS).encode(),
        "train.tsv": frame.to_csv(index=False, sep="\t").encode(),
        "train.jsonl.gz": gzip.compress(frame.to_json(orient="records", lines=True).encode()),
        "train.csv.gz": gzip.compress(frame.to_csv(index=False).encode()),
    }
    chosen, *others = [*files][missing:]
    serve({name: files[name] for name in (*reversed(others), chosen)})
    assert [path.name for path in hub.files("owner/name", download=True)] == [chosen]
    assert [e.output for e in dataset.load("owner/name")] == list("012345")


def test_skipped_records_include_their_file_name(
    serve: Callable[..., list[str]], tmp_path: Path
) -> None:
    files = {}
    for part in ("train-0", "train-1"):
        frame = pd.DataFrame(RECORDS)
        frame.loc[2, "output"] = ""
        frame.to_parquet(tmp_path / f"{part}.parquet")
        files[f"data/{part}.parquet"] = (tmp_path / f"{part}.parquet").read_bytes()
    serve(files)
    source_rows = [skipped.source_row for skipped in dataset.read("owner/name").skipped]
    assert source_rows == ["record 3 of train-0.parquet", "record 3 of train-1.parquet"]


def test_training_split_is_chosen_by_file_name(serve: Callable[..., list[str]]) -> None:
    body = json.dumps(RECORDS).encode()
    serve({"data/test-0.json": b"[]", "data/train-0.json": body, "dataset_infos.json": b"{}"})
    assert [path.name for path in hub.files("owner/name", download=True)] == ["train-0.json"]


def test_modified_cache_files_are_detected(serve: Callable[..., list[str]], tmp_path: Path) -> None:
    pd.DataFrame(RECORDS).to_parquet(tmp_path / "x.parquet", compression=None)
    serve({"train.parquet": (tmp_path / "x.parquet").read_bytes()})
    [path] = hub.files("owner/name", download=True)
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes().replace(b"Say 3.", b"Lie 3."))
    with pytest.raises(UserError, match="download from owner/name does not match the SHA-256"):
        dataset.load("owner/name")
    assert dataset.load("owner/name")[3].instruction == "Say 3."


@pytest.mark.parametrize("missing", ["input", "output"])
def test_missing_parquet_values_are_handled_as_in_json(
    serve: Callable[..., list[str]], tmp_path: Path, missing: str
) -> None:
    records = [{**record, missing: None if i == 1 else "x"} for i, record in enumerate(RECORDS)]
    pd.DataFrame(records).to_parquet(tmp_path / "x.parquet")
    serve({"train.parquet": (tmp_path / "x.parquet").read_bytes()})
    if missing == "input":
        assert dataset.load("owner/name")[1].input == ""
    else:
        [skipped] = dataset.read("owner/name").skipped
        assert (skipped.source_row, skipped.reason) == ("record 2", "empty output")


def test_repository_without_data_is_reported(serve: Callable[..., list[str]]) -> None:
    serve({"README.md": b"# hello"})
    with pytest.raises(UserError, match="has no Parquet, JSON, JSONL, CSV or TSV file"):
        hub.files("owner/name", download=True)


def test_unknown_repository_is_reported(serve: Callable[..., list[str]]) -> None:
    serve({})
    with pytest.raises(
        UserError, match=r"^dataset = 'owner/other': could not download owner/other from the hub"
    ):
        hub.files("owner/other", download=True)


def test_missing_network_is_reported(
    serve: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="connect to the internet once, or choose a local file"):
        hub.files("alpaca", download=True)


def test_parquet_file_of_alpaca_size_is_read_in_full(
    serve: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The file has 52,002 rows and Alpaca's columns. `text`, which holds the rendered prompt, is not used."""
    count = 52_002
    rows = {
        "instruction": [f"Name number {i}." for i in range(count)],
        "input": ["" if i % 3 else f"the {i}th" for i in range(count)],
        "output": [f"It is {i}. " * (i % 7 + 1) for i in range(count)],
        "text": ["Below is an instruction."] * count,
    }
    path = tmp_path / "train.parquet"
    pd.DataFrame(rows).to_parquet(path)
    serve({"data/train-00000-of-00001.parquet": path.read_bytes()})
    examples = dataset.load("owner/name")
    assert len(examples) == count
    last = examples[-1]
    assert (last.instruction, last.input, last.output) == tuple(
        rows[name][-1] for name in ("instruction", "input", "output")
    )
    assert len(dataset.load("owner/name", 100, download=False)) == 100
