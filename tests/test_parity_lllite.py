"""ControlNet-LLLite against diffusers' UNet, the inputs of whose projections are changed by a restatement of kohya's
formula (`control_nets.lllite_input`): one forward, and the final latents of whole runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_folder, deep_inpainting, deep_pipe, deep_reference  # noqa: F401  fixtures
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers")
import control_nets
import tiny
from diffusers import (
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
)

import sdxl
from sdxl import Control
from sdxl.images.pixels import to_tensor
from sdxl.models import ConditionedUNet, Conditioning, UNet, UNetConfig, precompute
from sdxl.models.conditioned import with_shifts
from sdxl.models.lllite import LLLite
from sdxl.models.unet import TransformerBlock
from sdxl.pipeline.network_loading import load
from sdxl.runtime.cuda_graph import _fused as fused
from sdxl.runtime.placement import Placement
from sdxl.runtime.rewrite import rewrite
from sdxl.sampling.guiders import PAG
from sdxl.text import embed_sizes
from sdxl.weights import open_checkpoint
from sdxl.weights.control import open_control

SIZE: dict[str, Any] = {"height": 64, "width": 96}
SETTINGS: dict[str, Any] = {"steps": 4, "seed": 5, "output": "latent", "progress": False, **SIZE}
SLOW = pytest.mark.slow
PROMPT, NEGATIVE = "a red cat", "photo of a dog"
PLAIN = Placement(torch.device("cpu"), torch.float32, torch.float32)


def picture(seed: int = 3) -> Image.Image:
    return tiny.picture(seed, 96, 64)


STATES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "lllite": control_nets.lllite,
    "whole": lambda: control_nets.lllite(61, expanding=True),
}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("nets")
    files = {name: control_nets.save(make(), root / f"{name}.safetensors") for name, make in STATES.items()}
    return files | {"net": control_nets.save(control_nets.controlnet().state_dict(), root / "net.safetensors")}


@dataclass(frozen=True)
class Given:
    """A network with its images, for the steps of a window."""

    name: str
    images: Sequence[Image.Image]
    scale: float = 1.0
    steps: range = range(100)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The final latents of a pipeline of diffusers whose UNet is changed by networks, each seeing the ones before."""

    def run(pipeline: Any, base: Any, given: Sequence[Given], rows: int = 1, **arguments: Any) -> Tensor:
        calls = [-1]
        with monkeypatch.context() as patch:
            change(patch, base.unet, given, calls)
            made = pipeline(**base.components, **arguments.pop("parts", {}))
            made.set_progress_bar_config(disable=True)
            settings: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 5.0}
            settings |= {"prompt": [PROMPT] * rows, "negative_prompt": [NEGATIVE] * rows}
            settings |= {"generator": tiny.generators([5 + n for n in range(rows)])}
            settings |= SIZE if "image" not in arguments or "parts" in arguments else {}
            found: Tensor = made(**(settings | arguments)).images
        return found

    return run


def change(patch: pytest.MonkeyPatch, unet: Any, given: Sequence[Given], calls: list[int]) -> None:
    """Change diffusers' projections. `calls` counts the steps, one call of the UNet each."""
    forward = unet.forward

    def counted(*arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        return forward(*arguments, **more)

    patch.setattr(unet, "forward", counted)
    states = {each.name: STATES[each.name]() for each in given}
    for place, (module, _, count) in control_nets.LLLITE_PLACES.items():
        for n in range(count):
            for layer in control_nets.LLLITE_LAYERS:
                block = unet.get_submodule(f"{module}.transformer_blocks.{n}")
                projection = block.get_submodule(layer.replace("_", ".", 1))
                name = f"lllite_unet_{place}_transformer_blocks_{n}_{layer}"
                own = [(each, states[each.name]) for each in given if f"{name}.up.0.bias" in states[each.name]]
                if own:
                    patch.setattr(projection, "forward", changed(projection, name, own, calls))


def changed(
    projection: torch.nn.Module, name: str, given: Sequence[tuple[Given, dict[str, Tensor]]], calls: list[int]
) -> Any:
    features = [
        control_nets.lllite_features(state, name, torch.stack([to_tensor(image) for image in each.images]))
        for each, state in given
    ]
    plain = projection.forward

    def forward(x: Tensor) -> Tensor:
        for (each, state), own in zip(given, features, strict=True):
            if calls[0] in each.steps:
                x = control_nets.lllite_input(state, name, x, own, each.scale)
        found: Tensor = plain(x)
        return found

    return forward


def ours(pipe: sdxl.Pipeline, control: Any, **arguments: Any) -> Tensor:
    found = pipe(PROMPT, negative_prompt=NEGATIVE, control=control, **(SETTINGS | arguments)).images
    assert isinstance(found, Tensor)
    return found


# ---- one forward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_one_forward(
    name: str, rows: int, tiny_folder: Path, reference_pipe: Any, nets: dict[str, Path], error: Any, monkeypatch: Any
) -> None:
    """Of two branches with an image for all, or one for each row."""
    images = [picture(n) for n in range(rows)]
    generator = torch.Generator().manual_seed(0)
    x, context = (torch.randn(4, *shape, generator=generator) for shape in ((4, 8, 12), (7, 48)))
    pooled, sizes = torch.randn(4, 32, generator=generator), torch.tensor([[64.0, 96.0, 0.0, 8.0, 64.0, 96.0]] * 4)
    added = {"text_embeds": pooled, "time_ids": sizes}
    t = torch.tensor(333.0)
    plain = reference_pipe.unet(x, t, context, added_cond_kwargs=added).sample
    with monkeypatch.context() as patch:
        change(patch, reference_pipe.unet, [Given(name, images, 0.8)], [0])
        wanted = reference_pipe.unet(x, t, context, added_cond_kwargs=added).sample
    conditioned, net = parts(tiny_folder, nets[name], context, pooled, sizes)
    shifts = net.shifts(net(torch.stack([to_tensor(image) for image in images])), 0.8)
    found = with_shifts(conditioned, net, shifts)
    assert error(conditioned(x, 333.0), plain) < 1e-5
    assert error(found(x, 333.0), wanted) < 1e-5
    assert error(wanted, plain) > 1e-2
    assert found.networks == [conditioned.unet, net]


def parts(model: Path, path: Path, context: Tensor, pooled: Tensor, sizes: Tensor) -> tuple[ConditionedUNet, LLLite]:
    component = open_checkpoint(model).components["unet"]
    assert isinstance(component.config, UNetConfig)
    unet, net = load(component, PLAIN), load(open_control(path, component.config).component, PLAIN)
    assert isinstance(unet, UNet) and isinstance(net, LLLite)
    vector = torch.cat([pooled, torch.cat([embed_sizes(row.tolist(), 8) for row in sizes])], dim=1)
    own = {
        name: Conditioning(context[rows], vector[rows])
        for name, rows in (("negative", slice(2)), ("positive", slice(2, 4)))
    }
    return precompute(unet, own, [333.0]), net


@SLOW
@torch.no_grad()
def test_compiled_blocks(tiny_folder: Path, nets: dict[str, Path], error: Any) -> None:
    """Self-attention is one matrix there. Each kind of block is compiled once with changes, whatever image, scale or
    network it is, and without a break of the graph.
    """
    from torch._dynamo.testing import CompileCounter

    generator = torch.Generator().manual_seed(0)
    x, context = (torch.randn(4, *shape, generator=generator) for shape in ((4, 8, 12), (7, 48)))
    pooled, sizes = torch.randn(4, 32, generator=generator), torch.tensor([[64.0, 96.0, 0.0, 8.0, 64.0, 96.0]] * 4)
    conditioned, net = parts(tiny_folder, nets["whole"], context, pooled, sizes)
    changed = [
        with_shifts(conditioned, net, net.shifts(net(to_tensor(picture(n))[None]), scale))
        for n, scale in ((3, 0.8), (4, 0.5))
    ]
    wanted = [each(x, 333.0) for each in (conditioned, *changed)]
    counter = CompileCounter()
    rewrite(conditioned.unet, fused)
    for module in conditioned.unet.modules():
        if isinstance(module, TransformerBlock):
            module.compile(dynamic=False, backend=counter, fullgraph=True)
    counts = []
    for each, plain in zip((conditioned, *changed), wanted, strict=True):
        assert error(each(x, 333.0), plain) < 1e-5
        counts.append(counter.frame_count)
    assert counts == [2, 4, 4], "blocks of one width and count of heads share what is compiled"
    torch._dynamo.reset()


@pytest.mark.parametrize("kernels", control_nets.LLLITE_KERNELS)
@torch.no_grad()
def test_the_layouts_of_the_encoder(kernels: tuple[int, ...], error: Any) -> None:
    """Those of kohya's depths 1 to 3, in float64."""
    from sdxl.models.control_config import LLLiteConfig, LLLitePlace

    state = control_nets.lllite_place("a", kernels, 10, torch.Generator().manual_seed(1))
    widths = (*[4] * (len(kernels) - 1), 8)
    config = LLLiteConfig((LLLitePlace("mid.attn.0.blocks.0.self_attn.q", 10, 6, widths, kernels),))
    net = LLLite(config).double()
    names = {f"conditioning1.{2 * n}": f"encoder.{n}" for n in range(len(kernels))}
    names |= {f"{each}.0": each for each in ("down", "mid", "up")}
    for theirs, mine in names.items():
        for leaf in ("weight", "bias"):
            net.get_parameter(f"places.0.{mine}.{leaf}").copy_(state[f"a.{theirs}.{leaf}"])
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    (features,) = net(image)
    assert error(features, control_nets.lllite_features(state, "a", image)) < 1e-12
    assert features.shape[1] == 64 * 96 // config.factor**2
    x = torch.randn(2, features.shape[1], 10, dtype=torch.float64)
    (shift,) = net.shifts([features], 0.5).values()
    assert error(shift(x), control_nets.lllite_input(state, "a", x, features, 0.5)) < 1e-12


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lllite", pytest.param("whole", marks=SLOW)])
def test_text_to_image(
    name: str, tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any
) -> None:
    wanted = theirs(StableDiffusionXLPipeline, reference_pipe, [Given(name, [picture()], 0.8)])
    assert error(ours(tiny_pipe, Control(nets[name], picture(), 0.8)), wanted) < 1e-4
    assert error(ours(tiny_pipe, None), wanted) > 1e-2


def test_two_with_scales_and_windows(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any
) -> None:
    """The second one sees what the first one made, as in kohya's nodes: another order is another image."""
    given = [Given("lllite", [picture()], 0.8, range(3)), Given("whole", [picture(4)], 0.5, range(1, 4))]
    wanted = theirs(StableDiffusionXLPipeline, reference_pipe, given)
    controls = [Control(nets["lllite"], picture(), 0.8, end=0.75), Control(nets["whole"], picture(4), 0.5, start=0.25)]
    assert error(ours(tiny_pipe, controls), wanted) < 1e-4
    assert error(ours(tiny_pipe, controls[::-1]), wanted) > 1e-3
    assert error(ours(tiny_pipe, controls[0]), wanted) > 1e-3


def test_beside_a_controlnet(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any
) -> None:
    """The ControlNet sees nothing of it."""
    wanted = theirs(
        StableDiffusionXLControlNetPipeline,
        reference_pipe,
        [Given("lllite", [picture()])],
        parts={"controlnet": control_nets.controlnet(), "add_watermarker": False},
        image=picture(4),
        controlnet_conditioning_scale=0.7,
        **SIZE,
    )
    controls = [Control(nets["lllite"], picture()), Control(nets["net"], picture(4), 0.7)]
    assert error(ours(tiny_pipe, controls), wanted) < 1e-4
    assert error(ours(tiny_pipe, controls[1]), wanted) > 1e-3


def test_a_batch_with_an_image_each(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any
) -> None:
    images = [picture(n) for n in (3, 4)]
    wanted = theirs(StableDiffusionXLPipeline, reference_pipe, [Given("whole", images)], rows=2)
    found = ours(tiny_pipe, Control(nets["whole"], images), num_images=2)
    assert error(found, wanted) < 1e-4
    for n, image in enumerate(images):
        alone = ours(tiny_pipe, Control(nets["whole"], image), seed=5 + n)
        assert error(found[n : n + 1], alone) < 1e-5


def test_image_to_image(tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any) -> None:
    """The window counts the steps that run, 6 of 10."""
    source = tiny.picture(8, 96, 64)
    arguments: dict[str, Any] = {"image": source, "strength": 0.6}
    given = [Given("lllite", [picture()], steps=range(3))]
    wanted = theirs(StableDiffusionXLImg2ImgPipeline, reference_pipe, given, num_inference_steps=10, **arguments)
    found = ours(tiny_pipe, Control(nets["lllite"], picture(), end=0.5), steps=10, **(arguments | dict.fromkeys(SIZE)))
    assert error(found, wanted) < 1e-4


@SLOW
def test_inpainting_of_9_channels(inpainting_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any) -> None:
    arguments: dict[str, Any] = {"image": tiny.picture(8, 96, 64), "strength": 0.8}
    mask = tiny.mask(2, 96, 64)
    wanted = theirs(
        StableDiffusionXLInpaintPipeline,
        tiny.inpainting(9, tiny.UNET, tiny.VAE),
        [Given("lllite", [picture()])],
        num_inference_steps=5,
        mask_image=mask,
        **SIZE,
        **arguments,
    )
    arguments |= {"mask": mask, "steps": 5}
    assert error(ours(inpainting_pipe, Control(nets["lllite"], picture()), **arguments), wanted) < 1e-4


def test_beside_perturbed_attention(
    tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any, theirs: Any
) -> None:
    """PAG's branch attends to its own values, which are those of the changed inputs."""
    processors = dict(reference_pipe.unet.attn_processors)
    try:
        wanted = theirs(
            StableDiffusionXLPAGPipeline,
            reference_pipe,
            [Given("lllite", [picture()])],
            parts={"pag_applied_layers": ["mid", "down_blocks.2"], "add_watermarker": False},
            pag_scale=3.0,
        )
    finally:
        reference_pipe.unet.set_attn_processor(processors)
    guider = PAG(3.0, ("mid", "down.2"))
    assert error(ours(tiny_pipe, Control(nets["lllite"], picture()), guider=guider), wanted) < 1e-4
