"""Check file lengths, module docstrings and the README tree. Linters check imports and forbidden functions."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from core.cli.commands import app
from core.config import GROUPS, RunConfig, metadata

ROOT = Path(__file__).parent.parent


def tracked(*patterns: str) -> list[Path]:
    """Return the files that match and that git does not ignore."""
    result = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in result.stdout.splitlines() if (ROOT / line).exists()]


SOURCES = tracked("app.py", "core/*.py", "pages/*.py")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*SOURCES, *tracked("benchmarks/*.py")], ids=relative)
def test_module_has_a_docstring_and_at_most_600_lines(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    assert ast.get_docstring(ast.parse(text)), f"{relative(path)} has no docstring"


def readme_tree() -> list[str]:
    """Return the paths in the README's annotated tree."""
    block = re.search(r"\n    app\.py .*?\n\n", (ROOT / "README.md").read_text(), re.S)
    assert block
    paths, folders = [], []
    for line in block[0].strip("\n").splitlines():
        indent = (len(line) - len(line.lstrip()) - 4) // 2
        names = re.match(r"\s*((?:[\w.]+/?)(?:, [\w.]+)*)", line)
        assert names, line
        for name in names[1].split(", "):
            paths.append("/".join([*folders[:indent], name.rstrip("/")]))
            if name.endswith("/"):
                folders = [*folders[:indent], name.rstrip("/")]
    return paths


def test_readme_tree_matches_the_repository():
    readme_paths = readme_tree()
    assert not [path for path in readme_paths if not (ROOT / path).exists()]
    assert sorted({*readme_paths}) == sorted(readme_paths), "duplicate path"


def test_no_unexpected_top_level_or_binary_files():
    allowed_names = {
        ".ci",
        ".gitignore",
        ".streamlit",
        "CHANGELOG.md",
        "Makefile",
        "README.md",
        "pyproject.toml",
    }
    allowed_names |= {name for name in readme_tree() if "/" not in name}
    allowed_names |= {"requirements.txt", "requirements-dev.txt", "requirements-recipe.txt"}
    files = tracked()
    assert {relative(path).split("/")[0] for path in files} <= allowed_names
    binary = {relative(path) for path in files if b"\0" in path.read_bytes()}
    assert binary <= {"core/assets/gpt2-nano/model.safetensors", "docs/live.png"}


def test_every_command_is_documented():
    text = (ROOT / "README.md").read_text()
    for command in app.registered_commands:
        assert command.callback
        assert f"python -m core {command.callback.__name__}" in text


def test_every_setting_is_documented_and_grouped():
    for name, field in RunConfig.model_fields.items():
        assert field.title, name
        assert field.description, name
        assert metadata(field)["group"] in GROUPS
