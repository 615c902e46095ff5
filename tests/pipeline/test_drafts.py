"""A tiny VAE in the place of a model's: images, tasks, ways to keep it in memory, records."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_vae_files import SMALL, reference, save_all

import sdxl
from sdxl.cli.main import main
from sdxl.cli.measure import stages
from sdxl.errors import ArgumentError, CheckpointError, ConfigError, OutputError
from sdxl.images.pixels import to_tensor
from sdxl.images.record import read_parameters
from sdxl.models.config import VAEConfig
from sdxl.models.tiny_vae_config import TinyVAEConfig
from sdxl.models.vae import scaled, unscaled
from sdxl.pipeline.latents import decode_preview
from sdxl.runtime.memory import vae_bytes
from sdxl.runtime.placement import Placement, vae_placement
from sdxl.weights import file_hash
from sdxl.weights.hashes import model_hash
from sdxl.weights.tiny_vae import fitted

MODEL = Path(__file__).parents[1] / "reference/model"
SETTINGS: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "seed": 3, "progress": False}
LANCZOS = {"scale": 2.0, "upscaler": "lanczos", "strength": 0.5}
STEPS = {name: value for name, value in SETTINGS.items() if name != "progress"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    model = reference(**SMALL)
    return model, save_all(model, tmp_path_factory.mktemp("tiny_vae"))


def opened(vae: Path | None, model: Path, **arguments: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(model, **{"dtype": "float32", "device": "cpu", "vae": vae, **arguments})


@pytest.fixture(scope="module")
def pipe(files: tuple[Any, dict[str, Path]], tiny_folder: Path) -> sdxl.Pipeline:
    return opened(files[1]["folder"], tiny_folder)


@pytest.fixture(scope="module")
def decoder(files: tuple[Any, dict[str, Path]], tiny_folder: Path) -> sdxl.Pipeline:
    return opened(files[1]["decoder"], tiny_folder)


def tensor(pipe: sdxl.Pipeline, **arguments: Any) -> torch.Tensor:
    images = pipe("cat", **{**SETTINGS, "output": "tensor", **arguments}).images
    assert isinstance(images, torch.Tensor)
    return images


@torch.no_grad()
def test_text_to_image(
    files: tuple[Any, dict[str, Path]], decoder: sdxl.Pipeline, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    latents = tensor(tiny_pipe, output="latent", num_images=2)
    assert torch.equal(tensor(decoder, output="latent", num_images=2), latents), "the steps know nothing of the VAE"
    expected = (files[0].decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert error(tensor(decoder, num_images=2), expected) < 1e-5


@torch.no_grad()
def test_images_are_encoded(files: tuple[Any, dict[str, Path]], pipe: sdxl.Pipeline, error: Any) -> None:
    pixels = torch.rand(1, 3, 64, 64)
    assert error(pipe.encode(pixels), files[0].encode(pixels * 2 - 1).latents) < 1e-5
    passed = tensor(pipe, image=pixels, strength=0.0)
    expected = files[0].decode(files[0].encode((pixels * 255).round() / 255 * 2 - 1).latents).sample
    assert error(passed, (expected / 2 + 0.5).clamp(0, 1)) < 1e-4
    mask = Image.new("L", (64, 64), 255)
    assert tensor(pipe, image=pixels, mask=mask, strength=0.5).isfinite().all()
    assert tensor(pipe, hires=LANCZOS, guidance_scale=1.0).shape[-1] == 128


def test_a_decoder_alone_encodes_nothing(decoder: sdxl.Pipeline) -> None:
    pixels, mask = torch.rand(1, 3, 64, 64), Image.new("L", (64, 64), 255)
    advice = "the tiny VAE is a decoder alone; give one with an encoder, such as madebyollin/taesdxl, or leave vae out"
    tasks = {"image": pixels, "strength": 1.0}, {"image": pixels, "mask": mask}, {"hires": LANCZOS}
    for own in tasks:
        with pytest.raises(ArgumentError, match=advice):
            tensor(decoder, **own)
    with pytest.raises(ArgumentError, match=advice):
        decoder.encode(pixels)
    z = torch.randn(1, 4, 8, 8)
    assert tensor(decoder, image=z, strength=0.5).isfinite().all(), "latents need no encoder"
    assert tensor(decoder, hires={**LANCZOS, "upscaler": "latent"}, guidance_scale=1.0).shape[-1] == 128


def test_inpainting_of_9_channels(
    files: tuple[Any, dict[str, Path]], tmp_path: Path, inpainting_pipe: sdxl.Pipeline
) -> None:
    inpainting_pipe.save(tmp_path / "model")
    mask, pixels = Image.new("L", (64, 64), 255), torch.rand(1, 3, 64, 64)
    whole = opened(files[1]["both"], tmp_path / "model")
    assert tensor(whole, image=pixels, mask=mask).isfinite().all()
    with pytest.raises(ArgumentError, match="is a decoder alone"):
        tensor(opened(files[1]["decoder"], tmp_path / "model"), image=pixels, mask=mask)


@pytest.mark.parametrize("offload", ["text", "stage", "block", "auto"])
def test_offload(files: tuple[Any, dict[str, Path]], pipe: sdxl.Pipeline, tiny_folder: Path, offload: str) -> None:
    other = opened(files[1]["folder"], tiny_folder, offload=offload)
    z = torch.randn(2, 4, 8, 8)
    assert torch.allclose(other.decode(z), pipe.decode(z), atol=1e-5)
    pixels = torch.rand(1, 3, 64, 64)
    assert torch.allclose(other.encode(pixels), pipe.encode(pixels), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(files: tuple[Any, dict[str, Path]], pipe: sdxl.Pipeline, tiny_folder: Path, dtype: str) -> None:
    z = torch.randn(1, 4, 8, 8)
    difference = opened(files[1]["folder"], tiny_folder, dtype=dtype).decode(z) - pipe.decode(z)
    assert 0 < float(difference.abs().max()) < 0.05


def test_float16_is_computed_in_float16_unlike_a_vae() -> None:
    half = Placement(torch.device("cuda"), torch.float16, torch.float16)
    assert vae_placement(half, TinyVAEConfig()) == half
    assert vae_placement(half, VAEConfig()).arithmetic is torch.float32


def test_no_strips_and_little_memory(decoder: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl.pipeline.latents.decode_strips", lambda *_: 1 / 0)
    monkeypatch.setattr(decoder.residency, "room", lambda: 0.0)
    decoder.decode(torch.randn(1, 4, 8, 8))
    exact = Placement(torch.device("cpu"), torch.float32, torch.float32)
    size = (1024, 1024)
    strips = vae_bytes(VAEConfig(), size, exact, in_strips=True)
    assert vae_bytes(TinyVAEConfig(), size, exact) < 1.5 * strips
    assert vae_bytes(TinyVAEConfig(), size, exact) < 0.5 * vae_bytes(VAEConfig(), size, exact)
    brain = Placement(torch.device("cpu"), torch.bfloat16, torch.bfloat16)
    for measured, side in ((0.43e9, 1024), (0.15e9, 512)):  # on a CPU
        assert measured < vae_bytes(TinyVAEConfig(), (side, side), brain) < 1.6 * measured


def test_previews_are_those_of_the_model(files: tuple[Any, dict[str, Path]], tmp_path: Path) -> None:
    """The latents are the model's, and so are their colours."""
    plain, drafts = opened(None, MODEL), opened(files[1]["decoder"], MODEL)
    assert drafts.info.config.vae.preview == plain.info.config.vae.preview
    miniature = sdxl.Pipeline.from_pretrained("miniature", vae=files[1]["decoder"], dtype="float32", device="cpu")
    step = next(miniature.steps("a red star on a blue background", steps=4, seed=1))
    own = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    first = next(own.steps("a red star on a blue background", steps=4, seed=1))
    assert [image.tobytes() for image in step.preview()] == [image.tobytes() for image in first.preview()] != []


def test_record_and_replay(
    files: tuple[Any, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The name and the hash of the tiny VAE are recorded as any VAE's, in images and jobs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "draft.safetensors").write_bytes(files[1]["decoder"].read_bytes())
    flags = ["--model", str(MODEL), "--vae", "draft.safetensors", "--device", "cpu", "--dtype", "float32", "--quiet"]
    size = ["--steps", "1", "--width", "64", "--height", "64"]
    assert main(["generate", "--prompt", "x", *flags, *size, "--output", "a.png"]) == 0
    recorded = read_parameters(Path("a.png"))["model"]
    assert recorded["vae"] == "draft.safetensors"
    assert recorded["sha256"]["vae"] == file_hash(tmp_path / "draft.safetensors")
    (tmp_path / "draft.safetensors").rename(tmp_path / "renamed.safetensors")
    file_hash(tmp_path / "renamed.safetensors")
    assert main(["generate", "--from", "a.png", "--device", "cpu", "--quiet", "--output", "b.png"]) == 0
    with Image.open("a.png") as first, Image.open("b.png") as second:
        assert first.tobytes() == second.tobytes()
    (tmp_path / "prompts.txt").write_text('{"prompt": "x"}\n')
    flags[3] = "renamed.safetensors"
    assert main(["generate", "--batch", "prompts.txt", *flags, *size, "--seed", "0", "--output-dir", "job"]) == 0
    (image,) = (tmp_path / "job").glob("**/*.png")
    assert read_parameters(image)["model"]["vae"] == "renamed.safetensors"


def test_a_folder_is_hashed(files: tuple[Any, dict[str, Path]], pipe: sdxl.Pipeline) -> None:
    file = "diffusion_pytorch_model.safetensors"
    assert pipe.hashes.record()["sha256"]["vae"] == model_hash(files[1]["folder"], [file])


def test_what_else_a_pipeline_does(
    files: tuple[Any, dict[str, Path]], pipe: sdxl.Pipeline, decoder: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "folder", tmp_path / "single.safetensors"):
        with pytest.raises(OutputError, match="would have a tiny VAE; expected the model's own"):
            pipe.save(path)
        assert not path.exists()
    again = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    assert torch.equal(tensor(again), tensor(pipe))
    changed = opened(files[1]["folder"], tiny_folder)
    changed.change_weights({"vae.decoder.levels.0.blocks.0.conv1.weight": torch.zeros_like})
    assert not torch.equal(tensor(changed), tensor(pipe))
    changed.change_weights({})
    assert torch.equal(tensor(changed), tensor(pipe))
    changed.to(dtype="bfloat16")
    assert torch.allclose(tensor(changed), tensor(pipe), atol=0.1)
    trainable = opened(files[1]["folder"], tiny_folder, trainable=True)
    assert all(weight.requires_grad for weight in trainable.vae.parameters())


def test_bench(decoder: sdxl.Pipeline) -> None:
    assert list(stages(decoder, 64, 64)) == ["text", "step", "decode"]


def test_it_must_fit_the_model(files: tuple[Any, dict[str, Path]], tmp_path: Path, tiny_folder: Path) -> None:
    small = {name: value[1:] for name, value in SMALL.items()}
    paths = save_all(reference(**small), tmp_path)
    with pytest.raises(ConfigError, match="makes 4 pixels of a latent and the model's VAE 8"):
        opened(paths["folder"], tiny_folder)


def test_latents_of_edm(files: tuple[Any, dict[str, Path]]) -> None:
    """Playground's latents are brought to SDXL's scale first, in which a tiny VAE reads them."""
    own = VAEConfig(scaling_factor=0.5, latents_mean=(-1.7, 1.9, -1.4, 2.5), latents_std=(8.5, 5.9, 6.5, 5.2))
    z, config = torch.randn(1, 4, 3, 3), fitted(TinyVAEConfig(), own)
    sdxls = VAEConfig()
    assert torch.allclose(unscaled(config, z), scaled(sdxls, unscaled(own, z)), atol=1e-6)
    assert torch.allclose(scaled(config, unscaled(config, z)), z, atol=1e-5)


# ---- previews --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_previews_of_steps(files: tuple[Any, dict[str, Path]], tiny_pipe: sdxl.Pipeline, tiny_folder: Path) -> None:
    """They are decoded by the tiny VAE, and the images by the model's own, as without it."""
    pipe = opened(None, tiny_folder, preview_vae=files[1]["decoder"])
    shown = []
    for step in pipe.steps("cat", **STEPS):
        previews = step.preview()
        expected = (files[0].decode(step.denoised).sample / 2 + 0.5).clamp(0, 1)
        assert [image.size for image in previews] == [(64, 64)]
        assert torch.allclose(to_tensor(previews[0])[None], expected, atol=1.1 / 255)
        shown.append(step.result("tensor").images)
    assert torch.equal(shown[-1], tensor(tiny_pipe))
    assert "preview_vae" not in step.result().parameters[0]["model"]
    (*_, last) = tiny_pipe.steps("cat", **STEPS)
    assert step.result().parameters == last.result().parameters


def test_a_preview_of_a_guess_that_is_not_finite(files: tuple[Any, dict[str, Path]], tiny_folder: Path) -> None:
    """It is black there: whether the result is finite is checked once, at the end."""
    pipe = opened(None, tiny_folder, preview_vae=files[1]["decoder"])
    assert pipe.residency.model.preview is not None
    pixels = decode_preview(pipe.residency.model.preview(), torch.full((1, 4, 8, 8), torch.nan))
    assert pixels is not None and torch.equal(pixels, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("offload", ["stage", "block"])
def test_previews_with_less_in_memory(files: tuple[Any, dict[str, Path]], tiny_folder: Path, offload: str) -> None:
    first, other = (
        next(opened(None, tiny_folder, preview_vae=files[1]["folder"], offload=each).steps("cat", **STEPS))
        for each in ("none", offload)
    )
    (one,), (two,) = first.preview(), other.preview()
    assert torch.allclose(to_tensor(one), to_tensor(two), atol=1.1 / 255)


def test_where_memory_runs_out_a_preview_is_coarse(
    files: tuple[Any, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sdxl.Pipeline.from_pretrained(
        "miniature", preview_vae=files[1]["decoder"], dtype="float32", device="cpu", offload="stage"
    )
    step = next(pipe.steps("a red star on a blue background", steps=4, seed=1))
    assert step.preview()[0].size == (128, 128)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("sdxl.models.tiny_vae.TinyVAE.decode", fail)
    assert step.preview()[0].size == (16, 16)


def test_previews_of_a_service(files: tuple[Any, dict[str, Path]]) -> None:
    """They are at most 512 pixels wide and high each; the flag is the service's alone, since a command shows none."""
    from sdxl.cli.options import model_request
    from sdxl.cli.serve import serve_parser
    from sdxl.pipeline.result import PipelineStep
    from sdxl.serve.pace import strip_of

    z = torch.zeros(2, 4, 8, 8)
    step = PipelineStep(0, 4, 1.0, z, z, decode=lambda z: torch.rand(len(z), 3, 768, 1024))
    data = strip_of(step.preview())
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (2 * 512, 384)
    options = serve_parser().parse_args(["--preview-vae", "x.safetensors"])
    assert model_request(options, {"model": "miniature"}).preview_vae == "x.safetensors"
    with pytest.raises(SystemExit):
        main(["generate", "--preview-vae", "x.safetensors", "a cat"])


def test_a_whole_vae_is_too_slow_for_previews(tiny_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a whole VAE, too slow for previews"):
        opened(None, tiny_folder, preview_vae=tiny_folder / "vae")


def test_a_preview_vae_of_other_latents_is_refused(
    files: tuple[Any, dict[str, Path]], tiny_folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(files[1]["decoder"])
    wide = torch.zeros(len(tensors["1.weight"]), 16, 3, 3)
    save_file(tensors | {"1.weight": wide}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: .* latents of 16 channels, and the model's have 4"):
        opened(None, tiny_folder, preview_vae=tmp_path / "other.safetensors")
