"""Hashes of models: each is right, computed once, and never an error; and what is found by them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import pytest

from sdxl.errors import CheckpointError, SDXLWarning
from sdxl.weights import file_hash, find_by_hash, find_model, hash_cache, hashes, library, tensor_hash
from sdxl.weights.hash_cache import cache_folder
from sdxl.weights.hashes import known_model_hash, model_hash
from sdxl.weights.weight_files import folder_files

MODEL = Path(__file__).parents[1] / "reference/model"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of hashes, and an empty library."""
    monkeypatch.setenv("SDXL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SDXL_MODELS_DIR", str(tmp_path / "library"))
    (tmp_path / "library").mkdir()
    return tmp_path / "cache/hashes.jsonl"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names: list[str] = []
    digest = hashes._digest

    def counted(path: str | os.PathLike[str], start: int) -> str:
        names.append(Path(path).name)
        return digest(path, start)

    monkeypatch.setattr(hashes, "_digest", counted)
    return names


def write(path: Path, text: str = "abc") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def safetensors(path: Path, comment: str = "") -> Path:
    header = json.dumps({"__metadata__": {"c": comment}, "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"xyz")
    return path


def test_a_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    path = write(tmp_path / "m.safetensors", "x" * (2**20 + 1))
    assert file_hash(path) == sha(path.read_bytes()) == file_hash(str(path))
    (tmp_path / "link.safetensors").symlink_to(path)
    assert file_hash(tmp_path / "link.safetensors") == file_hash(path)
    assert reads == ["m.safetensors"]
    write(path, "changed")
    assert file_hash(path) == sha(b"changed")
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert file_hash(path) == sha(b"changed")
    assert reads == ["m.safetensors"] * 3


def let_time_pass(path: Path) -> None:
    """Until a file that changes has a later time than this one: systems count it in steps of some milliseconds."""
    clock = path.with_name("clock")
    clock.touch()
    while clock.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        clock.touch()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of the last change of a file's entry")
def test_another_file_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    """`cp -p` keeps times, `mv` does too, and archives and images of containers may have one time for all files."""
    path, other = write(tmp_path / "m.safetensors", "aaa"), write(tmp_path / "new.safetensors", "bbb")
    os.utime(path, (0, 0))
    os.utime(other, (0, 0))
    assert file_hash(path) == sha(b"aaa")
    let_time_pass(path)
    other.replace(path)
    assert file_hash(path) == sha(b"bbb")
    let_time_pass(path)
    write(path, "ccc")
    os.utime(path, (0, 0))
    assert file_hash(path) == sha(b"ccc")


def test_an_older_file_in_a_folder_is_read(tmp_path: Path) -> None:
    """Two models' UNets have one size, and the file that changes need not be the latest of the folder."""
    for number, name in enumerate(("unet", "vae", "other")):
        os.utime(write(tmp_path / name, "abc"[number]), (2 - number, 2 - number))
    first = model_hash(tmp_path, ["unet", "vae"])
    os.utime(tmp_path / "unet", (1, 1))
    os.utime(tmp_path / "vae", (5, 5))
    assert model_hash(tmp_path, ["unet", "vae"]) == first
    (tmp_path / "other").replace(tmp_path / "unet")
    assert model_hash(tmp_path, ["unet", "vae"]) != first


def test_the_hash_of_tensors_ignores_the_header(tmp_path: Path, reads: list[str]) -> None:
    """AUTOMATIC1111's addnet hash."""
    a, b = safetensors(tmp_path / "a.safetensors"), safetensors(tmp_path / "b.safetensors", "another")
    assert tensor_hash(a) == tensor_hash(b) == tensor_hash(a) == sha(b"xyz")
    assert file_hash(a) == sha(a.read_bytes()) != file_hash(b)
    assert reads == ["a.safetensors", "b.safetensors"] * 2
    assert find_by_hash(sha(b"xyz")) is None
    for text in ("", "abcdefgh", "abcdefghi"):
        with pytest.raises(CheckpointError, match="is not a safetensors file"):
            tensor_hash(write(tmp_path / "c.safetensors", text))
    for function in (tensor_hash, file_hash):
        with pytest.raises(CheckpointError, match="cannot be read"):
            function(tmp_path / "nothing")


def test_the_hash_of_a_folder(tmp_path: Path, reads: list[str]) -> None:
    """It is that of `sha256sum`'s lines for its weight files, whatever else is in it."""
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    write(model / "unet/other.safetensors")
    folder, files = folder_files(model, None)
    lines = subprocess.run(["sha256sum", *sorted(files)], cwd=model, capture_output=True, check=True).stdout
    assert len(files) == lines.count(b"\n") == 4
    assert model_hash(folder, files) == sha(lines) == known_model_hash(folder, files[::-1])
    moved = model.rename(tmp_path / "moved")
    assert model_hash(moved, files) == sha(lines)
    assert model_hash(*folder_files(moved, None, "vae")) == model_hash(*folder_files(moved / "vae", None, "vae"))
    assert model_hash(moved / "unet", folder_files(moved, None, "unet")[1]) != sha(lines)
    reads.clear()
    write(moved / "vae/diffusion_pytorch_model.safetensors")
    assert model_hash(moved, files) != sha(lines)
    assert reads == ["diffusion_pytorch_model.safetensors"]


def test_the_hub_states_its_hashes(tmp_path: Path, reads: list[str], cache: Path) -> None:
    digests = {name: sha(name.encode()) for name in ("a.safetensors", "b.safetensors")}
    for name, digest in digests.items():
        blob = write(tmp_path / "models--o--n/blobs" / digest)
        link = tmp_path / "models--o--n/snapshots/1" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
        assert file_hash(link) == digest
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    assert model_hash(tmp_path / "models--o--n/snapshots/1", list(digests)) == sha(text.encode())
    assert reads == []
    assert not cache.exists()


def test_a_damaged_cache_is_no_error(tmp_path: Path, reads: list[str], cache: Path) -> None:
    path = write(tmp_path / "m.safetensors")
    file_hash(path)
    good = json.loads(cache.read_text())
    damaged = [
        b"\xff\xfe\0",
        b"[" * 100_000,
        b"5",
        json.dumps(good)[:-20].encode(),  # of a process that was killed
        *(
            json.dumps(good | change).encode()
            for change in (
                {"sha256": "0" * 63},
                {"sha256": 5},
                {"size": "3"},
                {"files": [5]},
                {"files": 5},
                {"more": 1},
            )
        ),
    ]
    cache.write_bytes(b"\n".join(damaged))
    assert file_hash(path) == sha(b"abc")
    assert file_hash(path) == sha(b"abc")
    assert reads == ["m.safetensors"] * 2


def test_a_cache_that_its_user_empties(tmp_path: Path, reads: list[str], cache: Path) -> None:
    """It is the same file, and shorter than what was read of it."""
    first, second = write(tmp_path / "a.safetensors"), write(tmp_path / "b.safetensors", "other")
    file_hash(first)
    cache.write_bytes(b"")
    assert find_by_hash(sha(b"abc")) is None
    file_hash(second)
    assert find_by_hash(sha(b"other")) == second
    assert reads == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("obstacle", ["a file", "a folder", "no home"])
def test_a_cache_that_cannot_be_written_is_no_error(
    obstacle: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if obstacle == "a file":
        write(cache.parent)
    elif obstacle == "a folder":
        cache.mkdir(parents=True)
    else:
        monkeypatch.setenv("SDXL_CACHE_DIR", "~nobody-has-this-name/x")
    path = write(tmp_path / "m.safetensors")
    assert file_hash(path) == file_hash(path) == sha(b"abc")
    assert find_by_hash(sha(b"abc")) is None


def _hash_all(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        file_hash(path)


def test_processes_share_the_cache(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    files = [write(tmp_path / "files" / f"{n}", f"{n}") for n in range(50)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_hash_all, [tmp_path / "files"] * 4)
    assert all(json.loads(line) for line in cache.read_text().splitlines() if line)
    assert [file_hash(path) for path in files] == [sha(path.read_bytes()) for path in files]
    assert reads == []


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SDXL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/sdxl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(hash_cache.sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache/sdxl"


# ---- what is found -------------------------------------------------------------------------------------------------


def test_a_model_is_found_by_its_name(tmp_path: Path) -> None:
    at = tmp_path / "library"
    file = write(at / "sdxl/juggernaut.safetensors")
    folder = write(at / "own/model_index.json").parent
    write(folder / "unet/diffusion_pytorch_model.safetensors")
    write(at / ".hidden/secret.safetensors")
    write(at / "pickle.ckpt")
    (at / "broken.safetensors").symlink_to(at / "nowhere")
    (at / "circle").symlink_to(at)
    (at / "sdxl/again.safetensors").symlink_to(file)
    assert find_model("juggernaut") == find_model("juggernaut.safetensors") == file
    assert find_model("own") == folder
    for name in ("", ".", "..", "sdxl", "sdxl/juggernaut", str(file), "secret", "pickle", "broken", "unet", "x"):
        assert find_model(name) is None, name
    write(at / "juggernaut.safetensors", "another")
    with pytest.raises(CheckpointError, match=r"juggernaut is the name of 2 models in SDXL_MODELS_DIR: .*; give the"):
        find_model("juggernaut")


def test_the_error_for_a_name_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdxl.weights import resolve

    write(tmp_path / "library/juggernautXL.safetensors")
    assert resolve("juggernautXL") == tmp_path / "library/juggernautXL.safetensors"
    with pytest.raises(
        CheckpointError, match=r"jugernautXL does not exist and is not in SDXL_MODELS_DIR .*, which has"
    ):
        resolve("jugernautXL")
    monkeypatch.setenv("SDXL_MODELS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(
        CheckpointError, match=r"x does not exist, and SDXL_MODELS_DIR is .*nowhere, which is no folder"
    ):
        resolve("x")
    monkeypatch.delenv("SDXL_MODELS_DIR")
    with pytest.raises(CheckpointError, match=r"^x does not exist; give a \.safetensors file"):
        resolve("x")


def test_a_model_is_found_by_its_hash(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = write(tmp_path / "elsewhere/m.safetensors", "elsewhere")
    assert find_by_hash(sha(b"elsewhere")) is None
    file_hash(elsewhere)
    assert find_by_hash(sha(b"elsewhere")) == elsewhere
    write(elsewhere, "is another now")
    assert find_by_hash(sha(b"elsewhere")) is None
    reads.clear()
    files = [write(tmp_path / "library" / f"{name}.safetensors", name) for name in ("a", "b", "c")]
    assert find_by_hash(sha(b"c"), "c.safetensors") == files[2]
    assert reads == ["c.safetensors"]  # the same name first
    assert find_by_hash(sha(b"d"), "c", thorough=False) is None
    assert reads == ["c.safetensors"]
    monkeypatch.setattr(library, "_MUCH", 1)
    with pytest.warns(SDXLWarning, match=r"is looked for in SDXL_MODELS_DIR: 2 models of .* GB are read once"):
        assert find_by_hash(sha(b"d")) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_by_hash(sha(b"b")) == files[1]
    assert sorted(reads) == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_the_latest_of_equal_files_comes_first(tmp_path: Path) -> None:
    files = [write(tmp_path / f"elsewhere/{name}.safetensors", "the same") for name in ("a", "b")]
    for file in (*files, files[0]):
        hash_cache.remember(hash_cache.observe("file", file), sha(b"the same"))
    assert hash_cache.find_paths(sha(b"the same")) == files


def test_a_folder_is_found_by_its_hash(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "library/deep/model"))
    for file in list(model.glob("*/*.safetensors")):
        shutil.copy(file, file.with_suffix(".bf16.safetensors"))
    (model / "unet/diffusion_pytorch_model.bf16.safetensors").write_text("another")
    plain, other = (model_hash(*folder_files(model, variant)) for variant in (None, "bf16"))
    assert plain != other
    shutil.rmtree(tmp_path / "cache")
    assert find_by_hash(plain) == find_by_hash(other) == model


def test_names_are_looked_up_without_torch() -> None:
    code = "import sys, sdxl.weights.library, sdxl.weights.hashes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_the_cache_takes_memory_for_what_it_holds() -> None:
    hash_cache.remember(hash_cache.Hashed("file", "/a", (), 1, 1, 1), "0" * 64)
    hash_cache.find_paths("1" * 64)
    tracemalloc.start()
    hash_cache.remember(hash_cache.Hashed("file", "/b", (), 1, 1, 1), "0" * 64)
    hash_cache.find_paths("1" * 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
