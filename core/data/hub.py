"""Data sets from the Hugging Face hub, through its own client and cache: parquet, JSON or JSONL files."""

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
from core.errors import UserError

DATASET_ALIASES = {"alpaca": "tatsu-lab/alpaca"}
DATA_SUFFIXES = (".parquet", ".json", ".jsonl")
METADATA_FILES = ("dataset_info.json", "dataset_infos.json")
"""What the hub's tools put beside the data."""
FILE_SUFFIXES = "git|parquet|jsonl?|ndjson|csv|tsv|txt|arrow|gz|zst|zip"
"""Suffixes that mark `folder/name.suffix` as a file, even if there is no such folder. The hub rejects `.git`."""
HUB_NAME = re.compile(
    rf"(?!.*(--|\.\.|\.({FILE_SUFFIXES})$))\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII | re.IGNORECASE
)
"""The hub's owner/name syntax, except names that look like a file."""


class NotDownloadedError(UserError):
    """The data set is on the hub and not in the local cache."""


def repository(dataset: str) -> str | None:
    """Return the hub repository of a data set given as `alpaca` or `owner/name`; None for a path.

    If a local folder has the name of the first part, the name is a path, even if the file does not exist.
    """
    if dataset in DATASET_ALIASES:
        return DATASET_ALIASES[dataset]
    plausible = len(dataset) <= 96 and HUB_NAME.fullmatch(dataset)
    return dataset if plausible and not Path(dataset).parent.is_dir() else None


def files(dataset: str, download: bool) -> list[Path]:
    """The data files of a hub data set, in order; only those of its training part where names tell.

    Args:
        download: fetch what is not in the cache.

    Raises:
        NotDownloadedError: it is not in the cache and should not be fetched.
        UserError: it cannot be fetched.
    """
    name = repository(dataset)
    with explain_error(f"dataset = {dataset!r}", str(name), "name a file"):
        try:
            folder = snapshot_download(
                str(name),
                repo_type="dataset",
                allow_patterns=[f"*{suffix}" for suffix in DATA_SUFFIXES],
                local_files_only=not (download and reachable()),
                tqdm_class=progress_bar(str(name)),
            )
        except (OSError, HfHubHTTPError):
            if download:
                raise
            raise NotDownloadedError(f"dataset = {dataset!r}: it is not downloaded yet") from None
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in DATA_SUFFIXES)
    paths = [path for path in paths if path.name not in METADATA_FILES]
    if not paths:
        raise UserError(f"dataset = {dataset!r}: {name} holds no parquet, JSON or JSONL file")
    paths = [path for path in paths if path.suffix == ".parquet"] or paths
    paths = [path for path in paths if path.stem.startswith("train")] or paths
    if download and any(discard_if_damaged(path) for path in paths):
        raise UserError(f"dataset = {dataset!r}: what came from {name} {CHECKSUM_MISMATCH}")
    return paths
