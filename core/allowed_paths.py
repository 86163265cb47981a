"""Restrict the files that dashboard users can read to a few folders. Symbolic links are resolved.

The command line is not restricted, because it runs with the user's own permissions. This module may use settings but
not pages.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import Problem

DATA_DIRS_VARIABLE = "DATA_DIRS"
"""Environment variable that lists the allowed folders, separated by colons. Replaces the defaults."""
PATH_FIELDS = ("dataset", "base_model")
"""Settings whose values may be paths."""


def allowed() -> list[Path]:
    """Return the allowed folders.

    By default, these are the home directory, the parent of the working directory and the temporary directory.
    """
    if configured := os.environ.get(DATA_DIRS_VARIABLE):
        folders = [Path(name).expanduser() for name in configured.split(os.pathsep) if name]
    else:
        project = Path.cwd()
        project_parent = project.parent if project.parent != Path(project.anchor) else project
        folders = [Path.home(), project_parent, Path(tempfile.gettempdir())]
    return list(dict.fromkeys(path.resolve() for path in folders))


def problems(settings: Mapping[str, Any], uploads: Path | None = None) -> list[Problem]:
    """Return a problem for each path in the settings that is outside the allowed folders.

    Nonexistent paths are checked too, as are the links in a directory. The settings need not be valid.

    Args:
        uploads: folder of uploaded files, also allowed. Links in it are resolved before the check.
    """
    folders = allowed()
    rejected = []
    for field in PATH_FIELDS:
        value = str(settings.get(field) or "")
        if (
            not value
            or not _is_path(value)
            or all(
                _is_inside(path, [*folders, uploads] if uploads else folders)
                for path in _path_and_entries(value)
            )
        ):
            continue
        names = ", ".join(map(str, folders))
        message = (
            f"outside the folders that the dashboard may read ({names}); copy it there, or set {DATA_DIRS_VARIABLE}"
            " to all allowed folders, separated by colons, before starting the dashboard"
        )
        rejected.append(Problem(field, value, message))
    return rejected


def _is_path(value: str) -> bool:
    """Whether a value is a path. `gpt2` and `owner/name` are paths only if they exist."""
    try:
        path = Path(value).expanduser()
        return path.is_absolute() or ".." in path.parts or path.exists()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # too long, contains NUL, or has an unknown user after ~
        return False


def _path_and_entries(value: str) -> list[Path]:
    """Return the path and, if it is a directory, its entries, which may be links to other folders."""
    path = Path(value).expanduser()
    try:
        return [path, *path.iterdir()] if path.is_dir() else [path]
    except OSError:
        return [path]


def _is_inside(path: Path, folders: list[Path]) -> bool:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # the path is a link to itself
        return False
    return any(resolved.is_relative_to(folder) for folder in folders)
