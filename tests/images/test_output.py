"""Where and how files of images are written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sdxl.errors import OutputError
from sdxl.images import check_writable, save_image, save_png
from sdxl.images.output import image_format
from sdxl.weights.container import save_tensors

PARAMETERS: dict[str, Any] = {"version": "sdxl 0.0", "model": {"model": "a"}} | {
    "request": {"prompt": "cat", "steps": 1, "sampler": "euler", "schedule": "leading", "guidance_scale": 5, "seed": 1}
}
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions and links")


def save(path: Path) -> None:
    save_image(Image.new("RGB", (8, 8)), path, PARAMETERS)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize("value", [0o022, 0o002, 0o077, 0o000])
def test_the_umask_is_obeyed(value: int, tmp_path: Path) -> None:
    with umask(value):
        (tmp_path / "plain").write_text("")
        for name in ("a.png", "a.jpg", "a.webp"):
            save(tmp_path / name)
        save_png(Image.new("RGB", (8, 8)), tmp_path / "b.png", PARAMETERS)
        save_tensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {})
    modes = {path.name: permissions(path) for path in tmp_path.iterdir()}
    assert len(modes) == 6
    assert set(modes.values()) == {0o666 & ~value}, modes


@posix
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("before")
    path.chmod(0o600)
    save(path)
    assert permissions(path) == 0o600
    assert path.read_bytes().startswith(b"\x89PNG")


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced(exists: bool, tmp_path: Path) -> None:
    target, link, chain = tmp_path / "other/target.png", tmp_path / "link.png", tmp_path / "chain.png"
    if exists:
        target.parent.mkdir()
        target.write_text("before")
        os.link(target, tmp_path / "before")
    link.symlink_to("other/target.png")
    chain.symlink_to(link)
    check_writable(chain)
    save(chain)
    assert chain.is_symlink() and link.is_symlink() and not target.is_symlink()
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in target.parent.iterdir()] == ["target.png"]
    if exists:
        assert (tmp_path / "before").read_text() == "before", "replaced as a whole, not written over"


@posix
def test_what_must_not_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.png").symlink_to("pipe")
    for name, sentence in (
        ("loop.png", "cannot be written: "),
        ("folder.png", "is a folder; give a file name such as "),
        ("pipe.png", "is a device or a pipe; expected a file. Try another path"),
        ("a\0b.png", "cannot be written: "),
    ):
        for work in (check_writable, save):
            with pytest.raises(OutputError) as caught:
                work(tmp_path / name)
            assert sentence in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_is_no_name_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"is a folder; give a file name such as .*picture\.png"):
        image_format(tmp_path)


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    for name in ("a.png", "b.webp"):
        with pytest.raises(OutputError, match=rf"{name} cannot be written: No space left on device; free some space"):
            save(tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": before}


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp", "new/folder/a.png"])
def test_names_that_can_be_written(name: str, tmp_path: Path) -> None:
    check_writable(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_a_suffix_of_no_format_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected .png, .jpg, .jpeg or .webp. Try .*\.png"):
        check_writable(tmp_path / name)
