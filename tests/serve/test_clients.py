"""Programs that others wrote for AUTOMATIC1111 and OpenAI, against a running service with the miniature.

They are in the extra `references`; what is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from serving import LIMITS, PROMPT, SMALL, Running, miniatures, open_miniature, png, serving, until

pytestmark = pytest.mark.slow
NAMES = ("miniature", "miniature-refiner")
LONG: dict[str, Any] = SMALL | {"steps": 40, "width": 256, "height": 256}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(miniatures(), **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def address(running: Running) -> str:
    return f"http://127.0.0.1:{running.client.port}"


@pytest.fixture(scope="module")
def miniature() -> Any:
    return open_miniature()


def source() -> Image.Image:
    return Image.new("RGB", (64, 64), "green")


def square() -> Image.Image:
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((24, 24, 39, 39), fill=255)
    return mask


def same(image: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(image.convert("RGB")), np.asarray(other))


def only_inside(image: Any) -> bool:
    """Whether the square has changed, and nothing else."""
    is_changed = (np.asarray(image.convert("RGB")) != np.asarray(source())).any(-1)
    return bool(is_changed.any()) and not is_changed[np.asarray(square()) == 0].any()


# ---- webuiapi


@pytest.fixture(scope="module")
def webui(running: Running) -> Any:
    module = pytest.importorskip("webuiapi")
    return module.WebUIApi(port=running.client.port, sampler="Euler", steps=3)


def test_webuiapi_generates_the_pipelines_images(webui: Any, miniature: Any) -> None:
    given = {"prompt": PROMPT, "width": 64, "height": 64, "seed": 7, "cfg_scale": 4}
    got = webui.txt2img(**given)  # with eta 1.0, denoising_strength 0.7 and 40 fields more
    own: dict[str, Any] = {"guidance_scale": 4, "sampler": "euler", "schedule": "linspace", "prompt_syntax": "a1111"}
    own |= {"width": 64, "height": 64, "seed": 7, "steps": 3, "progress": False}
    assert same(got.image, miniature(PROMPT, **own).images[0])
    assert (got.info["seed"], got.parameters["eta"], got.info["sampler_name"]) == (7, 1.0, "Euler")
    batch = webui.txt2img(**given, batch_size=2, n_iter=2, negative_prompt="a cat", sampler_name="DPM++ 2M Karras")
    assert [len(batch.images), batch.info["all_seeds"]] == [4, [7, 8, 9, 10]]
    enlarged = webui.txt2img(**given, enable_hr=True, hr_scale=1.5, denoising_strength=0.5, subseed_strength=0.1)
    assert enlarged.image.size == (96, 96)


def test_webuiapi_image_to_image_and_masks(webui: Any, miniature: Any) -> None:
    given = {"prompt": PROMPT, "width": 64, "height": 64, "seed": 7, "images": [source()]}
    got = webui.img2img(**given, denoising_strength=0.6)
    own: dict[str, Any] = {"sampler": "euler", "schedule": "linspace", "prompt_syntax": "a1111", "guidance_scale": 7}
    own |= {"image": source(), "strength": 0.6, "seed": 7, "steps": 3, "progress": False}
    assert same(got.image, miniature(PROMPT, **own).images[0])
    for more in ({}, {"inpaint_full_res": False}, {"inpainting_fill": 1}, {"inpaint_full_res_padding": 8}):
        assert only_inside(webui.img2img(**given, mask_image=square(), mask_blur=0, **more).image), more
    outside = webui.img2img(**given, mask_image=square(), mask_blur=0, inpainting_mask_invert=1).image
    assert not only_inside(outside)


def test_webuiapi_lists_and_options(webui: Any) -> None:
    assert webui.util_get_model_names() == sorted(NAMES)
    assert {"Euler", "Euler a", "DPM++ 2M"} <= set(webui.util_get_sampler_names())
    assert {"automatic", "karras"} <= set(webui.util_get_scheduler_names())
    lists = ("sd_vae", "upscalers", "latent_upscale_modes", "loras", "hypernetworks", "face_restorers", "prompt_styles")
    for name in (*lists, "realesrgan_models"):
        assert isinstance(getattr(webui, f"get_{name}")(), list)
    for name in ("cmd_flags", "embeddings", "memory", "scripts", "options"):
        assert isinstance(getattr(webui, f"get_{name}")(), dict)
    webui.refresh_checkpoints()
    assert not (webui.has_controlnet or webui.has_adetailer)
    webui.util_set_model("miniature-refiner")
    assert webui.util_get_current_model() == "miniature-refiner"
    webui.set_options(webui.get_options() | {"sd_model_checkpoint": "miniature"})
    assert webui.util_get_current_model() == "miniature"
    info = webui.png_info(webui.txt2img(**SMALL).image)
    assert info.info.startswith(PROMPT) and info.parameters["Seed"] == "7"


def test_webuiapi_progress_and_interrupt(webui: Any) -> None:
    webui.util_wait_for_ready(0.01)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(webui.txt2img(**LONG, n_iter=4)))
    thread.start()
    until(lambda: webui.get_progress()["state"]["sampling_step"])
    webui.skip()
    until(lambda: webui.get_progress()["state"]["job_no"] == 1)
    until(lambda: webui.get_progress()["state"]["sampling_step"])
    assert 0 < webui.get_progress()["progress"] < 1
    assert webui.interrupt() == {}
    thread.join(30)
    assert len(results[0].images) == 1  # the guess of the second batch
    webui.util_wait_for_ready(0.01)


def test_webuiapi_bad_input(webui: Any) -> None:
    for wrong, status in (({"sampler_name": "nothing"}, 404), ({"steps": 41}, 422), ({"tiling": True}, 422)):
        with pytest.raises(RuntimeError) as caught:
            webui.txt2img(**SMALL | wrong)
        assert caught.value.args[0] == status
    with pytest.raises(RuntimeError, match="Init image not found"):
        webui.img2img(images=[], width=64, height=64)


# ---- sd-backend-client


@pytest.fixture(scope="module")
def backend(address: str) -> Any:
    module = pytest.importorskip("sd_backend_client")
    found = module.connect_to_backend(address)
    assert isinstance(found, module.A1111Webservice)  # and not ComfyUI
    return found


def body(**more: Any) -> Any:
    from sd_backend_client import DiffusionRequestBody

    return DiffusionRequestBody(**{**SMALL, "cfg_scale": 4.0, **more})


def test_sd_backend_client_generates(backend: Any, miniature: Any) -> None:
    got = backend.submit_txt2img(body(sampler="dpmpp_2m", scheduler="karras", n_iter=2)).wait(timeout=30)
    own: dict[str, Any] = {"guidance_scale": 4, "sampler": "dpmpp_2m", "schedule": "karras", "prompt_syntax": "a1111"}
    own |= {"width": 64, "height": 64, "seed": 8, "steps": 3, "progress": False}
    assert (got.seeds, len(got.images), got.raw_info.sampler_name) == ([7, 8], 2, "DPM++ 2M")
    assert same(got.images[1], miniature(PROMPT, **own).images[0])


def test_sd_backend_client_edits(backend: Any) -> None:
    whole = backend.submit_img2img(body(init_images=[source()], denoising_strength=0.6)).wait(timeout=30)
    assert not same(whole.images[0], source())
    alpha = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    alpha.paste((255, 255, 255, 255), mask=square())
    for more in ({"mask": square()}, {"mask": alpha, "inpaint_full_res": True}):
        given = body(init_images=[source()], denoising_strength=1.0, mask_blur=0, **more)
        assert only_inside(backend.submit_inpaint(given).wait(timeout=30).images[0]), more


def test_sd_backend_client_cancels(backend: Any) -> None:
    handle = backend.submit_txt2img(body(**LONG, n_iter=4))
    until(lambda: (handle.poll().progress or 0) > 0.02)
    assert handle.cancel()
    until(lambda: backend.progress_check().state.job_count == 0)
    assert backend.submit_txt2img(body()).wait(timeout=30).images  # the next one is not touched


def test_sd_backend_client_lists(backend: Any) -> None:
    assert [each.name for each in backend.list_checkpoints()] == list(NAMES)
    assert {"euler", "dpmpp_2m", "ddim"} <= {each.name for each in backend.list_samplers()}
    assert {"karras", "sgm_uniform"} <= {each.name for each in backend.list_schedulers()}
    assert [each.name for each in backend.list_upscalers()] == ["Lanczos"]
    assert backend.list_vaes() == backend.list_loras() == backend.list_hypernetworks() == []
    assert backend.list_controlnet_models() == []
    able = backend.get_capabilities()
    assert (able.scheduler, able.controlnet, able.interrogate, able.soft_inpainting) == (True, False, False, False)
    backend.set_config({"sd_model_checkpoint": "miniature"})
    backend.refresh_checkpoints()
    backend.refresh_loras()


def test_sd_backend_client_bad_input(backend: Any) -> None:
    from sd_backend_client import SDBackendError

    with pytest.raises(SDBackendError, match="404"):
        backend.txt2img(body(sampler="nothing"))
    with pytest.raises(SDBackendError, match="422"):
        backend.txt2img(body(steps=41))


# ---- image-generation-mcp


def test_image_generation_mcp(address: str, monkeypatch: pytest.MonkeyPatch, miniature: Any) -> None:
    module = pytest.importorskip("image_generation_mcp.providers.sd_webui")
    from image_generation_mcp.providers.types import ImageProviderError, InputImage

    small = replace(module._SDXL_PRESET, sizes={"1:1": (64, 64)}, steps=3)
    monkeypatch.setattr(module, "_resolve_preset", lambda model: small)

    async def use() -> None:
        provider = module.SdWebuiImageProvider(address)
        able = await provider.discover_capabilities()
        assert ([model.model_id for model in able.models], able.degraded) == (list(NAMES), False)
        seen: list[float] = []
        got = await provider.generate(PROMPT, progress_callback=lambda share, message: seen.append(share))
        own: dict[str, Any] = {"sampler": "dpmpp_2m", "schedule": "karras", "prompt_syntax": "a1111", "steps": 3}
        own |= {"width": 64, "height": 64, "guidance_scale": 7.5, "progress": False}
        made = miniature(PROMPT, seed=got.provider_metadata["seed"], **own).images[0]
        assert same(Image.open(io.BytesIO(got.image_data)), made)
        assert seen and got.provider_metadata["model"] == "miniature"
        edited = await provider.generate(PROMPT, reference_images=[InputImage(png(source()))], strength=0.5)
        assert edited.provider_metadata["edited"]
        with pytest.raises(ImageProviderError, match="404"):
            await provider.generate(PROMPT, model="nothing")
        await provider.aclose()

    asyncio.run(use())


def test_image_generation_mcp_by_openais_routes(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("image_generation_mcp.providers.openai")
    from image_generation_mcp.providers.types import ImageProviderError, InputImage

    monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
    monkeypatch.setattr(module, "_GPT_IMAGE_SIZES", {"1:1": "64x64"})

    async def use() -> None:
        provider = module.OpenAIImageProvider("key", model="gpt-image-1", output_format="webp")
        for more in ({}, {"reference_images": [InputImage(png(source()))]}):
            made = Image.open(io.BytesIO((await provider.generate(PROMPT, quality="low", **more)).image_data))
            assert (made.format, made.size) == ("WEBP", (64, 64))
        with pytest.raises(ImageProviderError, match="transparent"):
            await provider.generate(PROMPT, background="transparent")

    asyncio.run(use())
