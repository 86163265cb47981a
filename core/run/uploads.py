"""Store data sets uploaded in the browser in the runs directory. Does not read them.

A file is stored as `uploads/HASH/NAME`, where HASH is the start of the SHA-256 of its content.
"""

import hashlib
from pathlib import Path

from core.data.files import COMPRESSED_SUFFIX, DATA_SUFFIXES, data_suffix
from core.errors import UserError
from core.run.files import replace_bytes
from core.run.names import UPLOADS_FOLDER, slug

MAX_UPLOAD_MB = 200
"""Maximum size of a file, in MiB."""
HASH_LENGTH = 16
"""Number of hexadecimal digits of the SHA-256 used in a path."""


def uploads_path(runs_dir: Path) -> Path:
    """Return the uploads folder. The first upload creates it."""
    return runs_dir.resolve() / UPLOADS_FOLDER


def store(runs_dir: Path, filename: str, content: bytes) -> Path:
    """Store a file and return its absolute path. The same content under the same name is stored once.

    Args:
        filename: the name on the user's machine. Directories and unsafe characters are removed.

    Raises:
        UserError: the file is too large, has an unsupported format, or cannot be written.
    """
    name = _safe_name(filename)
    if len(content) > MAX_UPLOAD_MB * 2**20:
        size = len(content) / 2**20
        message = f"the file is {size:,.0f} MB, but uploads are limited to {MAX_UPLOAD_MB} MB; to use a larger file, enter its path"
        raise UserError(f"{name}: {message}")
    key = hashlib.sha256(content).hexdigest()[:HASH_LENGTH]
    folder = uploads_path(runs_dir) / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() != folder:
            raise UserError(f"{name} cannot be stored: {folder} is a link")
        replace_bytes(folder / name, content)
    except OSError as error:
        raise UserError(f"{name} cannot be stored ({error})") from None
    return folder / name


def stored(runs_dir: Path) -> list[Path]:
    """Return the absolute paths of the stored files, newest first."""
    files = [
        path for path in uploads_path(runs_dir).glob("*/*") if data_suffix(path) in DATA_SUFFIXES
    ]
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def _safe_name(filename: str) -> str:
    """Return a safe file name. Raises UserError if its suffix is not in DATA_SUFFIXES."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    suffix = data_suffix(Path(last))
    if suffix not in DATA_SUFFIXES:
        raise UserError(
            f"upload = {slug(last)!r}: must be a JSON, JSONL, CSV, TSV or Parquet file, plain or gzipped"
        )
    suffix += COMPRESSED_SUFFIX if last.lower().endswith(COMPRESSED_SUFFIX) else ""
    stem = last[: -len(suffix)]
    return slug(stem if any(c.isalnum() for c in stem) else "data") + suffix
