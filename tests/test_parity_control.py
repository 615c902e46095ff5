"""Control against diffusers, whole runs: ControlNets and T2I-Adapters with all tasks, windows, scales, guess mode."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_inpainting, deep_pipe, deep_reference  # noqa: F401  fixtures

pytest.importorskip("diffusers")
import control_nets
import tiny
from diffusers import (
    ControlNetUnionModel,
    MultiAdapter,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)
from PIL import Image

import sdxl
from sdxl import Control
from sdxl.images.pixels import to_tensor

SETTINGS: dict[str, Any] = {"steps": 4, "seed": 5, "output": "latent", "progress": False, "height": 64, "width": 80}
SLOW = pytest.mark.slow
PROMPT, NEGATIVE = "a red cat", "photo of a dog"


def picture(seed: int = 3) -> Image.Image:
    return tiny.picture(seed, 80, 64)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks in folders, by name."""
    root = tmp_path_factory.mktemp("nets")
    made = {
        "full": control_nets.controlnet(),
        "second": control_nets.controlnet(seed=21),
        "small": control_nets.controlnet(control_nets.SMALL),
        "mid": control_nets.controlnet(control_nets.MID),
        "union": control_nets.union(),
        "promax": control_nets.union(control_nets.PROMAX, 31),
        "t2i": control_nets.t2i_adapter(),
        "t2i second": control_nets.t2i_adapter(seed=41),
        "t2i grey": control_nets.t2i_adapter(1),
    }
    return {name: control_nets.save_folder(net, root / name) for name, net in made.items()}


NETS: dict[str, Any] = {
    "full": control_nets.controlnet,
    "second": lambda: control_nets.controlnet(seed=21),
    "small": lambda: control_nets.controlnet(control_nets.SMALL),
    "mid": lambda: control_nets.controlnet(control_nets.MID),
}


def theirs(pipeline: Any, base: Any, nets: Any, name: str = "controlnet", **arguments: Any) -> torch.Tensor:
    """The final latents of diffusers' pipeline."""
    parts = {**base.components, name: nets}
    made = pipeline(**parts, **({"add_watermarker": False} if name == "controlnet" else {}))
    made.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 5.0}
    settings |= {"generator": tiny.generators([5]), "height": 64, "width": 80}
    settings |= {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: torch.Tensor = made(**(settings | arguments)).images
    return found


def ours(pipe: sdxl.Pipeline, control: Any, **arguments: Any) -> torch.Tensor:
    found = pipe(PROMPT, negative_prompt=NEGATIVE, control=control, **(SETTINGS | arguments)).images
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("name", ["full", "mid", *(pytest.param(name, marks=SLOW) for name in ("second", "small"))])
def test_text_to_image(name: str, tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    wanted = theirs(StableDiffusionXLControlNetPipeline, reference_pipe, NETS[name](), image=picture())
    found = ours(tiny_pipe, Control(nets[name], picture()))
    assert error(found, wanted) < 1e-4
    assert error(ours(tiny_pipe, None), wanted) > 1e-2


def test_a_control_image_of_another_shape(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any
) -> None:
    """diffusers stretches it, and so does its profile; ours is cut around the centre."""
    wide = control_nets.plain(size=(200, 96))
    wide.paste("white", (0, 20, 60, 70))  # of which the middle shows little
    wanted = theirs(StableDiffusionXLControlNetPipeline, reference_pipe, NETS["full"](), image=wide)
    profiles: list[Any] = ["diffusers", {"control_image": "stretched"}, None]
    with pytest.warns(sdxl.SDXLWarning, match="of another shape than 80 x 64"):
        errors = [error(ours(tiny_pipe, Control(nets["full"], wide), compat=each), wanted) for each in profiles]
    assert max(errors[:2]) < 1e-4
    assert errors[2] > 1e-3


def test_two_nets_and_a_t2i_adapter(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers has no pipeline for both kinds, but its UNet takes what both add."""
    image, wide = tiny.picture(6, 96, 64), {"width": 96}
    with torch.no_grad():
        features = control_nets.t2i_adapter()(to_tensor(as_diffusers_sees(image))[None])
    forward = reference_pipe.unet.forward

    def with_features(sample: torch.Tensor, *others: Any, **more: Any) -> Any:
        rows = [0.6 * each.repeat(len(sample), 1, 1, 1) for each in features]
        return forward(sample, *others, down_intrablock_additional_residuals=rows, **more)

    monkeypatch.setattr(reference_pipe.unet, "forward", with_features)
    pictures = [tiny.picture(n, 96, 64) for n in (3, 4)]
    wanted = theirs(
        StableDiffusionXLControlNetPipeline,
        reference_pipe,
        [NETS["full"](), NETS["mid"]()],
        image=pictures,
        controlnet_conditioning_scale=[0.7, 0.4],
        **wide,
    )
    controls = [
        Control(nets[name], each, scale)
        for name, each, scale in zip(("full", "mid"), pictures, (0.7, 0.4), strict=True)
    ]
    found = ours(tiny_pipe, [controls[0], Control(nets["t2i"], image, 0.6), controls[1]], **wide)
    assert error(found, wanted) < 1e-4
    assert error(ours(tiny_pipe, controls, **wide), wanted) > 1e-3


def test_two_nets_with_scales_and_windows(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any
) -> None:
    wanted = theirs(
        StableDiffusionXLControlNetPipeline,
        reference_pipe,
        [NETS["full"](), NETS["second"]()],
        image=[picture(), picture(4)],
        controlnet_conditioning_scale=[0.7, 0.4],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.5, 1.0],
    )
    first = Control(nets["full"], picture(), scale=0.7, end=0.5)
    found = ours(tiny_pipe, [first, Control(nets["second"], picture(4), 0.4, start=0.25)])
    assert error(found, wanted) < 1e-4
    assert error(ours(tiny_pipe, first), wanted) > 1e-3


@pytest.mark.parametrize("scale", [5.0, pytest.param(1.0, marks=SLOW)])
def test_guess_mode(scale: float, tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    arguments: dict[str, Any] = {"image": picture(), "guess_mode": True, "guidance_scale": scale}
    wanted = theirs(
        StableDiffusionXLControlNetPipeline,
        reference_pipe,
        NETS["full"](),
        controlnet_conditioning_scale=0.8,
        **arguments,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sdxl.SDXLWarning)  # the negative prompt without guidance
        found = ours(tiny_pipe, Control(nets["full"], picture(), 0.8, guess=True), guidance_scale=scale)
    assert error(found, wanted) < 1e-4


def test_a_batch_with_an_image_each(tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    images = [picture(n) for n in (3, 4)]
    wanted = theirs(
        StableDiffusionXLControlNetPipeline,
        reference_pipe,
        NETS["full"](),
        image=torch.stack([to_tensor(each) for each in images]),
        generator=tiny.generators([5, 6]),
        negative_prompt=[NEGATIVE] * 2,
        prompt=[PROMPT] * 2,
    )
    found = ours(tiny_pipe, Control(nets["full"], images), num_images=2)
    assert error(found, wanted) < 1e-4
    for n, image in enumerate(images):  # not a row of another image
        alone = ours(tiny_pipe, Control(nets["full"], image), seed=5 + n)
        assert error(found[n : n + 1], alone) < 1e-5


@SLOW
def test_image_to_image(tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    """The window counts the steps that run."""
    source = tiny.picture(8, 80, 64)
    wanted = theirs(
        StableDiffusionXLControlNetImg2ImgPipeline,
        reference_pipe,
        NETS["full"](),
        image=source,
        control_image=picture(),
        strength=0.6,
        num_inference_steps=10,
        controlnet_conditioning_scale=1.0,
        control_guidance_end=0.5,
    )
    arguments: dict[str, Any] = {"image": source, "strength": 0.6, "steps": 10}
    assert error(ours(tiny_pipe, Control(nets["full"], picture(), end=0.5), **arguments), wanted) < 1e-4


@pytest.mark.parametrize("channels", [pytest.param(4, marks=SLOW), 9])
def test_inpainting(channels: int, tiny_pipe: Any, inpainting_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    """A ControlNet has 4 channels beside an inpainting model of 9 too."""
    source, mask = tiny.picture(8, 80, 64), tiny.mask(2, 80, 64)
    wanted = theirs(
        StableDiffusionXLControlNetInpaintPipeline,
        tiny.inpainting(channels, tiny.UNET, tiny.VAE),
        NETS["full"](),
        image=source,
        mask_image=mask,
        control_image=picture(),
        strength=0.8,
        num_inference_steps=5,
        controlnet_conditioning_scale=0.9,
    )
    pipe = tiny_pipe if channels == 4 else inpainting_pipe
    arguments: dict[str, Any] = {"image": source, "mask": mask, "strength": 0.8, "steps": 5}
    found = ours(pipe, Control(nets["full"], picture(), 0.9), **arguments)
    assert error(found, wanted) < 1e-4


@pytest.mark.parametrize(
    ("name", "types", "scale"),
    [
        ("union", [0, 1], 1.0),
        pytest.param("union", [3], 0.6, marks=SLOW),
        pytest.param("promax", [7], 1.0, marks=SLOW),
    ],
)
def test_unions(
    name: str, types: list[int], scale: float, tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any
) -> None:
    """With several types of one net diffusers' scale is another one: at 0 its net still acts."""
    made = control_nets.union() if name == "union" else control_nets.union(control_nets.PROMAX, 31)
    images = [picture(n) for n in types]
    wanted = theirs(
        StableDiffusionXLControlNetUnionPipeline,
        reference_pipe,
        made,
        control_image=images,
        control_mode=types,
        controlnet_conditioning_scale=scale,
    )
    controls = [Control(nets[name], image, scale, type=type) for image, type in zip(images, types, strict=True)]
    assert error(ours(tiny_pipe, controls), wanted) < 1e-4


@pytest.mark.parametrize(
    ("types", "scale"), [([3], 5.0), pytest.param([0, 1], 5.0, marks=SLOW), pytest.param([3], 1.0, marks=SLOW)]
)
def test_guess_mode_of_a_union(
    types: list[int],
    scale: float,
    tiny_pipe: Any,
    reference_pipe: Any,
    nets: dict[str, Path],
    error: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """diffusers gives its union the types of both halves and the rows of one, which is an error there. With those of
    the rows alone it works, and ours is the same.
    """
    forward, given = ControlNetUnionModel.forward, []

    def with_types_of_rows(self: Any, sample: torch.Tensor, *others: Any, control_type: Any, **more: Any) -> Any:
        given.append((len(sample), len(control_type)))
        return forward(self, sample, *others, control_type=control_type[: len(sample)], **more)

    monkeypatch.setattr(ControlNetUnionModel, "forward", with_types_of_rows)
    images = [picture(n) for n in types]
    wanted = theirs(
        StableDiffusionXLControlNetUnionPipeline,
        reference_pipe,
        control_nets.union(),
        control_image=images,
        control_mode=types,
        guess_mode=True,
        guidance_scale=scale,
    )
    assert set(given) == {(1, 2 if scale > 1 else 1)}
    own = [Control(nets["union"], image, type=type, guess=True) for image, type in zip(images, types, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sdxl.SDXLWarning)  # the negative prompt without guidance
        found = ours(tiny_pipe, own, guidance_scale=scale)
        both = ours(tiny_pipe, [replace(each, guess=False) for each in own], guidance_scale=scale)
    assert error(found, wanted) < 1e-4
    assert error(both, wanted) > 1e-3


def test_a_union_fades_to_nothing(tiny_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    """At a small scale both types together change little, and outside of a window one of them is not seen."""
    plain = ours(tiny_pipe, None)
    both = [Control(nets["union"], picture(n), 1e-6, type=n) for n in (0, 1)]
    assert error(ours(tiny_pipe, both), plain) < 1e-4
    with pytest.warns(sdxl.SDXLWarning, match="has no effect: its scale is 0"):
        one = ours(
            tiny_pipe, [Control(nets["union"], picture(0), type=0), Control(nets["union"], picture(1), 0, type=1)]
        )
    assert torch.equal(one, ours(tiny_pipe, Control(nets["union"], picture(0), type=0)))


def as_diffusers_sees(image: Image.Image, grey: bool = False) -> Image.Image:
    """The image that diffusers has to be given: ours sees blue, green, red, as the adapters were trained."""
    return image.convert("L") if grey else Image.merge("RGB", image.split()[::-1])


@pytest.mark.parametrize("name", ["t2i", pytest.param("t2i grey", marks=SLOW)])
def test_t2i_adapter(name: str, tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    grey, image = name == "t2i grey", tiny.picture(3, 96, 64)
    wanted = theirs(
        StableDiffusionXLAdapterPipeline,
        reference_pipe,
        control_nets.t2i_adapter(1 if grey else 3),
        "adapter",
        image=as_diffusers_sees(image, grey),
        adapter_conditioning_scale=0.8,
        adapter_conditioning_factor=0.5,
        width=96,
    )
    assert error(ours(tiny_pipe, Control(nets[name], image, 0.8, end=0.5), width=96), wanted) < 1e-4


@SLOW
def test_two_t2i_adapters(tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    images = [tiny.picture(n, 96, 64) for n in (3, 4)]
    wanted = theirs(
        StableDiffusionXLAdapterPipeline,
        reference_pipe,
        MultiAdapter([control_nets.t2i_adapter(), control_nets.t2i_adapter(seed=41)]),
        "adapter",
        image=[as_diffusers_sees(each) for each in images],
        adapter_conditioning_scale=[0.6, 0.3],
        width=96,
    )
    controls = [Control(nets["t2i"], images[0], 0.6), Control(nets["t2i second"], images[1], 0.3)]
    assert error(ours(tiny_pipe, controls, width=96), wanted) < 1e-4
