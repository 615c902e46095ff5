"""IP-Adapters against diffusers: final latents within 1e-4 of its pipelines'."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import control_nets
import pytest
import tiny
import tiny_reference
import torch
from cpu_graphs import CPURecorder
from deep import deep_folder, deep_inpainting, deep_pipe, deep_reference  # noqa: F401  fixtures
from diffusers import StableDiffusionXLControlNetPipeline
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from safetensors.torch import save_file

import sdxl
from sdxl.adapters.ip_adapter import places
from sdxl.runtime.cuda_graph import Graphs
from sdxl.weights.diffusers_config import read_unet

TOLERANCE = 1e-4
PROMPT = "A mecha robot in a favela"
WIDTHS = places(read_unet(tiny.UNET))
IMAGES = [tiny.picture(seed, 70, 20 + 10 * seed) for seed in (5, 6, 7)]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Adapters, each kind in a folder with its image encoder."""
    folder = tmp_path_factory.mktemp("adapters")
    return lambda kind, seed=11: tiny_reference.save(folder / kind.replace(" ", "_"), kind, WIDTHS, seed)


def theirs(paths: list[Path], family: str, scale: Any, images: Any, **more: Any) -> torch.Tensor:
    pipe = tiny_reference.reference_pipe(paths, family)
    pipe.set_ip_adapter_scale(scale)
    pipe.scheduler = tiny.scheduler("euler", "leading")
    arguments = {"num_inference_steps": 4, "height": 64, "width": 64, "prompt": PROMPT, **more}
    seeds = arguments.pop("seeds", [5])
    latents: torch.Tensor = pipe(
        ip_adapter_image=images, generator=tiny.generators(seeds), output_type="latent", **arguments
    ).images
    return latents


def ours(pipe: sdxl.Pipeline, references: Any, **more: Any) -> torch.Tensor:
    arguments = {"steps": 4, "seed": 5, "height": 64, "width": 64, "prompt": PROMPT, **more}
    result = pipe(reference=references, output="latent", progress=False, **arguments)
    assert isinstance(result.images, torch.Tensor)
    return result.images


@pytest.mark.parametrize(
    ("kind", "guidance_scale"),
    [
        *((kind, 5.0) for kind in ("plain ViT-H", "plain bigG", "plus")),
        *(pytest.param(kind, 1.0, marks=pytest.mark.slow) for kind in ("plain ViT-H", "plus")),
    ],
)
def test_one_adapter(kind: str, guidance_scale: float, save: Any, tiny_pipe: Any, error: Any) -> None:
    path, family = save(kind), "bigG" if "bigG" in kind else "ViT-H"
    more = {"guidance_scale": guidance_scale}
    expected = theirs([path], family, 0.7, [IMAGES[0]], **more)
    found = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], scale=0.7), **more)
    assert error(found, expected) < TOLERANCE
    assert error(found, ours(tiny_pipe, None, **more)) > 0.01, "the image matters"
    with pytest.warns(sdxl.SDXLWarning, match="has no effect: its scales are 0"):
        idle = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], scale=0), **more)
    assert torch.equal(idle, ours(tiny_pipe, None, **more))


@pytest.mark.parametrize(("kind", "negative_prompt"), [("plain ViT-H", None), ("plus", "dog")])
def test_several_images_in_one_adapter(
    kind: str, negative_prompt: str | None, save: Any, tiny_pipe: Any, error: Any
) -> None:
    path = save(kind)
    expected = theirs([path], "ViT-H", 0.5, [IMAGES], negative_prompt=negative_prompt)
    reference = sdxl.Reference(path, tuple(IMAGES), scale=0.5)
    assert error(ours(tiny_pipe, reference, negative_prompt=negative_prompt), expected) < TOLERANCE


def test_two_adapters(save: Any, tiny_pipe: Any, error: Any) -> None:
    paths = [save("plain ViT-H"), save("plus", 12)]
    expected = theirs(paths, "ViT-H", [0.4, 0.8], IMAGES[:2])
    references = [sdxl.Reference(paths[0], IMAGES[0], scale=0.4), sdxl.Reference(paths[1], IMAGES[1], scale=0.8)]
    assert error(ours(tiny_pipe, references), expected) < TOLERANCE


STYLE, LAYOUT = {"up": {"block_0": [0.0, 0.7, 0.0]}}, {"down": {"block_2": [0.0, 0.7]}}


@pytest.mark.parametrize(
    ("scale", "only"),
    [
        (STYLE, "style"),
        (LAYOUT, "layout"),
        (STYLE | LAYOUT, ("style", "layout")),
        (
            {"mid": 0.3, "up": {"block_0": [0.1, 0.0, 0.9], "block_1": 0.5}, "down": 0.2},
            {"mid": 0.3, "up.0.attn.0": 0.1, "up_blocks.0.attentions.2": 0.9, "up.1": 0.5, "down": 0.2},
        ),
    ],
    ids=["style", "layout", "both", "mapping"],
)
def test_scales_of_blocks(scale: Any, only: Any, save: Any, tiny_pipe: Any, error: Any) -> None:
    path = save("plain ViT-H")
    expected = theirs([path], "ViT-H", scale, [IMAGES[0]])
    more = {} if isinstance(only, dict) else {"scale": 0.7}
    assert error(ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], only=only, **more)), expected) < TOLERANCE
    if isinstance(only, dict):
        with pytest.warns(sdxl.SDXLWarning, match="scale has no effect for reference .* its only has scales"):
            ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], only=only, scale=1))


@pytest.mark.parametrize(("height", "width"), [(96, 64)])
def test_masks(height: int, width: int, save: Any, tiny_pipe: Any, error: Any) -> None:
    """An image and a mask each, in one adapter of diffusers; here a reference each."""
    path, size = save("plus"), {"height": height, "width": width}
    masks = [tiny.mask(1, 80, 80), tiny.mask(3, 64, 64)]
    tensors = IPAdapterMaskProcessor().preprocess(masks, **size)
    tensors = [tensors.reshape(1, 2, height, width)]
    expected = theirs(
        [path], "ViT-H", [[0.6, 0.9]], [IMAGES[:2]], cross_attention_kwargs={"ip_adapter_masks": tensors}, **size
    )
    references = [
        sdxl.Reference(path, image, scale=scale, mask=mask)
        for image, scale, mask in zip(IMAGES[:2], (0.6, 0.9), masks, strict=True)
    ]
    assert error(ours(tiny_pipe, references, **size), expected) < TOLERANCE


@pytest.mark.parametrize("task", ["image", pytest.param("mask", marks=pytest.mark.slow), "nine channels"])
def test_tasks(task: str, save: Any, tiny_pipe: Any, inpainting_pipe: Any, error: Any) -> None:
    """As diffusers' image to image and inpainting, with an adapter that changes the UNet alone."""
    path, source, mask = save("plain ViT-H"), tiny.picture(1), tiny.mask(1)
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline

    which = StableDiffusionXLImg2ImgPipeline if task == "image" else StableDiffusionXLInpaintPipeline
    unet = tiny.UNET | ({"in_channels": 9} if task == "nine channels" else {})
    base = tiny_reference.reference_pipe([path], "ViT-H", unet)
    reference = which(**base.components, add_watermarker=False)
    reference.set_progress_bar_config(disable=True)
    reference.set_ip_adapter_scale(0.8)
    reference.scheduler = tiny.scheduler("euler", "leading")
    more = {} if task == "image" else {"mask_image": mask, "height": 64, "width": 64}
    expected = reference(
        prompt=PROMPT,
        image=source,
        strength=0.6,
        num_inference_steps=10,
        ip_adapter_image=[IMAGES[0]],
        generator=tiny.generators([5]),
        output_type="latent",
        **more,
    ).images
    pipe = inpainting_pipe if task == "nine channels" else tiny_pipe
    own = {"image": source, "strength": 0.6, **({} if task == "image" else {"mask": mask})}
    arguments = {"steps": 10, "guidance_scale": 5 if task == "image" else 7.5}
    found = ours(pipe, sdxl.Reference(path, IMAGES[0], scale=0.8), **own, **arguments)
    assert error(found, expected) < TOLERANCE


def save_lora(folder: Path) -> Path:
    """A LoRA of two matrices of a cross-attention, as diffusers saves it."""
    generator = torch.Generator().manual_seed(2)
    layer = "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2"
    factors = {
        f"{layer}.{name}.lora_{half}.weight": torch.randn(shape, generator=generator) / 4
        for name, width in (("to_q", 64), ("to_k", tiny.UNET["cross_attention_dim"]))
        for half, shape in (("A", (4, width)), ("B", (64, 4)))
    }
    folder.mkdir()
    save_file(factors, folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.mark.parametrize("with_control", [False, True])
def test_references_beside_loras_and_controls(
    with_control: bool, save: Any, tiny_folder: Path, error: Any, tmp_path: Path
) -> None:
    pytest.importorskip("peft")  # by which diffusers loads LoRAs
    path, weights = save("plus"), save_lora(tmp_path / "lora")
    edges = tiny.picture(8)
    pipe = tiny_reference.reference_pipe([path], "ViT-H")
    more: dict[str, Any] = {}
    if with_control:
        net = control_nets.controlnet()
        net.save_pretrained(tmp_path / "net")
        pipe = StableDiffusionXLControlNetPipeline(**pipe.components, controlnet=net, add_watermarker=False)
        pipe.set_progress_bar_config(disable=True)
        more = {"image": edges, "controlnet_conditioning_scale": 0.6}
    pipe.load_lora_weights(weights)
    pipe.set_ip_adapter_scale(0.7)
    pipe.scheduler = tiny.scheduler("euler", "leading")
    arguments = {"num_inference_steps": 4, "height": 64, "width": 64, "prompt": PROMPT, "guidance_scale": 5.0}
    images = {"ip_adapter_image": [IMAGES[0]], "output_type": "latent"}
    expected = pipe(generator=tiny.generators([5]), **images, **arguments, **more).images
    own = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", loras=[weights])
    control = [sdxl.Control(tmp_path / "net", edges, scale=0.6)] if with_control else None
    reference = sdxl.Reference(path, IMAGES[0], scale=0.7)
    found = ours(own, reference, control=control)
    assert error(found, expected) < TOLERANCE
    assert error(found, ours(own, None, control=control)) > 0.01
    assert not with_control or error(found, ours(own, reference)) > 0.01


def test_batches(save: Any, tiny_pipe: Any, error: Any) -> None:
    """One image for all as in diffusers; a list is one for each, as each would be alone."""
    path, prompts, seeds = save("plus"), [PROMPT, "a red cat"], [3, 9, 4, 7]
    more = {"prompt": prompts, "negative_prompt": ["dog", "photo"]}
    expected = theirs([path], "ViT-H", 0.6, [IMAGES[0]], num_images_per_prompt=2, seeds=seeds, **more)
    shared = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0]), num_images=2, seed=seeds, **more)
    assert error(shared, expected) < TOLERANCE
    each = [IMAGES[0], (IMAGES[1], IMAGES[2])]
    found = ours(tiny_pipe, sdxl.Reference(path, each), num_images=2, seed=seeds, **more)
    for n, seed in enumerate(seeds):
        own = {name: value[n // 2] for name, value in more.items()}
        alone = ours(tiny_pipe, sdxl.Reference(path, each[n // 2]), seed=seed, **own)
        assert error(found[n : n + 1], alone) < TOLERANCE
    with pytest.raises(sdxl.ArgumentError, match="has 3 entries for 4 images; give one for each"):
        ours(tiny_pipe, sdxl.Reference(path, IMAGES), num_images=2, seed=seeds, **more)


@pytest.mark.parametrize(
    "sampler",
    ["euler_ancestral", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dpmpp_2m", "lcm", "euler_cfg_pp"))],
)
def test_windows(sampler: str, save: Any, tiny_pipe: Any) -> None:
    """In the steps of its window the call is that of a reference without one, elsewhere that of none."""
    path = save("plain ViT-H")
    more = {"sampler": sampler, "guidance_scale": 1.5}
    whole = sdxl.Reference(path, IMAGES[0], scale=0.9)
    windowed = sdxl.Reference(path, IMAGES[0], scale=0.9, start=0.25, end=0.75)
    runs = [list(tiny_pipe.steps(PROMPT, steps=4, seed=5, reference=each, **more)) for each in (None, whole, windowed)]
    none, on, part = ([step.latents for step in run] for run in runs)
    assert torch.equal(part[0], none[0]), "it has not begun"
    assert not torch.equal(part[1], none[1])
    assert not torch.equal(on[0], none[0])
    early = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], scale=0.9, end=0.5), **more)
    assert not torch.equal(early, none[-1])
    with pytest.warns(sdxl.SDXLWarning, match="has no effect: no step lies within its start and end"):
        idle = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], start=0.3, end=0.4), **more)
    assert torch.equal(idle, ours(tiny_pipe, None, **more))


def test_windows_count_the_steps_that_run(save: Any, tiny_pipe: Any) -> None:
    """Of 10 steps at strength 0.4 four run, and the first half of these is two."""
    path, more = save("plain ViT-H"), {"image": tiny.picture(1), "strength": 0.4, "steps": 10, "seed": 5}
    first, none = (
        [step.latents for step in tiny_pipe.steps(PROMPT, reference=each, **more)]
        for each in (sdxl.Reference(path, IMAGES[0], end=0.5), None)
    )
    assert len(first) == 4
    changes = [float((a - b).abs().max()) for a, b in zip(first, none, strict=True)]
    assert changes[0] > 0
    late = [
        step.latents for step in tiny_pipe.steps(PROMPT, reference=sdxl.Reference(path, IMAGES[0], start=0.5), **more)
    ]
    assert [torch.equal(a, b) for a, b in zip(late, none, strict=True)] == [True, True, False, False]


def test_a_refiner_sees_no_reference(save: Any, tiny_folder: Path, refiner_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    reference = sdxl.Reference(save("plus"), IMAGES[0])
    base = list(pipe.steps(PROMPT, steps=5, seed=5, refine_at=0.6, reference=reference))
    assert len(base) == 5
    assert base[-1].latents.isfinite().all()
    only = sdxl.Reference(save("plus"), IMAGES[0], start=0.8)
    with pytest.warns(sdxl.SDXLWarning, match="has no effect: no step lies within its start and end"):
        late = ours(pipe, only, refine_at=0.6, steps=5)
    assert torch.equal(late, ours(pipe, None, refine_at=0.6, steps=5))
    refiner = sdxl.Pipeline.from_pretrained(refiner_folder, dtype="float32", device="cpu")
    with pytest.raises(sdxl.CheckpointError, match="makes tokens of width 48, and the model's UNet takes 32"):
        ours(refiner, reference, image=tiny.picture(1))


@pytest.mark.parametrize(
    "offload", ["stage", "block", *(pytest.param(each, marks=pytest.mark.slow) for each in ("none", "text"))]
)
def test_offload(
    offload: Any, save: Any, tiny_folder: Path, tiny_pipe: Any, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All give the same, and hold the networks as they hold text encoders."""
    references = [sdxl.Reference(save("plain ViT-H"), IMAGES[0]), sdxl.Reference(save("plus"), IMAGES[1])]
    expected = ours(tiny_pipe, references)
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
    assert error(ours(pipe, references), expected) < 1e-5
    extras = pipe.residency.model.extras
    assert [each.loaded is not None for each in extras.all()] == [offload in ("none", "text")] * 3, "one encoder"
    plan = pipe.plan(sdxl.Request(PROMPT, reference=references[1:], height=64, width=64))
    assert len(extras.idle(plan.extras)) == (1 if offload in ("none", "text") else 0)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 0)
    with pytest.raises(sdxl.OutOfMemoryError):
        pipe.residency.fit(plan)
    assert not extras.idle(plan.extras), "what a call does not name makes room"


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_dtypes(dtype: str, save: Any, tiny_folder: Path, tiny_pipe: Any, error: Any) -> None:
    reference = sdxl.Reference(save("plus"), IMAGES[0])
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype=dtype, device="cpu")
    assert error(ours(pipe, reference), ours(tiny_pipe, reference)) < (0.3 if dtype == "bfloat16" else 0.05)


def test_encoders_are_shared_and_results_kept_for_many(save: Any, tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="stage")
    one, other = save("plus"), save("plus", 12)
    references = [sdxl.Reference(one, IMAGES[0]), sdxl.Reference(other, IMAGES[0])]
    first = ours(pipe, references)
    assert len(pipe.residency.model.extras.all()) == 3, "two adapters, one encoder"
    results = pipe.residency.model.extras.results
    assert len(results) == 4, "each adapter for the image, and for none"
    before = dict(results)
    assert torch.equal(ours(pipe, references), first)
    assert all(results[key] is value for key, value in before.items())
    ours(pipe, replace(references[0], image=IMAGES[1]))
    assert len(results) == 2, "of the last request alone"
    pipe.prepare_for_many()
    for image in IMAGES:
        ours(pipe, replace(references[0], image=image))
    assert len(pipe.residency.model.extras.results) == 4


def test_masks_follow_the_window_of_a_mask(save: Any, tiny_pipe: Any) -> None:
    """With mask_padding a reference's mask is cut as the image is: where it is black the image is as without it."""
    path, source, hole = save("plus"), tiny.picture(1, 128, 128), tiny.mask(1, 128, 128)
    more = {"image": source, "mask": hole, "mask_padding": 4, "strength": 0.8}
    black = Image.new("L", source.size, 0)
    assert torch.equal(
        ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], mask=black), **more), ours(tiny_pipe, None, **more)
    )
    box = tiny_pipe.plan(sdxl.Request(PROMPT, height=64, width=64, **more)).canvases[0].box
    inside = Image.new("L", source.size, 0)
    inside.paste(255, box)
    whole = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0]), **more)
    cut = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], mask=inside), **more)
    assert torch.allclose(cut, whole, atol=1e-5)


def test_pag_and_prompts_that_change(save: Any, tiny_pipe: Any) -> None:
    """All branches see the image: the perturbed one and those of other prompts too."""
    reference = sdxl.Reference(save("plus"), IMAGES[0])
    for more in ({"guider": "pag"}, {"prompt": "[a cat:a dog:0.5] AND a photo", "prompt_syntax": "a1111"}):
        found = ours(tiny_pipe, reference, **more)
        assert found.isfinite().all()
        assert not torch.equal(found, ours(tiny_pipe, None, **more))


def test_networks_in_memory_take_references(save: Any, tiny_pipe: Any, error: Any) -> None:
    own = sdxl.Pipeline.from_networks(tiny_pipe.info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    reference = sdxl.Reference(save("plus"), IMAGES[0])
    assert error(ours(own, reference), ours(tiny_pipe, reference)) < 1e-5


def test_windows_have_recorded_graphs_of_their_own(save: Any, tiny_pipe: Any) -> None:
    """A window changes which graph of a step is replayed; a scale and another image do not."""
    pipe = sdxl.Pipeline.from_networks(tiny_pipe.info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    recorder = CPURecorder()
    pipe.residency.model = replace(pipe.residency.model, graphs=Graphs(eager_runs=0, recorder=recorder))
    half = sdxl.Reference(save("plus"), IMAGES[0], scale=0.9, end=0.5)
    assert torch.equal(ours(pipe, half), ours(tiny_pipe, half))
    assert recorder.count == 2, "with the image, and without"
    other = replace(half, scale=0.3, image=IMAGES[1])
    assert torch.equal(ours(pipe, other), ours(tiny_pipe, other))
    assert recorder.count == 2
    masked = replace(half, mask=tiny.mask(1))
    assert torch.equal(ours(pipe, masked), ours(tiny_pipe, masked))
    assert recorder.count == 3


def test_estimates_count_encoders_and_adapters(save: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    request = sdxl.Request(PROMPT, reference=sdxl.Reference(save("plus"), IMAGES[0]))
    plan, model = pipe.plan(request), pipe.residency.model
    sizes = [
        sum(math.prod(shape) for shape in each.component.shapes()) * 4
        for each in (plan.references[0].adapter, plan.references[0].encoder)
    ]
    assert model.missing_bytes(plan.extras) == (0, sum(sizes))
    assert replace(model, offload="stage").missing_bytes(plan.extras) == (0, max(sizes))
    assert replace(model, offload="block").missing_bytes(plan.extras) == (0, 0)
    ours(pipe, request.reference)
    assert model.missing_bytes(plan.extras) == (0, 0), "they are loaded"
    others = sdxl.Request(PROMPT, reference=sdxl.Reference(save("plus", 12), IMAGES[0]), steps=2, height=64, width=64)
    plan = pipe.plan(others)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: sizes[0] + 1e4)
    pipe.residency.fit(replace(plan, references=()))
    with pytest.raises(sdxl.OutOfMemoryError, match=r"beside the model, and .* GB are free"):
        pipe.residency.fit(plan)


def test_nothing_is_opened_without_a_reference(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl.pipeline.references.References.open", lambda *_: pytest.fail("it is opened"))
    monkeypatch.setattr("sdxl.pipeline.reference_images.fingerprint", lambda *_: pytest.fail("it is looked at"))
    assert ours(tiny_pipe, None).isfinite().all()
    assert tiny_pipe("a cat", steps=1, seed=1, progress=False).parameters[0]["request"]["reference"] is None
