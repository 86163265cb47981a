"""Downloading weights with the Hub's client from a loopback server that can simulate failures."""

import errno
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from core.data import download
from core.data.download import explain_error
from core.errors import UserError
from core.nn import pretrained
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]


def error_message(load: Callable[[str], Any] = pretrained.load) -> str:
    with pytest.raises(UserError, match=r"^base_model = 'gpt2': ") as caught:
        load("gpt2")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_full_size_model_is_downloaded_once_and_resumed(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = GPT2LMHeadModel(GPT2Config()).eval()
    peer.save_pretrained(tmp_path)
    hub.hold_file(tmp_path / "model.safetensors")
    hub.break_after = 35_000_000  # the client writes in chunks of 10 MB
    assert pretrained.to_download("gpt2") == 4 * 124_439_808
    model = pretrained.load("gpt2")
    assert pretrained.to_download("gpt2") == 0
    [resumed] = [byte_range for byte_range in hub.ranges if byte_range]
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= 1_000_000
    ids = torch.tensor([[1, 2, 50256]])
    torch.testing.assert_close(model(ids), peer(ids).logits, atol=1e-4, rtol=1e-4)
    hub.requests = 0
    pretrained.load("gpt2", frozen=True)
    assert hub.requests == 0


def kill_during_download(hub: Hub, code: str) -> None:
    """Start a process that downloads a 34 MB file, and kill it once the first bytes are on disk."""
    hub.hold(bytes(34_000_000))  # the client writes in chunks of 10 MB
    hub.pause = 0.05
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        cache = Path(constants.HF_HUB_CACHE)
        while not any(p.stat().st_size for p in cache.rglob("blobs/*") if p.suffix != ".lock"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    hub.pause = 0.0
    hub.ranges.clear()


def test_download_is_resumed_after_its_process_was_killed(hub: Hub) -> None:
    kill_during_download(hub, "from core.nn import pretrained; pretrained.fetch('gpt2')")
    assert pretrained.fetch("gpt2").stat().st_size == 34_000_000
    [byte_range] = hub.ranges
    assert byte_range is not None
    assert int(byte_range.removeprefix("bytes=").rstrip("-")) > 0


def test_the_client_alone_does_not_resume_after_a_kill(hub: Hub) -> None:
    """This is why `download._fetch_large` exists. It can be deleted once this test fails."""
    repository, name = "openai-community/gpt2", "model.safetensors"
    code = f"from huggingface_hub import hf_hub_download; hf_hub_download({repository!r}, {name!r})"
    kill_during_download(hub, code)
    hf_hub_download(repository, name)
    assert hub.ranges == [None]


def test_progress_callback_reports_bytes_and_can_cancel_the_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class CancelError(Exception):
        pass

    def listen(repository: str, done: int, total: int) -> None:
        reports.append((repository, done, total))
        if len(reports) == 2:
            raise CancelError

    reports: list[tuple[str, int, int]] = []
    monkeypatch.setattr(download, "PROGRESS_INTERVAL_S", 0.0)
    hub.hold(bytes(34_000_000))  # the client reads in chunks of 10 MB
    with pytest.raises(CancelError), download.reporting_to(listen):
        pretrained.fetch("gpt2")
    with download.reporting_to(listen):
        assert pretrained.fetch("gpt2").stat().st_size == 34_000_000
    assert {(repository, total) for repository, _, total in reports} == {
        ("openai-community/gpt2", 34_000_000)
    }
    # The chunk that was being processed when the listener raised an exception is downloaded again.
    assert [done // 1_000_000 for _, done, _ in reports] == [10, 20, 20, 31, 34]
    assert capfd.readouterr().err == ""
    shutil.rmtree(constants.HF_HUB_CACHE)
    pretrained.fetch("gpt2")
    assert len(reports) == 5


def test_missing_network_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # skip the delay between attempts
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    assert "check your internet connection, or choose a local model folder" in error_message()


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_unexpected_hub_status_is_reported(
    hub: Hub, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # skip the delay between attempts
    hub.status = status
    assert f"the server returned status {status}; try again later" in error_message()


def test_unknown_model_is_reported(hub: Hub) -> None:
    assert "the repository does not exist or is not public; check its name" in error_message()


def test_corrupt_download_is_deleted(hub: Hub) -> None:
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}), sha256="ab" * 32)
    assert "does not match the SHA-256" in error_message()
    hub.hold(save({"wte.weight": torch.ones(3, 2)}))
    assert "h.0.ln_1.weight is missing" in error_message()  # downloaded again


def test_damaged_cached_file_is_downloaded_again(hub: Hub) -> None:
    body = save({"wte.weight": torch.zeros(3, 2)})
    hub.hold(body)
    path = pretrained.fetch("gpt2").resolve()
    path.write_bytes(body[:-1] + b"x")
    assert pretrained.fetch("gpt2").read_bytes() == body


def test_download_damaged_twice_is_an_error(hub: Hub) -> None:
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}), sha256="ab" * 32)
    assert "does not match the SHA-256" in error_message(pretrained.fetch)
    assert len(hub.ranges) == 2


@pytest.mark.parametrize("damage", [lambda body: b"x", lambda body: body.replace(b"wte", b"wtf")])
def test_damaged_cached_header_is_noted(hub: Hub, damage: Callable[[bytes], bytes]) -> None:
    body = save({"wte.weight": torch.zeros(3, 2)})
    hub.hold(body)
    path = pretrained.fetch("gpt2").resolve()
    path.write_bytes(damage(body))
    assert pretrained.inspect("gpt2") == [
        "the cached file for gpt2 is damaged and will be downloaded again at launch"
    ]
    pretrained.fetch("gpt2")
    assert "h.0.ln_1.weight is missing" in error_message(pretrained.inspect)


def test_cache_with_linked_blobs_is_supported(hub: Hub) -> None:
    """Files downloaded over Xet are stored under a different hash, with a link from their SHA-256."""
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}))
    blob = pretrained.fetch("gpt2").resolve()
    target = blob.parent / "ab" / ("cd" * 32)
    target.parent.mkdir()
    blob.rename(target)
    blob.symlink_to(target)
    assert pretrained.fetch("gpt2").resolve() == target
    target.write_bytes(b"x")
    assert pretrained.fetch("gpt2").resolve() == blob
    assert not target.exists()


def test_xet_downloads_are_disabled() -> None:
    assert constants.HF_HUB_DISABLE_XET


def test_missing_tensor_is_reported(hub: Hub) -> None:
    hub.hold(save({"transformer.wpe.weight": torch.zeros(1024, 768)}))
    assert "wte.weight is missing" in error_message()


def test_wrong_shape_is_reported(hub: Hub, tmp_path: Path) -> None:
    config = GPT2Config(n_embd=24, n_head=12)
    tensors = {
        k: v.contiguous() for k, v in GPT2LMHeadModel(config).transformer.state_dict().items()
    }
    save_file(tensors, tmp_path / "small.safetensors")
    hub.hold_file(tmp_path / "small.safetensors")
    assert "wte.weight has shape (50257, 24) instead of (50257, 768)" in error_message()


def test_invalid_safetensors_file_is_reported(hub: Hub) -> None:
    hub.hold(b"<html>an error page</html>")
    assert "model.safetensors is damaged" in error_message()


def test_disk_full_during_a_download_is_reported(hub: Hub) -> None:
    body = save({"wte.weight": torch.zeros(300, 200)})
    hub.hold(body)
    blobs = Path(constants.HF_HUB_CACHE) / "models--openai-community--gpt2" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.sha256}.partial").symlink_to("/dev/full")  # every write fails
    expected_message = "the disk is full; free some space, or choose a local model folder"
    assert error_message(pretrained.fetch).endswith(expected_message)
    assert not [path for path in blobs.parent.rglob("*") if path.name == "model.safetensors"]
    (blobs / f"{hub.sha256}.partial").unlink()  # as if there were free space again
    assert pretrained.fetch("gpt2").read_bytes() == body


def test_full_disk_is_reported() -> None:
    expected = r"^x = 1: could not download a/b .*: the disk is full; free some space, or choose c$"
    with pytest.raises(UserError, match=expected), explain_error("x = 1", "a/b", "choose c"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_unrelated_errors_are_not_converted() -> None:
    with pytest.raises(ZeroDivisionError), explain_error("x = 1", "a/b", "choose c"):
        raise ZeroDivisionError
