"""Our own rules of image to image, inpainting and the refiner: what is kept, conditioned on, and refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import sdxl
from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.pipeline.residency import Residency
from sdxl.sampling.inpaint import InpaintRegion, blend_known
from sdxl.sampling.samplers import SAMPLERS
from sdxl.sampling.schedule import noise_table

QUICK: dict[str, Any] = {"steps": 4, "seed": 1, "progress": False}
LATENT: dict[str, Any] = QUICK | {"output": "latent"}


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def box_mask(box: tuple[int, int, int, int], width: int = 64, height: int = 64, grey: int = 255) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=grey)
    return mask


def outside_is_kept(result: Image.Image, source: Image.Image, mask: Image.Image) -> bool:
    kept = np.asarray(mask) == 0
    same = (np.asarray(result) == np.asarray(source)).all(axis=2)
    return result.size == source.size and bool(same[kept].all()) and not bool(same[~kept].all())


# ---- the denoiser that keeps what is known, in float64 on a made-up model --------------------------------------------


SIGMAS = [14.0, 7.0, 3.0, 1.0, 0.3, 0.0]


class Wavy:
    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.sin(x + x.roll(1, -1)) / (1 + sigma)

    def pair(self, x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """As with guidance: another guess for the negative prompt."""
        return self(x, sigma), self(x + 1, sigma)


wavy = Wavy()


def draws(seed: int) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *_: torch.randn(1, 4, 6, 6, generator=generator, dtype=torch.float64)


def run(
    sampler: str, x: torch.Tensor, sigmas: list[float], known: InpaintRegion | None = None, **more: Any
) -> torch.Tensor:
    denoise = wavy if known is None else blend_known(wavy, known)
    levels = noise_table(ScheduleConfig())
    last = list(SAMPLERS[sampler](denoise, x, sigmas, draws(9), levels=levels, **more))[-1].x
    return last if known is None else known.output(last, sigmas[-1])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_repainting_everything_is_text_to_image(sampler: str) -> None:
    z, noise = draws(0)(), draws(1)()
    known = InpaintRegion(z, noise, torch.ones(1, 1, 6, 6), SIGMAS, from_noise=True)
    start = known.start(14.0)
    assert torch.equal(start, noise * 14.0)
    assert (run(sampler, start, SIGMAS, known) - run(sampler, noise * 14.0, SIGMAS)).abs().max() < 1e-12


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_repainting_nothing_gives_the_picture(sampler: str) -> None:
    z, noise = draws(0)(), draws(1)()
    for from_noise in (True, False):
        known = InpaintRegion(z, noise, torch.zeros(1, 1, 6, 6), SIGMAS, from_noise)
        assert torch.equal(run(sampler, known.start(14.0), SIGMAS, known), z)


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize(("grey", "steps"), [(0.2, 1), (0.4, 2), (0.79, 3), (0.8, 4), (102 / 255, 2)])
def test_a_grey_mask_is_a_strength(sampler: str, grey: float, steps: int) -> None:
    """All of one grey: the last int(grey * n) steps of image to image, as its strength would have them."""
    z, noise = draws(0)(), draws(1)()
    known = InpaintRegion(z, noise, torch.full((1, 1, 6, 6), grey, dtype=torch.float64), SIGMAS, from_noise=True)
    rest = SIGMAS[5 - steps :]
    expected = run(sampler, z + noise * rest[0], rest)
    assert (run(sampler, known.start(14.0), SIGMAS, known) - expected).abs().max() < 1e-12


def test_a_grey_of_no_step_starts_as_black_does() -> None:
    z, noise = draws(0)(), draws(1)()
    starts = [
        InpaintRegion(z, noise, torch.full((1, 1, 6, 6), grey), SIGMAS, from_noise=True).start(14.0)
        for grey in (0.0, 0.19, 0.2)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_from_noise_the_first_call_sees_noise_alone() -> None:
    """As in diffusers at strength 1: the known part is in x from the second call on."""
    z, noise, mask = draws(0)(), draws(1)(), (torch.rand(1, 1, 6, 6, generator=torch.manual_seed(2)) > 0.5).double()
    known = InpaintRegion(z, noise, mask, SIGMAS, from_noise=True)
    x = known.start(14.0)
    assert torch.equal(known.input(x, SIGMAS[0]), noise * 14.0)
    second = known.input(x, SIGMAS[1])
    assert torch.equal(second, torch.where(mask > 0, x, z + noise * SIGMAS[1]))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_keeping_equals_blending_after_every_step(eta: float) -> None:
    """diffusers' rule, in sigma space: x = (1 - m) (z + sigma' n) + m x after each step."""
    z, noise, mask = draws(0)(), draws(1)(), (torch.rand(1, 1, 6, 6, generator=torch.manual_seed(2)) > 0.5).double()
    known = InpaintRegion(z, noise, mask, SIGMAS, from_noise=False)
    ours = run("ddim", known.start(14.0), SIGMAS, known, eta=eta)
    x, draw = z + 14.0 * noise, draws(9)
    for pair in pairwise(SIGMAS):
        step = list(SAMPLERS["ddim"](wavy, x, pair, draw, eta=eta))[-1].x  # type: ignore[call-arg]
        x = (1 - mask) * (z + pair[1] * noise) + mask * step
    assert (ours - x).abs().max() < 1e-12


# ---- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [None, 0, 7])
@pytest.mark.parametrize("size", [(64, 64), (83, 61)])
@pytest.mark.parametrize("channels", [4, 9])
def test_outside_the_mask_every_byte_is_the_sources(
    padding: int | None,
    size: tuple[int, int],
    channels: int,
    tiny_pipe: sdxl.Pipeline,
    inpainting_pipe: sdxl.Pipeline,
    tmp_path: Path,
) -> None:
    from sdxl.images.record import save_png

    pipe = tiny_pipe if channels == 4 else inpainting_pipe
    source, mask = picture(*size), box_mask((13, 21, 42, 50), *size)
    result = pipe("cat", image=source, mask=mask, mask_padding=padding, **QUICK)
    save_png(result.images[0], tmp_path / "p.png", result.parameters[0])
    with Image.open(tmp_path / "p.png") as image:
        assert outside_is_kept(image, source, mask)


def test_an_asked_size_keeps_the_resized_source(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(), box_mask((13, 21, 42, 50))
    result = tiny_pipe("cat", image=source, mask=mask, width=96, height=80, **QUICK).images[0]
    larger = mask.resize((96, 80), Image.Resampling.LANCZOS).point(lambda value: 255 * (value >= 128))
    assert outside_is_kept(result, source.resize((96, 80), Image.Resampling.LANCZOS), larger)


def test_feathered_pictures_keep_the_outside_and_fade(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(), box_mask((8, 8, 56, 56))
    arguments = {"image": source, "mask": mask} | QUICK
    images: Any = [tiny_pipe("cat", feather=n, **arguments).images[0] for n in (0, 6)]
    assert outside_is_kept(images[1], source, mask)
    hard, soft, own = (np.asarray(each).astype(int) for each in (*images, source))
    assert np.array_equal(hard[14:50, 14:50], soft[14:50, 14:50])
    moved, whole = abs(soft - own).sum(axis=2), abs(hard - own).sum(axis=2)
    assert 0 < moved[8, 8:56].sum() < 0.3 * whole[8, 8:56].sum()


def test_a_thin_mask_is_feathered_and_not_lost(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(), box_mask((8, 8, 18, 56))
    result = tiny_pipe("cat", image=source, mask=mask, feather=8, **QUICK).images[0]
    assert outside_is_kept(result, source, mask)
    moved = abs(np.asarray(result).astype(int) - np.asarray(source)).sum(axis=(0, 2))
    assert moved[12:14].min() > 2 * moved[8] > 0


@pytest.mark.parametrize(
    "mask",
    [box_mask((9, 9, 15, 15)), box_mask((0, 0, 64, 64), grey=60)],
    ids=["between the latents", "too dark for four steps"],
)
def test_a_mask_that_does_nothing_gives_a_warning(mask: Image.Image, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.warns(SDXLWarning, match="the mask repaints nothing"):
        tiny_pipe("cat", image=picture(), mask=mask, **QUICK)
    with pytest.warns(SDXLWarning, match="the mask repaints nothing"):
        tiny_pipe("cat", image=torch.zeros(1, 4, 8, 8), mask=mask, **QUICK)


def darkest(channels: int, steps: int) -> int:
    """The darkest grey that is repainted: in int(grey / 255 * steps) steps, with 9 channels from 128 on."""
    return 128 if channels == 9 else next(grey for grey in range(256) if grey * steps // 255)


@pytest.mark.parametrize("padding", [None, 0, 7])
@pytest.mark.parametrize("channels", [4, 9])
def test_a_black_that_is_not_exactly_black_is_black(
    padding: int | None, channels: int, tiny_pipe: sdxl.Pipeline, inpainting_pipe: sdxl.Pipeline
) -> None:
    pipe = tiny_pipe if channels == 4 else inpainting_pipe
    source, mask = picture(83, 61), box_mask((13, 21, 42, 50), 83, 61)
    expected = pipe("cat", image=source, mask=mask, mask_padding=padding, **QUICK).images[0]
    for black in (1, darkest(channels, 4) - 1):
        grey = mask.point([black] * 255 + [255])
        result = pipe("cat", image=source, mask=grey, mask_padding=padding, **QUICK).images[0]
        assert outside_is_kept(result, source, mask)
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("more", [{}, {"feather": 3}, {"mask_padding": 0}, {"width": 96, "height": 80}])
@pytest.mark.parametrize(("channels", "strength", "steps"), [(4, 1.0, 4), (4, 0.5, 2), (9, 1.0, 4)])
def test_greys_of_no_step_keep_their_bytes(
    more: dict[str, int],
    channels: int,
    strength: float,
    steps: int,
    tiny_pipe: sdxl.Pipeline,
    inpainting_pipe: sdxl.Pipeline,
) -> None:
    pipe, source = tiny_pipe if channels == 4 else inpainting_pipe, picture()
    mask = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4 + 3, (64, 1)))  # 3 to 255 from left to right
    result = pipe("cat", image=source, mask=mask, strength=strength, **more, **QUICK).images[0]
    source, mask = (each.resize(result.size, Image.Resampling.LANCZOS) for each in (source, mask))
    black = mask.point([255 * (grey >= darkest(channels, steps)) for grey in range(256)])
    assert outside_is_kept(result, source, black)


@pytest.mark.parametrize("channels", [4, 9])
def test_greys_of_no_step_are_outside_the_box(
    channels: int, tiny_pipe: sdxl.Pipeline, inpainting_pipe: sdxl.Pipeline
) -> None:
    pipe = tiny_pipe if channels == 4 else inpainting_pipe
    for black, box in ((darkest(channels, 5) - 1, (10, 20, 30, 40)), (darkest(channels, 5), (0, 0, 64, 64))):
        mask = box_mask((10, 20, 30, 40)).point([black] * 255 + [255])
        plan = pipe.plan(sdxl.Request("cat", image=picture(), mask=mask, mask_padding=0, steps=5))
        assert plan.canvases[0].box == box


def test_outpainting_keeps_a_black_that_is_not_exactly_black(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(48, 48), Image.new("L", (48, 48), 2)
    result = tiny_pipe("cat", image=source, mask=mask, outpaint=(16, 0, 0, 16), **QUICK).images[0]
    assert result.crop((16, 0, 64, 48)).tobytes() == source.tobytes()


def test_outpainting(tiny_pipe: sdxl.Pipeline) -> None:
    source = picture(40, 48)
    result = tiny_pipe("cat", image=source, outpaint=(16, 8, 8, 0), **QUICK).images[0]
    assert result.size == (64, 56)
    inner = result.crop((16, 8, 56, 56))
    assert inner.tobytes() == source.tobytes()


def test_strength_zero_gives_the_picture_through_the_vae(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    source = picture()
    result = tiny_pipe("cat", image=source, strength=0, **QUICK | {"output": "tensor"})
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pixels = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None] / 255
    assert error(result.images, tiny_pipe.decode(tiny_pipe.encode(pixels, noise))) < 1e-6


def test_defaults_of_strength(tiny_pipe: sdxl.Pipeline) -> None:
    plan = tiny_pipe.plan(sdxl.Request("cat", image=picture(), steps=10))
    assert (plan.request.strength, plan.steps) == (0.3, 3)
    plan = tiny_pipe.plan(sdxl.Request("cat", image=picture(), mask=box_mask((0, 0, 8, 8)), steps=10))
    assert (plan.request.strength, plan.steps) == (1.0, 10)


def test_pictures_latents_and_tensors_are_the_same_source(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    source = picture()
    source.save(tmp_path / "p.png")
    tensor = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None] / 255
    results = [tiny_pipe("cat", image=each, **LATENT).images for each in (source, tmp_path / "p.png", tensor, [source])]
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_one_source_for_several_pictures_alone_and_in_a_batch(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    arguments = {"image": [picture(), picture(seed=5)], "mask": box_mask((8, 8, 40, 40)), "sampler": "euler_ancestral"}
    batch = tiny_pipe(["cat", "dog"], num_images=2, **arguments, **LATENT)
    for i, prompt in enumerate(("cat", "cat", "dog", "dog")):
        alone = arguments | {"image": arguments["image"][i // 2]}
        result = tiny_pipe(prompt, **alone, **LATENT | {"seed": batch.seeds[i]})
        assert error(batch.images[i : i + 1], result.images) < 2e-5


def test_an_empty_and_a_full_mask(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    source, noise = picture(), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for padding in (None, 4):
        with pytest.warns(SDXLWarning, match="the mask repaints nothing: it is black"):
            result = tiny_pipe("cat", image=source, mask=Image.new("L", (64, 64)), mask_padding=padding, **QUICK)
        assert result.images[0].tobytes() == source.tobytes()
    full = tiny_pipe("cat", image=source, mask=Image.new("L", (64, 64), 255), latents=noise, **LATENT)
    assert error(full.images, tiny_pipe("cat", latents=noise, **LATENT).images) < 1e-6


# ---- what SDXL is conditioned on -------------------------------------------------------------------------------------


def test_mask_padding_tells_the_truth_about_the_crop(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(200, 100), box_mask((120, 40, 150, 60), 200, 100)
    plan = tiny_pipe.plan(sdxl.Request("cat", image=source, mask=mask, mask_padding=5))
    canvas, sizes = plan.canvases[0], plan.sizes[0]
    assert canvas.box == (115, 30, 155, 70)  # 40 x 30 with the padding, grown to the square that is worked on
    assert (plan.size, canvas.result_size) == ((64, 64), (100, 200))
    assert (sizes.original, sizes.crop, sizes.target) == ((100, 200), (48, 184), (64, 64))
    given = tiny_pipe.plan(sdxl.Request("cat", image=source, mask=mask, mask_padding=5, crop_top_left=(1, 2)))
    assert given.sizes[0].crop == (1, 2)
    whole = tiny_pipe.plan(sdxl.Request("cat", image=source, mask=mask)).sizes[0]
    assert (whole.original, whole.crop, whole.target) == ((96, 200), (0, 0), (96, 200))


def test_mask_padding_stays_inside_the_picture(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(40, 90), box_mask((30, 0, 40, 70), 40, 90)
    plan = tiny_pipe.plan(sdxl.Request("cat", image=source, mask=mask, mask_padding=30, width=64, height=128))
    assert plan.canvases[0].box == (0, 0, 40, 90)


def test_the_refiner_is_conditioned_on_the_aesthetic_score(tiny_folder: Path, refiner_folder: Path) -> None:
    from sdxl.text.encode import embed_sizes

    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    plan = pipe.plan(sdxl.Request("cat", aesthetic_score=4.0, crop_top_left=(8, 16)))
    conditionings = pipe.experts[1].condition(plan)
    positive, negative = conditionings["positive"], conditionings["negative"]
    assert torch.equal(positive.vector[:, 32:], embed_sizes((64, 64, 8, 16, 4.0), 8))
    assert torch.equal(negative.vector[:, 32:], embed_sizes((64, 64, 8, 16, 2.5), 8))
    assert negative.context.any(), "no negative prompt is the encoded empty text for a refiner"
    assert (plan.request.refine_at, plan.handoff, plan.steps) == (0.8, 23, 30)  # t 232, and then 199
    assert [number for number, _ in plan.expert_sigmas()] == [0, 1]
    edge = pipe.plan(sdxl.Request("cat", steps=50, refine_at=0.799))
    assert edge.schedule.timesteps[edge.handoff - 1] == 201, "a timestep at the cutoff itself is the base's"


def test_every_task_passes_through_the_one_loop(
    tiny_folder: Path, refiner_folder: Path, inpainting_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    loop = sdxl.pipeline.call.run
    monkeypatch.setattr(
        "sdxl.pipeline.call.run", lambda plan, *more: calls.append(plan.expert_sigmas()) or loop(plan, *more)
    )
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    alone = sdxl.Pipeline.from_pretrained(refiner_folder, dtype="float32", device="cpu")
    source = {"image": picture(), "mask": box_mask((8, 8, 40, 40))}
    for task in (
        lambda: pipe("cat", **QUICK),
        lambda: pipe("cat", hires={"strength": 1}, **QUICK),
        lambda: pipe("cat", image=picture(), strength=0.5, **QUICK),
        lambda: pipe("cat", **source, **QUICK),
        lambda: inpainting_pipe("cat", **source, **QUICK),
        lambda: alone("cat", image=picture(), **QUICK),
    ):
        task()
    assert len(calls) == 6


@pytest.mark.parametrize("strength", [0.7, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_refiner_keeps_what_the_base_kept(
    strength: float, tiny_folder: Path, refiner_folder: Path, inpainting_pipe: sdxl.Pipeline
) -> None:
    """Inpainting with a base, or an inpainting model, and a refiner: the known latents are the picture's own."""
    base = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    model = replace(inpainting_pipe.residency.model, experts=(inpainting_pipe.experts[0], base.experts[1]))
    nine = sdxl.Pipeline(Residency(model))
    source, mask = picture(), box_mask((16, 16, 48, 48))
    for pipe in (base, nine):
        settings = LATENT | {"steps": 7, "image": source, "mask": mask, "strength": strength}
        result, rest = (pipe(prompt, **settings).images for prompt in ("cat", "dog"))
        same = (result == rest).all(dim=1)[0]
        assert same[mask_at_latents(mask) == 0].all()
        assert not same[mask_at_latents(mask) > 0].any()


def mask_at_latents(mask: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(mask))[::8, ::8]


def test_stages_come_and_go(tiny_folder: Path, refiner_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(
        tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu", offload="stage"
    )
    parts = [part for expert in pipe.experts for part in (expert.unet, expert.text)] + [pipe.residency.model.vae]
    for step in pipe.steps("cat", image=picture(), strength=1.0, seed=1, steps=5):
        pipe.decode(step.denoised)  # a preview does not keep the autoencoder
        loaded = [part._loaded is not None for part in parts]
        assert sum(loaded) == 1
        assert loaded[0 if step.index < 4 else 2]
    pipe("cat", **QUICK)
    assert not any(part._loaded for part in parts)
    for _ in pipe.steps("cat", seed=1, steps=10):
        break
    assert not any(part._loaded for part in parts)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_pictures_of_every_mode(tmp_path: Path, tiny_pipe: sdxl.Pipeline) -> None:
    from sdxl.images.image import open_mask, open_picture

    grey = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    sixteen = Image.fromarray((grey * 257).astype(np.uint16))
    assert sixteen.mode == "I;16"
    sixteen.save(tmp_path / "16.png")
    opened = np.asarray(open_picture(tmp_path / "16.png"))
    assert abs(opened[..., 0].astype(float) - grey).max() <= 1
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I"):
        assert open_picture(picture().convert("L" if mode == "I" else "RGB").convert(mode)).mode == "RGB"
        assert open_mask(picture().convert("L" if mode == "I" else "RGB").convert(mode)).mode == "L"
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert open_picture(clear).getpixel((0, 0)) == (255, 255, 255)
    assert open_mask(clear).getpixel((0, 0)) == 0
    turned = picture(64, 48)
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    assert open_picture(tmp_path / "turned.png").size == (48, 64)
    picture(64, 48).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert tiny_pipe("cat", image=tmp_path / "cmyk.jpg", **QUICK).images[0].size == (64, 48)


def bad_files(folder: Path) -> dict[str, Path]:
    picture().save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("<html>404</html>")
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    Image.new("1", (8300, 8300)).save(folder / "large.png")
    Image.new("F", (8, 8)).save(folder / "float.tiff")
    return {path.stem: path for path in folder.iterdir()}


def test_bad_pictures(tmp_path: Path, tiny_pipe: sdxl.Pipeline) -> None:
    paths = bad_files(tmp_path)
    for path, sentence in {
        paths["truncated"]: "truncated.png cannot be read (",
        paths["text"]: "text.png is not an image in a known format",
        paths["bomb"]: "bomb.png has too many pixels",
        paths["large"]: "large.png is 8300 x 8300; expected at most 67108864 pixels",
        paths["float"]: "float.tiff has floating-point pixels",
        tmp_path / "nowhere.png": "nowhere.png does not exist",
    }.items():
        for arguments in ({"image": path}, {"image": picture(), "mask": path}):
            with pytest.raises(ArgumentError) as caught:
                tiny_pipe("cat", **arguments, **QUICK)
            assert sentence in str(caught.value)
            assert "\n" not in str(caught.value)


SOURCE: dict[str, Any] = {"image": picture()}
MASKED: dict[str, Any] = SOURCE | {"mask": box_mask((8, 8, 16, 16))}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mask": box_mask((0, 0, 8, 8))}, "mask is given without image"),
        ({"strength": 0.5}, "strength is given without image"),
        ({"strength": 0}, "strength is given without image"),
        ({"mask": torch.ones(1, 1, 64, 64)}, "mask is given without image"),
        (SOURCE | {"mask_padding": 0}, "mask_padding is given without mask"),
        (MASKED | {"image": torch.zeros(2, 3, 64, 64)}, "image has 2 entries for 1 prompts"),
        (MASKED | {"mask": torch.zeros(3, 1, 64, 64)}, "mask has 3 entries for 1 prompts"),
        (SOURCE | {"outpaint": (25600, 0, 25600, 51200)}, "outpaint makes the image 51264 x 51264; expected at most"),
        ({"latents": np.zeros((1, 4, 8, 8))}, "latents must be a torch tensor"),
        ({"latents": torch.full((1, 4, 8, 8), float("inf"))}, "latents has NaN or infinity"),
        (SOURCE | {"mask_padding": 5}, "mask_padding is given without mask"),
        (SOURCE | {"mask": box_mask((0, 0, 8, 8), 32, 32)}, "mask is 32 x 32 and image 64 x 64"),
        (SOURCE | {"strength": 1.5}, "strength is 1.5; it must be a number from 0 to 1"),
        (SOURCE | {"strength": -0.1}, "strength is -0.1"),
        (SOURCE | {"strength": float("nan")}, "strength is nan"),
        (SOURCE | {"strength": 0.1}, "strength 0.1 of 4 steps leaves none"),
        ({"image": picture(1, 1)}, "the image is 1 x 1, less than 8 pixels a side"),
        ({"image": 5}, "image is 5; give a PIL image"),
        ({"image": []}, "image is []"),
        ({"image": [picture(), picture()]}, "image has 2 entries for 1 prompts"),
        ({"image": torch.zeros(1, 2, 8, 8)}, "image has shape [1, 2, 8, 8]"),
        ({"image": torch.full((1, 4, 8, 8), float("nan"))}, "image has NaN or infinity"),
        ({"image": torch.full((1, 3, 8, 8), 200.0)}, "image has values outside 0..1"),
        ({"image": torch.zeros(3, 4, 8, 8)}, "the image's latents have shape [3, 4, 8, 8]; they must be [1, 4, 8, 8]"),
        (MASKED | {"image": torch.zeros(1, 4, 4, 4)}, "the image's latents are those of 32 x 32"),
        (MASKED | {"mask_padding": -1}, "mask_padding is -1"),
        (MASKED | {"feather": 1.5}, "feather is 1.5"),
        (SOURCE | {"outpaint": (1, 2, 3)}, "outpaint is (1, 2, 3); it must be four whole numbers"),
        (SOURCE | {"outpaint": (0, 0, 0, 0)}, "outpaint is (0, 0, 0, 0)"),
        ({"refine_at": 0.5}, "refine_at is 0.5 but no refiner is loaded"),
        ({"aesthetic_score": float("inf")}, "aesthetic_score is inf"),
        (SOURCE | {"latents": torch.zeros(1, 4, 4, 4)}, "latents have shape [1, 4, 4, 4]; they must be [1, 4, 8, 8]"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError) as caught:
        tiny_pipe("cat", **QUICK | arguments)
    assert sentence in str(caught.value)


def test_pictures_of_two_sizes(tiny_pipe: sdxl.Pipeline) -> None:
    both = [picture(), picture(48, 48)]
    with pytest.raises(ArgumentError, match="worked on at 64 x 64 and 48 x 48"):
        tiny_pipe(["cat", "dog"], image=both, **QUICK)
    masks = [box_mask((8, 8, 16, 16)), box_mask((8, 8, 16, 16), 48, 48)]
    images = tiny_pipe(["cat", "dog"], image=both, mask=masks, mask_padding=4, **QUICK).images
    assert [image.size for image in images] == [(64, 64), (48, 48)]
    with pytest.raises(ArgumentError, match="images of different sizes"):
        tiny_pipe(["cat", "dog"], image=both, mask=masks, mask_padding=4, **QUICK | {"output": "tensor"})


def test_pictures_that_are_worked_on_at_one_size_are_a_tensor(tiny_pipe: sdxl.Pipeline) -> None:
    both = [picture(67, 64), picture(70, 64)]
    assert tiny_pipe(["cat", "dog"], image=both, **QUICK | {"output": "tensor"}).images.shape == (2, 3, 64, 64)


def test_a_small_window_of_a_large_picture(tiny_pipe: sdxl.Pipeline) -> None:
    source, mask = picture(300, 200), box_mask((150, 90, 153, 93), 300, 200)
    result = tiny_pipe("cat", image=source, mask=mask, mask_padding=0, width=160, height=160, **QUICK).images[0]
    assert outside_is_kept(result, source, mask)


def test_a_refiner_alone_repaints_lightly(refiner_folder: Path) -> None:
    refiner = sdxl.Pipeline.from_pretrained(refiner_folder, dtype="float32", device="cpu")
    assert refiner.plan(sdxl.Request("cat", **MASKED)).request.strength == 0.3


def test_models_that_cannot_do_it(
    tiny_folder: Path, refiner_folder: Path, inpainting_pipe: sdxl.Pipeline, tiny_pipe: sdxl.Pipeline
) -> None:
    load = sdxl.Pipeline.from_pretrained
    refiner = load(refiner_folder, dtype="float32", device="cpu")
    with pytest.raises(ArgumentError, match="an SDXL refiner, which does not generate from text alone"):
        refiner("cat", **QUICK)
    with pytest.raises(ArgumentError, match="SDXL inpainting, which needs an image and a mask"):
        inpainting_pipe("cat", image=picture(), **QUICK)
    with pytest.raises(ArgumentError, match="must see its pixels"):
        inpainting_pipe("cat", image=torch.zeros(1, 4, 8, 8), mask=box_mask((8, 8, 16, 16)), **QUICK)
    with pytest.raises(ArgumentError, match="is SDXL base, not a refiner"):
        load(tiny_folder, refiner=tiny_folder, dtype="float32")
    with pytest.raises(ArgumentError, match="the model is a refiner itself"):
        load(refiner_folder, refiner=refiner_folder, dtype="float32")
    with pytest.raises(ArgumentError, match="offload is 'disk'"):
        load(tiny_folder, offload="disk")  # type: ignore[arg-type]
