"""Data sets on the Hugging Face Hub, in any format of `core.data.files`. The hub's client downloads and caches them."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from core.data.download import (
    CHECKSUM_MISMATCH,
    discard_if_damaged,
    explain_error,
    progress_bar,
    reachable,
)
from core.data.files import COMPRESSED_SUFFIX
from core.errors import UserError

DATASET_ALIASES = {"alpaca": "tatsu-lab/alpaca"}
PLAIN_SUFFIXES = ((".parquet",), (".json", ".jsonl"), (".csv", ".tsv"))
SUFFIXES = (
    *PLAIN_SUFFIXES,
    *(tuple(s + COMPRESSED_SUFFIX for s in group) for group in PLAIN_SUFFIXES),
)
"""Formats in order of preference. A repository may contain its data in several formats."""
METADATA_FILES = ("dataset_info.json", "dataset_infos.json")
"""Metadata that the hub's tools store next to the data."""
FILE_SUFFIXES = "git|parquet|jsonl?|ndjson|csv|tsv|txt|arrow|gz|zst|zip"
"""Suffixes that mark `folder/name.suffix` as a file, even if there is no such folder. The hub rejects `.git`."""
HUB_NAME = re.compile(
    rf"(?!.*(--|\.\.|\.({FILE_SUFFIXES})$))\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII | re.IGNORECASE
)
"""The hub's owner/name syntax, excluding names that look like files."""


class NotDownloadedError(UserError):
    """The data set is on the hub but not in the local cache."""


def repository(dataset: str) -> str | None:
    """Return the hub repository of a data set given as `alpaca` or `owner/name`; None for a path.

    If there is a local folder called `owner`, the name is treated as a path, even if the file does not exist.
    """
    if dataset in DATASET_ALIASES:
        return DATASET_ALIASES[dataset]
    is_hub_name = len(dataset) <= 96 and HUB_NAME.fullmatch(dataset)
    return dataset if is_hub_name and not Path(dataset).parent.is_dir() else None


def files(dataset: str, download: bool) -> list[Path]:
    """Return the data files of a hub data set, sorted by path.

    Uses only the first format in SUFFIXES that the repository contains. If there are files called `train*`, other
    splits are ignored.

    Args:
        download: download files that are not cached.

    Raises:
        NotDownloadedError: the data set is not cached and `download` is False.
        UserError: the data set cannot be downloaded or has no data files.
    """
    name = repository(dataset)
    with explain_error(f"dataset = {dataset!r}", str(name), "choose a local file"):
        try:
            folder = snapshot_download(
                str(name),
                repo_type="dataset",
                allow_patterns=[f"*{suffix}" for suffixes in SUFFIXES for suffix in suffixes],
                local_files_only=not (download and reachable()),
                tqdm_class=progress_bar(str(name)),
            )
        except (OSError, HfHubHTTPError):
            if download:
                raise
            raise NotDownloadedError(
                f"dataset = {dataset!r}: it has not been downloaded yet"
            ) from None
    found = [path for path in Path(folder).rglob("*") if path.name not in METADATA_FILES]
    paths = next(filter(None, (_with_suffix(found, suffixes) for suffixes in SUFFIXES)), [])
    if not paths:
        raise UserError(
            f"dataset = {dataset!r}: {name} has no Parquet, JSON, JSONL, CSV or TSV file"
        )
    paths = [path for path in paths if path.name.startswith("train")] or paths
    if download and any(discard_if_damaged(path) for path in paths):
        raise UserError(f"dataset = {dataset!r}: the download from {name} {CHECKSUM_MISMATCH}")
    return paths


def _with_suffix(paths: list[Path], suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in paths if path.name.endswith(suffixes))
