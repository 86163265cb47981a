"""Weights from the hub by its own client, from a server on loopback that speaks its protocol and fails."""

import contextlib
import errno
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from core import download
from core.download import explained
from core.errors import UserError
from core.nn import pretrained

COMMIT = "1" * 40
WEIGHTS = f"/openai-community/gpt2/resolve/{COMMIT}/model.safetensors"


class Hub:
    """What the server holds and does, and what it was asked."""

    def __init__(self) -> None:
        self.body: Callable[[], Any] = io.BytesIO
        self.size = 0
        self.sha256 = ""
        self.break_after: int | None = None
        """Bytes after which the next answer breaks off."""
        self.ranges: list[str | None] = []
        self.requests = 0
        self.status: int | None = None
        """What it answers instead."""

    def hold(self, body: bytes, sha256: str | None = None) -> None:
        self.body, self.size = lambda: io.BytesIO(body), len(body)
        self.sha256 = sha256 or hashlib.sha256(body).hexdigest()

    def hold_file(self, path: Path) -> None:
        self.body, self.size = lambda: path.open("rb"), path.stat().st_size
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    held = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(0, send=False)

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            held.ranges.append(asked)
            self.answer(int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0, send=True)

        def answer(self, start: int, send: bool) -> None:
            held.requests += 1
            name = self.path.replace("/main/", f"/{COMMIT}/")
            if held.status or name != WEIGHTS or not held.size:
                self.send_response(held.status or 404)
                if not held.status:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(held.size - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{held.size - 1}/{held.size}")
            self.send_header("ETag", f'"{held.sha256}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if not send:
                return
            left = held.size - start if held.break_after is None else held.break_after
            broken, held.break_after = held.break_after is not None, None
            with held.body() as body:
                body.seek(start)
                while left > 0 and (piece := body.read(min(left, 1 << 20))):
                    self.wfile.write(piece)
                    left -= len(piece)
            if broken:
                self.close_connection = True
                self.connection.close()

        def log_message(self, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # broken on purpose
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # broken on purpose
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    files_at = here + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files_at)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield held
    server.shutdown()
    server.server_close()


def sentence(load: Callable[[str], Any] = pretrained.load) -> str:
    with pytest.raises(UserError, match=r"^base_model = 'gpt2': ") as caught:
        load("gpt2")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_true_shape_is_fetched_once_and_resumed(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = GPT2LMHeadModel(GPT2Config()).eval()
    peer.save_pretrained(tmp_path)
    hub.hold_file(tmp_path / "model.safetensors")
    hub.break_after = 35_000_000  # the client writes pieces of 10 MB
    model = pretrained.load("gpt2")
    [resumed] = [asked for asked in hub.ranges if asked]
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= 1_000_000
    ids = torch.tensor([[1, 2, 50256]])
    torch.testing.assert_close(model(ids), peer(ids).logits, atol=1e-4, rtol=1e-4)
    hub.requests = 0
    pretrained.load("gpt2", frozen=True)
    assert hub.requests == 0


def test_what_a_killed_process_had_fetched_is_not_fetched_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def fetch_some(url: str, file: io.BufferedWriter, **more: Any) -> None:
        file.write(body[:30_000])
        file.flush()
        raise KilledError

    body = save({"wte.weight": torch.arange(20_000.0).view(100, 200)})
    hub.hold(body)
    with monkeypatch.context() as patch:
        patch.setattr(download, "http_get", fetch_some)
        with pytest.raises(KilledError):
            pretrained.fetch("gpt2")
    assert pretrained.fetch("gpt2").read_bytes() == body
    assert hub.ranges == ["bytes=30000-"]


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    assert "connect to the internet once, or name a directory" in sentence()


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_hub_that_answers_something_else(
    hub: Hub, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    hub.status = status
    assert f"it answered with status {status}; try again later" in sentence()


def test_nothing_there(hub: Hub) -> None:
    assert "there is no such repository, or it is not public" in sentence()


def test_other_bytes_than_announced_are_removed(hub: Hub) -> None:
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}), sha256="ab" * 32)
    assert "its SHA-256 differs" in sentence()
    hub.hold(save({"wte.weight": torch.ones(3, 2)}))
    assert "h.0.ln_1.weight is missing" in sentence()  # fetched anew


def test_bytes_that_changed_in_the_cache_are_noticed(hub: Hub) -> None:
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}))
    path = pretrained.fetch("gpt2").resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "its SHA-256 differs" in sentence(pretrained.fetch)
    assert pretrained.fetch("gpt2").exists()


def test_a_cache_that_keeps_bytes_elsewhere_is_understood(hub: Hub) -> None:
    """Large files that came another way lie under another hash; the SHA-256 links to them."""
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}))
    named = pretrained.fetch("gpt2").resolve()
    elsewhere = named.parent / "ab" / ("cd" * 32)
    elsewhere.parent.mkdir()
    named.rename(elsewhere)
    named.symlink_to(elsewhere)
    assert pretrained.fetch("gpt2").resolve() == elsewhere
    elsewhere.write_bytes(b"x")
    assert "its SHA-256 differs" in sentence(pretrained.fetch)
    assert not elsewhere.exists()
    assert pretrained.fetch("gpt2").resolve() == named


def test_only_the_way_that_is_tested_is_used() -> None:
    assert constants.HF_HUB_DISABLE_XET


def test_a_missing_tensor(hub: Hub) -> None:
    hub.hold(save({"transformer.wpe.weight": torch.zeros(1024, 768)}))
    assert "wte.weight is missing" in sentence()


def test_a_wrong_shape(hub: Hub, tmp_path: Path) -> None:
    config = GPT2Config(n_embd=24, n_head=12)
    tensors = {
        k: v.contiguous() for k, v in GPT2LMHeadModel(config).transformer.state_dict().items()
    }
    save_file(tensors, tmp_path / "small.safetensors")
    hub.hold_file(tmp_path / "small.safetensors")
    assert "wte.weight has shape (50257, 24) and should have (50257, 768)" in sentence()


def test_what_is_no_safetensors(hub: Hub) -> None:
    hub.hold(b"<html>an error page</html>")
    assert "model.safetensors is damaged" in sentence()


def test_a_full_disk() -> None:
    expected = r"^x = 1: a/b .*: the disk is full; make room for it, or name c$"
    with pytest.raises(UserError, match=expected), explained("x = 1", "a/b", "name c"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_no_matter_of_downloads_passes() -> None:
    with pytest.raises(ZeroDivisionError), explained("x = 1", "a/b", "name c"):
        raise ZeroDivisionError
