"""Recorded steps: which are recorded and when, and that a replay is bitwise the step layer by layer."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_folder  # noqa: F401  fixtures
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers")
import control_nets
import tiny
from cpu_graphs import CPURecorder

import sdxl
from sdxl.errors import ArgumentError, OutOfMemoryError, SDXLWarning
from sdxl.models.lllite import LLLite
from sdxl.models.unet import UNet
from sdxl.pipeline.model import Model
from sdxl.pipeline.residency import Residency
from sdxl.runtime import cuda_graph, memory
from sdxl.runtime.cuda_graph import Graph, Graphs
from sdxl.runtime.fingerprint import fingerprint

QUICK: dict[str, Any] = {"prompt": "a red cat", "steps": 5, "seed": 5, "width": 64, "height": 64}
IMAGE = tiny.picture(3, 64, 64)


def latents(pipe: sdxl.Pipeline, **arguments: Any) -> Tensor:
    images = pipe(**(QUICK | arguments), output="latent", progress=False).images
    assert isinstance(images, Tensor)
    return images


def load(model: Path, **options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(model, **{"dtype": "float32", "device": "cpu", **options})


def record(pipe: sdxl.Pipeline, **options: Any) -> tuple[sdxl.Pipeline, CPURecorder]:
    """Have a pipeline's steps recorded on a CPU, as they are on CUDA."""
    recorder = options.pop("recorder", None) or CPURecorder()
    graphs = Graphs(**{"eager_runs": 1, **options}, recorder=recorder)
    pipe.residency.model = replace(pipe.residency.model, graphs=graphs)
    return pipe, recorder


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> sdxl.Pipeline:
    """A pipeline whose steps run layer by layer."""
    return load(tiny_folder)


@pytest.fixture(scope="module")
def own(tiny_folder: Path) -> sdxl.Pipeline:
    """A pipeline for tests that record and leave its weights as they are."""
    return load(tiny_folder)


@pytest.fixture(scope="module")
def lllite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return control_nets.save(control_nets.lllite(), tmp_path_factory.mktemp("nets") / "lllite.safetensors")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "depth.safetensors"
    control_nets.save(control_nets.controlnet().state_dict(), path)
    return path


# what to generate, and how many graphs its steps have
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "text": ({}, 1),
    "negative": ({"negative_prompt": "dog"}, 1),
    "batch": ({"num_images": 2, "seed": [1, 2]}, 1),
    "interval": ({"steps": 8, "guidance_interval": (1.0, 8.0)}, 2),
    "heun": ({"sampler": "heun"}, 1),
    "ancestral": ({"sampler": "euler_ancestral"}, 1),
    "pag": ({"guider": "pag"}, 1),
    "image": ({"image": IMAGE, "strength": 0.8}, 1),
    "inpainting": ({"image": IMAGE, "mask": tiny.mask(1), "strength": 0.8}, 1),
    "editing": ({"prompt": "a [cat:dog:0.5] AND a house", "prompt_syntax": "a1111"}, 1),
    "lengths": ({"prompt": f"a {'cat ' * 80}", "negative_prompt": "dog"}, 1),
    "hires": ({"hires": sdxl.Hires(scale=1.5, strength=0.9)}, 2),
}


SLOW = ("batch", "heun", "ancestral", "pag", "image", "lengths")


@pytest.mark.parametrize("case", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in CASES])
def test_a_replay_is_the_step(case: str, plain: sdxl.Pipeline, own: sdxl.Pipeline) -> None:
    """The first image begins layer by layer; the second is replayed from its first step on, with another seed first, so
    that nothing of it can be left over.
    """
    arguments, count = CASES[case]
    pipe, recorder = record(own)
    wanted = latents(plain, **arguments)
    assert torch.equal(latents(pipe, **arguments), wanted)
    latents(pipe, **({"prompt": "a dog"} | arguments | {"seed": 9}))
    assert torch.equal(latents(pipe, **arguments), wanted)
    assert recorder.count == count
    assert [each is not None for each in recorder.beside] == [False, True][:count], "they share their memory"


def test_control(net: Path, plain: sdxl.Pipeline, own: sdxl.Pipeline) -> None:
    """A window has a graph of its own; the hint is an input."""
    pipe, recorder = record(own)
    for seed in (3, 4):
        control = sdxl.Control(net, tiny.picture(seed, 64, 64), 0.5, end=0.5)
        assert torch.equal(latents(pipe, control=control), latents(plain, control=control))
    assert recorder.count == 2


def test_a_lllite(lllite: Path, plain: sdxl.Pipeline, own: sdxl.Pipeline) -> None:
    """Image and scale are inputs of a graph; a hook in the network ends it."""
    pipe, recorder = record(own)
    for seed in (3, 4):
        control = sdxl.Control(lllite, tiny.picture(seed, 64, 64), 0.1 * seed, end=0.5)
        assert torch.equal(latents(pipe, control=control), latents(plain, control=control))
    assert recorder.count == 2
    (place,) = (net().places[0] for net in pipe.residency.model.extras.all() if isinstance(net.loaded, LLLite))
    calls: list[int] = []
    handle = place.up.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert torch.equal(latents(pipe, control=control), latents(plain, control=control))
        assert len(calls) == 2 and recorder.count == 2, "it is called in each step of its window"
    finally:
        handle.remove()


@pytest.mark.slow
def test_the_refiner(tiny_folder: Path, refiner_folder: Path) -> None:
    wanted = latents(load(tiny_folder, refiner=refiner_folder), steps=8, refine_at=0.5)
    pipe, recorder = record(load(tiny_folder, refiner=refiner_folder))
    assert all(torch.equal(latents(pipe, steps=8, refine_at=0.5), wanted) for _ in range(2))
    assert recorder.count == 2


def test_images_in_turn(plain: sdxl.Pipeline, own: sdxl.Pipeline) -> None:
    """Two images that share a graph, step by step."""
    pipe, _ = record(own)
    prompts = ["a red cat", "a green dog"]
    turns = zip(*(pipe.steps(**(QUICK | {"prompt": each})) for each in prompts), strict=True)
    last = [[step.latents for step in both] for both in turns][-1]
    for found, prompt in zip(last, prompts, strict=True):
        assert torch.equal(found, latents(plain, prompt=prompt))


def test_a_step_is_recorded_when_it_comes_again(own: sdxl.Pipeline) -> None:
    """An image of four steps needs no graph; the next one of its shape has one from its first step on."""
    pipe, recorder = record(own, eager_runs=cuda_graph.EAGER_RUNS)
    latents(pipe, steps=4)
    assert recorder.count == 0
    latents(pipe, steps=1)
    assert recorder.count == 1
    latents(pipe, steps=4, num_images=2, seed=[1, 2])
    assert recorder.count == 1
    latents(pipe, steps=2)
    assert recorder.count == 1


def test_which_models_are_recorded(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on CUDA whose UNet stays in memory and that no caller changes, unless the environment forbids it."""

    def is_recorded(device: str = "cuda", **options: Any) -> bool:
        residency = load(tiny_folder, **options).residency
        experts = [
            replace(each, placement=replace(each.placement, device=torch.device(device)))
            for each in residency.model.experts
        ]
        return residency._recorded(replace(residency.model, experts=tuple(experts))).graphs is not None

    assert is_recorded()
    assert is_recorded(offload="text")
    assert not is_recorded("cpu")
    assert not is_recorded(offload="block")
    assert not is_recorded(trainable=True)
    monkeypatch.setenv("SDXL_NO_GRAPHS", "1")
    assert not is_recorded()


def test_old_graphs_give_way(own: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "MOST", 2)
    pipe, recorder = record(own)
    for width, count in ((64, 1), (72, 2), (64, 2), (80, 3), (64, 3), (72, 4)):
        latents(pipe, width=width, steps=2)
        assert (recorder.count, len(pipe.residency.model.graphs or ())) == (count, min(count, 2))


# ---- what changes the networks ---------------------------------------------------------------------------------------


def test_changed_weights(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of LoRAs are, for an image: the steps are recorded anew."""
    recorders = list[CPURecorder]()

    def recorded(residency: Residency, model: Model) -> Model:
        if residency is eager.residency:
            return model
        recorders.append(CPURecorder())
        return replace(model, graphs=Graphs(eager_runs=1, recorder=recorders[-1]))

    def doubled(weight: Tensor) -> Tensor:
        return 2 * weight

    eager, changes = load(tiny_folder), [{}, {"unet.conv_out.weight": doubled}, {"unet.norm_out.weight": doubled}, {}]
    monkeypatch.setattr(Residency, "_recorded", recorded)
    pipe = load(tiny_folder)
    found = list[Tensor]()
    for each in changes:
        old = pipe.residency.model.graphs
        for both in (pipe, eager):
            both.change_weights(each)
        assert not each or (old is not None and not old.recordings()), "their memory is given back"
        found.append(latents(eager))
        assert torch.equal(latents(pipe), found[-1])
    assert torch.equal(found[0], found[3]) and not torch.equal(found[0], found[1])
    assert [each.count for each in recorders if each.count] == [1, 1, 1, 1]


def test_hooks_are_called_in_every_step(own: sdxl.Pipeline, plain: sdxl.Pipeline) -> None:
    pipe, recorder = record(own)
    wanted, calls = latents(pipe), list[int]()
    block = pipe.unet.get_submodule("mid")
    handle = block.get_submodule("res.0").register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(latents(pipe), wanted)
    assert len(calls) == QUICK["steps"]
    double = block.get_submodule("res.0").register_forward_hook(lambda *given: 2 * given[2])
    assert not torch.equal(latents(pipe), wanted)
    double.remove()
    handle.remove()
    assert torch.equal(latents(pipe), wanted) and recorder.count == 2


def half(layer: nn.Module) -> Callable[..., Tensor]:
    """A forward method that does something else in each call."""
    plain, calls = type(layer).forward, list[int]()

    def forward(*given: Any) -> Any:
        calls.append(1)
        return plain(layer, *given) * (0.5 if len(calls) % 2 else 1)

    return forward


class Other(nn.Module):
    """A layer of someone else's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.call = half(layer)

    def forward(self, *given: Any) -> Any:
        return self.call(*given)


def patch_instance(unet: UNet) -> None:
    layer = unet.get_submodule("mid.res.0")
    layer.forward = half(layer)  # type: ignore[method-assign]


def patch_method(unet: UNet) -> None:
    unet.head = half(unet.conv_out)  # type: ignore[method-assign]
    head = UNet.head
    unet.head = lambda x: head(unet, x) * 0.5  # type: ignore[method-assign]


def patch_class(unet: UNet) -> None:
    layer = unet.get_submodule("mid.res.0")
    layer.__class__ = type("Patched", (type(layer),), {"__module__": "tomato", "forward": lambda s, *x: 2 * x[0]})


def put_in(unet: UNet) -> None:
    mid: Any = unet.mid
    mid.res[0] = Other(mid.res[0])


@pytest.mark.parametrize(
    "change",
    [patch_instance, *(pytest.param(each, marks=pytest.mark.slow) for each in (patch_method, patch_class, put_in))],
)
def test_what_is_patched_runs_as_it_is(change: Callable[[UNet], None], tiny_folder: Path) -> None:
    """After a recording too. Nothing is recorded from then on: what such Python does may depend on the step."""
    pipe, recorder = record(load(tiny_folder))
    eager = load(tiny_folder)
    before = latents(pipe)
    for each in (pipe, eager):
        change(each.unet)
    wanted = latents(eager)
    assert torch.equal(latents(pipe), wanted) and not torch.equal(wanted, before)
    assert recorder.count == 1


def new_data(unet: UNet) -> None:
    unet.norm_out.weight.data = unet.norm_out.weight.data * 2


def new_norm(unet: UNet) -> None:
    norm = unet.norm_out
    unet.norm_out = nn.GroupNorm(norm.num_groups, norm.num_channels, 0.5)


@pytest.mark.parametrize("change", [new_data, pytest.param(new_norm, marks=pytest.mark.slow)])
def test_other_weights_are_recorded_anew(change: Callable[[UNet], None], tiny_folder: Path) -> None:
    pipe, recorder = record(load(tiny_folder))
    eager = load(tiny_folder)
    before = latents(pipe)
    for each in (pipe, eager):
        change(each.unet)
    wanted = latents(eager)
    assert all(torch.equal(latents(pipe), wanted) for _ in range(2)) and not torch.equal(wanted, before)
    assert recorder.count == 2


def test_a_weight_that_is_written_is_seen(tiny_folder: Path, plain: sdxl.Pipeline) -> None:
    """A graph reads the weights where they lie."""
    pipe, recorder = record(load(tiny_folder))
    before = latents(pipe)
    with torch.no_grad():
        pipe.unet.norm_out.weight.mul_(2)
    assert not torch.equal(latents(pipe), before) and recorder.count == 1


def test_modes_of_torch_see_every_operation(tiny_folder: Path) -> None:
    pipe, recorder = record(load(tiny_folder, trainable=True))
    with FlopCounterMode(display=False) as first:
        latents(pipe)
    latents(pipe)
    with FlopCounterMode(display=False) as second:
        latents(pipe)
    assert first.get_total_flops() == second.get_total_flops() > 1e7
    assert recorder.count == 1


@torch.no_grad()
def test_settings_of_torch_are_part_of_a_recording(own: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> object:
        return fingerprint([own.unet])

    usual = found()
    assert usual is not None and usual == found()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert found() not in (None, usual)
    with torch.backends.cudnn.flags(benchmark=True):
        assert found() not in (None, usual)
    with monkeypatch.context() as patch:  # there is no autocast for CUDA without CUDA
        patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert found() is None
    with torch.device("cpu"):
        assert found() == usual, "a default device is no reason"
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert found() is None
    handle.remove()
    assert found() == usual


def test_compiled_blocks_are_no_patches(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    """Those are compiled at their first call, which nobody makes here."""
    unet = load(tiny_folder, trainable=True).unet.requires_grad_(False)
    before = fingerprint([unet])
    cuda_graph.compile_blocks(unet)
    assert fingerprint([unet]) not in (None, before)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_asked_for_once(own: sdxl.Pipeline, plain: sdxl.Pipeline) -> None:
    """Where it is short, the step goes on layer by layer, and nothing is said: nobody has asked for graphs."""
    asked = list[tuple[int, ...]]()

    def room(size: Any) -> float:
        asked.append(tuple(size))
        return 1e4

    pipe, recorder = record(own, room=room)
    wanted = latents(plain, width=128)
    assert all(torch.equal(latents(pipe, width=128), wanted) for _ in range(2))
    assert (recorder.count, asked) == (0, [(8, 16)])


def test_what_a_recording_needs(own: sdxl.Pipeline, tiny_folder: Path, net: Path) -> None:
    """The feature maps of a step, as they are estimated, also of a ControlNet, and copies of keys and values."""
    maps = memory.unet_bytes(own.unet.config, 2, (8, 8), own.experts[0].placement)
    widths = [each.cross_attn.out.weight.shape[0] for each in blocks(load(tiny_folder, trainable=True).unet)]
    least = maps + 4 * 2 * 77 * 2 * sum(widths)  # two rows, keys and values, in float32
    control = sdxl.Control(net, IMAGE)
    for given, room, count in ((None, least - 1, 0), (None, least, 1), (control, least, 0), (control, 3 * least, 1)):
        pipe, recorder = record(own, room=lambda _, room=room: room)
        latents(pipe, control=given, guidance_scale=5.0, negative_prompt="dog", steps=3)
        assert recorder.count == count, (given, room)


def blocks(unet: UNet) -> list[Any]:
    return [each for each in unet.modules() if hasattr(each, "cross_attn")]


def test_a_recording_that_fails(own: sdxl.Pipeline, plain: sdxl.Pipeline) -> None:
    """The image is right, one warning has the reason, and no other recording is tried."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
    pipe, recorder = record(own, recorder=CPURecorder(error))
    wanted = latents(plain)
    with pytest.warns(SDXLWarning, match=r"no longer recorded .*\(CUDA out of memory. Tried to allocate\)") as warned:
        assert torch.equal(latents(pipe), wanted)
    assert len(warned) == 1 and recorder.count == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(latents(pipe), wanted)
    graphs = pipe.residency.model.graphs
    assert graphs is not None and not graphs.bytes and recorder.count == 1


def test_a_compiled_model_makes_room_for_its_recordings(own: sdxl.Pipeline) -> None:
    """There they are asked for: the pipeline goes on with less of the model in memory, if it may."""
    error = torch.OutOfMemoryError("CUDA out of memory.")
    pipe, recorder = record(own, recorder=CPURecorder(error), eager_runs=0)
    with pytest.raises(OutOfMemoryError, match="memory ran out with offload none"):
        latents(pipe)
    pipe, recorder = record(own, recorder=CPURecorder(RuntimeError("no such operation")), eager_runs=0)
    with pytest.warns(SDXLWarning, match="no such operation"):
        latents(pipe)
    assert recorder.count == 1


def test_memory_that_runs_out_beside_a_recording(
    own: sdxl.Pipeline, plain: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings go first, since nobody has asked for them; then the image is generated without."""
    pipe, recorder = record(own)
    wanted, predict = latents(pipe), UNet.predict

    def fail(*given: Any) -> Tensor:
        graphs = pipe.residency.model.graphs
        if graphs is not None and graphs.recordings():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(*given)

    monkeypatch.setattr(UNet, "predict", fail)
    with pytest.warns(SDXLWarning, match="memory ran out"):
        assert torch.equal(latents(pipe, num_images=2, seed=[5, 6])[:1], wanted)
    assert torch.equal(latents(pipe), wanted) and recorder.count == 1
    graphs = pipe.residency.model.graphs
    assert graphs is not None and graphs.stopped

    def fail_always(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(UNet, "predict", fail_always)
    with pytest.raises(OutOfMemoryError, match="memory ran out with offload none"):
        latents(pipe)


def test_what_is_kept_for_a_recording_is_not_free(own: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch counts it as free: nothing is allocated in it between two steps."""
    pipe, _ = record(own)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 1e12)
    assert pipe.residency.room() == 1e12
    latents(pipe)
    assert pipe.residency.room() == 1e12 - 1000


# ---- which pipelines record ------------------------------------------------------------------------------------------


def on_cuda(pipe: sdxl.Pipeline) -> Model:
    """Its model as if it were there."""
    model = pipe.residency.model
    experts = [replace(each, placement=replace(each.placement, device=torch.device("cuda"))) for each in model.experts]
    return replace(model, experts=tuple(experts))


def test_pipelines_that_record(tiny_folder: Path) -> None:
    """Those on CUDA whose UNet stays in memory as it was loaded."""
    pipe, other = load(tiny_folder), load(tiny_folder, trainable=True)
    loader, model = pipe.residency.loader, on_cuda(pipe)
    assert pipe.residency.model.graphs is None
    assert Residency(model, loader).model.graphs is not None
    assert Residency(replace(model, offload="text"), loader).model.graphs is not None
    assert Residency(replace(model, offload="stage"), loader).model.graphs is None
    assert Residency(replace(model, offload="block"), loader).model.graphs is None
    assert Residency(on_cuda(other), other.residency.loader).model.graphs is None, "its weights are to be changed"
    assert Residency(model).model.graphs is None, "networks in memory are the caller's"


def test_a_pipeline_is_let_go_at_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder)
    residency = Residency(on_cuda(pipe), pipe.residency.loader)
    graphs = residency.model.graphs
    assert graphs is not None
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 1e12)
    vae = memory.vae_bytes(pipe.info.config.vae, (64, 128), residency.model.placement)
    assert graphs.room((8, 16)) == 1e12 - vae, "beside a decode of the whole image"
    gone = weakref.ref(residency)
    gc.disable()
    try:
        del residency
        assert gone() is None
    finally:
        gc.enable()
    assert graphs.room((8, 16)) == 0


def test_compile_records_from_the_first_step_on(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = record(load(tiny_folder))
    latents(pipe)
    old = pipe.residency.model.graphs
    monkeypatch.setattr("sdxl.pipeline.model.compile_blocks", lambda _: None)
    model = pipe.residency.model.compiled()
    assert old is not None and not old.recordings(), "their layers are replaced"
    assert model.is_compiled and model.graphs is not None and model.graphs.eager_runs == 0
    assert not pipe.is_compiled


@pytest.mark.parametrize(
    ("fp8", "capability", "has_triton", "expected"),
    [
        (False, (6, 1), True, r"compile needs a GPU of compute capability 7\.0, this one has 6\.1; leave it out"),
        (True, (8, 6), True, r"compile with fp8 needs .* 8\.9, this one has 8\.6; leave one of them out"),
        (False, (7, 5), False, r"compile needs Triton, .* install triton-windows on Windows, or leave compile out"),
    ],
)
def test_compile_where_triton_cannot(
    fp8: bool, capability: tuple[int, int], has_triton: bool, expected: str, plain: sdxl.Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is refused before work, and not by torch's compiler in the middle of it."""
    model, expert = plain.residency.model, plain.residency.model.experts[0]
    there = replace(expert, placement=replace(expert.placement, device=torch.device("cuda"), fp8=fp8))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(cuda_graph, "find_spec", lambda name: name if has_triton else None)
    with pytest.raises(ArgumentError, match=expected):
        Residency(replace(model, experts=(there,))).compile()


@pytest.mark.slow
def test_a_compiler_that_fails(tiny_folder: Path, tmp_path: Path) -> None:
    """Without a compiler for C++, which torch's own needs on a CPU as Triton needs one for C."""
    program = (
        "import sys, warnings, sdxl\n"
        "from sdxl.runtime.cuda_graph import Graphs\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from cpu_graphs import CPURecorder\n"
        "from dataclasses import replace\n"
        "warnings.simplefilter('error', sdxl.SDXLWarning)\n"
        "pipe = sdxl.Pipeline.from_pretrained(sys.argv[1], device='cpu', trainable=True)\n"
        "model = pipe.residency.model.compiled()\n"
        "pipe.residency.model = replace(model, graphs=Graphs(eager_runs=0, recorder=CPURecorder()))\n"
        "pipe('a red cat', steps=2, width=64, height=64)\n"
    )
    command = [sys.executable, "-c", program, str(tiny_folder), str(Path(__file__).parents[1])]
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"ArgumentError: torch's compiler has failed \(.*C\+\+ compiler.*\); leave compile out$", last)


def test_a_graph_that_is_forgotten_holds_nothing(tiny_folder: Path) -> None:
    pipe, _ = record(load(tiny_folder))
    latents(pipe)
    unet, graphs = weakref.ref(pipe.unet), pipe.residency.model.graphs
    assert graphs is not None
    gone: list[Graph] = list(graphs._graphs.values())
    gc.collect()
    gc.disable()
    try:
        pipe.residency.model.free_all()
        assert unet() is None
    finally:
        gc.enable()
    assert not graphs and all(each.tape is None for each in gone)
