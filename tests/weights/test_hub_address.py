"""Addresses that are copied from a browser, and folders that are no model: what works, and what the errors say."""

from __future__ import annotations

import shutil
from pathlib import Path, PureWindowsPath

import pytest

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, CheckpointError, HubError
from sdxl.weights import hub
from sdxl.weights.hub_address import is_address, resolve_address

MODEL = Path(__file__).parents[1] / "reference/model"
HUB = "https://huggingface.co/owner/name"


@pytest.mark.parametrize(
    ("address", "name", "revision"),
    [
        (HUB, "owner/name", None),
        (HUB + "/", "owner/name", None),
        (HUB + "/tree/main", "owner/name", "main"),
        (HUB + "/tree/refs%2Fpr%2F3", "owner/name", "refs/pr/3"),
        (HUB + "/commit/0123abc", "owner/name", "0123abc"),
        (HUB + "/blob/main/file.safetensors", "owner/name/file.safetensors", "main"),
        (HUB + "/blob/v1.0/sub%20folder/file.safetensors", "owner/name/sub folder/file.safetensors", "v1.0"),
        (HUB + "/resolve/main/file.safetensors?download=true", "owner/name/file.safetensors", "main"),
        (HUB + "/resolve/main/file.safetensors#L1", "owner/name/file.safetensors", "main"),
        ("http://hf.co/owner/name/tree/main", "owner/name", "main"),
        ("huggingface.co/owner/name", "owner/name", None),
        ("HTTPS://HuggingFace.co/owner/name?not-for-all-audiences=true", "owner/name", None),
        ("https:/huggingface.co/owner/name", "owner/name", None),  # as a `Path` writes it
    ],
)
def test_addresses_of_the_hub(address: str, name: str, revision: str | None) -> None:
    assert is_address(address)
    assert resolve_address(address, None, None) == (name, revision)
    assert resolve_address(address, revision or "v2", None) == (name, revision or "v2")
    if revision:
        with pytest.raises(ArgumentError, match=rf"revision is 'v2' and the address names '{revision}'; give one"):
            resolve_address(address, "v2", None)


@pytest.mark.parametrize("name", ["owner/name", "owner/name/sub/file.safetensors", HUB])
def test_names_of_the_hub_as_paths_of_windows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "_guard", lambda name, *_: asked.append(name))
    for source in (name, PureWindowsPath(name)):
        hub.check_source(source)
        hub.resolve(source)
    assert asked[0] == asked[1] == "/".join(name.removeprefix("https://huggingface.co/").split("/")[:2])


def test_the_address_of_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert resolve_address("https://mirror.example/owner/name/tree/main", None, None) == ("owner/name", "main")


def test_the_folder_of_a_component() -> None:
    address = HUB + "/tree/main/unet"
    assert resolve_address(address, None, "unet") == ("owner/name", "main")
    for part in (None, "vae"):
        with pytest.raises(CheckpointError, match="is a folder of a model; give owner/name as unet="):
            resolve_address(address, None, part)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("https://civitai.com/models/133005?modelVersionId=1759168", "so download the file and give its path"),
        ("https://civitai.com/api/download/models/1759168", "so download the file and give its path"),
        ("ftp://host/file.safetensors", "so download the file and give its path"),
        ("https://[::1/x", "is not an address"),
        ("https://huggingface.co/datasets/owner/name", "give owner/name or owner/name/file.safetensors"),
        ("https://huggingface.co/owner", "is not the address of a model on the hub; give owner/name"),
        (HUB + "/discussions/5", "is not the address of a model on the hub; give owner/name"),
        (HUB + "/blob/main/model.ckpt", "is not a .safetensors file; give owner/name for the whole model"),
        (HUB + "/blob/main", "is not a .safetensors file; give owner/name for the whole model"),
    ],
)
def test_other_addresses(address: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        hub.resolve(address)
    for command in (["generate", "--prompt", "x", "--model", address], ["inspect", address]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1


def test_inspect_and_convert_read_files_of_this_machine(tmp_path: Path) -> None:
    for command in (sdxl.inspect, lambda name: sdxl.convert(name, tmp_path / "a.safetensors")):
        with pytest.raises(CheckpointError, match="is not on this machine; download it with `hf download owner/name`"):
            command(HUB + "/blob/main/file.safetensors")


def test_no_path_is_an_address() -> None:
    for name in ("owner/name", "a/b/c.safetensors", "C:/models/x", "C:\\models\\x", "/https/x", "x:y", "miniature", ""):
        assert not is_address(name)


def test_a_folder_of_checkpoints_is_listed(tmp_path: Path) -> None:
    def sentence() -> str:
        with pytest.raises(CheckpointError) as caught:
            sdxl.Pipeline.from_pretrained(tmp_path)
        return str(caught.value)

    folder = f"{tmp_path} has no model_index.json"
    assert sentence() == f"{folder}; give a diffusers folder or one .safetensors file"
    (tmp_path / "sdxl").mkdir()
    (tmp_path / "sdxl/below.safetensors").touch()
    assert (
        sentence()
        == f"{folder} but 1 .safetensors file: sdxl/below.safetensors; give a diffusers folder or one .safetensors file"
    )
    for n in range(8):
        (tmp_path / f"m{n}.safetensors").touch()
    names = ", ".join(f"m{n}.safetensors" for n in range(6))
    assert (
        sentence()
        == f"{folder} but 8 .safetensors files: {names} and 2 more; give a diffusers folder or one .safetensors file"
    )
    (tmp_path / "a\x1b[2J.safetensors").touch()
    assert "\x1b" not in sentence().removeprefix(folder)


def test_a_component_in_the_place_of_a_model() -> None:
    with pytest.raises(CheckpointError, match=r"but a config\.json: it is a component, which unet= and vae= take"):
        sdxl.Pipeline.from_pretrained(MODEL / "unet")


def test_a_folder_of_another_variant(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    for file in model.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".bf16.safetensors"))
    hint = 'is missing; its files are bf16, give variant="bf16" (--variant bf16)'
    for call in (
        lambda: sdxl.Pipeline.from_pretrained(model),
        lambda: sdxl.Pipeline.from_pretrained(model, variant="fp16"),
        lambda: sdxl.Pipeline.from_pretrained(MODEL, unet=model),
        lambda: sdxl.Pipeline.from_pretrained(MODEL, vae=model / "vae"),
        lambda: sdxl.inspect(model),
        lambda: sdxl.convert(model, tmp_path / "single.safetensors"),
    ):
        with pytest.raises(CheckpointError) as caught:
            call()
        assert hint in str(caught.value)
    assert sdxl.Pipeline.from_pretrained(model, variant="bf16", device="cpu", offload="stage").info.config
    assert sdxl.inspect(model, variant="bf16").kind == "SDXL base, diffusers folder"
    assert main(["inspect", str(model), "--variant", "bf16"]) == 0


def test_a_hub_model_of_another_variant() -> None:
    names = ["config.json", "diffusion_pytorch_model.safetensors.index.nf4.json", "diffusion_pytorch_model.bin"]
    for component in ("unet", ""):
        files = [f"{component}/{name}" if component else name for name in names]
        with pytest.raises(HubError) as caught:
            hub._some("owner/name", files, component, None)
        assert str(caught.value).endswith('its files are nf4, give variant="nf4" (--variant nf4)')
        with pytest.raises(HubError, match="pickles are not read"):
            hub._some("owner/name", files[2:], component, None)
