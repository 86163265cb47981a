"""Which files a dashboard may read for those who use it: the ones in a few folders, links followed to their end.

The command line is its user's own and reads what they can. Knows settings, no page.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import Problem

DATA_DIRS_VARIABLE = "DATA_DIRS"
"""Names the folders, with colons between, in place of the usual ones."""
PATH_FIELDS = ("dataset", "base_model")
"""Settings that may be a path."""


def allowed() -> list[Path]:
    """Those in DATA_DIRS; else the home directory, the one that holds the project, and that for temporary files."""
    if configured := os.environ.get(DATA_DIRS_VARIABLE):
        folders = [Path(name).expanduser() for name in configured.split(os.pathsep) if name]
    else:
        project = Path.cwd()
        project_parent = project.parent if project.parent != Path(project.anchor) else project
        folders = [Path.home(), project_parent, Path(tempfile.gettempdir())]
    return list(dict.fromkeys(path.resolve() for path in folders))


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Paths among the values of a RunConfig, right or not, that lead out of the allowed folders, or have a link that does."""
    folders = allowed()
    rejected = []
    for field in PATH_FIELDS:
        value = str(settings.get(field) or "")
        if (
            not value
            or not _is_path(value)
            or all(_is_inside(path, folders) for path in _files(value))
        ):
            continue
        names = ", ".join(map(str, folders))
        message = (
            f"it lies outside the folders that a dashboard reads ({names}); copy it there, or name all such folders,"
            f" with colons between, in the environment variable {DATA_DIRS_VARIABLE} when it starts"
        )
        rejected.append(Problem(field, value, message))
    return rejected


def _is_path(value: str) -> bool:
    """Whether a value is a place on this machine, there or not; `gpt2` and `owner/name` are none unless they are there."""
    try:
        path = Path(value).expanduser()
        return path.is_absolute() or ".." in path.parts or path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, the home of an unknown user, a NUL
        return False


def _files(value: str) -> list[Path]:
    """A path and, of a directory, what lies in it: a link in there may lead out as well."""
    path = Path(value).expanduser()
    try:
        return [path, *path.iterdir()] if path.is_dir() else [path]
    except OSError:
        return [path]


def _is_inside(path: Path, folders: list[Path]) -> bool:
    try:
        end = path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return False
    return any(end.is_relative_to(folder) for folder in folders)
