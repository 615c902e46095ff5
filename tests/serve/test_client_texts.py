"""No text of a client reaches the file system: names are compared with those that the service has."""

from __future__ import annotations

import builtins
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fake import FakePipe, loader
from PIL import Image, PngImagePlugin
from serving import Client, Running, form, in_base64, png, serving

from sdxl import CheckpointError
from sdxl.adapters.lookup import find_named
from sdxl.pipeline import ModelRequest, Request
from sdxl.serve.catalog import STRANGER, public_name

MARK = "spied-upon"
CALLS = ((os, ("stat", "lstat", "open", "listdir", "scandir", "readlink")), (builtins, ("open",)), (io, ("open",)))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("nets")
    folders = dict.fromkeys(("lora_dir", "embedding_dir", "control_dir"), folder)
    with serving([ModelRequest("one", **folders)], loader(FakePipe())) as running:
        yield running


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the file system is asked for with the mark in it. Such files are there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / MARK).mkdir()
    (tmp_path / MARK / "x.safetensors").touch()
    asked: list[str] = []

    def spied(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *more: Any, **others: Any) -> Any:
            if not isinstance(path, int) and MARK in os.fsdecode(path):
                asked.append(f"{real.__name__} {os.fsdecode(path)}")
            return real(path, *more, **others)

        return call

    for module, names in CALLS:
        for name in names:
            monkeypatch.setattr(module, name, spied(getattr(module, name)))
    return asked


def texts(folder: Path) -> list[str]:
    file = f"{MARK}/x.safetensors"
    return [file, f"../{folder.name}/{MARK}", str(folder / file)]


def recorded(text: str) -> bytes:
    """An image whose record has a text wherever a file may stand."""
    model = dict.fromkeys(("model", "refiner", "unet", "vae", "variant", "revision"), text)
    request: dict[str, Any] = {each.name: text for each in fields(Request)}
    request |= {
        "loras": [{"file": text, "weight": 1.0}],
        "control": [{"net": text, "image": text}],
        "reference": [{"adapter": text, "image": text, "encoder": text, "mask": text}],
    }
    info = PngImagePlugin.PngInfo()
    info.add_itxt(
        "sdxl", json.dumps({"version": "x", "model": {**model, "embeddings": [{"file": text}]}, "request": request})
    )
    return png(Image.new("RGB", (8, 8)), pnginfo=info)


def requests(text: str) -> Iterator[tuple[str, Any]]:
    """A path of the service, and a body with a text wherever a text may stand."""
    image, job = in_base64(Image.new("RGB", (8, 8))), {"prompt": "a", "steps": 2}
    for each in fields(Request):
        for value in (text, [text], {"file": text}, [{"file": text}]):
            yield "/api/jobs", job | {each.name: value}
    yield "/api/jobs", job | {"control": [{"net": text, "image": image}]}
    yield "/api/jobs", job | {"control": [{"net": "x", "image": text}]}
    yield "/api/jobs", job | {"reference": [{"adapter": text, "image": image, "encoder": text}]}
    yield "/api/jobs", job | {"reference": [{"adapter": text, "image": image, "mask": text}]}
    for own in ("model", "session"):
        yield "/api/jobs", job | {own: text}
    yield "/api/models", {"model": text}
    for path, extra in (("txt2img", {}), ("img2img", {"init_images": [image]})):
        for name in (
            "prompt",
            "sampler_name",
            "scheduler",
            "refiner_checkpoint",
            "script_name",
            "force_task_id",
            "mask",
        ):
            yield f"/sdapi/v1/{path}", job | extra | {name: text}
        for name in ("sd_model_checkpoint", "sd_vae"):
            yield f"/sdapi/v1/{path}", job | extra | {"override_settings": {name: text}}
        for name in ("model", "module", "image", "control_mode", "resize_mode", "union_control_type"):
            unit = {"model": "x", "image": image, name: text}
            yield f"/sdapi/v1/{path}", job | extra | {"alwayson_scripts": {"controlnet": {"args": [unit]}}}
    for name in ("hr_upscaler", "hr_checkpoint_name", "hr_sampler_name", "hr_prompt"):
        yield "/sdapi/v1/txt2img", job | {"enable_hr": True, "denoising_strength": 0.5, name: text}
    yield "/sdapi/v1/options", {"sd_model_checkpoint": text, "sd_vae": text}
    yield "/sdapi/v1/png-info", {"image": text}
    yield "/internal/progress", {"id_task": text}
    for name in ("prompt", "model", "quality", "background", "sampler", "schedule", "user"):
        yield "/v1/images/generations", {"prompt": "a", "steps": 2, name: text}


def test_no_text_reaches_the_file_system(client: Client, asked: list[str], tmp_path: Path) -> None:
    for text in texts(tmp_path):
        for path, body in requests(text):
            answer = client.post(path, body)
            assert asked == [], (path, body)
            assert answer.status < 500, (path, body, answer.body)
            if path == "/api/jobs" and answer.status == 202:
                client.done(answer.json["id"])
                assert asked == [], body
        for path in (
            f"/{text}",
            f"/api/files/{text}",
            f"/api/jobs/{text}",
            f"/v1/models/{text}",
            f"/api/jobs?session={text}",
        ):
            client.get(path)
            assert asked == [], path


def test_parameters_are_the_same_whether_a_path_exists(client: Client, asked: list[str], tmp_path: Path) -> None:
    """An image of a client says nothing of this machine's files, nor of the service's folders."""
    for text in texts(tmp_path):
        answers = []
        for each in (text, text.replace(MARK, "not-there-x")):
            body, headers = form([("image", "a.png", recorded(each))])
            answer = client.ask("POST", "/api/parameters", body, **headers)
            assert answer.status == 200, answer.body
            answers.append(answer.body.decode().replace(MARK, "not-there-x"))
        assert answers[0] == answers[1]
        assert asked == []
    assert public_name(f"{MARK}/x") == f"{MARK}/x"


def test_a_folder_of_the_service_is_not_told(running: Running) -> None:
    """A path in it is cut as any other one."""
    folder = running.service.catalog.lora_dir
    assert folder is not None
    elsewhere = Path("/elsewhere/sub/x.safetensors"), "C:\\Users\\someone\\x.safetensors", "d:/sub/x.safetensors"
    for inside in (folder / "sub/x.safetensors", *elsewhere):
        record = {"model": {"model": str(inside)}, "request": {"loras": [{"file": str(inside)}]}}
        public = STRANGER.public(record)
        assert public == {"model": {"model": "x.safetensors"}, "request": {"loras": [{"file": "x.safetensors"}]}}


def test_names_in_prompts_are_compared(asked: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    (folder / "sub").mkdir(parents=True)
    (folder / "notes.txt").write_text("a note")
    for name in ("sub/style.safetensors", "other.safetensors"):
        (folder / name).write_bytes(b"")
    for name in ("style", "sub/style", "sub/style.safetensors", "style.safetensors"):
        assert find_named(name, [folder], "LoRA") == folder / "sub/style.safetensors"
    for name in (*texts(tmp_path), "notes.txt", "../loras/other", "sub"):
        with pytest.raises(CheckpointError, match="does not exist"):
            find_named(name, [folder], "LoRA")
    with pytest.raises(CheckpointError, match=f"put a file of this name into {folder}$"):
        find_named("nothing-like-it", [folder], "LoRA")
    assert asked == []
