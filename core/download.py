"""Downloads from the Hugging Face hub, through its own client and cache: what can go wrong, in a sentence.

The client shows its progress, tries again, goes on where a download broke off and gives a file its name
when it is whole. Knows neither models nor data sets.
"""

import errno
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from core.errors import UserError

SHA256 = re.compile(r"[0-9a-f]{64}")


def cached_file(repository: str, name: str) -> Path:
    """One file of a model repository: from the cache, else from the hub. Raises what its client raises."""
    cached = try_to_load_from_cache(repository, name)
    return Path(cached if isinstance(cached, str) else hf_hub_download(repository, name))


def discard_if_damaged(path: Path) -> bool:
    """Whether a cached file is not what the hub said it would send; then it is removed.

    The cache names a large file's bytes by their SHA-256.
    """
    blob = path.resolve()
    if not SHA256.fullmatch(blob.name):
        return False
    with blob.open("rb") as file:
        damaged = hashlib.file_digest(file, "sha256").hexdigest() != blob.name
    if damaged:
        path.unlink()
        blob.unlink(missing_ok=True)
    return damaged


@contextmanager
def explained(named: str, repository: str, instead: str) -> Iterator[None]:
    """Turn what a download meets into one sentence.

    Args:
        named: the setting, such as `dataset = 'alpaca'`.
        instead: what would do without the hub, such as `name a file`.

    Raises:
        UserError: in place of the client's errors and those of its HTTP library, whichever that is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        transport = isinstance(error, OSError | HfHubHTTPError | LocalEntryNotFoundError)
        if not (transport or type(error).__module__.startswith("httpx")):
            raise
        sentence = f"{named}: {repository} could not be fetched from the hub: {_reason(error)}"
        raise UserError(f"{sentence}, or {instead}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room for it"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is not public; look for its name"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"it answered with status {status}; try again later"
    return f"no connection, or it broke off ({type(error).__name__}); connect to the internet once"
