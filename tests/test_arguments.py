"""Any combination of arguments gives an image of the requested size or a typed error, and nothing else.

`make proof-arguments` tries 5,000 of them.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

import sdxl
from sdxl.cli.main import main
from sdxl.errors import SDXLWarning
from sdxl.images.record import read_parameters
from sdxl.images.upscalers import UPSCALERS
from sdxl.jobs.job import read_job
from sdxl.pipeline.profiles import PROFILES
from sdxl.sampling.samplers import SAMPLERS
from sdxl.sampling.schedules import SCHEDULES
from sdxl.text.grammars import EMPHASES, LONG_PROMPTS, SYNTAXES

EXAMPLES = int(os.environ.get("SDXL_EXAMPLES", "200"))
settings.register_profile(
    "sdxl",
    max_examples=EXAMPLES,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
settings.load_profile("sdxl")

# ---- arguments -------------------------------------------------------------------------------------------------------

words = ["a red cat", "", "!", "wörter 猫 🐈", "a " * 100, "\0", "<|endoftext|>", "(red:1.3) [cat:dog:0.5] AND a"]
texts = st.sampled_from([*words * 4, "\ud800"])
sides = st.one_of(*[st.sampled_from([8, 16, 40, 64, 64, 64, 128, 256])] * 5, st.integers(1, 256))
sizes = st.tuples(sides, sides)
nonsense = st.sampled_from(
    [
        None,
        0,
        -1,
        1,
        2.5,
        math.nan,
        math.inf,
        10**12,
        10**400,
        (10**400, 1),
        [10**39, 10**39],
        1e38,
        np.int64(3),
        np.float32(0.5),
        np.zeros((4, 4, 3)),
        Image.new("RGB", (0, 10)),
        Image.new("RGBA", (64, 64)).convert("RGBa"),
        torch.zeros(0, 4, 8, 8),
        True,
        "x",
        "",
        b"x",
        [],
        [1],
        (0, 0),
        {},
        {"a": 1},
        object(),
    ]
)


def random_image(size: tuple[int, int], mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


images = st.builds(random_image, sizes, st.sampled_from(["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"]))
latents = st.sampled_from(
    [torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 4, 16), torch.zeros(4, 8, 8), torch.full((1, 4, 8, 8), math.nan)]
)
tensors = st.one_of(
    latents, st.sampled_from([torch.rand(1, 3, 64, 64), torch.rand(2, 3, 40, 64), torch.ones(1, 3, 8, 8) * 2])
)
masks = st.one_of(
    st.builds(lambda size, grey: Image.new("L", size, grey), sizes, st.sampled_from([0, 128, 255])),
    st.just(torch.ones(1, 1, 64, 64)),
)

VALID: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.one_of(texts, st.lists(texts, min_size=1, max_size=2), texts),
    "negative_prompt": texts,
    "prompt_2": texts,
    "negative_prompt_2": texts,
    "prompt_syntax": st.sampled_from(SYNTAXES),
    "emphasis": st.sampled_from(EMPHASES),
    "long_prompt": st.sampled_from(LONG_PROMPTS),
    "loras": st.just([]),
    "compat": st.sampled_from([*PROFILES, "comfyui,grey=timesteps,step_noise=cpu", "comfyui,hole=grey,grow_mask=3"]),
    "control": st.sampled_from([[], [{"net": "/nowhere.safetensors", "image": "/nowhere.png"}], {"net": "a/b"}]),
    "reference": st.sampled_from([[], [{"adapter": "/nowhere.safetensors", "image": "/nowhere.png"}], {"image": "a"}]),
    "width": sides,
    "height": sides,
    "steps": st.sampled_from([*[2, 1, 3] * 6, 0]),
    "preset": st.sampled_from(["none", "turbo", "lightning_1", "hyper_unet_1", "lcm", "zero_snr", "v_prediction"]),
    "guidance_scale": st.sampled_from([0, 1, 1.5, 5.0, 30, 1000, [5.0, 1.0]]),
    "guider": st.sampled_from(["apg", "pag,scale=2", {"name": "apg", "eta": 0.5}, "pag,layers=up.9"]),
    "guidance_rescale": st.floats(0, 1),
    "guidance_interval": st.tuples(st.floats(0, 20), st.floats(0, 20)),
    "sampler": st.sampled_from([*SAMPLERS]),
    "schedule": st.sampled_from(list(SCHEDULES)),
    "eta": st.floats(0, 1),
    "sampler_options": st.dictionaries(
        st.sampled_from(["s_churn", "s_noise", "rho", "noise"]), st.sampled_from([1, 2.5, "tree", "fresh"]), max_size=2
    ),
    "sigmas": st.lists(st.floats(0, 20), max_size=4, unique=True).map(lambda each: sorted(each, reverse=True)),
    "timesteps": st.lists(st.integers(0, 999), max_size=3, unique=True).map(lambda each: sorted(each, reverse=True)),
    "seed": st.one_of(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 9), max_size=3)),
    "variation_seed": st.one_of(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 9), max_size=3)),
    "variation_strength": st.sampled_from([0, 0.3, 1]),
    "num_images": st.integers(1, 2),
    "clip_skip": st.integers(0, 3),
    "original_size": sizes,
    "crop_top_left": sizes,
    "target_size": sizes,
    "negative_original_size": sizes,
    "negative_crop_top_left": sizes,
    "negative_target_size": sizes,
    "latents": latents,
    "image": st.one_of(images, tensors, st.lists(images, max_size=2), st.just("/nowhere.png")),
    "mask": masks,
    "strength": st.floats(0, 1),
    "mask_padding": st.integers(0, 40),
    "feather": st.integers(0, 20),
    "outpaint": st.tuples(*[st.sampled_from([8, 0, 13])] * 4),
    "hires": st.fixed_dictionaries(
        {},
        optional={
            "scale": st.floats(1, 1.6),
            "size": sizes,
            "upscaler": st.sampled_from(list(UPSCALERS)),
            "steps": st.integers(0, 3),
            "strength": st.floats(0, 1),
            "prompt": texts,
            "sampler": st.sampled_from([*SAMPLERS]),
        },
    ),
    "refine_at": st.floats(0, 1),
    "aesthetic_score": st.floats(0, 10),
    "negative_aesthetic_score": st.floats(0, 10),
}
SELDOM = ("latents", "refine_at", "eta", "sampler_options", "sigmas", "timesteps")
WITH_IMAGE = ("mask", "strength", "mask_padding", "feather", "outpaint")


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """A prompt and some other arguments, which mostly fit together; one in eight has a nonsensical one."""
    names = draw(st.lists(st.sampled_from([name for name in VALID if name not in WITH_IMAGE]), max_size=5, unique=True))
    if "image" in names:
        names += draw(st.lists(st.sampled_from(WITH_IMAGE), max_size=3, unique=True))
    if draw(st.booleans()):
        names = [name for name in names if name not in SELDOM]  # these fit few others
    chosen = {name: draw(VALID[name]) for name in {"prompt": 0, "steps": 0} | dict.fromkeys(names)}
    if draw(st.integers(0, 7)) == 0:
        chosen[draw(st.sampled_from([*VALID]))] = draw(nonsense)
    return chosen


def test_every_argument_is_tried() -> None:
    assert set(VALID) == {each.name for each in fields(sdxl.Request)}


# ---- outcomes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipes(tiny_folder: Path, refiner_folder: Path, inpainting_pipe: Any) -> list[sdxl.Pipeline]:
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
    return [
        sdxl.Pipeline.from_pretrained(tiny_folder, **options),
        sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, **options),
        sdxl.Pipeline.from_pretrained(refiner_folder, **options),
        inpainting_pipe,
    ]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    print("\n" + ", ".join(f"{count} {name}" for name, count in counted.most_common()))


def expected_size(plan: Any, number: int) -> tuple[int, int]:
    """(width, height) of an image: the requested size, else the source's, cut to whole latents without a mask."""
    request = plan.request
    if plan.second is not None:
        height, width = plan.second.size
        return (width, height)
    if not plan.pastes:
        return (request.width or plan.size[1], request.height or plan.size[0])
    return tuple(reversed(plan.canvases[number].result_size))


@given(st.data())
def test_a_picture_or_an_error(pipes: list[sdxl.Pipeline], outcomes: Counter[str], data: st.DataObject) -> None:
    pipe, chosen = pipes[data.draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))], data.draw(arguments())
    prompt = chosen.pop("prompt")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SDXLWarning)
            result = pipe(prompt, progress=False, **chosen)
            plan = pipe.plan(sdxl.Request(prompt, **chosen))
    except sdxl.SDXLError as error:
        outcomes[type(error).__name__] += 1
        event(type(error).__name__)
        return
    outcomes["generated"] += 1
    event("generated")
    prompts = 1 if isinstance(prompt, str) else len(prompt)
    assert len(result.images) == len(result.seeds) == len(result.parameters) == prompts * chosen.get("num_images", 1)
    for number, image in enumerate(result.images):
        assert image.mode == "RGB"
        assert image.size == expected_size(plan, number)
        width, height = chosen.get("width"), chosen.get("height")
        if width is not None and height is not None and not {"outpaint", "hires"} & chosen.keys():
            assert image.size == (width, height)
        json.dumps(result.parameters[number])


# ---- parameters of a PNG are data ------------------------------------------------------------------------------------

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


# ---- lines of a job are data -----------------------------------------------------------------------------------------

nonsense_of_json = st.sampled_from(
    ["~nobody/x.png", "a.png", ["a.png", "b.png"], [5], "", "x" * 300 + ".png", 2, [1, 2], 0.5]
)


@given(st.data())
def test_any_lines_of_a_job(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A line gives images or a fault, whatever JSON it is."""
    names = st.sampled_from([*VALID, "output", "other"])
    line = {"prompt": "a"} | data.draw(st.dictionaries(names, st.one_of(values, nonsense_of_json), max_size=4))
    path = tmp_path_factory.mktemp("job", numbered=True) / "job.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps({"prompt": "b"}) + "\n")
    job = read_job(path, {}, {})
    assert bool(job.faults) != any(item.line == 1 for item in job.items)
    assert sum(len(batch.files) for batch in job.batches(2, 0)) == len(job.files)


@pytest.fixture(scope="module")
def recorded(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the tiny model."""
    path = tmp_path_factory.mktemp("recorded") / "picture.png"
    flags = ["--model", str(tiny_folder), "--prompt", "a", "--steps", "1", "--device", "cpu", "--quiet"]
    assert main(["generate", *flags, "--output", str(path)]) == 0
    return path


@given(st.data())
@settings(max_examples=min(EXAMPLES, 60))
def test_any_parameters_of_a_png(recorded: Path, data: st.DataObject) -> None:
    parameters = read_parameters(recorded)
    section = parameters[data.draw(st.sampled_from(["request", "model"]))]
    known = [name for name in section if name != "model"]
    names = st.sampled_from([*known, "refiner", "unet", "offload", "int8", "variant", "latents", "image", "other"])
    section[data.draw(names)] = data.draw(values)
    changed = recorded.with_name("changed.png")
    with Image.open(recorded) as image:
        save_changed(image, changed, parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SDXLWarning)
        flags = ["--from", str(changed), "--output", str(recorded.with_name("again.png")), "--device", "cpu", "--quiet"]
        assert main(["generate", *flags]) in (0, 1, 2)


def save_changed(image: Image.Image, path: Path, parameters: dict[str, Any]) -> None:
    """A PNG with these parameters, whose other text stays."""
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("sdxl", json.dumps(parameters))
    image.save(path, pnginfo=info)


def test_a_png_that_nests_without_end(recorded: Path) -> None:
    with Image.open(recorded) as image:
        from PIL import PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_itxt("sdxl", "[" * 10**5)
        image.save(recorded.with_name("deep.png"), pnginfo=info)
    assert main(["generate", "--from", str(recorded.with_name("deep.png"))]) == 2
