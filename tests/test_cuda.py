"""Half precision on a GPU: every stage of the miniature against float32 on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdxl
from sdxl.errors import OutOfMemoryError, SDXLWarning
from sdxl.miniature.exam import make_picture, make_scenes, mark
from sdxl.pipeline.upscalers import upscale
from sdxl.runtime.cuda_graph import Graph
from sdxl.runtime.cuda_layers import quick
from sdxl.sampling.philox import Philox
from sdxl.text.encode import encode_text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

TINY, UPSCALER = (
    Path(__file__).parents[1] / f"weights/adapters/{name}.safetensors" for name in ("tiny-decoder", "2x-scenes")
)
# max|a-b| / max|b|: bfloat16 has 8 bits of mantissa, float16 has 11
BOUNDS: dict[str, Any] = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.01}


@pytest.fixture(scope="module")
def reference() -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")


@pytest.fixture(scope="module", params=list(BOUNDS))
def pipe(request: pytest.FixtureRequest) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", dtype=request.param, device="cuda")


def bound(pipe: sdxl.Pipeline) -> float:
    return BOUNDS[str(pipe.dtype).removeprefix("torch.")]


def draw(pipe: sdxl.Pipeline, prompt: str, **settings: Any) -> torch.Tensor:
    """Latents, on the CPU."""
    latents = pipe(prompt, **settings, seed=7, output="latent", progress=False).images
    assert isinstance(latents, torch.Tensor)
    return latents.cpu()


@torch.no_grad()
def test_text(pipe: sdxl.Pipeline, reference: sdxl.Pipeline, error: Any) -> None:
    prompts = ["a red circle on a blue background", ""]
    for ours, theirs in zip(*(encode_text(each.text, prompts, prompts) for each in (pipe, reference)), strict=True):
        assert error(ours.cpu(), theirs) < bound(pipe)


@torch.no_grad()
def test_unet(pipe: sdxl.Pipeline, reference: sdxl.Pipeline, error: Any) -> None:
    config, generator = reference.unet.config, torch.Generator().manual_seed(0)
    x, context, vector = (
        torch.randn(shape, generator=generator)
        for shape in ((2, 4, 16, 20), (2, 77, config.context_dim), (2, config.vector_dim))
    )
    t = torch.tensor([1.0, 999.0])
    given = (x, t, context, vector)
    ours = pipe.unet(*(each.to("cuda", torch.float32 if each is t else pipe.dtype) for each in given))
    assert error(ours.float().cpu(), reference.unet(*given)) < bound(pipe)


@torch.no_grad()
def test_vae(pipe: sdxl.Pipeline, reference: sdxl.Pipeline, error: Any) -> None:
    z = torch.randn(2, 4, 16, 20, generator=torch.Generator().manual_seed(0))
    pixels = reference.decode(z)
    assert error(pipe.decode(z).cpu(), pixels) < bound(pipe)
    weight = pipe.vae.post_quant_conv.weight
    ours = pipe.vae.encode((pixels * 2 - 1).to(weight.device, weight.dtype)).float().cpu()
    assert error(ours, reference.vae.encode(pixels * 2 - 1)) < bound(pipe)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 320, 128, 128), (3, 64, 9, 7), (1, 128, 512, 512), (2, 1280, 32, 32)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_norm(shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype, error: Any) -> None:
    """As exact as torch's, also where the mean is far from 0, and the same at every call."""
    plain = torch.nn.GroupNorm(32, shape[1], eps=1e-6, device="cuda", dtype=dtype)
    plain.weight.normal_()
    plain.bias.normal_()
    x = torch.randn(shape, device="cuda") * (torch.rand(shape[1], device="cuda") + 0.2)[:, None, None] + 8
    x = x.to(dtype, memory_format=layout)
    layer = quick("", plain)
    assert layer is not None
    weight, bias = plain.weight.double(), plain.bias.double()
    found, exact = layer(x), torch.nn.functional.group_norm(x.double().contiguous(), 32, weight, bias, 1e-6)
    assert error(found.double(), exact) < max(4 * error(plain(x).double(), exact), 1e-5)
    assert torch.equal(layer(x), found)


def test_pictures(pipe: sdxl.Pipeline) -> None:
    assert mark(pipe, make_scenes(50, 31, things=1)) >= 0.96


def test_the_graph_of_a_step_serves_two_images_in_turn(pipe: sdxl.Pipeline) -> None:
    """Two images drawn in turn by one CUDA graph are those that are drawn one by one."""
    if pipe.dtype is not torch.bfloat16:
        pytest.skip("one dtype is enough")
    prompts = ["a red circle on a blue background", "a green star on a white background"]
    settings = {"steps": 3, "seed": 4}
    plain = [pipe(prompt, **settings, output="latent", progress=False).images for prompt in prompts]
    quick = sdxl.Pipeline.from_pretrained("miniature", dtype="bfloat16", device="cuda")
    quick.compile()
    turns = zip(*(quick.steps(prompt, **settings) for prompt in prompts), strict=True)
    last = [[step.latents for step in both] for both in turns][-1]
    for ours, theirs in zip(last, plain, strict=True):
        assert isinstance(theirs, torch.Tensor)
        assert (ours - theirs).abs().max() / theirs.abs().max() < 0.1


def test_a_graph_is_written_in_and_outside_of_inference_mode(reference: sdxl.Pipeline, error: Any) -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cuda")
    pipe.compile()
    prompts = ["a red circle on a blue background", "a green star on a white background"]
    settings: dict[str, Any] = {"steps": 3}
    with torch.inference_mode():
        first = draw(pipe, prompts[0], **settings)
    assert error(draw(pipe, prompts[1], **settings), draw(reference, prompts[1], **settings)) < bound(pipe)
    with torch.inference_mode():
        assert torch.equal(draw(pipe, prompts[0], **settings), first)


def load(**options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", **{"dtype": "bfloat16", "device": "cuda", **options})


def recordings(pipe: sdxl.Pipeline) -> int:
    graphs = pipe.residency.model.graphs
    assert graphs is not None
    return len(graphs.recordings())


SETTINGS: dict[str, dict[str, Any]] = {
    "text": {},
    "negative": {"negative_prompt": "a blue square"},
    "interval": {"guidance_interval": (1.0, 8.0)},
    "batch": {"num_images": 3, "seed": [7, 8, 9]},
    "heun": {"sampler": "heun"},
}


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_recorded_step_is_bitwise_the_step(case: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same kernels, asked for one by one."""
    monkeypatch.setenv("SDXL_NO_GRAPHS", "1")
    plain = load(dtype=dtype)
    assert plain.residency.model.graphs is None
    monkeypatch.delenv("SDXL_NO_GRAPHS")
    pipe = load(dtype=dtype)
    settings: dict[str, Any] = {"steps": 12, "seed": 7, "output": "latent", "progress": False, **SETTINGS[case]}
    wanted = plain("a red circle", **settings).images
    for _ in range(2):
        assert torch.equal(pipe("a red circle", **settings).images, wanted)
    assert recordings(pipe) == (2 if case == "interval" else 1)


def test_a_lora_is_recorded_anew(error: Any) -> None:
    pipe = load()
    before = draw(pipe, "a red circle", steps=8)
    pipe.change_weights({"unet.conv_out.weight": lambda weight: 2 * weight})
    assert error(draw(pipe, "a red circle", steps=8), before) > 0.01
    pipe.change_weights({})
    assert torch.equal(draw(pipe, "a red circle", steps=8), before)
    assert recordings(pipe) == 1


def test_hooks_run_in_every_step() -> None:
    pipe, calls = load(), list[int]()
    before = draw(pipe, "a red circle", steps=8)
    pipe.unet.register_forward_hook(lambda *_: None)  # nobody calls it, and nothing is recorded for it
    pipe.unet.conv_in.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(draw(pipe, "a red circle", steps=8), before)
    assert len(calls) == 8


def test_a_recording_that_fails_is_no_wrong_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the GPU cannot be recorded. The pipeline goes on, and another one still records."""
    from sdxl.models.unet import UNet

    wanted, head = draw(load(), "a red circle", steps=8), UNet.head

    def waiting(unet: UNet, x: torch.Tensor) -> torch.Tensor:
        assert x.sum().item() is not None
        return head(unet, x)

    waiting.__module__ = head.__module__  # as if it were ours
    monkeypatch.setattr(UNet, "head", waiting)
    pipe = load()
    with pytest.warns(SDXLWarning, match="no longer recorded"):
        assert torch.equal(draw(pipe, "a red circle", steps=8), wanted)
    assert torch.equal(draw(pipe, "a red circle", steps=8), wanted)
    monkeypatch.setattr(UNet, "head", head)
    other = load()
    assert torch.equal(draw(other, "a red circle", steps=8), wanted)
    assert recordings(other) == 1


def test_the_memory_of_graphs_is_shared_and_given_back() -> None:
    pipe = load()
    draw(pipe, "a red circle", steps=8, width=512, height=512)
    graphs = pipe.residency.model.graphs
    assert graphs is not None
    graphs.clear()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()  # with what libraries keep for the stream of recordings
    draw(pipe, "a red circle", steps=8, width=512, height=512)
    one = graphs.bytes
    assert one > 0
    draw(pipe, "a red circle", steps=8, width=512, height=512, guidance_scale=1.0)
    assert recordings(pipe) == 2 and graphs.bytes < 1.5 * one
    graphs.clear()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before < one


def test_threads_with_streams_of_their_own() -> None:
    """They take turns step by step, and no replay disturbs another one's result."""
    from concurrent.futures import ThreadPoolExecutor

    pipe, prompts = load(), ["a red circle", "a green star", "a blue square"]
    wanted = [draw(pipe, prompt, steps=12) for prompt in prompts]

    def work(prompt: str) -> torch.Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            last = [step.latents.cpu() for step in pipe.steps(prompt, steps=12, seed=7)]
        return last[-1]

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            for found, each in zip(pool.map(work, prompts), wanted, strict=True):
                assert torch.equal(found, each)


@pytest.mark.parametrize("repaints", [False, True])
def test_pictures_of_pictures(pipe: sdxl.Pipeline, reference: sdxl.Pipeline, repaints: bool, error: Any) -> None:
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 1
    settings: dict[str, Any] = {"image": picture, "strength": 0.6, "steps": 5, **({"mask": mask} if repaints else {})}
    ours, theirs = (draw(each, "a red circle on a blue background", **settings) for each in (pipe, reference))
    assert error(ours, theirs) < 2 * bound(pipe)


def test_the_refiner_ends_what_the_base_began(tiny_folder: Path, refiner_folder: Path, error: Any) -> None:
    ours, theirs = (
        draw(sdxl.Pipeline.from_pretrained(tiny_folder, "float32", device, refiner=refiner_folder), "a cat", steps=5)
        for device in ("cuda", "cpu")
    )
    assert error(ours, theirs) < BOUNDS["float32"] * 2


def test_memory_that_runs_out_is_reported_and_given_back() -> None:
    """A limit that nothing foresees: the pipeline tries what takes less, says so, and draws again when it is lifted."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cuda", offload="auto")
    settings: dict[str, Any] = {"steps": 2, "seed": 1, "output": "tensor", "progress": False}
    first = pipe("a red circle", **settings).images
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64e6) / total)
    try:
        with pytest.warns(SDXLWarning, match="going on with"), pytest.raises(OutOfMemoryError, match="try"):
            pipe("a red circle", width=2048, height=2048, **settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    again = pipe("a red circle", **settings).images
    assert isinstance(first, torch.Tensor) and isinstance(again, torch.Tensor)
    assert (first - again).abs().max() < 0.02


def test_a_compiled_model_goes_on_compiled_and_the_old_one_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cuda", offload="auto")
    pipe.compile()
    before, network = draw(pipe, "a red circle", steps=2), weakref.ref(pipe.unet)
    run = Graph.run

    def fail(*_: Any) -> None:
        monkeypatch.setattr(Graph, "run", run)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Graph, "run", fail)
    with pytest.warns(SDXLWarning, match="going on with text"):
        after = draw(pipe, "a red circle", steps=2)
    assert pipe.offload == "text"
    assert pipe.is_compiled
    assert network() is None
    assert (before - after).abs().max() / before.abs().max() < 0.02


@pytest.mark.parametrize("offload", ["text", "stage", "block"])
def test_offloading_changes_nothing(pipe: sdxl.Pipeline, offload: Any) -> None:
    other = sdxl.Pipeline.from_pretrained("miniature", dtype=pipe.dtype, device="cuda", offload=offload)
    settings: dict[str, Any] = {"steps": 3, "seed": 5, "output": "tensor", "progress": False}
    first, second = (each("a red circle on a blue background", **settings).images for each in (pipe, other))
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    assert (first - second).abs().max() < 0.02


@pytest.mark.parametrize("offload", ["none", "text", "stage", "block"])
def test_weights_in_8_bits(offload: Any, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same codes as on the CPU, wherever they lie; what is streamed is in 8 bits in host memory."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    given: dict[str, Any] = {"dtype": "float32", "fp8": True}
    there = sdxl.Pipeline.from_pretrained("miniature", device="cuda", offload=offload, **given)
    here = sdxl.Pipeline.from_pretrained("miniature", device="cpu", **given)
    name = "down.1.attn.0.blocks.0.ff.proj"
    ours, theirs = there.unet.get_submodule(name), here.unet.get_submodule(name)
    assert torch.equal(ours.weight.cpu().view(torch.uint8), theirs.weight.view(torch.uint8))
    assert torch.equal(ours.scale.cpu(), theirs.scale)
    assert ours.weight.device.type == ("cpu" if offload == "block" else "cuda")
    assert ours.weight.is_pinned() == (offload == "block")
    assert error(draw(there, "a red circle", steps=3), draw(here, "a red circle", steps=3)) < BOUNDS["float32"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_8_bits_are_compiled(dtype: str, error: Any) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("Triton has no float8 for this GPU")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype=dtype, device="cuda", fp8=True)
    plain = draw(pipe, "a red circle", steps=3)
    pipe.compile()
    assert error(draw(pipe, "a red circle", steps=3), plain) < BOUNDS[dtype]


def test_a_pipeline_moves_there_and_back(reference: sdxl.Pipeline, error: Any) -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    there = draw(pipe.to("cuda"), "a red circle", steps=4)
    assert pipe.unet.conv_in.weight.device.type == "cuda"
    assert error(there, draw(reference, "a red circle", steps=4)) < BOUNDS["float32"]
    assert torch.equal(draw(pipe.to("cpu"), "a red circle", steps=4), draw(reference, "a red circle", steps=4))


@pytest.mark.parametrize("offload", ["none", "text", "stage", "block"])
@pytest.mark.parametrize("compiled", [False, True])
def test_references(offload: Any, compiled: bool, tiny_folder: Path, tmp_path: Path, error: Any) -> None:
    """An IP-Adapter with a window and a mask gives there what it gives on the CPU, in recorded graphs too."""
    if compiled and offload == "block":
        pytest.skip("it cannot be compiled")
    import tiny_reference

    from sdxl.adapters.ip_adapter import places

    plain = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    path = tiny_reference.save(tmp_path, "plus", places(plain.info.config.unet))
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cuda", offload=offload)
    if compiled:
        pipe.compile()
    for mask, scale in ((None, 0.8), (None, 0.4), (tiny_reference.mask(1), 0.8)):
        reference = sdxl.Reference(path, tiny_reference.picture(3), scale=scale, mask=mask, end=0.5)
        settings: dict[str, Any] = {"steps": 4, "reference": reference}
        assert error(draw(pipe, "a cat", **settings), draw(plain, "a cat", **settings)) < BOUNDS["float32"]


def test_a_generator_of_the_gpu() -> None:
    """It draws there, and no seed stands for it."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cuda")
    images = [
        pipe("a red circle", generator=torch.Generator("cuda").manual_seed(3), steps=4, output="latent", progress=False)
        for _ in range(2)
    ]
    assert torch.equal(images[0].images, images[1].images)
    assert images[0].seeds == [None]
    start = torch.randn((1, 4, 16, 16), generator=torch.Generator("cuda").manual_seed(3), device="cuda")
    given = pipe("a red circle", latents=start, steps=4, output="latent", progress=False)
    assert torch.equal(given.images, images[0].images)


def test_a_trainable_model_has_gradients_there() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", trainable=True, device="cpu").to("cuda")
    text = pipe.encode_prompt("a red circle")
    x, t = torch.randn(1, 4, 16, 16, device="cuda"), torch.tensor([500.0], device="cuda")
    pipe.unet(x, t, text.context.cuda(), text.vector.cuda()).square().mean().backward()
    assert all(each.grad is not None and each.grad.is_cuda for each in pipe.unet.parameters())


@pytest.mark.parametrize("offload", ["none", "stage"])
def test_compiled_control(offload: str, tmp_path: Path, error: Any) -> None:
    """A ControlNet and a window with compiled blocks and graphs: two graphs, and the image of the plain layers."""
    from PIL import Image
    from safetensors.torch import save_file

    from sdxl.models import ControlNet, ControlNetConfig
    from sdxl.weights.control_keys import controlnet_rows

    plain = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cuda", offload=offload)
    torch.manual_seed(0)
    config = ControlNetConfig(plain.info.config.unet, (4, 8, 12, 16))
    state = ControlNet(config).state_dict()
    save_file({row.folder: state[row.ours] for row in controlnet_rows(config)}, tmp_path / "net.safetensors")
    control = sdxl.Control(
        tmp_path / "net.safetensors", Image.effect_noise((128, 128), 60).convert("RGB"), 0.5, end=0.5
    )
    settings: dict[str, Any] = {"width": 128, "height": 128, "steps": 4, "control": control}
    compiled = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cuda", offload=offload)
    compiled.compile()
    wanted = draw(plain, "a red circle", **settings)
    for _ in range(2):
        assert error(draw(compiled, "a red circle", **settings), wanted) < 1e-3
    assert error(draw(plain, "a red circle", **(settings | {"control": None})), wanted) > 1e-2
    if offload == "none":
        assert len(compiled.residency.model.graphs or ()) == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tiny_vae(dtype: str, reference: sdxl.Pipeline, error: Any) -> None:
    """It computes in float16 too, whole and compiled."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", vae=TINY, dtype=dtype, device="cuda")
    own = sdxl.Pipeline.from_pretrained("miniature", vae=TINY, dtype="float32", device="cpu")
    z = draw(reference, "a red circle on a blue background", steps=8)
    expected = own.decode(z)
    assert error(pipe.decode(z).cpu(), expected) < bound(pipe)
    pipe.compile()
    for _ in range(2):
        assert error(pipe.decode(z).cpu(), expected) < bound(pipe)


def test_a_network_that_enlarges(pipe: sdxl.Pipeline, reference: sdxl.Pipeline) -> None:
    image = make_picture(make_scenes(1, 3, things=1)[0])
    size, asked = (2 * image.height, 2 * image.width), sdxl.Request("", hires=sdxl.Hires(2, upscaler=str(UPSCALER)))
    ours, theirs = (
        np.asarray(upscale(image, size, each.plan(asked), each.residency.model)).astype(int)
        for each in (pipe, reference)
    )
    assert np.abs(ours - theirs).mean() < 255 * bound(pipe) / 10


def test_philox_is_cudas_randn() -> None:
    for seed in (0, 7, 2**40 + 1):
        generator, source = torch.Generator("cuda").manual_seed(seed), Philox(seed)
        for _ in range(3):
            drawn = torch.randn((1, 4, 64, 64), generator=generator, device="cuda").cpu()
            assert (source.randn((1, 4, 64, 64)) - drawn).abs().max() < 1e-5
