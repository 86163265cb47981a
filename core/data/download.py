"""Download files from the Hugging Face Hub with its client, resume interrupted downloads, and explain errors.

The client retries failed requests and gives a file its final name only when it is complete. This module does not depend
on models or data sets.
"""

import errno
import hashlib
import io
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.file_download import http_get, repo_folder_name
from tqdm import tqdm

from core.errors import UserError
from core.file_lock import acquire

Listener = Callable[[str, int, int], None]
"""Called with the repository, the bytes downloaded so far and the total. Raising an exception cancels the download."""

constants.HF_HUB_DISABLE_XET = True
"""Xet, the hub's other transfer protocol, reports failures as a bare RuntimeError after several minutes."""
constants.HF_HUB_DISABLE_TELEMETRY = True
"""Do not send usage data, only the client's name and version."""
CONNECT_TIMEOUT_S = 10.0
"""Timeout for connecting to the hub, in seconds."""
CHECKSUM_MISMATCH = "does not match the SHA-256 published by the hub and was deleted; try again"
SHA256 = re.compile(r"[0-9a-f]{64}")
PROGRESS_INTERVAL_S = 1.0
"""Minimum time between two progress reports, in seconds."""
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def reporting_to(listener: Listener) -> Iterator[None]:
    """Report downloads in this context to a listener instead of drawing a progress bar in the terminal."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def progress_bar(repository: str) -> type[Any] | None:
    """Return a progress bar class for the hub's client that reports to the listener; None if there is no listener."""
    listener = _listener.get()
    if listener is None:
        return None
    notify = listener

    class DownloadProgress(tqdm):  # type: ignore[misc]
        last_report_at = -math.inf

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, file=io.StringIO(), **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            displayed: bool | None = super().update(n)
            now = time.monotonic()
            is_complete = self.n == self.total
            if self.unit == "B" and (
                is_complete or now - self.last_report_at >= PROGRESS_INTERVAL_S
            ):
                self.last_report_at = now
                notify(repository, int(self.n), int(self.total or 0))
            return displayed

    return DownloadProgress


def is_cached(repository: str, name: str) -> bool:
    """Whether a file from a model repository is in the local cache."""
    return isinstance(try_to_load_from_cache(repository, name), str)


def cached_file(repository: str, name: str) -> Path:
    """Return a file from a model repository, downloading it if it is not cached. Raises the client's errors."""
    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    if online := reachable():
        _fetch_large(repository, name)
    bar = progress_bar(repository)
    return Path(hf_hub_download(repository, name, local_files_only=not online, tqdm_class=bar))


def _fetch_large(repository: str, name: str) -> None:
    """Download a large file into the client's cache, resuming the partial download of an earlier process.

    huggingface_hub 2.4.0 does not resume across processes: `hf_hub_download` writes to `BLOB.RANDOM.incomplete`, and a
    new process starts over with a new random name. This is the only function that relies on undocumented names:
    `http_get` and `repo_folder_name` of `huggingface_hub.file_download`, and the path `blobs/SHA256` of a complete
    file. Delete it once `test_the_client_alone_does_not_resume_after_a_kill` fails.
    """
    announced = get_hf_file_metadata(hf_hub_url(repository, name))
    if not (announced.size and announced.etag and SHA256.fullmatch(announced.etag)):
        return
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    blob = folder / "blobs" / announced.etag
    partial = blob.with_name(f"{blob.name}.partial")
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = acquire(partial.with_name(f"{partial.name}.lock"), timeout=math.inf)
    assert lock is not None
    try:
        if blob.exists():
            return
        with partial.open("ab") as file:
            http_get(
                announced.location,
                file,
                resume_size=file.tell(),
                expected_size=announced.size,
                displayed_filename=name,
                tqdm_class=progress_bar(repository),
            )
        partial.replace(blob)
    finally:
        os.close(lock)


def reachable() -> bool:
    """Whether the hub accepts connections. Its client would take six attempts and 23 seconds to find out.

    Always true behind a proxy, where only the client can tell.
    """
    if getproxies().keys() & {"http", "https", "all"}:
        return True
    hub = urlsplit(constants.ENDPOINT)
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def is_damaged(path: Path) -> bool:
    """Whether a cached file differs from its published SHA-256.

    The cache stores a large file under its SHA-256 and links the file name to it.
    """
    if not path.is_symlink():
        return False
    blob = path.parent / path.readlink()
    if not SHA256.fullmatch(blob.name):
        return False
    with blob.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != blob.name


def discard_if_damaged(path: Path) -> bool:
    """Delete a cached file if it is damaged. Return whether it was."""
    damaged = is_damaged(path)
    if damaged:
        blob = path.parent / path.readlink()
        target = blob.resolve()
        for file_path in (path, blob, target):
            file_path.unlink(missing_ok=True)
    return damaged


@contextmanager
def explain_error(setting: str, repository: str, alternative: str) -> Iterator[None]:
    """Convert download errors to a one-sentence UserError.

    Args:
        setting: the setting, such as `dataset = 'alpaca'`.
        alternative: what to do without the hub, such as `choose a local file`.

    Raises:
        UserError: the client or its HTTP library raised an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        is_transport_error = isinstance(error, OSError | HfHubHTTPError | LocalEntryNotFoundError)
        if not (is_transport_error or type(error).__module__.startswith("httpx")):
            raise
        message = f"{setting}: could not download {repository} from the hub: {_reason(error)}"
        raise UserError(f"{message}, or {alternative}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space"
    if isinstance(error, RepositoryNotFoundError):
        return "the repository does not exist or is not public; check its name"
    for exception in (error, error.__cause__):  # the client wraps the HTTP error in another one
        status = getattr(getattr(exception, "response", None), "status_code", None)
        if status is not None:
            return f"the server returned status {status}; try again later"
    if isinstance(error, LocalEntryNotFoundError):
        return "you are offline; connect to the internet once"
    return f"the connection failed ({type(error).__name__}); check your internet connection"
