"""AUTOMATIC1111's API against a running service, without a client: images, what is answered, progress, errors."""

from __future__ import annotations

import io
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from fake import FakePipe, loader
from PIL import Image, ImageDraw
from serving import (
    ADAPTERS,
    LIMITS,
    PROMPT,
    SMALL,
    Answer,
    Client,
    Running,
    in_base64,
    miniatures,
    open_miniature,
    serving,
    until,
)

from sdxl.errors import CheckpointError
from sdxl.pipeline import ModelRequest
from sdxl.runtime.memory import available


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(miniatures(lora_dir=ADAPTERS), **LIMITS, max_body=2**20) as running:
        yield running


@pytest.fixture(scope="module")
def miniature() -> Any:
    return open_miniature(lora_dir=ADAPTERS)


def images(answer: Answer) -> list[np.ndarray]:
    assert answer.status == 200, answer.body
    opened = [Image.open(io.BytesIO(b64decode(each))) for each in answer.json["images"]]
    assert all(each.format == "PNG" and "Steps: " in each.info["parameters"] for each in opened)
    return [np.asarray(each) for each in opened]


def info(answer: Answer) -> Any:
    return json.loads(answer.json["info"])


def draw(client: Client, **body: Any) -> Answer:
    return client.post("/sdapi/v1/txt2img", SMALL | body)


def edit(client: Client, **body: Any) -> Answer:
    return client.post("/sdapi/v1/img2img", SMALL | {"init_images": [in_base64(source())]} | body)


def source(width: int = 64, height: int = 64) -> Image.Image:
    image = Image.new("RGB", (width, height), "green")
    ImageDraw.Draw(image).rectangle((8, 8, 30, 30), fill="yellow")
    return image


def square(width: int = 64, height: int = 64) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rectangle((24, 24, 39, 39), fill=255)
    return mask


def test_text_to_image_is_the_pipelines(client: Client, miniature: Any) -> None:
    answer = draw(client, sampler_name="DPM++ 2M Karras", negative_prompt="a cat", cfg_scale=4, n_iter=2, batch_size=2)
    same: dict[str, Any] = {"sampler": "dpmpp_2m", "schedule": "karras", "prompt_syntax": "a1111", "num_images": 2}
    got, expected = images(answer), []
    for seed in (7, 9):
        own = {"width": 64, "height": 64, "steps": 3, "guidance_scale": 4, "negative_prompt": "a cat", "seed": seed}
        expected += miniature(PROMPT, progress=False, **own, **same).images
    assert len(got) == 4 and all(np.array_equal(a, np.asarray(b)) for a, b in zip(got, expected, strict=True))
    facts = info(answer)
    assert (facts["all_seeds"], facts["seed"], facts["batch_size"]) == ([7, 8, 9, 10], 7, 2)
    assert (facts["sampler_name"], facts["sd_model_name"], facts["steps"]) == ("DPM++ 2M", "miniature", 3)
    assert (facts["index_of_first_image"], len(facts["infotexts"]), facts["all_prompts"]) == (0, 4, [PROMPT] * 4)
    assert answer.json["parameters"]["sampler_name"] == "DPM++ 2M Karras"


def test_prompts_are_read_as_automatic1111_does(client: Client, miniature: Any) -> None:
    prompt = "a (red:1.4) circle <lora:heart:0.8>"
    expected = miniature(prompt, prompt_syntax="a1111", width=64, height=64, steps=3, seed=7, progress=False).images[0]
    assert np.array_equal(images(draw(client, prompt=prompt))[0], np.asarray(expected))
    missing = draw(client, prompt="<lora:nothing:1>")
    assert (missing.status, "nothing" in missing.json["detail"]) == (422, True)
    assert str(ADAPTERS) not in missing.body.decode()


def test_fields_that_every_client_sends_change_nothing(client: Client) -> None:
    sent: dict[str, Any] = {
        "eta": 1.0,
        "denoising_strength": 0.7,
        "s_churn": 0,
        "s_tmax": 0,
        "s_tmin": 0,
        "s_noise": 1,
        "subseed": -1,
    }
    sent |= {"hr_scale": 2, "hr_upscaler": "Latent", "enable_hr": False, "firstphase_width": 0, "styles": []}
    plain = images(draw(client, sampler_name="Euler"))
    assert np.array_equal(images(draw(client, sampler_name="Euler", **sent)), plain)
    assert not np.array_equal(images(draw(client, sampler_name="Euler a")), plain)


def test_hires_and_variations(client: Client, miniature: Any) -> None:
    answer = draw(
        client, enable_hr=True, hr_second_pass_steps=4, denoising_strength=0.6, subseed=3, subseed_strength=0.2
    )
    same: dict[str, Any] = {"width": 64, "height": 64, "steps": 3, "seed": 7, "variation_seed": 3}
    same |= {"variation_strength": 0.2, "hires": {"scale": 2, "steps": 4, "strength": 0.6}, "prompt_syntax": "a1111"}
    expected = np.asarray(miniature(PROMPT, progress=False, **same).images[0])
    assert expected.shape == (128, 128, 3)
    assert np.array_equal(images(answer)[0], expected)
    assert (info(answer)["width"], info(answer)["subseed"], info(answer)["subseed_strength"]) == (128, 3, 0.2)
    # a size that only the model's own makes too large is refused by its plan
    large = client.post("/sdapi/v1/txt2img", {"prompt": "a", "enable_hr": True, "hr_scale": 4, "steps": 3})
    assert (large.status, "pixels" in large.json["detail"]) == (422, True)


def test_image_to_image(client: Client, miniature: Any) -> None:
    expected = miniature(PROMPT, image=source(), strength=0.6, steps=3, seed=7, prompt_syntax="a1111", progress=False)
    for form in (in_base64(source()), "data:image/png;base64," + in_base64(source().convert("RGBA"))):
        got = images(edit(client, denoising_strength=0.6, init_images=[form]))
        assert np.array_equal(got[0], np.asarray(expected.images[0]))
    wide = in_base64(source(96, 72))
    assert images(edit(client, init_images=[wide], width=None, height=None))[0].shape == (72, 96, 3)
    shapes = [images(edit(client, init_images=[wide], resize_mode=mode))[0].shape for mode in range(4)]
    assert shapes == [(64, 64, 3)] * 4
    several = images(edit(client, init_images=[in_base64(source()), wide], batch_size=2))
    assert len(several) == 2 and not np.array_equal(*several)
    assert edit(client, init_images=[wide] * 2).status == 422


def changed(got: np.ndarray, image: Image.Image) -> np.ndarray:
    return (got != np.asarray(image)).any(-1)


@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("fill", [0, 1])
def test_a_mask_without_blur_keeps_the_rest(only_masked: bool, fill: int, client: Client) -> None:
    more = {"mask_blur": 0, "inpaint_full_res": only_masked, "inpainting_fill": fill, "inpaint_full_res_padding": 8}
    got = images(edit(client, mask=in_base64(square()), **more))[0]
    inside = np.asarray(square()) > 0
    assert not changed(got, source())[~inside].any()
    assert changed(got, source())[inside].mean() > 0.9
    other = images(edit(client, mask=in_base64(square()), inpainting_mask_invert=1, **more))[0]
    assert not changed(other, source())[inside].any()
    assert changed(other, source())[~inside].mean() > 0.9


def test_a_blurred_mask_reaches_no_further_than_automatic1111s(client: Client) -> None:
    ys, xs = np.nonzero(changed(images(edit(client, mask=in_base64(square()), mask_blur=4))[0], source()))
    assert 14 <= min(xs.min(), ys.min()) < 24 and 39 < max(xs.max(), ys.max()) <= 49  # 24 to 39, and 10 more
    alpha = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    alpha.paste((0, 0, 0, 255), mask=square())
    for mask in (alpha, square(32, 32).resize((128, 128), 0), square().point(lambda value: value // 2 + 10)):
        assert edit(client, mask=in_base64(mask)).status == 200  # transparency, another size, grey
    sized = edit(client, mask=in_base64(square(96, 64)), init_images=[in_base64(source(96, 64))], resize_mode=1)
    assert images(sized)[0].shape == (64, 96, 3)  # pasted back into the image, which keeps its size
    sized = edit(client, mask=in_base64(square()), init_images=[in_base64(source(96, 64))], inpaint_full_res=False)
    assert images(sized)[0].shape == (64, 64, 3)


def test_what_is_left_out_of_answers(client: Client) -> None:
    answer = edit(client, send_images=False, mask=in_base64(square()), alwayson_scripts={"x": {"args": []}})
    assert (answer.json["images"], answer.status) == ([], 200)
    assert not {"init_images", "mask", "alwayson_scripts"} & answer.json["parameters"].keys()
    assert isinstance(answer.json["info"], str)


def test_errors_are_those_that_clients_compare(client: Client) -> None:
    texts: list[tuple[Answer, int, str | None]] = [
        (client.get("/sdapi/v1/nothing"), 404, "Not Found"),
        (client.get("/sdapi/v1/txt2img"), 405, "Method Not Allowed"),
        (client.get("/sdapi/v1/interrupt"), 405, "Method Not Allowed"),
        (client.post("/sdapi/v1/extra-single-image", {}), 404, "Not Found"),
        (draw(client, sampler_name="nix"), 404, "Sampler not found"),
        (client.post("/sdapi/v1/img2img", {}), 404, "Init image not found"),
        (draw(client, width=63, height=1), 422, None),
        (draw(client, steps="x"), 422, "steps is 'x'; expected a number"),
        (draw(client, n_iter=0), 422, "n_iter is 0; expected a whole number of at least 1"),
        (
            draw(client, n_iter=9),
            422,
            "batch_size is 1 in 9 batches; this service generates at most 8 images in a job, ask again for more",
        ),
        (
            edit(client, steps=1),
            422,
            "denoising_strength 0.75 of 1 steps leaves none; raise one of them (strength 0 gives the image back)",
        ),
        (client.post("/sdapi/v1/txt2img", b"{", content_type="application/json"), 422, None),
        (client.post("/sdapi/v1/txt2img", b"x" * 2**21, content_type="application/json"), 413, None),
        (client.get("/sdapi/v1/options", host="evil.example"), 421, None),
    ]
    for answer, status, text in texts:
        assert answer.status == status, answer.body
        assert answer.json.keys() == {"error", "detail", "body", "errors"}
        assert text in (None, answer.json["detail"])
    assert client.get("/system_stats").status == 404  # ComfyUI's mark


def test_a_body_without_a_type_is_json(client: Client) -> None:
    """As scripts send it with `requests.post(url, data=json.dumps(...))`."""
    body = json.dumps({"prompt": PROMPT, "steps": 1, "width": 64, "height": 64}).encode()
    assert client.post("/sdapi/v1/txt2img", body).status == 200
    assert client.post("/sdapi/v1/options", b"{}").status == 200
    assert client.post("/sdapi/v1/txt2img", body, content_type="text/plain").status == 415
    assert client.post("/sdapi/v1/txt2img", body, origin="https://evil.example").status == 403


def assert_memory(client: Client) -> None:
    """What files have in the cache is free. Other programs take and give memory meanwhile."""
    cpu = torch.device("cpu")
    before, ram, after = available(cpu), client.get("/sdapi/v1/memory").json["ram"], available(cpu)
    assert ram["total"] == ram["free"] + ram["used"] > ram["free"] > 0
    if before < ram["total"]:
        assert min(before, after) - ram["total"] / 20 < ram["free"] < max(before, after) + ram["total"] / 20


def test_lists(client: Client) -> None:
    asked = {name: client.get(f"/sdapi/v1/{name}").json for name in LISTS}
    assert {"Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC", "LCM"} <= {each["name"] for each in asked["samplers"]}
    schedulers = {each["name"]: each["label"] for each in asked["schedulers"]}
    assert schedulers["automatic"] == "Automatic" and schedulers["sgm_uniform"] == "SGM Uniform"
    for each in asked["samplers"]:
        assert draw(client, steps=1, sampler_name=each["name"], send_images=False).status == 200
    for name, label in schedulers.items():
        assert (
            client.post("/sdapi/v1/txt2img", {"scheduler": name, "steps": -1}).status == 422
        )  # the steps, not the name
        assert client.post("/sdapi/v1/txt2img", {"scheduler": label, "steps": -1}).status == 422
    assert [each["title"] for each in asked["sd-models"]] == ["miniature", "miniature-refiner"]
    assert "heart" in {each["name"] for each in asked["loras"]}
    assert asked["embeddings"]["skipped"] == {}
    assert [each["name"] for each in asked["upscalers"]] == ["None", "Lanczos"]
    assert {"name": "Latent (nearest-exact)"} in asked["latent-upscale-modes"]
    assert asked["scripts"] == {"txt2img": [], "img2img": []}
    assert_memory(client)
    assert asked["cmd-flags"] == {}
    assert str(ADAPTERS) not in json.dumps(asked)
    for name in ("sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info"):
        assert client.get(f"/sdapi/v1/{name}").json == []
    for name in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "unload-checkpoint", "reload-checkpoint"):
        assert client.post(f"/sdapi/v1/{name}").json == {}


LISTS = (
    *("samplers", "schedulers", "sd-models", "loras", "embeddings", "upscalers", "latent-upscale-modes", "scripts"),
    *("memory", "cmd-flags"),
)


def test_options(client: Client, running: Running) -> None:
    before = client.get("/sdapi/v1/options").json
    assert (before["sd_model_checkpoint"], before["samples_format"]) == ("miniature", "png")
    assert "forge_preset" not in before
    assert client.post("/sdapi/v1/options", before | {"inpainting_mask_weight": 1}).json is None  # all of it again
    assert client.post("/sdapi/v1/options", {"sd_model_checkpoint": "nothing"}).status == 404
    assert client.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 99}).status == 422
    assert client.get("/sdapi/v1/options").json == before
    plain = images(draw(client))
    client.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 3})
    skipped = draw(client)
    assert (info(skipped)["clip_skip"], np.array_equal(images(skipped), plain)) == (3, False)
    client.post("/sdapi/v1/options", before)
    assert np.array_equal(images(draw(client)), plain)
    client.post("/sdapi/v1/options", {"sd_model_checkpoint": "miniature-refiner"})
    assert running.service.engine.loaded == ["miniature-refiner"]
    assert client.get("/sdapi/v1/options").json["sd_model_checkpoint"] == "miniature-refiner"
    other = draw(client, override_settings={"sd_model_checkpoint": "miniature"})
    assert info(other)["sd_model_name"] == "miniature"
    assert client.get("/sdapi/v1/options").json["sd_model_checkpoint"] == "miniature-refiner"
    client.post("/sdapi/v1/options", {"sd_model_checkpoint": "miniature"})


def test_png_info(client: Client) -> None:
    image = draw(client, sampler_name="DPM++ 2M").json["images"][0]
    found = client.post("/sdapi/v1/png-info", {"image": "data:image/png;base64," + image}).json
    assert found["info"].startswith(PROMPT + "\nSteps: 3, Sampler: DPM++ 2M, Schedule type: Karras")
    fields = found["parameters"]
    assert (fields["Prompt"], fields["Steps"], fields["Seed"], fields["Size-1"]) == (PROMPT, "3", "7", "64")
    nothing = client.post("/sdapi/v1/png-info", {"image": in_base64(source())})
    assert nothing.json == {"info": "", "items": {}, "parameters": {}}
    assert client.post("/sdapi/v1/png-info", {}).status == 422


# ---- what happens during a job: with steps that wait


@pytest.fixture
def slow() -> Iterator[tuple[Running, threading.Semaphore]]:
    gate = threading.Semaphore(0)
    with serving([ModelRequest("one")], loader(FakePipe(go=lambda: gate.acquire(timeout=20)))) as running:
        yield running, gate
        gate.release(100)


def started(client: Client, **body: Any) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/txt2img", body)))
    thread.start()
    return thread, answers


def test_progress_interrupt_and_skip(slow: tuple[Running, threading.Semaphore]) -> None:
    running, gate = slow
    client, engine = running.client, running.service.engine
    idle = client.get("/sdapi/v1/progress").json
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
    assert client.post("/sdapi/v1/interrupt").json == client.post("/sdapi/v1/skip", b"").json == {}
    thread, answers = started(client, steps=4, n_iter=3, force_task_id="task(x)")
    until(lambda: engine.running)
    other = client.job(prompt="not of this skin", steps=1)
    second, later = started(client, steps=1, force_task_id="task(y)")
    until(lambda: len(engine.waiting) == 2)
    gate.release(2)
    until(lambda: engine.running[0].state.step == 2)
    state = client.get("/sdapi/v1/progress?skip_current_image=true").json
    assert state.keys() == idle.keys() and state["state"].keys() == idle["state"].keys()
    assert (state["progress"], state["state"]["sampling_step"], state["state"]["job_count"]) == (0.1667, 2, 3)
    task = client.post("/internal/progress", {"id_task": "task(x)", "live_preview": False}).json
    assert (task["active"], task["queued"], task["completed"], task["progress"]) == (True, False, False, 0.1667)
    waiting = client.post("/internal/progress", {"id_task": "task(y)"}).json
    assert (waiting["active"], waiting["queued"], waiting["textinfo"]) == (False, True, "In queue: 2")
    client.post("/sdapi/v1/skip")
    assert client.get("/sdapi/v1/progress").json["state"]["skipped"]
    gate.release(1)
    until(lambda: engine.running[0].state.batch == 1)
    client.post("/sdapi/v1/interrupt")
    assert client.get("/sdapi/v1/progress").json["state"]["interrupted"]
    gate.release(1)
    thread.join(20)
    got = answers[0].json
    assert (answers[0].status, len(got["images"])) == (200, 1)  # the guess of the second batch
    assert json.loads(got["info"])["all_seeds"] == [json.loads(got["info"])["seed"]]
    gate.release(2)
    second.join(20)
    assert (later[0].status, len(later[0].json["images"])) == (200, 1)  # what waited is not interrupted
    assert client.done(other["id"])["status"] == "done"
    assert client.post("/internal/progress", {"id_task": "task(y)"}).json["completed"]
    assert not client.post("/internal/progress", {"id_task": "task(z)"}).json["completed"]
    assert client.post("/internal/progress", {}).status == 422
    assert client.get("/internal/ping").json == {}
    assert client.get("/sdapi/v1/progress").json["state"]["job_count"] == 0


def test_two_clients_that_switch_to_one_model() -> None:
    """Both are answered when it is loaded, and both are told when that fails."""
    loading, fails = threading.Semaphore(0), [True, False]

    def load(request: ModelRequest) -> Any:
        if request.model == "two":
            assert loading.acquire(timeout=20)
            if fails.pop(0):
                raise CheckpointError("two is damaged; download it again")
        return FakePipe(str(request.model))

    with serving([ModelRequest("one"), ModelRequest("two")], load) as running:
        path, body = "/sdapi/v1/options", {"sd_model_checkpoint": "two"}
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(running.client.post, path, body)
            until(lambda: running.service.switching)
            job = running.service.switching
            second = threads.submit(running.client.post, path, body)
            assert job is not None
            until(lambda: len(job._watchers) == 2)
            assert not first.done() and not second.done()
            loading.release(2)
            assert (first.result(20).status, second.result(20).status) == (422, 200)
        assert running.service.engine.loaded == ["two"]


def test_a_job_that_is_cancelled_before_its_first_image(slow: tuple[Running, threading.Semaphore]) -> None:
    running, gate = slow
    thread, answers = started(running.client, steps=3, seed=5)
    until(lambda: running.service.engine.running)
    running.service.engine.cancel(running.service.engine.running[0].id)
    gate.release(1)
    thread.join(20)
    assert (answers[0].json["images"], json.loads(answers[0].json["info"])["seed"]) == ([], 5)


def test_login_and_a_full_queue() -> None:
    gate = threading.Semaphore(0)
    pipe = FakePipe(go=lambda: gate.acquire(timeout=20))
    with serving([ModelRequest("one")], loader(pipe), queue=1, auth="me:pass") as running:
        refused = running.client.get("/sdapi/v1/options", authorization="")
        assert (refused.status, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        assert "detail" in refused.json
        client = Client(running.client.port, {"authorization": "Basic bWU6cGFzcw=="})
        threads = [started(client, steps=1)]
        until(lambda: running.service.engine.running)
        threads.append(started(client, steps=1))
        until(lambda: running.service.engine.waiting)
        full = client.post("/sdapi/v1/txt2img", {"steps": 1})
        assert (full.status, int(full.headers["retry-after"]) > 0, "full" in full.json["detail"]) == (429, True, True)
        gate.release(10)
        for thread, _ in threads:
            thread.join(20)
        assert all(answers[0].status == 200 for _, answers in threads)
