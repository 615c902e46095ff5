"""Networks that enlarge, for clients: by their names, in every list and route, never a path."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from esrgan_files import OLD, random_upscaler, save
from PIL import Image
from serving import LIMITS, SMALL, Client, Running, miniatures, open_miniature, recorded, serving

HIRES = {"scale": 2.0, "strength": 0.5}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    for name in ("4x-Sharp", "RealESRGAN_x4plus"):
        save(random_upscaler(), folder / f"{name}.safetensors", OLD)
    return folder


@pytest.fixture(scope="module")
def running(networks: Path) -> Iterator[Running]:
    with serving(miniatures(control_dir=networks)[:1], **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def expected(networks: Path) -> np.ndarray:
    hires = HIRES | {"upscaler": str(networks / "4x-Sharp.safetensors")}
    return np.asarray(open_miniature()(**SMALL, hires=hires, progress=False)[0])


def test_a_job(client: Client, expected: np.ndarray, networks: Path) -> None:
    job = client.done(client.job(**SMALL, hires=HIRES | {"upscaler": "4x-Sharp"})["id"])
    assert job["status"] == "done", job["error"]
    (image,) = job["images"]
    assert np.array_equal(np.asarray(client.image(image)), expected)
    assert image["request"]["hires"]["upscaler"] == "4x-Sharp.safetensors"
    assert str(networks) not in json.dumps(job)
    again = recorded(client, image["request"])
    assert (again["missing"], again["arguments"]["hires"]) == ([], HIRES | {"upscaler": "4x-Sharp"})


def test_automatic1111s_names(client: Client) -> None:
    names = ["None", "Lanczos", "4x-Sharp", "R-ESRGAN 4x+"]
    assert [each["name"] for each in client.get("/sdapi/v1/upscalers").json] == names
    asked = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5}
    images = []
    for name in names[2:]:
        answer = client.post("/sdapi/v1/txt2img", SMALL | asked | {"hr_upscaler": name})
        assert answer.status == 200, answer.body
        assert f"Hires upscaler: {name}," in json.loads(answer.json["info"])["infotexts"][0]
        images.append(np.asarray(Image.open(io.BytesIO(b64decode(answer.json["images"][0])))))
    assert np.array_equal(*images)  # two names of one network


def test_our_own_list(client: Client) -> None:
    names = {each["name"]: each["a1111"] for each in client.get("/api/samplers").json["upscalers"]}
    assert names["RealESRGAN_x4plus"] == "R-ESRGAN 4x+" and names["lanczos"] == "Lanczos"


@pytest.mark.parametrize("name", ["5x", "../4x-Sharp", "{folder}/4x-Sharp.safetensors", "~/4x.safetensors", "a/b"])
def test_other_names_are_refused(name: str, client: Client, networks: Path) -> None:
    name = name.format(folder=networks)
    answer = client.post("/api/jobs", SMALL | {"hires": HIRES | {"upscaler": name}})
    assert answer.status == 400
    assert answer.error["argument"] == "hires.upscaler"
    assert answer.error["message"].endswith("lanczos, 4x-Sharp, RealESRGAN_x4plus")


@pytest.mark.parametrize("hires", [[1, 2], "large", {"upscaler": ["a"]}, {"upscaler": None, "scale": 2}])
def test_a_damaged_record_is_shown_as_it_is(hires: Any, client: Client) -> None:
    assert recorded(client, {"prompt": "a cat", "hires": hires})["arguments"]["hires"] == hires


def test_a_record_of_a_network_that_is_not_here(client: Client) -> None:
    request: dict[str, Any] = {"prompt": "a cat", "hires": HIRES | {"upscaler": "/else/8x.safetensors"}}
    again = recorded(client, request)
    assert again["arguments"]["hires"]["upscaler"] == "lanczos"
    assert again["missing"] == [
        "hires.upscaler '8x.safetensors' (no network here has its name; lanczos takes its place)"
    ]
