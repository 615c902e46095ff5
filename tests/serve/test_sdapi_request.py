"""The fields of AUTOMATIC1111's requests as those of ours; no model is needed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image
from serving import in_base64

from sdxl.errors import SDXLError
from sdxl.pipeline import ModelRequest
from sdxl.serve.catalog import make_catalog
from sdxl.serve.problems import problem_of
from sdxl.serve.sdapi.request import Asked, read_request
from sdxl.serve.service import Service, make_service
from sdxl.serve.settings import Settings

SERVICE: Service = make_service(
    Settings(max_steps=40), make_catalog([ModelRequest("one"), ModelRequest("two.safetensors")])
)


def asked(has_image: bool = False, clip_skip: int = 1, **body: Any) -> Asked:
    return asyncio.run(read_request(SERVICE, {"seed": 1, **body}, has_image, clip_skip))


def arguments(**body: Any) -> dict[str, Any]:
    return {name: value for name, value in asked(**body).work.batches[0].items() if value is not None}


PLAIN = arguments()
# A body, and what it changes in the arguments
FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"width": None, "steps": None, "foo": 1, "cfg_scale": None, "override_settings": None, "styles": None}, {}),
    ({"prompt": "a", "negative_prompt": " "}, {"prompt": "a", "negative_prompt": " "}),
    ({"negative_prompt": ""}, {}),
    ({"width": 1023, "height": 512.0, "steps": "12"}, {"width": 1016, "height": 512, "steps": 12}),
    ({"cfg_scale": 4.5, "batch_size": 3}, {"guidance_scale": 4.5, "num_images": 3}),
    ({"seed": 7}, {"seed": 7}),
    ({"sampler_name": "Euler"}, {"sampler": "euler", "schedule": "linspace"}),
    ({"sampler_name": "euler"}, {"sampler": "euler", "schedule": "linspace"}),
    ({"sampler_name": "k_euler_a"}, {"sampler": "euler_ancestral", "schedule": "linspace"}),
    ({"sampler_name": "DPM++ 2M"}, {"sampler": "dpmpp_2m", "schedule": "karras"}),
    ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, {"sampler": "dpmpp_2m", "schedule": "karras"}),
    ({"sampler_name": "dpm++ 2m", "scheduler": "SGM Uniform"}, {"sampler": "dpmpp_2m", "schedule": "sgm_uniform"}),
    ({"sampler_name": "DPM++ 2M Karras", "scheduler": "beta"}, {"sampler": "dpmpp_2m", "schedule": "beta"}),
    ({"sampler_index": "DPM++ SDE Karras"}, {"sampler": "dpmpp_sde", "schedule": "karras"}),
    ({"sampler_index": "Heun", "sampler_name": "LMS"}, {"sampler": "lms", "schedule": "linspace"}),
    ({"scheduler": "automatic"}, {}),
    ({"scheduler": "Karras"}, {"schedule": "karras"}),
    (
        {"sampler_name": "Euler", "eta": 1.0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1},
        {"sampler": "euler", "schedule": "linspace"},
    ),
    ({"sampler_name": "Euler a", "eta": 0.5}, {"sampler": "euler_ancestral", "schedule": "linspace", "eta": 0.5}),
    ({"sampler_name": "DDIM", "eta": 1}, {"sampler": "ddim", "schedule": "leading", "eta": 1}),
    ({"sampler_name": "UniPC", "eta": 1, "s_churn": 3}, {"sampler": "uni_pc", "schedule": "linspace"}),
    (
        {"sampler_name": "Heun", "s_churn": 2, "s_tmax": 0, "s_noise": 1.01},
        {"sampler": "heun", "schedule": "linspace", "sampler_options": {"s_churn": 2, "s_noise": 1.01}},
    ),
    (
        {"sampler_name": "Euler a", "s_noise": 1.1},
        {"sampler": "euler_ancestral", "schedule": "linspace", "sampler_options": {"s_noise": 1.1}},
    ),
    ({"denoising_strength": 0.7, "hr_scale": 2, "hr_upscaler": "Latent", "enable_hr": False}, {}),
    ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, {}),
    ({"override_settings": {"CLIP_stop_at_last_layers": 3}}, {"clip_skip": 1}),
    ({"clip_skip": 4}, {"clip_skip": 2}),  # the option, not a field
    ({"subseed": 9, "subseed_strength": 0}, {}),
    ({"subseed": 9, "subseed_strength": 0.2}, {"variation_seed": 9, "variation_strength": 0.2}),
    ({"refiner_checkpoint": "None", "refiner_switch_at": 0.8}, {}),
    ({"alwayson_scripts": {"ADetailer": {"args": [False]}, "x": {"args": []}, "Y": {"args": [False, 3]}}}, {}),
    ({"alwayson_scripts": {"controlnet": {"args": [{"enabled": False, "image": "x"}]}}}, {}),
    ({"script_name": "", "script_args": [1]}, {}),
    ({"tiling": False, "restore_faces": None, "infotext": "", "comments": {"a": 1}, "image_cfg_scale": 1.5}, {}),
]


@pytest.mark.parametrize(("body", "changes"), FIELDS, ids=[str(list(body)) for body, _ in FIELDS])
def test_fields(body: dict[str, Any], changes: dict[str, Any]) -> None:
    assert arguments(**body) == PLAIN | changes


def test_what_is_missing_is_the_models_own() -> None:
    assert PLAIN == {"prompt": "", "prompt_syntax": "a1111", "seed": 1, "num_images": 1}


def test_hires() -> None:
    body = {"enable_hr": True, "width": 512, "height": 256, "sampler_name": "Euler", "prompt": "a"}
    plain = {"scale": 2.0, "upscaler": "latent", "strength": 0.75}
    assert arguments(**body)["hires"] == plain
    more = {"hr_scale": 1.5, "hr_upscaler": "Lanczos", "hr_second_pass_steps": 7, "denoising_strength": 0.5}
    names = {"hr_sampler_name": "DPM++ 2M", "hr_scheduler": "Beta", "hr_prompt": "b", "hr_negative_prompt": "c"}
    assert arguments(**body, **more, **names)["hires"] == {
        **{"scale": 1.5, "upscaler": "lanczos", "steps": 7, "strength": 0.5},
        **{"sampler": "dpmpp_2m", "schedule": "beta", "prompt": "b", "negative_prompt": "c"},
    }
    assert arguments(**body, hr_upscaler="None")["hires"] == plain | {"upscaler": "lanczos"}, "which is in the list"
    sized = {"upscaler": "latent", "strength": 0.75}
    assert arguments(**body, hr_resize_x=1024, hr_resize_y=1024)["hires"] == sized | {"size": [1024, 1024]}
    assert arguments(**body, hr_resize_x=1024)["hires"] == sized | {"size": [512, 1024]}
    assert arguments(**body, hr_resize_y=512)["hires"] == sized | {"size": [512, 1024]}


def test_batches_take_the_next_seeds() -> None:
    work = asked(seed=5, n_iter=3, batch_size=2).work
    assert [each["seed"] for each in work.batches] == [5, 7, 9]
    varied = asked(seed=5, subseed=20, subseed_strength=0.1, n_iter=2, batch_size=2).work.batches
    assert [(each["seed"], each["variation_seed"]) for each in varied] == [(5, 20), (5, 22)]
    drawn = asked(seed=-1, subseed=-1, subseed_strength=0.1, n_iter=2).work.batches
    assert drawn[0]["seed"] == drawn[1]["seed"] and drawn[0]["variation_seed"] + 1 == drawn[1]["variation_seed"]
    assert asked(seed=None).work.batches[0]["seed"] != asked(seed=-1).work.batches[0]["seed"]


@pytest.mark.parametrize("name", ["two.safetensors", "two", "two.safetensors [0123456789]", "sub/two.safetensors"])
def test_models_by_any_of_their_names(name: str) -> None:
    work = asked(override_settings={"sd_model_checkpoint": name}, force_task_id="task(me)").work
    assert (work.model, work.session, work.origin) == ("two.safetensors", "task(me)", "sdapi")


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"sampler_name": "Foo"}, 404, "Sampler not found"),
    ({"sampler_name": "PLMS"}, 404, "Sampler not found"),
    ({"scheduler": "Foo"}, 404, "Scheduler not found"),
    ({"override_settings": {"sd_model_checkpoint": "three"}}, 404, "model is 'three'"),
    ({"steps": "many"}, 400, "steps is 'many'; expected a number"),
    ({"steps": 2.5}, 400, "steps is 2.5; expected a whole number"),
    ({"steps": True}, 400, "steps is True"),
    ({"steps": 41}, 400, "at most 40"),
    ({"prompt": ["a"]}, 400, "expected a text"),
    ({"width": 0}, 400, "width is 0"),
    ({"width": 10**5, "height": 10**5}, 400, "pixels"),
    ({"cfg_scale": -1}, 400, "guidance_scale"),
    ({"cfg_scale": 10**400}, 400, "cfg_scale"),
    ({"batch_size": 10, "n_iter": 10}, 400, "16 images"),
    ({"n_iter": 0}, 400, "batches"),
    ({"prompt": "x" * 40_000}, 400, "40000 characters"),
    ({"enable_hr": True, "hr_prompt": "x" * 40_000}, 400, "40000 characters"),
    ({"enable_hr": True, "width": 1024, "height": 1024, "hr_scale": 4}, 400, "pixels"),
    ({"enable_hr": True, "hr_second_pass_steps": 50}, 400, "at most 40"),
    ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, 400, "upscaler"),
    ({"enable_hr": True, "hr_checkpoint_name": "x"}, 422, "hr_checkpoint_name"),
    ({"tiling": True}, 422, "tiling"),
    ({"restore_faces": True}, 422, "restore_faces"),
    ({"infotext": "Steps: 3"}, 422, "infotext"),
    ({"subseed_strength": 0.5, "seed_resize_from_w": 512}, 422, "seed_resize_from_w"),
    ({"refiner_checkpoint": "x", "refiner_switch_at": 0.8}, 422, "refiner"),
    ({"script_name": "X/Y/Z plot"}, 422, "Script 'X/Y/Z plot' not found"),
    ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, 422, "always on script ADetailer not found"),
    ({"alwayson_scripts": {"Roop": {"args": ["image", True]}}}, 422, "always on script Roop not found"),
    ({"alwayson_scripts": {"ControlNet": {"args": [{"model": "x"}]}}}, 422, "always on script ControlNet not found"),
    ({"alwayson_scripts": []}, 400, "expected an object"),
    ({"force_task_id": "x" * 300}, 400, "force_task_id"),
]


@pytest.mark.parametrize(("body", "status", "text"), WRONG, ids=[str(list(body)) for body, *_ in WRONG])
def test_what_is_refused(body: dict[str, Any], status: int, text: str) -> None:
    with pytest.raises(SDXLError) as caught:
        asked(**body)
    problem = problem_of(caught.value)
    assert (problem.status, text in problem.message) == (status, True), problem


def test_images() -> None:
    image, mask = in_base64(Image.new("RGB", (64, 48))), in_base64(Image.new("L", (64, 48), 255))
    plain = arguments(has_image=True, init_images=[image])
    assert (plain["strength"], len(plain["image"]), "mask" in plain) == (0.75, 1, False)
    several = arguments(has_image=True, prompt="a", init_images=[image, f"data:image/png;base64,{image}"], batch_size=4)
    assert (several["prompt"], several["num_images"], len(several["image"])) == (["a", "a"], 1, 2)
    masked = arguments(has_image=True, init_images=[image], mask=mask, denoising_strength=0.5)
    assert (masked["strength"], masked["mask_padding"], masked["feather"]) == (0.5, 0, 20)
    whole = {"inpaint_full_res": 0, "inpaint_full_res_padding": 9, "mask_blur": 0}
    masked = arguments(has_image=True, init_images=[image], mask=mask, **whole)
    assert not {"mask_padding", "feather"} & masked.keys()
    noted = asked(has_image=True, init_images=[image], mask=mask, inpainting_fill=2, styles=["a"], save_images=True)
    assert [each.split()[0] for each in noted.warnings] == ["inpainting_fill", "styles", "save_images"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 404, "Init image not found"),
        ({"init_images": []}, 404, "Init image not found"),
        ({"init_images": [""]}, 404, "Init image not found"),
        ({"init_images": ["http://169.254.169.254/"]}, 400, "opens none"),
        ({"init_images": ["!!"]}, 400, "base64"),
        ({"init_images": [3]}, 400, "init_images"),
        ({"init_images": "x"}, 400, "expected a list"),
        ({"init_images": ["AAAA"]}, 400, "known format"),
        ({"width": 10**6, "height": 10**6, "resize_mode": 1}, 400, "pixels"),
        ({"width": -8, "height": 64, "resize_mode": 2}, 400, "width is -8"),
        ({"resize_mode": 7}, 400, "resize_mode"),
        ({"mask": "http://x/"}, 400, "opens none"),
        ({"mask": 1, "mask_blur": 1000}, 400, "mask_blur"),
        ({"mask": 1, "inpainting_fill": 4}, 400, "inpainting_fill"),
    ],
)
def test_images_that_are_refused(body: dict[str, Any], status: int, text: str) -> None:
    image = in_base64(Image.new("L", (64, 48), 255))
    given = ({} if "init_images" in body or not body else {"init_images": [image]}) | body
    given |= {"mask": image} if body.get("mask") == 1 else {}
    with pytest.raises(SDXLError) as caught:
        asked(has_image=True, **given)
    problem = problem_of(caught.value)
    assert (problem.status, text in problem.message) == (status, True), problem
