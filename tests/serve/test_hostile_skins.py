"""Values of any kind in every field of the skins: a refusal or an answer, never an unexpected error."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from fake import FakePipe, loader
from PIL import Image
from serving import Client, in_base64, serving

from sdxl.pipeline import ModelRequest

IMAGE = in_base64(Image.new("RGBA", (16, 16), (1, 2, 3, 0)))
# as JSON, with numbers that Python's own encoder does not write
VALUES = [
    *(
        "null",
        '""',
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        '{"a": 1}',
        "-1",
        "0",
        "1",
        "2.5",
        "1e308",
        "-1e308",
        "1e999",
        "-1e999",
    ),
    *("1" + "0" * 30, "true", "false", '"x"', f'"{"x" * 50_000}"', '"\\ud800"', '"1e999"', '"nan"', '"99999999999"'),
    *("[null]", '["x"]', "[1]", '{"args": 5}', '{"controlnet": {"args": [[[]]]}}', '{"args": [true]}'),
    *('{"sd_model_checkpoint": [1]}', '{"CLIP_stop_at_last_layers": "x"}', '"http://169.254.169.254/"', '"//8="'),
]
TEXTS = (
    "prompt negative_prompt sampler_name sampler_index scheduler hr_upscaler hr_prompt hr_sampler_name force_task_id"
)
NUMBERS = """width height steps cfg_scale seed subseed subseed_strength seed_resize_from_w batch_size n_iter eta s_churn
s_tmax s_noise denoising_strength hr_scale hr_resize_x hr_second_pass_steps resize_mode mask_blur mask_blur_x
inpainting_fill inpaint_full_res_padding refiner_switch_at n output_compression partial_images guidance_scale
strength"""
OTHERS = """enable_hr inpainting_mask_invert mask_round inpaint_full_res styles override_settings script_name
alwayson_scripts send_images save_images refiner_checkpoint tiling infotext comments size quality output_format
response_format background stream model user init_images mask image id_task live_preview sd_model_checkpoint
CLIP_stop_at_last_layers sampler schedule unknown"""
NAMES = f"{TEXTS} {NUMBERS} {OTHERS}".split()
PATHS: dict[str, dict[str, Any]] = {
    "/sdapi/v1/txt2img": {},
    "/sdapi/v1/img2img": {"init_images": [IMAGE], "mask": IMAGE, "width": 16, "height": 16},
    "/sdapi/v1/options": {},
    "/sdapi/v1/png-info": {"image": IMAGE},
    "/internal/progress": {"id_task": "x"},
    "/v1/images/generations": {},
    "/v1/images/edits": {"image": IMAGE},
}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving([ModelRequest("one")], loader(FakePipe()), max_steps=10) as running:
        yield running.client


@pytest.mark.parametrize("path", PATHS)
def test_any_value(path: str, client: Client) -> None:
    cases = [(name, value) for name in NAMES for value in VALUES]
    for name, value in random.Random(path).sample(cases, 80) + [("unknown", value) for value in VALUES]:
        stated = {"prompt": "a", "steps": 1} | PATHS[path]
        stated.pop(name, None)
        body = f'{json.dumps(stated)[:-1]}, "{name}": {value}}}'.encode()
        answer = client.post(path, body, content_type="application/json")
        assert answer.status in (200, 400, 404, 413, 422), (name, value[:50], answer.body[:300])
        assert answer.status != 400 or path.startswith("/v1/"), (name, value[:50])
        assert answer.headers["content-type"].startswith(("application/json", "text/event-stream"))
