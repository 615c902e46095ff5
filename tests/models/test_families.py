"""Families beside SDXL as values of the configs: SSD-1B, Segmind Vega and KOALA by depth, LCM by its embedded guidance,
Playground v2.5 and CosXL by their noise levels. Tiny twins against diffusers, published sizes on the meta device.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers
import tiny
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.models import UNet, UNetConfig, published
from sdxl.models.layers import sinusoidal_scale
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.diffusers_config import read_unet, write_unet
from sdxl.weights.infer import infer_unet
from sdxl.weights.keymap import unet_rows

PROMPT = "a red cat"
SETTINGS: dict[str, Any] = {"height": 64, "width": 64}
# the published configs, and how many parameters their UNets have
FULL: dict[str, tuple[UNetConfig, int]] = {
    "SSD-1B": (published.SSD_1B_UNET, 1_330_000_000),
    "Segmind Vega": (published.VEGA_UNET, 745_000_000),
    "KOALA-700M": (published.KOALA_700M_UNET, 782_000_000),
    "KOALA-1B": (published.KOALA_1B_UNET, 1_160_000_000),
}


def narrow(config: UNetConfig) -> UNetConfig:
    """Its tiny twin: the same blocks, a thirtieth of the width."""
    text = {"context_dim": 48, "vector_dim": 32 + 6 * 8, "size_dim": 8}
    return replace(config, channels=(32, 64, 64), heads=(2, 4, 8), norm_groups=8, sample_size=(8, 8), **text)


@pytest.mark.parametrize("name", FULL)
def test_published_sizes(name: str) -> None:
    """Key tables, both layouts, and diffusers' network of the same config."""
    config, parameters = FULL[name]
    with torch.device("meta"):
        ours = UNet(config).state_dict()
        theirs = diffusers.UNet2DConditionModel.from_config(write_unet(config)).state_dict()
    rows = list(unet_rows(config))
    assert {row.folder: ours[row.ours].shape for row in rows} == {key: each.shape for key, each in theirs.items()}
    assert {row.ours for row in rows} == set(ours)
    assert abs(sum(each.numel() for each in ours.values()) - parameters) < 0.01 * parameters
    assert read_unet(write_unet(config)) == config
    for layout in ("single", "folder"):
        shapes = {getattr(row, layout): tuple(ours[row.ours].shape) for row in rows}
        assert infer_unet(shapes, layout) == config


@pytest.mark.parametrize("name", FULL)
def test_tiny_twins_agree_with_diffusers(name: str, reference_pipe: Any, tmp_path: Path, error: Any) -> None:
    config = write_unet(narrow(FULL[name][0]))
    unet = tiny.shake(diffusers.UNet2DConditionModel.from_config(config), 0)
    pipe = twin(reference_pipe, unet=unet)
    pipe.save_pretrained(tmp_path / "folder")
    sdxl.convert(tmp_path / "folder", tmp_path / "single.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(tmp_path / "single.safetensors"), bare)
    assert open_checkpoint(bare).info.config.unet.mid == FULL[name][0].mid
    expected = pipe(PROMPT, generator=tiny.generators([5]), num_inference_steps=3, output_type="latent", **SETTINGS)
    for path in (tmp_path / "folder", tmp_path / "single.safetensors"):
        assert error(latents(opened(path), steps=3, guidance_scale=5.0), expected.images) < 1e-4


def twin(pipe: Any, scheduler: Any = None, **parts: Any) -> Any:
    """diffusers' tiny pipeline with other parts."""
    made = diffusers.StableDiffusionXLPipeline(**{**pipe.components, **parts}, add_watermarker=False)
    made.scheduler = scheduler or diffusers.EulerDiscreteScheduler(**tiny.SCHEDULER)
    made.register_modules(scheduler=made.scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def opened(path: Path, **arguments: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu", **arguments)


def latents(pipe: sdxl.Pipeline, **arguments: Any) -> torch.Tensor:
    given: dict[str, Any] = {"seed": 5, "output": "latent", "progress": False, **SETTINGS, **arguments}
    images = pipe(PROMPT, **given).images
    assert isinstance(images, torch.Tensor)
    return images


# ---- EDM -------------------------------------------------------------------------------------------------------------

EDM_VAE = {
    "scaling_factor": 0.5,
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
}


@pytest.fixture(scope="module")
def playground(reference_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny Playground v2.5, and its folder."""
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    pipe = twin(reference_pipe, scheduler, vae=tiny.vae(tiny.SMALL_VAE | EDM_VAE))
    folder = tmp_path_factory.mktemp("playground") / "folder"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp_2m", 1), ("dpmpp_2m", 6), ("dpmpp_2m", 20), ("euler", 6)])
def test_playground(sampler: str, steps: int, playground: tuple[Any, Path], error: Any) -> None:
    theirs, folder = playground
    if sampler == "euler":
        theirs = twin(theirs, diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5))
    ours = opened(folder)
    assert ours.info.schedule.schedule == "karras"
    expected = theirs(
        PROMPT,
        generator=tiny.generators([5]),
        num_inference_steps=steps,
        guidance_scale=3.0,
        output_type="latent",
        **SETTINGS,
    )
    found = latents(ours, steps=steps, sampler=sampler, guidance_scale=3.0)
    assert error(found, expected.images) < 1e-4
    decoded = theirs(PROMPT, latents=torch.ones(1, 4, 8, 8), num_inference_steps=1, output_type="pt", **SETTINGS).images
    result = ours(PROMPT, latents=torch.ones(1, 4, 8, 8), steps=1, guidance_scale=5.0, output="tensor", progress=False)
    assert error(result.images, decoded) < 1e-4


def test_playground_as_a_single_file(playground: tuple[Any, Path], tmp_path: Path) -> None:
    """ComfyUI's keys say what it is; a VAE that replaces its own has its scale of the latents."""
    _, folder = playground
    sdxl.convert(folder, tmp_path / "single.safetensors")
    tensors = load_file(tmp_path / "single.safetensors")
    assert tensors["edm_mean"].tolist() == pytest.approx(EDM_VAE["latents_mean"])
    save_file(tensors, tmp_path / "bare.safetensors")
    info, first = open_checkpoint(tmp_path / "bare.safetensors").info, open_checkpoint(folder).info
    assert info.schedule == replace(first.schedule, steps_offset=0) and info.schedule.prediction == "edm"
    assert info.config.vae.latents_std == pytest.approx(EDM_VAE["latents_std"])
    assert info.config.vae.scaling_factor == 0.5
    tiny.vae().save_pretrained(tmp_path / "vae")
    other = opened(folder, vae=tmp_path / "vae", offload="stage")
    assert other.info.config.vae == first.config.vae
    for key, value in {"edm_std": torch.ones(3), "edm_mean": torch.ones(2, 4)}.items():
        save_file(tensors | {key: value}, tmp_path / "wrong.safetensors")
        with pytest.raises(sdxl.CheckpointError, match=f"{key} is shape"):
            open_checkpoint(tmp_path / "wrong.safetensors")
    del tensors["edm_std"]
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(sdxl.CheckpointError, match="edm_mean"):
        open_checkpoint(tmp_path / "wrong.safetensors")


def test_a_unet_of_edm_alone_is_refused(playground: tuple[Any, Path], tiny_folder: Path) -> None:
    with pytest.raises(sdxl.CheckpointError, match="give the whole model as the model"):
        opened(tiny_folder, unet=playground[1])


def test_image_to_image_with_edm(playground: tuple[Any, Path]) -> None:
    """Encoding is the inverse of decoding's scale."""
    pipe = opened(playground[1])
    image = tiny.picture(1)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(EDM_VAE[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    plain = pipe.vae.moments(pixels * 2 - 1)[0]
    assert torch.allclose(pipe.encode(pixels), (plain - mean) / std * 0.5, atol=1e-5)
    assert latents(pipe, image=image, strength=0.5, steps=4, width=None, height=None).isfinite().all()


def test_cosxl(reference_pipe: Any, tmp_path: Path, error: Any) -> None:
    """v-prediction over EDM's time."""
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"
    )
    pipe = twin(reference_pipe, scheduler)
    pipe.save_pretrained(tmp_path / "folder")
    expected = pipe(PROMPT, generator=tiny.generators([5]), num_inference_steps=5, output_type="latent", **SETTINGS)
    assert error(latents(opened(tmp_path / "folder"), steps=5), expected.images) < 1e-4
    sdxl.convert(tmp_path / "folder", tmp_path / "single.safetensors")
    tensors = load_file(tmp_path / "single.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    schedule = open_checkpoint(tmp_path / "bare.safetensors").info.schedule
    assert (schedule.prediction, schedule.sigma_data) == ("v_prediction", 1.0)
    assert schedule.edm is not None and schedule.edm.sigma_max == pytest.approx(120)


# ---- LCM: the guidance scale as an input -----------------------------------------------------------------------------


def test_the_embedded_guidance_scale() -> None:
    reference = diffusers.StableDiffusionXLPipeline.get_guidance_scale_embedding
    for dim in (256, 31):
        scales = torch.tensor([1.0, 3.5, 8.0])
        assert torch.allclose(sinusoidal_scale(scales, dim), reference(None, scales - 1, dim), atol=1e-3)
        assert torch.allclose(sinusoidal_scale(scales, dim)[1, 0], torch.tensor(2500.0).sin(), atol=1e-4)


@pytest.fixture(scope="module")
def lcm(reference_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny LCM UNet in diffusers' pipeline, and its folder."""
    unet = tiny.unet(tiny.UNET | {"time_cond_proj_dim": 16})
    pipe = twin(reference_pipe, unet=unet)
    folder = tmp_path_factory.mktemp("lcm") / "folder"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.mark.filterwarnings("ignore:schedule is leading; LCM")
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_unet_that_takes_the_guidance_scale(scale: float, lcm: tuple[Any, Path], tmp_path: Path, error: Any) -> None:
    """Its batch is not doubled, with or without LCM's sampler; read from the folder and from a single file."""
    pipe, folder = lcm
    expected = pipe(
        PROMPT,
        generator=tiny.generators([5]),
        num_inference_steps=3,
        guidance_scale=scale,
        output_type="latent",
        **SETTINGS,
    )
    sdxl.convert(folder, tmp_path / "single.safetensors")
    given: dict[str, Any] = {"sampler": "euler", "schedule": "leading", "steps": 3}
    for path in (folder, tmp_path / "single.safetensors"):
        ours = opened(path)
        assert ours.plan(sdxl.Request(PROMPT)).guider.names == ("positive",)
        assert error(latents(ours, guidance_scale=scale, **given), expected.images) < 1e-4
