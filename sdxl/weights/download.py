"""One file of the Hugging Face hub, received into its cache.

`huggingface_hub` keeps that cache, but it throws an interrupted file away and checks no hash. So a file is received
here into an `.incomplete` file of the cache, which a later attempt continues, and which becomes a file of the cache
when its hash is the one that the hub states.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import HubError
from .hub_errors import FOREIGN, cache, failures, passing

T = TypeVar("T")
_PATIENCE = 5  # seconds without a byte, after which nothing is asked again


def check_space(name: str, size: int) -> None:
    """Raise before anything is fetched if `size` bytes of a model do not fit on the disk of the cache."""
    place = next(path for path in (cache(), *cache().parents) if path.exists())
    begun = sum(path.stat().st_size for path in (_folder(name) / "blobs").glob("*.incomplete"))
    free = shutil.disk_usage(place).free
    if size - begun > free:
        raise HubError(
            f"{name} does not fit into the hub's cache {cache()}: {(size - begun) / 1e9:.3g} GB are to be fetched and "
            f"{free / 1e9:.3g} GB are free; free space there or set HF_HOME to a folder on another disk"
        )


def _folder(name: str) -> Path:
    return cache() / f"models--{name.replace('/', '--')}"


def receive(hub: Any, name: str, commit: str, file: str) -> None:
    """Put a file into the cache: from where an earlier attempt stopped, and only if its hash is right."""
    url = hub.hf_hub_url(name, file, revision=commit)
    about = _patiently(lambda: hub.get_hf_file_metadata(url, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT))
    if not about.etag or not about.commit_hash:
        raise HubError(f"{name}/{file} cannot be fetched: {FOREIGN}")
    folder = _folder(name)
    blob, lock = folder / "blobs" / about.etag, cache() / ".locks" / folder.name / f"{about.etag}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(lock):
        if not blob.exists():
            partial = blob.with_name(f"{about.etag}.incomplete")
            _complete(hub, url, about, partial, f"{name}/{file}")
            partial.replace(blob)
    if not Path(hub.hf_hub_download(name, file, revision=commit)).is_symlink():
        blob.unlink(missing_ok=True)  # where links are not possible, huggingface_hub has made a copy


def _complete(hub: Any, url: str, about: Any, partial: Path, what: str) -> None:
    """Make `partial` the whole file that `about` describes."""
    if partial.exists() and partial.stat().st_size > (about.size or 0):
        partial.unlink()
    partial.touch()
    _patiently(lambda: _continue(hub, url, about.size, partial, what), lambda: partial.stat().st_size)
    if not _intact(partial, about.etag):
        raise _removed(partial, what, "its hash is not the one that the hub states")


def _continue(hub: Any, url: str, size: int | None, partial: Path, what: str) -> None:
    """Receive `url` into `partial`, from where that ends."""
    headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    try:
        with partial.open("ab") as target:
            start = target.tell()
            hub.file_download.http_get(url, target, resume_size=start, headers=headers, expected_size=size)
    except OSError as error:
        if type(error) is OSError and not error.errno:  # so huggingface_hub says that sizes differ
            raise _removed(partial, what, "its size is not the one that the hub states") from error
        raise


def _removed(partial: Path, what: str, why: str) -> HubError:
    """Remove what is not the file that it should be."""
    partial.unlink()
    return HubError(
        f"{what} came damaged ({why}) and was removed; run the same command again, "
        "and if it happens again check the network's proxy and HF_ENDPOINT"
    )


def _intact(path: Path, etag: str) -> bool:
    """Whether a file has the hash that its name on the hub is: SHA-256 of a large file, Git's SHA-1 of a small one."""
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


def _patiently(step: Callable[[], T], received: Callable[[], int] = int) -> T:
    """The result of `step`, tried again where the hub is busy or the connection breaks and bytes have come lately."""
    size, last = received(), time.monotonic()
    while True:
        try:
            return step()
        except failures() as error:
            if not passing(error):
                raise
            if received() > size:
                size, last = received(), time.monotonic()
            elif time.monotonic() - last > _PATIENCE:
                raise
        time.sleep(1)
