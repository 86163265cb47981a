"""Take the pictures in README.md and docs: `python -m docs.screenshots` (`make screenshots`).

Trains and scores the demo runs and trains the tutorial's study in temporary folders, serves the dashboard on them, and
writes every page in light and dark to docs/pictures. Needs Chromium, like the browser tests.

    --runs-dir DIR    use a copy of existing demo runs instead of training them
    --study-dir DIR   use a copy of an existing folder with the tutorial's study
    --only NAME ...   take only these pictures
"""

import argparse
import io
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURES_DIR = ROOT / "docs" / "pictures"
WIDTH_PX, HEIGHT_PX = 1440, 900
MAX_BYTES, MAX_TOTAL_BYTES = 200_000, 1_500_000
"""Maximum size of one picture and of all pictures."""
COLORS = 256
"""Colors in a picture. Pages have few colors, and a palette makes files about three times smaller."""
STABLE_MS = 1500
"""A page counts as complete once it has not changed for this long."""
TIMEOUT_S = 60
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
CAPSULE_RUN = "demo-lora-16"
TUTORIAL = ROOT / "docs" / "tutorial.md"
STUDY = "scaling-and-rank"


class Picture(NamedTuple):
    """A page to capture: name of the file, path of the page, and its first heading."""

    name: str
    path: str
    heading: str


PICTURES = (
    Picture("results", "", "Results"),
    Picture("launch", "launch", "Launch"),
    Picture("run", "run?name=demo-lora-16", "demo-lora-16"),
    Picture("live", "live?run=demo-full&run=demo-lora-16&run=demo-lora-4", "Live"),
    Picture("compare", "compare?search=synonym+for+happy", "Compare"),
    Picture("scoring", "scoring?run=demo-full&run=demo-lora-16", "Scoring"),
    Picture("capsule", "", CAPSULE_RUN),
)
STUDY_PICTURES = (
    Picture("study", f"studies?study={STUDY}", STUDY),
    Picture("study-effects", f"studies?study={STUDY}&tab=Effects", STUDY),
    Picture("study-why", f"studies?study={STUDY}&tab=Why", STUDY),
)


def main() -> None:
    """Take the pictures. Fails if one is larger than MAX_BYTES or all are larger than MAX_TOTAL_BYTES."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--runs-dir", type=Path)
    parser.add_argument("--study-dir", type=Path)
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PICTURES + STUDY_PICTURES])
    options = parser.parse_args()
    pictures, study_pictures = (
        [p for p in group if not options.only or p.name in options.only]
        for group in (PICTURES, STUDY_PICTURES)
    )
    PICTURES_DIR.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runs_dir, capsule = Path(folder) / "runs", Path(folder) / "capsule.html"
        if pictures:
            if options.runs_dir:
                shutil.copytree(options.runs_dir, runs_dir)
            else:
                _core("demo", "--runs-dir", runs_dir)
            _core("export", CAPSULE_RUN, capsule, "--format", "capsule", "--runs-dir", runs_dir)
            with _dashboard(runs_dir) as address:
                _photograph(pictures, address, capsule.as_uri())
        study_dir = Path(folder) / "study"
        if study_pictures:
            if options.study_dir:
                shutil.copytree(options.study_dir, study_dir)
            else:
                _core(*sweep_arguments(), "--runs-dir", study_dir)
            with _dashboard(study_dir) as address:
                _photograph(study_pictures, address)
    sizes = {path.name: path.stat().st_size for path in sorted(PICTURES_DIR.glob("*.png"))}
    print("\n".join(f"{name}: {size / 1000:.0f} kB" for name, size in sizes.items()))
    too_large = [name for name, size in sizes.items() if size > MAX_BYTES]
    if too_large or sum(sizes.values()) > MAX_TOTAL_BYTES:
        sys.exit(f"error: too large: {', '.join(too_large) or 'all pictures together'}")


def sweep_arguments() -> list[str]:
    """Return the arguments of the command in the tutorial that trains its study."""
    text = TUTORIAL.read_text(encoding="utf-8").replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "-m core sweep" in line)
    return shlex.split(command.partition("-m core ")[2])


def _core(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "core", *map(str, arguments)], cwd=ROOT, check=True)


@contextmanager
def _dashboard(runs_dir: Path) -> Iterator[str]:
    """Serve a runs folder and yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "pages.ui.serve", "--server.port", str(port)],
        cwd=ROOT, env={**os.environ, "RUNS_DIR": str(runs_dir)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not _responds(address):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("error: the dashboard did not start")
            time.sleep(0.2)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(TIMEOUT_S)


def _responds(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/_stcore/health").close()
    except urllib.error.URLError:
        return False
    return True


def _photograph(pictures: list[Picture], address: str, capsule: str = "") -> None:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    expect.set_options(timeout=TIMEOUT_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": WIDTH_PX, "height": HEIGHT_PX},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            tab = context.new_page()
            for picture in pictures:
                tab.goto(capsule if picture.name == "capsule" else f"{address}/{picture.path}")
                screenshot = _drawn(tab, picture.heading)
                _save(screenshot, PICTURES_DIR / f"{picture.name}-{scheme}.png")
            context.close()
        browser.close()


def _drawn(tab: Page, heading: str) -> bytes:
    """Return a screenshot of the page once its script has finished and it no longer changes."""
    expect(tab.get_by_role("heading", name=heading).first).to_be_visible()
    tab.mouse.move(WIDTH_PX - 1, HEIGHT_PX - 1)  # charts show their toolbar on hover
    previous, deadline = b"", time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        expect(tab.locator("[data-test-script-state=running]")).to_have_count(0)
        expect(tab.get_by_test_id("stSkeleton")).to_have_count(0)
        screenshot = tab.screenshot(animations="disabled", caret="hide")
        if screenshot == previous:
            return screenshot
        previous = screenshot
        tab.wait_for_timeout(STABLE_MS)
    sys.exit(f"error: {heading} keeps changing")


def _save(screenshot: bytes, path: Path) -> None:
    """Save a picture with a palette of its most frequent colors, so backgrounds stay exact."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    counts = sorted(image.getcolors(image.width * image.height) or [], reverse=True)[:COLORS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, color in counts for channel in color])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
