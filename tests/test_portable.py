"""What other systems would do otherwise: the encoding and the ends of lines of text files."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
import torch

from sdxl.adapters.inspection import EmbeddingReport, inspect
from sdxl.adapters.lookup import adapter_files, find_file, find_named, only_file, own_folders
from sdxl.cli.serve import _secret
from sdxl.errors import ArgumentError, CheckpointError, OutOfMemoryError, OutputError, SDXLError
from sdxl.images.image import open_picture
from sdxl.images.texts import find_texts
from sdxl.jobs.job import read_job
from sdxl.pipeline.pipeline import Pipeline
from sdxl.serve.catalog import Catalog
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import TensorFile, save_tensors
from sdxl.weights.folder import read_text
from sdxl.weights.hashes import file_hash
from sdxl.weights.library import count, find_model, find_similar
from sdxl.weights.save import convert

ROOT = Path(__file__).parent.parent
FILES = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("sdxl/**/*.py"))]


def faults(source: str) -> Iterator[str]:
    """Calls that open a text file in the encoding of the system, or write one with its ends of lines, and methods of
    paths that raise for some that cannot be looked at, such as a folder of another user.
    """
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        given = {each.arg for each in call.keywords}
        if name in ("read_text", "write_text", "TextIOWrapper") and "encoding" not in given and _is_of_file(call):
            yield f"{call.lineno}: {name} without encoding"
        if name == "write_text" and "newline" not in given and _is_of_file(call):
            yield f"{call.lineno}: write_text without newline"
        if name in ("exists", "is_file", "is_dir") and not call.args:
            yield f"{call.lineno}: {name} of a path, not of os.path"
        if name in ("open", "fdopen") and (mode := _mode(call)) is not None and "b" not in mode:
            if "encoding" not in given:
                yield f"{call.lineno}: {name} without encoding"
            if set(mode) & set("wax") and "newline" not in given and "/proc/" not in ast.dump(call):
                yield f"{call.lineno}: {name} without newline"


def _mode(call: ast.Call) -> str | None:
    """The mode of a call of `open` or `fdopen`, or of a path's `open` with one; None for other methods of that name."""
    texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    modes = [each for each in texts if set(each) <= set("rwaxbt+")]
    is_function = isinstance(call.func, ast.Name) or getattr(call.func, "attr", "") == "fdopen"
    return next(iter(modes), "r" if is_function else None)


def _is_of_file(call: ast.Call) -> bool:
    """Not one of our own functions, which are called by name."""
    return isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") != "diffusers_config"


@pytest.mark.parametrize("file", FILES)
def test_text_files_are_the_same_on_all_systems(file: str) -> None:
    assert list(faults((ROOT / file).read_text(encoding="utf-8"))) == []


def test_faults_are_found() -> None:
    lines = [
        "open(a)",
        "open(a, 'w', encoding='utf-8')",
        "a.read_text()",
        "a.write_text(b, encoding='utf-8')",
        "a.open('w')",
        "a.exists() or os.path.exists(a)",
        "open(a, 'rb')",
    ]
    assert list(faults("\n".join(lines))) == [
        "1: open without encoding",
        "2: open without newline",
        "3: read_text without encoding",
        "4: write_text without newline",
        "5: open without encoding",
        "5: open without newline",
        "6: exists of a path, not of os.path",
    ]


def test_ends_of_lines_and_marks_of_windows(tiny_folder: Path, tmp_path: Path) -> None:
    """Git for Windows turns the ends of lines of a clone, and editors there put a mark in front of a text."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    for path in (*folder.rglob("*.json"), *folder.rglob("*.txt")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert open_checkpoint(folder, None).info == open_checkpoint(tiny_folder, None).info


def test_a_secret_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes("\ufeffsesame\r\n".encode())
    assert _secret("api_key", f"@{path}") == "sesame"


def test_a_file_that_windows_cannot_promise_memory_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(22, "The paging file is too small for this operation to complete")
    error.winerror = 1455

    def refuse(descriptor: int) -> NoReturn:
        raise error

    save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors", {})
    monkeypatch.setattr("sdxl.weights.container._map", refuse)
    with pytest.raises(OutOfMemoryError, match="address space; close other programs, or enlarge the paging"):
        TensorFile(tmp_path / "a.safetensors").read("a")


def test_too_many_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another download would not help."""
    path = tmp_path / "a.safetensors"
    save_tensors({"a": torch.ones(2)}, path, {})
    file, few = TensorFile(path), OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def fail(*_: object) -> NoReturn:
        raise few

    monkeypatch.setattr(Path, "open", fail)
    for read in (lambda: TensorFile(path), lambda: file.read("a"), lambda: read_text(path)):
        with pytest.raises(
            CheckpointError, match=r"Too many open files.*; raise the limit of open files \(ulimit -n\)"
        ):
            read()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_names_with_accents(
    form: Literal["NFC", "NFD"], typed: Literal["NFC", "NFD"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS lists the form in which a file was made, and keyboards write another one."""
    path, name = (
        tmp_path / unicodedata.normalize(form, "caf\u00e9.safetensors"),
        unicodedata.normalize(typed, "caf\u00e9"),
    )
    vectors = {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}
    save_tensors(vectors, path, {})
    monkeypatch.setenv("SDXL_MODELS_DIR", str(tmp_path))
    for each in (name, f"{name}.safetensors"):
        assert find_model(each) == find_similar(each) == path
        assert find_file(each, [tmp_path], "LoRA") == find_named(each, [tmp_path], "LoRA") == path
        assert Catalog({}, embedding_dir=tmp_path).find("embedding", each) == path
    assert [*Catalog({}, embedding_dir=tmp_path).files("embedding")] == ["caf\u00e9"]
    report = inspect(path)
    assert isinstance(report, EmbeddingReport) and report.word == "caf\u00e9"


def test_hidden_files_beside_the_files(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS keeps what other file systems have no place for in a file `._name`."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    adapters = tmp_path / "adapters"
    save_tensors({"emb_params": torch.ones(2, 1280)}, adapters / "a.safetensors", {})
    for path in [*folder.rglob("*"), *adapters.iterdir()]:
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    assert open_checkpoint(folder, None).info == open_checkpoint(tiny_folder, None).info
    assert inspect(folder).kind == inspect(tiny_folder).kind
    assert only_file(adapters, "LoRA") == find_file(adapters, [], "LoRA") == adapters / "a.safetensors"
    assert list(adapter_files([adapters])) == [adapters / "a.safetensors"]
    monkeypatch.setenv("SDXL_MODELS_DIR", str(tmp_path))
    assert count() == 2


@pytest.mark.parametrize(
    ("name", "is_empty"), [(".DS_Store", True), ("desktop.ini", True), (".git", False), ("a", False)]
)
def test_a_folder_that_was_looked_at_is_empty(name: str, is_empty: bool, tiny_folder: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "a.safetensors", tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(b"x")
    convert(tiny_folder, file)
    if is_empty:
        convert(file, folder)
        assert (folder / "model_index.json").exists()
    else:
        with pytest.raises(OutputError, match="is not an empty folder"):
            convert(file, folder)


@pytest.mark.parametrize("far", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP])
def test_what_is_in_the_way_to_a_file_is_named(far: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of another user, a network drive that is gone: a file in it is neither absent nor damaged."""
    inside, real = tmp_path / "closed", os.stat

    def stat(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        if isinstance(path, (str, Path)) and Path(path).parent == inside:
            raise OSError(far, os.strerror(far), str(path))
        return real(path, *rest, **more)

    inside.mkdir()
    monkeypatch.setattr(os, "stat", stat)
    for failing in (lambda path: Pipeline.from_pretrained(path), TensorFile, lambda path: find_file(path, [], "LoRA")):
        with pytest.raises(CheckpointError) as raised:
            failing(inside / "a.safetensors")
        assert f"a.safetensors cannot be read: {os.strerror(far)}; check " in str(raised.value)


def test_advice_for_files_that_another_user_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Any, *rest: Any, **more: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr("builtins.open", closed)
    monkeypatch.setattr("io.open", closed)
    monkeypatch.setattr("os.listdir", closed)
    monkeypatch.setattr("os.scandir", closed)
    advice = r"\(Permission denied\); check its permissions"
    for read in (open_picture, find_texts, file_hash, lambda path: read_job(path, {}, {})):
        with pytest.raises(SDXLError, match=advice):
            read(tmp_path / "a.png")
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied; check its permissions"):
        only_file(tmp_path, "LoRA")
    with pytest.raises(ArgumentError, match=r"which cannot be read \(Permission denied\)"):
        own_folders(tmp_path, "lora_dir")


def test_a_folder_that_may_be_listed_and_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        if isinstance(path, (str, Path)) and Path(path).parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(SDXLError, match=re.escape(str(tmp_path))):
        inspect(tmp_path)


def test_homes_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells have it, the home of an unknown user is a folder of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDXL_MODELS_DIR", "~nobody-at-all/models")
    with pytest.raises(CheckpointError, match="SDXL_MODELS_DIR is ~nobody-at-all/models, which is no folder"):
        Pipeline.from_pretrained("absent")
    convert("miniature", "~nobody-at-all/m")
    assert (tmp_path / "~nobody-at-all/m/model_index.json").is_file()
