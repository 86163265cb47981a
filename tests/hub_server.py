"""A loopback server that mimics the Hugging Face Hub for one model and several data sets, with simulated failures."""

import contextlib
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "1" * 40
WEIGHTS = f"/openai-community/gpt2/resolve/{COMMIT}/model.safetensors"
REVISION = re.compile(r"/api/datasets/([^/]+/[^/]+)/revision/main")
TREE = re.compile(rf"/api/datasets/([^/]+/[^/]+)/tree/{COMMIT}")
DATA_FILE = re.compile(rf"/datasets/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)")


class Hub:
    """The server's contents, simulated failures and received requests."""

    def __init__(self) -> None:
        self.body: Callable[[], Any] = io.BytesIO
        self.size = 0
        self.sha256 = ""
        self.break_after: int | None = None
        """Drop the connection after this many bytes of the next download."""
        self.ranges: list[str | None] = []
        self.datasets: dict[str, dict[str, bytes]] = {}
        """Data set files by repository and path."""
        self.paths: list[str] = []
        """Paths requested so far."""
        self.requests = 0
        self.status: int | None = None
        """Respond with this status to every request."""
        self.pause = 0.0
        """Seconds to wait after each MiB."""
        self.address = ""

    def hold(self, body: bytes, sha256: str | None = None) -> None:
        self.body, self.size = lambda: io.BytesIO(body), len(body)
        self.sha256 = sha256 or hashlib.sha256(body).hexdigest()

    def hold_file(self, path: Path) -> None:
        self.body, self.size = lambda: path.open("rb"), path.stat().st_size
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()


def dataset_response(hub: Hub, path: str) -> tuple[bytes, str] | None:
    """Return the body and ETag for a data set request, or None if there is no such data set or file."""
    for pattern in (REVISION, TREE, DATA_FILE):
        if not (match := pattern.fullmatch(path)) or match[1] not in hub.datasets:
            continue
        files = hub.datasets[match[1]]
        if pattern is REVISION:
            body = json.dumps({"id": match[1], "sha": COMMIT}).encode()
        elif pattern is TREE:
            body = json.dumps([tree_entry(*file) for file in files.items()]).encode()
        elif match[2] in files:
            body = files[match[2]]
        else:
            return None
        large = path.endswith(".parquet")  # identified by SHA-256, like LFS files
        return body, hashlib.sha256(body).hexdigest() if large else hashlib.sha1(body).hexdigest()
    return None


def tree_entry(path: str, body: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(body).hexdigest()
    return {"type": "file", "path": path, "size": len(body), "oid": oid}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Start a Hub server that listens at `address`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(0, send=False)

        def do_GET(self) -> None:
            byte_range = self.headers.get("Range")
            hub.ranges.append(byte_range)
            self.answer(
                int(byte_range.removeprefix("bytes=").split("-")[0]) if byte_range else 0, send=True
            )

        def answer(self, start: int, send: bool) -> None:
            hub.requests += 1
            hub.paths.append(self.path)
            if not hub.status and (response := dataset_response(hub, self.path.partition("?")[0])):
                self.answer_dataset(*response, send)
                return
            name = self.path.replace("/main/", f"/{COMMIT}/")
            if hub.status or name != WEIGHTS or not hub.size:
                self.send_response(hub.status or 404)
                if not hub.status:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(hub.size - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{hub.size - 1}/{hub.size}")
            self.send_header("ETag", f'"{hub.sha256}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if not send:
                return
            remaining = hub.size - start if hub.break_after is None else hub.break_after
            break_connection, hub.break_after = hub.break_after is not None, None
            with hub.body() as body:
                body.seek(start)
                while remaining > 0 and (chunk := body.read(min(remaining, 1 << 20))):
                    self.wfile.write(chunk)
                    remaining -= len(chunk)
                    time.sleep(hub.pause)
            if break_connection:
                self.close_connection = True
                self.connection.close()

        def answer_dataset(self, body: bytes, etag: str, send: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if send:
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the server drops some connections
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the server drops some connections
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
