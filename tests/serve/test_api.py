"""Our own routes against a running service with the miniature: images, events, names, errors."""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin
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
    recorded,
    serving,
    until,
)

import sdxl
from sdxl.serve.catalog import Catalog
from sdxl.serve.openapi import ENDPOINTS, describe


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(miniatures(lora_dir=ADAPTERS), **LIMITS, max_body=2**20) as running:
        yield running


@pytest.fixture(scope="module")
def miniature() -> Any:
    """The same model in a pipeline of its own."""
    return open_miniature(lora_dir=ADAPTERS)


def same(image: Image.Image, other: Image.Image) -> bool:
    return image.size == other.size and np.array_equal(np.asarray(image), np.asarray(other))


def source() -> tuple[Image.Image, Image.Image]:
    image, mask = Image.new("RGB", (64, 64), "green"), Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 47), fill=255)
    return image, mask


@pytest.mark.parametrize("task", ["text", "image", "mask", "lora", "batch"])
def test_images_are_those_of_the_pipeline(task: str, client: Client, miniature: Any) -> None:
    image, mask = source()
    more: dict[str, dict[str, Any]] = {
        "text": {"negative_prompt": "a cat", "guidance_scale": 4, "sampler": "DPM++ 2M Karras"},
        "image": {"image": image, "strength": 0.6, "sampler": "euler_ancestral"},
        "mask": {"image": image, "mask": mask, "mask_padding": 8, "width": None, "height": None},
        "lora": {"loras": [{"file": "heart", "weight": 0.5}], "prompt_syntax": "a1111", "prompt": "a (red:1.2) heart"},
        "batch": {"num_images": 2, "preset": "none", "guidance_rescale": 0.5},
    }
    given = {**SMALL, **more[task]}
    sent = {name: in_base64(value) if isinstance(value, Image.Image) else value for name, value in given.items()}
    job = client.done(client.job(**sent)["id"])
    assert (job["status"], job["error"], job["progress"]) == ("done", None, 1)
    result = miniature(**given, progress=False)
    shown = [client.image(each) for each in job["images"]]
    assert len(shown) == len(result.images) == 1 + (task == "batch")
    assert all(map(same, shown, result.images))
    assert [each["seed"] for each in job["images"]] == result.seeds
    for image_, given in zip(shown, result.parameters, strict=True):
        own = json.loads(str(image_.info["sdxl"]))
        assert {k: v for k, v in own["request"].items() if k != "loras"} == {
            k: v for k, v in json.loads(json.dumps(given["request"])).items() if k != "loras"
        }
        assert own["model"] == json.loads(json.dumps(given["model"]))


def test_a_form_gives_the_same_as_json(client: Client) -> None:
    image, mask = source()
    given = {**SMALL, "strength": 0.5}
    first = client.done(client.job(**given, image=in_base64(image), mask=[in_base64(mask)])["id"])
    files = [("image", "a.png", png(image)), ("mask", "b.png", png(mask))]
    body, headers = form([("request", None, json.dumps(given).encode()), *files])
    second = client.done(client.post("/api/jobs", body, **headers).json["id"])
    assert same(client.image(first["images"][0]), client.image(second["images"][0]))
    assert first["request"] == second["request"] == given


def test_events_tell_the_whole_story(client: Client) -> None:
    job = client.job(**{**SMALL, "width": 128, "height": 128}, batches=2)
    events = client.events(job["id"])
    names = [name for name, _ in events]
    assert names[-1] == "done"
    assert [data["seed"] for name, data in events if name == "image"] == [7, 8]
    steps = [data for name, data in events if name == "step"]
    assert [each["progress"] for each in steps] == sorted(each["progress"] for each in steps)
    assert {each["steps"] for each in steps if each["step"]} == {3}
    again = client.events(job["id"])  # after a reload
    assert [name for name, _ in again] == ["image", "image", "done"]
    assert [data for name, data in events if name == "image"] == [data for _, data in again[:2]]


def test_previews_are_small_images(client: Client) -> None:
    job = client.job(**{**SMALL, "steps": 20, "num_images": 2})
    urls = [data["preview"] for name, data in client.events(job["id"]) if name == "step" and data["preview"]]
    assert urls
    prefix, _, data = urls[0].partition(",")
    assert prefix == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(b64decode(data))).size == (16, 8)


def test_cancel_and_skip(client: Client) -> None:
    slow = {**SMALL, "width": 256, "height": 256, "steps": 40}
    first, waiting = client.job(**slow, batches=2), client.job(**slow)
    assert client.post(f"/api/jobs/{waiting['id']}/cancel").json["status"] == "cancelled"
    until(lambda: client.get(f"/api/jobs/{first['id']}").json["step"] >= 1)
    client.post(f"/api/jobs/{first['id']}/skip")
    until(lambda: client.get(f"/api/jobs/{first['id']}").json["batch"] == 1)
    client.post(f"/api/jobs/{first['id']}/cancel", {"keep_guess": True})
    job = client.done(first["id"])
    assert job["status"] == "cancelled"
    assert [each["seed"] for each in job["images"]] == [8]
    assert client.done(waiting["id"])["images"] == []
    assert client.post(f"/api/jobs/{first['id']}/cancel", {"keep_guess": 1}).status == 400
    for path in (f"/api/jobs/{waiting['id']}/cancel", "/api/models", "/api/parameters"):
        answer = client.post(path, {"keep_gues": True})
        assert answer.status == 400 and "'keep_gues' is not an argument; expected" in answer.error["message"], path


def test_a_session_finds_its_jobs_again(client: Client) -> None:
    job = client.job(**SMALL, session="one-tab")
    client.done(job["id"])
    (found,) = client.get("/api/jobs?session=one-tab").json["jobs"]
    assert found["id"] == job["id"]
    assert job["id"].isalnum(), "so that a file of its name is no flag"
    assert found["images"][0]["request"]["prompt"] == PROMPT
    assert job["id"] not in client.get("/api/jobs").body.decode()
    assert client.get("/api/jobs?session=another").json == {"jobs": []}
    assert client.get("/api/jobs?session=a%20b").status == 400


def test_warnings_reach_the_client(client: Client) -> None:
    job = client.done(client.job(**SMALL, guidance_scale=1, negative_prompt="a cat")["id"])
    assert len(job["warnings"]) == 1
    assert "negative_prompt has no effect" in job["warnings"][0]


def test_an_error_of_the_model_is_the_jobs(client: Client) -> None:
    job = client.done(client.job(**{**SMALL, "width": 100})["id"])
    assert (job["status"], job["error"]["type"], job["error"]["argument"]) == ("failed", "ArgumentError", "width")
    large = client.job(prompt="a", image=in_base64(Image.new("RGB", (512, 256))), steps=4)
    error = client.done(large["id"])["error"]
    assert "at most 65536 pixels" in error["message"]
    tag = client.job(**{**SMALL, "prompt": "<lora:nosuch:1>", "prompt_syntax": "a1111"})
    error = client.done(tag["id"])["error"]
    assert "nosuch does not exist" in error["message"]
    assert str(Path(__file__).parents[2]) not in error["message"]


def test_a_job_lives_on_when_its_client_goes_away(client: Client) -> None:
    import http.client

    job = client.job(**{**SMALL, "steps": 20})
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    connection.request("GET", f"/api/jobs/{job['id']}/events")
    connection.getresponse().read(10)
    connection.close()
    assert client.done(job["id"])["status"] == "done"


def test_a_dropped_image_gives_its_parameters(client: Client, miniature: Any, tmp_path: Path) -> None:
    result = miniature(**SMALL, loras=[ADAPTERS / "heart.safetensors"], progress=False)
    (path,) = result.save(tmp_path / "x.jpg")
    body, headers = form([("image", "x.jpg", path.read_bytes())])
    for answer in (
        client.post("/api/parameters", body, **headers),
        client.post("/api/parameters", {"image": b64encode(path.read_bytes()).decode()}),
    ):
        assert answer.status == 200
        request = answer.json["request"]
        assert (request["prompt"], request["seed"], request["steps"]) == (PROMPT, 7, 3)
        assert request["loras"][0]["file"] == "heart.safetensors"
    job = client.done(client.job(**{k: v for k, v in request.items() if v is not None})["id"])  # use these again
    assert same(client.image(job["images"][0]), result.images[0])
    plain = client.post("/api/parameters", {"image": in_base64(Image.new("RGB", (8, 8)))})
    assert (plain.status, plain.error["argument"]) == (400, "image")
    assert "tmp" not in plain.error["message"]


def test_a_record_gives_the_arguments_of_a_job(client: Client, miniature: Any) -> None:
    """Without what would be so anyway, and with the names of this service."""
    hires = {"scale": 2, "strength": 0.5}
    made = miniature(**SMALL, hires=hires, loras=[ADAPTERS / "heart.safetensors"], progress=False)
    own = SMALL | {"prompt_syntax": "plain", "guidance_rescale": 0}
    model = {"guidance_scale": 5, "sampler": "euler", "schedule": "leading", "model": "miniature"}
    found = recorded(client, made.parameters[0]["request"])
    assert found["missing"] == []
    arguments = found["arguments"]
    assert arguments.pop("loras") == [{"file": "heart", "weight": 1}]
    assert arguments.pop("hires") == hires | {"upscaler": "latent"}
    assert arguments == own | model
    job = client.done(client.job(**{**found["arguments"], "hires": hires, "loras": ["heart"]})["id"])
    assert same(client.image(job["images"][0]), made.images[0])


def test_a_record_says_what_is_missing(client: Client) -> None:
    request = {"prompt": "a <lora:heart:0.5>", "prompt_syntax": "a1111", "num_images": 3, "aesthetic_score": 6.0}
    control = {"net": "/nets/edges.safetensors", "scale": 0.5, "image": "x", "mask": "y", "hash": "z"}
    more = {"loras": [{"file": "heart", "weight": 0.5, "hash": "9"}], "control": [control], "sigmas": [1.0, 0.0]}
    found = recorded(client, request | more | {"unheard": 1, "eta": 0.0}, "another")
    assert found["missing"] == ["unheard", "the mask of edges.safetensors", "the model another"]
    assert found["arguments"] == {
        "prompt": "a <lora:heart:0.5>",
        "prompt_syntax": "a1111",  # whose tags bring the LoRA
        "batches": 3,
        "sigmas": [1.0, 0.0],
        "control": [{"net": "edges.safetensors", "scale": 0.5}],
    }
    assert recorded(client, {"prompt": "", "image": {"sha256": "0"}})["sources"] == ["image"]
    assert recorded(client, {"prompt": ""})["arguments"] == {
        "prompt": "",
        "prompt_syntax": "plain",
        "model": "miniature",
    }


@pytest.mark.parametrize(
    ("model", "name", "missing"),
    [
        ({"model": "models/miniature.safetensors"}, "miniature", []),
        ({"model": "C:\\models\\miniature"}, "miniature", []),
        ({"model": "models/another"}, None, ["the model models/another"]),
        ({"model": "miniature", "vae": "vae/fixed.safetensors"}, "miniature", ["the vae vae/fixed.safetensors"]),
        ({"model": "miniature", "refiner": "/models/r.safetensors"}, "miniature", ["the refiner r.safetensors"]),
        ({}, "miniature", []),
    ],
)
def test_a_record_says_what_of_its_model_is_missing(client: Client, model: Any, name: str, missing: list[str]) -> None:
    found = recorded(client, {"prompt": ""}, **model)
    assert (found["arguments"].get("model"), found["missing"]) == (name, missing)


def test_a_record_of_many_files_reads_the_folder_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[str] = []
    files = Catalog.files

    def counted(catalog: Catalog, kind: Any) -> Any:
        walks.append(kind)
        return files(catalog, kind)

    monkeypatch.setattr(Catalog, "files", counted)
    loras = [{"file": name, "weight": 0.5} for name in ("heart", "/else/heart.safetensors", "unheard") * 20]
    found = recorded(client, {"prompt": "", "loras": loras})["arguments"]["loras"]
    assert [each["file"] for each in found] == ["heart", "heart", "unheard"] * 20
    assert walks == ["lora"]


def test_what_of_another_tool_has_no_counterpart(client: Client) -> None:
    info = PngImagePlugin.PngInfo()
    text = "a cat\nSteps: 9, Seed: 5, Size: 64x64, Hires upscale: 2, Hires upscaler: 4x-UltraSharp"
    info.add_text("parameters", text)
    answer = client.post("/api/parameters", {"image": b64encode(png(Image.new("RGB", (8, 8)), pnginfo=info)).decode()})
    (reason,) = answer.json["missing"]
    assert reason == "hires.upscaler '4x-UltraSharp' (no network here has its name; lanczos takes its place)"


@pytest.mark.parametrize(
    ("given", "argument", "message"),
    [
        ({"scale": 0.5}, "hires.scale", "scale of hires is 0.5"),
        ({"strength": 2}, "hires.strength", "strength of hires is 2"),
        ({"steps": 41}, "hires", "in the second pass of hires steps is 41"),
        ({"scale": 5}, "hires", "in the second pass of hires width is 320 and height is 320"),
    ],
)
def test_an_error_of_hires_fix_names_its_part(client: Client, given: Any, argument: str, message: str) -> None:
    """Not a field of the first pass, which has the same name."""
    answer = client.post("/api/jobs", {**SMALL, "hires": given})
    assert (answer.status, answer.error["argument"]) == (400, argument)
    assert answer.error["message"].startswith(message)
    job = client.done(client.job(prompt="a", steps=2, hires={"scale": 3})["id"])  # of the model's own size
    assert (job["error"]["argument"], job["error"]["message"][:28]) == ("hires", "in the second pass of hires ")


def test_what_can_be_named(client: Client, miniature: Any) -> None:
    assert [each["name"] for each in client.get("/api/loras").json["loras"]] == ["heart", "large", "two-steps"]
    assert client.get("/api/embeddings").json == {"embeddings": []}
    assert client.get("/api/controls").json["controls"] == client.get("/api/references").json["references"] == []
    models = client.get("/api/models").json["models"]
    defaults = models[0].pop("defaults")
    assert models[0] == {"name": "miniature", "is_default": True, "is_loaded": True}
    request = miniature.plan(sdxl.Request("")).request
    assert defaults == {name: getattr(request, name) for name in defaults}
    assert {"width", "height", "steps", "guidance_scale", "sampler", "schedule"} == set(defaults)
    assert models[1]["defaults"] is None  # it was never loaded
    names = client.get("/api/samplers").json
    assert {each["name"] for each in names["samplers"]} == sdxl.sampling.SAMPLERS.keys()
    assert {each["name"]: each["a1111"] for each in names["upscalers"]}["lanczos"] == "Lanczos"
    assert client.get("/api/server").json["limits"]["max_steps"] == 40


def test_a_switch_of_models(client: Client, running: Running) -> None:
    answer = client.post("/api/models", {"model": "miniature-refiner"})
    assert answer.status == 202
    assert client.done(answer.json["id"])["status"] == "done"
    assert running.service.engine.loaded == ["miniature-refiner"]
    image = in_base64(source()[0])
    job = client.done(client.job(prompt=PROMPT, image=image, steps=4)["id"])
    assert (job["status"], job["model"]) == ("done", "miniature-refiner")
    job = client.done(client.job(**SMALL, model="miniature")["id"])
    assert job["status"] == "done"
    assert client.done(client.post("/api/models", {"model": "miniature"}).json["id"])["status"] == "done"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "argument"),
    [
        ("POST", "/api/jobs", {"prompt": "a", "steps": 0}, 400, "steps"),
        ("POST", "/api/jobs", {"prompt": "a", "steps": 41}, 400, "steps"),
        ("POST", "/api/jobs", {"steps": 4}, 400, "prompt"),
        ("POST", "/api/jobs", {"prompt": "a", "model": "none"}, 404, "model"),
        ("POST", "/api/jobs", {"prompt": "a", "model": 5}, 400, "model"),
        ("POST", "/api/jobs", {"prompt": "a", "loras": ["none"]}, 404, "loras"),
        ("POST", "/api/jobs", {"prompt": "a", "session": "a b"}, 400, None),
        ("POST", "/api/jobs", {"prompt": "a", "image": "http://127.0.0.1/x.png"}, 400, "image"),
        ("POST", "/api/jobs", {"prompt": "a", "image": "AAAA"}, 400, "image"),
        ("POST", "/api/jobs", {"prompt": "a", "batches": "2"}, 400, "batches"),
        ("POST", "/api/models", {}, 400, "model"),
        ("POST", "/api/models", {"model": "none"}, 404, "model"),
        ("POST", "/api/parameters", {}, 400, "image"),
        ("GET", "/api/jobs/none", None, 404, None),
        ("GET", "/api/jobs/none/events", None, 404, None),
        ("POST", "/api/jobs/none/cancel", None, 404, None),
        ("GET", "/api/files/none-1.png", None, 404, None),
        ("GET", "/api/none", None, 404, None),
        ("GET", "/none", None, 404, None),
        ("PUT", "/api/jobs", None, 405, None),
        ("POST", "/health", None, 405, None),
    ],
)
def test_errors_have_one_shape(
    client: Client, method: str, path: str, body: Any, status: int, argument: str | None
) -> None:
    answer = client.ask(method, path, body)
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"error"}
    assert answer.error.keys() == {"type", "message", "argument"}
    assert answer.error["argument"] == argument
    assert len(answer.error["message"]) > 20


def test_the_description_is_true(client: Client) -> None:
    """Every route of it answers as it says, and the service has no other ones of its own."""
    described = client.get("/api/openapi.json").json
    assert described == json.loads(json.dumps(describe()))
    job = client.done(client.job(**SMALL)["id"])
    image = client.get(job["images"][0]["url"]).body
    bodies: dict[str, Any] = {
        "create_job": SMALL,
        "switch_model": {"model": "miniature"},
        "read_parameters": {"image": b64encode(image).decode()},
        "cancel_job": {"keep_guess": False},
    }
    for each in ENDPOINTS:
        path = each.path.format(id=job["id"], name=job["images"][0]["name"])
        answer = client.ask(each.method, path, bodies.get(each.name))
        operation = described["paths"][each.path][each.method.lower()]
        assert str(answer.status) in operation["responses"], each
        assert answer.status == each.status, (each, answer.body)
        check(answer, operation["responses"][str(answer.status)], described)
        if each.body is not None and each.name in bodies:
            validate(bodies[each.name], operation["requestBody"]["content"]["application/json"]["schema"], described)
    check(client.get("/api/jobs/none"), described["paths"]["/api/jobs/{id}"]["get"]["responses"]["404"], described)
    until(lambda: not client.get("/api/server").json["running"])


def check(answer: Answer, described: Any, whole: Any) -> None:
    (kind,) = described["content"]
    assert answer.headers["content-type"].startswith(kind)
    if "schema" in described["content"][kind]:
        validate(answer.json, described["content"][kind]["schema"], whole)


def validate(value: Any, schema: Any, whole: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": whole["components"]}).validate(value)


def test_the_description_has_every_route(running: Running) -> None:
    from sdxl.serve import api

    routes = {(each.path, *(each.methods - {"HEAD"})) for each in api.skin(running.service).routes}  # type: ignore[attr-defined]
    assert routes == {(each.path, each.method) for each in ENDPOINTS}
    jsonschema.Draft202012Validator.check_schema(describe()["components"]["schemas"]["JobRequest"])


def test_metrics(client: Client) -> None:
    client.done(client.job(**SMALL)["id"])
    lines = client.get("/metrics").body.decode().splitlines()
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
    assert values["sdxl_ready"] == 1
    assert values['sdxl_jobs_total{status="done"}'] >= 1
    assert values["sdxl_images_total"] == values["sdxl_image_seconds_count"] >= 1
    assert values['sdxl_image_seconds_bucket{le="+Inf"}'] == values["sdxl_images_total"]
    assert values["sdxl_steps_total"] >= 3
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} >= {"sdxl_queue_length"}
