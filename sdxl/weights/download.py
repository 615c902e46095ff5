"""Downloads one file of the Hugging Face hub into its cache.

`huggingface_hub` manages that cache, but it discards an interrupted file and checks no hash. Here a download goes to an
`.incomplete` file of the cache, which a later attempt resumes. It becomes a file of the cache if its hash is right.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import HubError
from .hub_errors import FOREIGN, cache, failures, is_temporary
from .part import keep, put_in_place

T = TypeVar("T")
_PATIENCE = 5  # seconds without a byte, after which a download is not tried again


def check_space(name: str, size: int) -> None:
    """Raise `HubError` before a download if `size` bytes of a model do not fit on the disk of the cache."""
    disk = next(path for path in (cache(), *cache().parents) if os.path.exists(path))
    present = sum(path.stat().st_size for path in (_folder(name) / "blobs").glob("*.incomplete"))
    free = shutil.disk_usage(disk).free
    if size - present > free:
        raise HubError(
            f"{name} does not fit into the hub's cache {cache()}: {(size - present) / 1e9:.3g} GB are to be downloaded "
            f"and {free / 1e9:.3g} GB are free; free space there or set HF_HOME to a folder on another disk"
        )


def _folder(name: str) -> Path:
    return cache() / f"models--{name.replace('/', '--')}"


def receive(hub: Any, name: str, commit: str, file: str) -> None:
    """Download a file into the cache, resuming an earlier attempt. Raises `HubError` if its hash is wrong."""
    url = hub.hf_hub_url(name, file, revision=commit)
    metadata = _retry(lambda: hub.get_hf_file_metadata(url, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT))
    if not metadata.etag or not metadata.commit_hash:
        raise HubError(f"{name}/{file} cannot be downloaded: {FOREIGN}")
    folder = _folder(name)
    blob, lock = folder / "blobs" / metadata.etag, cache() / ".locks" / folder.name / f"{metadata.etag}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(lock):
        if not os.path.exists(blob):
            partial = blob.with_name(f"{metadata.etag}.incomplete")
            _complete(hub, url, metadata, partial, f"{name}/{file}")
            put_in_place(partial, blob)
    if not Path(hub.hf_hub_download(name, file, revision=commit)).is_symlink():
        blob.unlink(missing_ok=True)  # without links, huggingface_hub has made a copy


def _complete(hub: Any, url: str, metadata: Any, partial: Path, name: str) -> None:
    """Download into `partial` until it is the file that `metadata` describes."""
    if os.path.exists(partial) and partial.stat().st_size > (metadata.size or 0):
        partial.unlink()
    partial.touch()
    _retry(lambda: _resume(hub, url, metadata.size, partial, name), lambda: partial.stat().st_size)
    if not _intact(partial, metadata.etag):
        raise _removed(partial, name, "its hash is not the hub's")
    keep(partial)


def _resume(hub: Any, url: str, size: int | None, partial: Path, name: str) -> None:
    """Download the rest of `url` into `partial`."""
    headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    try:
        with partial.open("ab") as target:
            start = target.tell()
            hub.file_download.http_get(url, target, resume_size=start, headers=headers, expected_size=size)
    except OSError as error:
        if type(error) is OSError and not error.errno:  # huggingface_hub's error for a wrong size
            raise _removed(partial, name, "its size is not the hub's") from error
        raise


def _removed(partial: Path, name: str, reason: str) -> HubError:
    """Remove a damaged file, and make the error for it."""
    partial.unlink()
    return HubError(
        f"{name} arrived damaged ({reason}) and was removed; run the same command again, "
        "and if it happens again check the network's proxy and HF_ENDPOINT"
    )


def _intact(path: Path, etag: str) -> bool:
    """Whether the ETag is the hash of a file: SHA-256 for a large file, Git's SHA-1 for a small one."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        return _digest(path, "sha256") == etag
    if re.fullmatch("[0-9a-f]{40}", etag):
        # some mirrors of the hub name files by the SHA-1 of the content alone
        return etag in (_digest(path, "sha1", b"blob %d\0" % path.stat().st_size), _digest(path, "sha1"))
    return True


def _digest(path: Path, algorithm: str, start: bytes = b"") -> str:
    digest = hashlib.new(algorithm, start, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _retry(step: Callable[[], T], received: Callable[[], int] = int) -> T:
    """The result of `step`, repeated if the hub is busy or the connection breaks, until no bytes arrive any more."""
    size, last = received(), time.monotonic()
    while True:
        try:
            return step()
        except failures() as error:
            if not is_temporary(error):
                raise
            if received() > size:
                size, last = received(), time.monotonic()
            elif time.monotonic() - last > _PATIENCE:
                raise
        time.sleep(1)
