"""Control images from clients: networks by their names, images in the request, never a path."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from serving import (
    ADAPTERS,
    LIMITS,
    PROMPT,
    SMALL,
    Answer,
    Client,
    Running,
    form,
    in_base64,
    miniatures,
    open_miniature,
    png,
    serving,
)

import sdxl


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(miniatures(control_dir=ADAPTERS)[:1], **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def miniature() -> Any:
    return open_miniature(control_dir=ADAPTERS)


def drawing(width: int = 64, height: int = 64) -> Image.Image:
    image = Image.new("RGB", (width, height), "black")
    ImageDraw.Draw(image).ellipse((20, 20, 50, 50), outline="white")
    return image


def expected(miniature: Any, image: Image.Image | None = None, **control: Any) -> np.ndarray:
    given = SMALL | {"control": sdxl.Control("edges", image or drawing(), **control), "progress": False}
    return np.asarray(miniature(**given).images[0])


def unit(client: Client, path: str = "txt2img", body: dict[str, Any] | None = None, **fields: Any) -> Answer:
    scripts = {"ControlNet": {"args": [{"model": "edges [0123abcd]", "image": in_base64(drawing()), **fields}]}}
    return client.post(f"/sdapi/v1/{path}", SMALL | {"alwayson_scripts": scripts} | (body or {}))


def pixels(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(b64decode(answer.json["images"][0]))))


def test_units_are_counted_before_their_images_are_decoded(client: Client) -> None:
    """The image of each is none, which would be said else."""
    scripts = {"controlnet": {"args": [{"model": "edges", "image": "none"}] * 9}}
    answer = client.post("/sdapi/v1/txt2img", SMALL | {"alwayson_scripts": scripts})
    assert answer.status == 422
    assert "args has 9 entries; this service takes at most 8" in answer.json["detail"]


def test_jobs_of_our_own(client: Client, miniature: Any) -> None:
    control = {"net": "edges", "image": in_base64(drawing()), "scale": 0.8, "end": 0.7}
    job = client.done(client.job(**SMALL, control=[control])["id"])
    assert job["status"] == "done", job["error"]
    assert np.array_equal(np.asarray(client.image(job["images"][0])), expected(miniature, scale=0.8, end=0.7))
    shown = job["images"][0]["request"]["control"][0]
    assert (shown["net"], shown["image"]) == ("edges.safetensors", None)
    assert "control" not in job["request"]


def test_units_of_the_extension(client: Client, miniature: Any) -> None:
    plain = client.post("/sdapi/v1/txt2img", SMALL)
    acting = pixels(unit(client, weight=0.8, guidance_end=0.7, control_mode="Balanced", module="none"))
    assert np.array_equal(acting, expected(miniature, scale=0.8, end=0.7))
    assert not np.array_equal(acting, pixels(plain))
    prepared = unit(client, module="canny", threshold_a=50, threshold_b=-1, pixel_perfect=True, processor_res=512)
    assert np.array_equal(pixels(prepared), expected(miniature, preprocess="canny:50:200"))
    assert np.array_equal(pixels(unit(client, control_mode=2)), expected(miniature, guess=True))
    for idle in ({"enabled": False}, {"model": "None"}, {"model": None}):
        assert np.array_equal(pixels(unit(client, **idle)), pixels(plain))
    wide = unit(client, image={"image": in_base64(drawing(96, 64))}, resize_mode="Just Resize")
    assert np.array_equal(pixels(wide), expected(miniature, drawing(96, 64).resize((64, 64), Image.Resampling.LANCZOS)))
    assert unit(client, image=in_base64(drawing(96, 64)), resize_mode=2).status == 200
    own = unit(client, "img2img", {"init_images": [in_base64(drawing())]}, image=None)
    assert "edges.safetensors" in str(Image.open(io.BytesIO(b64decode(own.json["images"][0]))).info["sdxl"])
    assert str(ADAPTERS) not in str(b64decode(own.json["images"][0]))


def shown() -> Image.Image:
    """What a reference shows."""
    image = Image.new("RGB", (64, 64), "green")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill="yellow")
    return image


def referring(miniature: Any, image: Any = None, **reference: Any) -> np.ndarray:
    given = SMALL | {"reference": sdxl.Reference("colours", image or shown(), **reference), "progress": False}
    return np.asarray(miniature(**given).images[0])


def test_references_of_our_own(client: Client, miniature: Any) -> None:
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    for given, expected in (
        ({"image": in_base64(shown()), "scale": 0.8, "end": 0.7}, {"scale": 0.8, "end": 0.7}),
        ({"image": [[in_base64(shown()), in_base64(drawing())]]}, {"image": (shown(), drawing())}),
        ({"image": in_base64(shown()), "only": "style"}, {"only": "style"}),
        ({"image": in_base64(shown()), "mask": in_base64(half)}, {"mask": half}),
    ):
        job = client.done(client.job(**SMALL, reference=[{"adapter": "colours", **given}])["id"])
        assert job["status"] == "done", job["error"]
        assert np.array_equal(np.asarray(client.image(job["images"][0])), referring(miniature, **expected)), given
        record = job["images"][0]["request"]["reference"][0]
        assert record["adapter"] == "colours.safetensors"
        assert "reference" not in job["request"]
    data = client.get(job["images"][0]["url"]).body
    assert str(ADAPTERS).encode() not in data


def test_images_of_controls_and_references_as_files(client: Client, miniature: Any) -> None:
    """Each file is the image of an entry, in their order."""
    request = SMALL | {"control": [{"net": "edges", "scale": 0.8}], "reference": [{"adapter": "colours"}] * 2}
    files = [
        ("control", "a.png", png(drawing())),
        *(("reference", "b.png", png(each)) for each in (shown(), drawing())),
    ]
    body, headers = form([("request", None, json.dumps(request).encode()), *files])
    answer = client.ask("POST", "/api/jobs", body, **headers)
    assert answer.status == 202, answer.body
    job = client.done(answer.json["id"])
    given = {"control": sdxl.Control("edges", drawing(), scale=0.8), "progress": False}
    references = [sdxl.Reference("colours", each) for each in (shown(), drawing())]
    wanted = miniature(**SMALL, **given, reference=references).images[0]
    assert np.array_equal(np.asarray(client.image(job["images"][0])), np.asarray(wanted))
    for wrong in (
        {**request, "control": []},
        {**request, "reference": "colours"},
        SMALL,
        {**request, "reference": [1, 2]},
    ):
        body, headers = form([("request", None, json.dumps(wrong).encode()), *files])
        answer = client.ask("POST", "/api/jobs", body, **headers)
        assert (answer.status, "expected one for each entry" in answer.error["message"]) == (400, True), answer.body


def test_references_of_the_extension(client: Client, miniature: Any) -> None:
    """A unit whose model is an IP-Adapter."""
    fields: dict[str, Any] = {"model": "colours [0123abcd]", "image": in_base64(shown())}
    plain = pixels(unit(client, **fields, module="ip-adapter_clip_sdxl_plus_vith", weight=0.8, guidance_end=0.7))
    assert np.array_equal(plain, referring(miniature, scale=0.8, end=0.7))
    for module in (None, "none", "ip-adapter-auto", "CLIP-ViT-bigG (IPAdapter)"):
        assert np.array_equal(pixels(unit(client, **fields, module=module)), referring(miniature, scale=1.0))
    for wrong in ({"module": "canny"}, {"module": "ip-adapter_face_id"}, {"control_mode": 2}, {"control_mode": 1}):
        assert unit(client, **fields, **wrong).status == 422, wrong


def test_what_is_refused(client: Client, tmp_path: Path) -> None:
    drawing().save(tmp_path / "a.png")
    control = {"net": "edges", "image": in_base64(drawing())}
    for wrong, status in (
        ({"net": str(ADAPTERS / "edges.safetensors")}, 404),
        ({"net": "../adapters/edges"}, 404),
        ({"net": "owner/name"}, 404),
        ({"image": str(tmp_path / "a.png")}, 400),
        ({"image": "http://169.254.169.254/a.png"}, 400),
        ({"image": None}, 400),
        ({"scale": "x"}, 400),
        ({"what": 1}, 400),
    ):
        assert client.post("/api/jobs", SMALL | {"control": [control | wrong]}).status == status, wrong
    reference = {"adapter": "colours", "image": in_base64(drawing())}
    many = [in_base64(drawing())] * 17
    faults: tuple[tuple[dict[str, Any], int], ...] = (
        ({"adapter": str(ADAPTERS / "colours.safetensors")}, 404),
        ({"adapter": "edges"}, 404),
        ({"adapter": "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors"}, 404),
        ({"image": str(tmp_path / "a.png")}, 400),
        ({"image": None}, 400),
        ({"image": many}, 400),
        ({"image": [many]}, 400),
        ({"image": [[[in_base64(drawing())]]]}, 400),
        ({"mask": str(tmp_path / "a.png")}, 400),
        ({"mask": [in_base64(drawing())]}, 400),
        ({"encoder": str(ADAPTERS / "image_encoder")}, 400),
        ({"scale": "x"}, 400),
        ({"what": 1}, 400),
    )
    for wrong, status in faults:
        assert client.post("/api/jobs", SMALL | {"reference": [reference | wrong]}).status == status, wrong
    for name in ("control", "reference"):
        assert client.post("/api/jobs", SMALL | {name: [control] * 17}).status == 400
    for given in ("edges", [3], {"net": "edges"}):
        assert client.post("/api/jobs", SMALL | {"control": given}).status == 400
    for wrong, status in (
        ({"model": "nothing"}, 404),
        ({"module": "openpose"}, 422),
        ({"control_mode": 1}, 422),
        ({"control_mode": "x"}, 422),
        ({"mask": in_base64(drawing())}, 422),
        ({"image": "!!"}, 422),
        ({"image": None}, 422),
        ({"weight": "heavy"}, 422),
    ):
        answer = unit(client, **wrong)
        assert (answer.status, answer.json.keys()) == (status, {"error", "detail", "body", "errors"}), wrong


def test_lists(client: Client) -> None:
    assert client.get("/controlnet/model_list").json["model_list"] == ["edges", "colours"]
    assert client.get("/controlnet/control_types").json["control_types"]["All"]["model_list"][0] == "None"
    assert client.get("/api/references").json == {"references": [{"name": "colours", "file": "colours.safetensors"}]}
    controls = client.get("/api/controls").json
    assert controls["controls"] == [{"name": "edges", "file": "edges.safetensors", "types": []}]
    assert controls["preprocessors"][:2] == ["canny", "invert"]
    assert client.get("/controlnet/module_list").json["module_list"][:2] == ["none", "canny"]
    assert client.get("/controlnet/version").json == {"version": 3}
    assert client.get("/sdapi/v1/scripts").json == {"txt2img": ["controlnet"], "img2img": ["controlnet"]}
    assert client.get("/controlnet/nothing").json["detail"] == "Not Found"


def test_webuiapi(running: Running, miniature: Any) -> None:
    webuiapi = pytest.importorskip("webuiapi")
    api = webuiapi.WebUIApi(port=running.client.port, sampler="DPM++ 2M", steps=3)
    assert api.controlnet_model_list()
    units = [webuiapi.ControlNetUnit(image=drawing(), model="edges", module="none", weight=0.9)]
    got = api.txt2img(
        prompt=PROMPT, width=64, height=64, seed=7, cfg_scale=5, controlnet_units=units, alwayson_scripts={}
    )
    made = miniature(
        **SMALL | {"control": sdxl.Control("edges", drawing(), scale=0.9), "progress": False},
        sampler="dpmpp_2m",
        schedule="karras",
    )
    assert np.array_equal(np.asarray(got.image), np.asarray(made.images[0]))


def test_sd_backend_client(running: Running) -> None:
    client = pytest.importorskip("sd_backend_client")
    backend = client.A1111Webservice(f"http://127.0.0.1:{running.client.port}")
    assert backend.get_capabilities().controlnet
    assert "edges" in {each.full_model_name for each in backend.list_controlnet_models()}
