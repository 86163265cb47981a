"""The documentation matches the code: the generated reference, links, commands and file names."""

import re
from pathlib import Path

import pytest

from core.cli import reference
from core.cli.commands import app
from core.presets import preset
from core.studies.sweep import Sweep, parse_axis
from docs.screenshots import STUDY, sweep_arguments

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PICTURE = re.compile(r'src(?:set)?="([^"]+)"')
MODULE_COMMAND = re.compile(r"python -m ((?:benchmarks|docs|recipe|pages|core\.)[\w.]*)")
SOURCE_PATH = re.compile(r"`((?:core|pages|tests|benchmarks|recipe)/[\w/]+\.py)`")


def test_reference_is_up_to_date() -> None:
    assert reference.REFERENCE.read_text(encoding="utf-8") == reference.reference(), (
        "run `make reference`"
    )


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "usage.md").read_text()
    for command in app.registered_commands:
        assert command.callback
        name = command.callback.__name__.replace("_", "-")
        assert f"python -m core {name}" in text


def test_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_modules_and_source_paths_exist(path: Path) -> None:
    text = path.read_text()
    targets = [path.parent / link for link in LINK.findall(text) if "://" not in link]
    targets += [path.parent / picture for picture in PICTURE.findall(text)]
    targets += [ROOT / source for source in SOURCE_PATH.findall(text)]
    for module in MODULE_COMMAND.findall(text):
        file = ROOT / module.rstrip(".").replace(".", "/")
        targets.append(file if file.is_dir() else file.with_suffix(".py"))
    assert not [str(target) for target in targets if not target.exists()]


def test_every_picture_is_used_in_light_and_dark() -> None:
    used = {
        (path.parent / picture).resolve()
        for path in DOCUMENTS
        for picture in PICTURE.findall(path.read_text())
    }
    assert used == {*(ROOT / "docs" / "pictures").glob("*.png")}
    names = [path.stem.rpartition("-") for path in used]
    assert {name for name, _, scheme in names if scheme == "light"} == {
        name for name, _, scheme in names if scheme == "dark"
    }


def test_tutorial_study_has_36_runs() -> None:
    options = iter(sweep_arguments()[1:])
    given: dict[str, list[str]] = {}
    for option, value in zip(options, options, strict=True):
        given.setdefault(option, []).append(value)
    base = preset(given["--preset"][0]).changed(**dict(s.split("=", 1) for s in given["--set"]))
    axes = tuple(parse_axis(text) for text in given["--axis"])
    sweep = Sweep(base, axes, tuple(range(int(given["--seeds"][0]))))
    assert given["--study"] == [STUDY]
    assert len([*sweep.members(STUDY)]) == 36
