"""Check file lengths, module docstrings and the folders in the README. Imports and forbidden functions are checked by
linters."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from core.config import GROUPS, RunConfig, metadata

ROOT = Path(__file__).parent.parent


def tracked(*patterns: str) -> list[Path]:
    """Return the files that match the patterns and are not ignored by git."""
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


def readme_folders() -> list[str]:
    """Return the paths listed at the end of the README."""
    block = re.search(r"\n    app\.py .*\Z", (ROOT / "README.md").read_text(), re.S)
    assert block
    return [line.split()[0].rstrip("/") for line in block[0].splitlines() if line.strip()]


def test_readme_lists_existing_folders_once():
    listed_paths = readme_folders()
    assert not [path for path in listed_paths if not (ROOT / path).exists()]
    assert sorted(set(listed_paths)) == sorted(listed_paths)


def test_no_unexpected_top_level_or_binary_files():
    allowed_names = {
        ".ci",
        ".gitignore",
        ".streamlit",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "README.md",
        "pyproject.toml",
    }
    allowed_names |= set(readme_folders())
    allowed_names |= {"requirements.txt", "requirements-dev.txt", "requirements-recipe.txt"}
    files = tracked()
    assert {relative(path).split("/")[0] for path in files} <= allowed_names
    binary = {relative(path) for path in files if b"\0" in path.read_bytes()}
    pictures = {
        path for path in binary if re.fullmatch(r"docs/pictures/[\w-]+-(light|dark)\.png", path)
    }
    assert binary - pictures <= {"core/assets/gpt2-nano/model.safetensors"}
    sizes = [(ROOT / path).stat().st_size for path in pictures]
    assert max(sizes) <= 200_000
    assert sum(sizes) <= 1_500_000


def test_every_setting_is_documented_and_grouped():
    for name, field in RunConfig.model_fields.items():
        assert field.title, name
        assert field.description, name
        assert metadata(field)["group"] in GROUPS
