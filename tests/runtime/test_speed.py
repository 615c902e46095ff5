"""What is saved must change nothing: the UNet that is told its text once, packed layers, and streamed weights."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import sdxl
from sdxl.cli.measure import count_flop, report
from sdxl.errors import ArgumentError
from sdxl.miniature.exam import make_scenes, mark
from sdxl.models.conditioned import Conditioning, precompute
from sdxl.models.config import BASE, ScheduleConfig, UNetConfig
from sdxl.models.layers import Attention, Conv2d, Linear
from sdxl.models.unet import GEGLU, UNet
from sdxl.pipeline.loading import load as load_network
from sdxl.runtime.cuda_graph import FusedAttention
from sdxl.runtime.device import DTYPES, cpu_seconds, default_dtype
from sdxl.runtime.int8 import can_quantize, quantized
from sdxl.runtime.memory import RESERVE, choose_offload
from sdxl.runtime.onednn import can_pack, packed
from sdxl.runtime.placement import Placement, choose_placement, weight_bytes
from sdxl.runtime.scratch import cast
from sdxl.runtime.streamed import streamed
from sdxl.runtime.winograd import WinogradConv2d
from sdxl.sampling.denoiser import make_denoiser
from sdxl.sampling.guidance import Guidance
from sdxl.sampling.schedule import Schedule, noise_table

CPU = torch.device("cpu")
CONFIG = UNetConfig(
    channels=(16, 32),
    down=((None,), (2,)),
    mid=1,
    up=((2, 2), (None, None)),
    heads=(1, 2),
    context_dim=24,
    vector_dim=40,
    size_dim=8,
    norm_groups=4,
    sample_size=(8, 8),
)


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).double().requires_grad_(False).eval()


def given(rows: int) -> tuple[torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 4, 8, 6, generator=generator, dtype=torch.float64)
    context = torch.randn(rows, 77, 24, generator=generator, dtype=torch.float64)
    return x, Conditioning(context, torch.randn(rows, 40, generator=generator, dtype=torch.float64))


def test_told_once_gives_every_step(unet: UNet) -> None:
    x, told = given(3)
    network = precompute(unet, {"positive": told}, [900.0, 400.5, 1.0])
    for t in (1.0, 900.0, 400.5):
        assert torch.allclose(network(x, t), unet(x, torch.full((3,), t), told.context, told.vector), atol=1e-6)


def test_a_silent_context_is_skipped_and_changes_nothing(unet: UNet) -> None:
    x, positive = given(2)
    zeros = torch.zeros_like(positive.context)
    negative = Conditioning(zeros, positive.vector, is_zero=True)
    network = precompute(unet, {"negative": negative, "positive": positive}, [500.0])
    sources = [source for memory in network.memories for source in memory.cross]
    assert {(len(source.values), source.first) for source in sources} == {(2, 2)}, "nothing is kept for the zero rows"
    both = torch.cat([zeros, positive.context]), torch.cat([positive.vector] * 2)
    whole = unet(torch.cat([x, x]), torch.full((4,), 500.0), *both)
    assert torch.allclose(network(torch.cat([x, x]), 500.0), whole, atol=1e-6)
    assert torch.allclose(network.select(("positive",))(x, 500.0), whole[2:], atol=1e-6)


def test_guidance_acts_within_its_interval_only() -> None:
    seen: list[tuple[tuple[str, ...], int]] = []

    def network(branches: tuple[str, ...]) -> Any:
        def run(x: torch.Tensor, t: float) -> torch.Tensor:
            seen.append((branches, len(x)))
            return torch.zeros_like(x)

        return run

    schedule = Schedule((8.0, 4.0, 1.0, 0.0), (900.0, 500.0, 100.0), 8.0, noise_table(ScheduleConfig()))
    guidance = Guidance(5.0, interval=(2.0, 6.0))
    denoise = make_denoiser(network, schedule, "epsilon", guidance, torch.float32)
    for sigma in schedule.sigmas[:-1]:
        denoise(torch.zeros(2, 4, 8, 8), sigma)
    alone = ("positive",), 2
    assert seen == [alone, (("negative", "positive"), 4), alone]


def test_an_interval_of_everything_changes_nothing(tiny_pipe: sdxl.Pipeline) -> None:
    settings: Any = {"steps": 3, "seed": 1, "output": "latent", "progress": False}
    plain, whole, none, unguided = (
        tiny_pipe("a cat", **settings, **more).images
        for more in (
            {},
            {"guidance_interval": (0, 100)},
            {"guidance_interval": (90, 100)},
            {"guidance_scale": 1.0},
        )
    )
    assert torch.equal(plain, whole)  # type: ignore[arg-type]
    assert torch.equal(none, unguided)  # type: ignore[arg-type]
    assert not torch.equal(plain, none)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [(5, 1), (1,), (-1, 2), "ab", (0, float("nan"))])
def test_a_wrong_interval_is_told(interval: Any) -> None:
    with pytest.raises(ArgumentError, match="guidance_interval is"):
        sdxl.Request("a cat", guidance_interval=interval)


@pytest.mark.skipif(not can_pack(CPU), reason="this torch has no packed layers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_compute_the_same(dtype: torch.dtype, error: Any) -> None:
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 layers in oneDNN")
    torch.manual_seed(1)
    layers: list[tuple[torch.nn.Module, tuple[int, ...]]] = [
        (Linear(40, 24), (2, 9, 40)),
        (Linear(40, 24, bias=False), (5, 40)),
        (Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 11, 7)),
        (Conv2d(8, 16, 1), (1, 8, 5, 6)),
        (GEGLU(32), (2, 9, 32)),
        (Conv2d(128, 160, 3, padding=1), (2, 128, 12, 10)),
        (Conv2d(160, 128, 3, padding=1, bias=False), (1, 160, 1, 7)),
        (Conv2d(128, 128, 3, padding=1), (1, 128, 25, 301)),  # in several bands
    ]
    for layer, shape in layers:
        layer.to(dtype).requires_grad_(False)
        quick = packed(layer, dtype)
        assert quick is not None
        x = torch.randn(shape).to(dtype)
        exact = layer.float()(x.float())
        assert error(quick(x).float(), exact) < (1e-5 if dtype is torch.float32 else 0.02)
        assert not hasattr(quick, "weight")
        assert isinstance(quick, WinogradConv2d) == (dtype is torch.float32 and shape[1] >= 128)


def test_the_rounding_of_winograd_is_not_more(error: Any) -> None:
    torch.manual_seed(2)
    layer = Conv2d(320, 320, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 320, 16, 24).contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)  # type: ignore[union-attr]
    assert error(WinogradConv2d(layer)(x), exact) < min(1.5e-6, error(layer(x), exact))


@pytest.mark.skipif(not can_pack(CPU), reason="this torch has no packed layers")
def test_packed_layers_refuse_gradients() -> None:
    """Rather than to lose them on the way; and what they refused leaves no trace."""
    for layer, shape in (
        (Linear(8, 8), (3, 8)),
        (Conv2d(8, 8, 3), (1, 8, 5, 5)),
        (Conv2d(128, 128, 3, padding=1), (1, 128, 4, 4)),
        (GEGLU(8), (1, 3, 8)),
    ):
        quick = packed(layer, torch.float32)
        assert quick is not None
        with pytest.raises(ArgumentError, match="no gradients pass; load the model with offload block"):
            quick(torch.ones(shape, requires_grad=True))
        assert not quick(torch.ones(shape)).requires_grad
        with torch.no_grad():
            quick(torch.ones(shape, requires_grad=True))


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
def test_layers_in_8_bits_refuse_gradients() -> None:
    quick = quantized(Linear(32, 32), torch.float32)
    assert quick is not None
    with pytest.raises(ArgumentError, match="no gradients pass"):
        quick(torch.ones(3, 32, requires_grad=True))


def test_networks_laid_out_anew_are_not_read_in_part(tiny_folder: Path) -> None:
    unet = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu").unet
    plain = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="block").unet
    state = plain.state_dict()
    for use in (unet.state_dict, unet.half, lambda: unet.load_state_dict(state, strict=False), lambda: deepcopy(unet)):
        with pytest.raises(ArgumentError, match="cannot be read, changed, copied or moved"):
            use()
    assert all(torch.equal(tensor, state[name]) for name, tensor in deepcopy(plain).state_dict().items())


def test_gradients_pass_a_streamed_model(tiny_folder: Path) -> None:
    unet = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="block").unet
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    config = unet.config
    unet(x, torch.ones(1), torch.zeros(1, 77, config.context_dim), torch.zeros(1, config.vector_dim)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_threads_do_not_share_scratch(error: Any) -> None:
    torch.manual_seed(3)
    layers = [WinogradConv2d(Conv2d(128, 128, 3, padding=1).requires_grad_(False)) for _ in range(2)]
    x = torch.randn(1, 128, 32, 32)
    alone = [layer(x) for layer in layers]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda i: layers[i % 2](x), range(40)))
    assert all(torch.equal(result, alone[i % 2]) for i, result in enumerate(together))


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
@pytest.mark.parametrize("shape", [(32, 32), (40, 96), (96, 40)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_8_bit_layers_are_about_the_same(shape: tuple[int, int], bias: bool, dtype: torch.dtype, error: Any) -> None:
    torch.manual_seed(3)
    layer = Linear(*shape, bias=bias).requires_grad_(False)
    x = torch.randn(99, 9, shape[0]) * torch.logspace(-3, 3, 9)[:, None]  # every token has its own scale
    x = x.to(dtype)
    quick = quantized(layer, dtype)
    assert quick is not None
    ours, exact = quick(x), layer(x.float())
    assert ours.dtype is dtype
    for row in range(99):
        for token in range(9):
            assert 0 < error(ours[row, token].float(), exact[row, token]) < 0.04


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
def test_8_bits_still_draw_what_they_are_told() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cpu", dtype="float32", int8=True)
    assert mark(pipe, make_scenes(20, 77, things=1)) >= 0.9
    assert pipe("a red circle", steps=1, progress=False).parameters[0]["model"]["int8"] is True


def test_fused_attention_is_attention() -> None:
    torch.manual_seed(2)
    plain = Attention(32, 32, heads=4, bias=False).double().requires_grad_(False)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    assert torch.allclose(FusedAttention(plain)(x), plain(x), atol=1e-12)


def test_weights_in_half_precision_compute_in_float32(tiny_folder: Path, error: Any) -> None:
    checkpoint = sdxl.weights.checkpoint.open_checkpoint(tiny_folder)
    part = checkpoint.components["unet"]  # its weights are float16 numbers, so nothing is lost
    exact = load_network(part, Placement(CPU, torch.float32, torch.float32))
    light = load_network(part, Placement(CPU, torch.float16, torch.float32))
    for parameter in exact.parameters():  # mapped, and some processors round otherwise where memory is not aligned
        parameter.data = parameter.data.clone()
    x, config = torch.randn(1, 4, 8, 8), exact.config
    told = Conditioning(torch.randn(1, 77, config.context_dim), torch.randn(1, config.vector_dim))
    runs = [precompute(model, {"all": told}, [500.0])(x, 500.0) for model in (exact, light)]  # type: ignore[arg-type]
    assert {p.dtype for p in light.parameters() if p.ndim > 1} == {torch.float16}
    assert torch.equal(*runs)


def test_arithmetic_is_in_the_dtype_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {torch.float32: 2.0, torch.bfloat16: 1.0, torch.float16: 3.0}
    monkeypatch.setattr("sdxl.runtime.device.cpu_seconds", lambda: times)
    assert default_dtype(CPU) is torch.bfloat16
    assert [choose_placement(CPU, dtype).arithmetic for dtype in times] == [
        torch.float32,
        torch.bfloat16,
        torch.float32,
    ]
    times[torch.bfloat16] = 3.0
    assert default_dtype(CPU) is torch.float32
    assert choose_placement(CPU, torch.bfloat16) == Placement(CPU, torch.bfloat16, torch.float32)


def test_the_processor_is_tried_quickly() -> None:
    assert set(cpu_seconds()) == {torch.float32, torch.bfloat16, torch.float16}
    assert all(0 < seconds < 1 for seconds in cpu_seconds().values())


@pytest.mark.parametrize(
    ("device", "limit", "chosen"),
    [
        ("cpu", 20, "stage"),
        ("cpu", 3, "stage"),
        ("cpu", 1, "block"),
        ("cuda", 5, "none"),
        ("cuda", 4, "text"),
        ("cuda", 3, "stage"),
        ("cuda", 2, "block"),
    ],
)
def test_auto_takes_what_fits(device: str, limit: int, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl.runtime.memory.available", lambda device: 1e12)
    most = limit * 10**9 + RESERVE
    assert choose_offload("auto", [10**9, 3 * 10**9, 10**9], 10**9, torch.device(device), most) == chosen


def test_weights_take_their_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    sdxl.convert(tiny_folder, tmp_path / "whole.safetensors")
    for path in (tiny_folder, tmp_path / "whole.safetensors"):
        for part in sdxl.weights.checkpoint.open_checkpoint(path).components.values():
            count = sum(value.numel() for value in part.build().state_dict().values())
            assert weight_bytes(part.shapes(), torch.bfloat16) == 2 * count


def test_packed_weights_take_their_bytes() -> None:
    """Those of wide convolutions grow, as the miniature's second level."""
    checkpoint = sdxl.weights.checkpoint.open_checkpoint(sdxl.weights.hub.resolve("miniature", None, None))
    part = checkpoint.components["unet"]
    assert weight_bytes(part.shapes(), torch.bfloat16, is_packed=True) == weight_bytes(part.shapes(), torch.bfloat16)
    network = load_network(part, Placement(CPU, torch.float32, torch.float32, packed=True))
    buffers = [value for module in network.modules() for value in vars(module).values() if torch.is_tensor(value)]
    taken = sum(value.numel() for value in [*buffers, *network.parameters()])
    assert taken * 4 <= weight_bytes(part.shapes(), torch.float32, is_packed=True) < 1.15 * taken * 4


@pytest.mark.parametrize("held", [None, *DTYPES.values()])
@pytest.mark.parametrize("into", DTYPES.values())
@pytest.mark.parametrize("kind", DTYPES.values())
def test_weights_are_cast_as_torch_casts_them(kind: torch.dtype, into: torch.dtype, held: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = 30 * torch.randn(600, 700, generator=generator) * torch.randn(600, 1, generator=generator).exp()
    for source in (numbers.to(kind), numbers.to(kind).T):
        expected = source.to(held or kind).to(into)
        assert torch.equal(cast(source, torch.empty(source.shape, dtype=into), held), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("streamed", ["text", "block"])
def test_streamed_weights_draw_the_same(tiny_folder: Path, dtype: str, streamed: str) -> None:
    settings: Any = {"steps": 2, "seed": 1, "output": "tensor", "progress": False}
    whole, other = (
        sdxl.Pipeline.from_pretrained(tiny_folder, dtype=dtype, device="cpu", offload=offload)(
            "a cat", **settings
        ).images
        for offload in ("none", streamed)
    )
    assert isinstance(whole, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    arithmetic = choose_placement(CPU, getattr(torch, dtype)).arithmetic
    assert (whole - other).abs().max() < (1e-4 if arithmetic is torch.float32 else 0.05)


def test_offload_is_checked() -> None:
    with pytest.raises(ArgumentError, match="auto, none, text, stage, block"):
        choose_offload("disk", [1], 0, CPU, None)


def test_a_streamed_model_cannot_be_compiled(tiny_folder: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be compiled"):
        sdxl.Pipeline.from_pretrained(tiny_folder, device="cpu", offload="block").compile()


def test_operations_are_counted() -> None:
    flop = count_flop(BASE, 1024, 1024)
    assert flop["step"] == pytest.approx(13.52e12, rel=0.01)
    assert flop["decode"] == pytest.approx(10.47e12, rel=0.01)
    assert flop["encode"] == pytest.approx(4.88e12, rel=0.01)


def test_the_report_has_every_stage() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    lines = report(pipe, 64, 64, repeats=1)
    assert [line["stage"] for line in lines] == ["text", "step", "decode", "encode"]
    assert all(line["seconds"] > 0 and line["share"] > 0 for line in lines)


def test_the_benchmark_runs_at_a_tiny_size(tmp_path: Path) -> None:
    root, out = Path(__file__).parents[2], tmp_path / "lines.jsonl"
    model = root / "weights/miniature/base"
    command = [sys.executable, root / "scripts/benchmark.py", "--ours", model, "--theirs", model, "--dtype", "float32"]
    small = ["--sizes", "64", "--stages", "step", "picture", "--steps", "1", "--rounds", "1", "--repeats", "1"]
    done = subprocess.run([*command, *small, "--out", out], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for who in ("sdxl", "diffusers"):
        mine = {line["stage"]: line for line in lines if line["who"] == who}
        assert {"import", "machine", "load", "step", "picture", "matrix product"} <= set(mine)
        assert mine["machine"]["torch"] == torch.__version__
        assert 0 < mine["step"]["seconds"] < mine["picture"]["seconds"] + 1
        assert f"{mine['step']['seconds']:.3f}" in done.stdout


def test_too_little_memory_for_float32_takes_half_of_it(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = sdxl.weights.checkpoint.open_checkpoint(tiny_folder)
    largest = max(weight_bytes(part.shapes(), torch.float32) for part in checkpoint.components.values())
    load = sdxl.Pipeline.from_pretrained
    monkeypatch.setattr("sdxl.runtime.device.is_fast", lambda dtype, device: False)
    chosen = [
        load(tiny_folder, device="cpu", offload="auto", max_memory=int(RESERVE + share * largest))
        for share in (1, 0.5, 0.4)
    ]
    assert [(pipe.dtype, pipe.offload) for pipe in chosen] == [
        (torch.float32, "stage"),
        (torch.float16, "stage"),
        (torch.float16, "block"),
    ]
    assert all(pipe.experts[0].placement.arithmetic is torch.float32 for pipe in chosen)


def test_a_picture_is_encoded_in_strips_where_memory_is_short(tiny_folder: Path) -> None:
    pixels = torch.rand(1, 3, 136, 72, generator=torch.Generator().manual_seed(0))
    pipes = [
        sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
        for offload in ("none", "block")
    ]
    with patch("sdxl.pipeline.latents.encode_strips", wraps=sdxl.runtime.vae_strips.encode_strips) as strips:
        whole, parts = (pipe.encode(pixels) for pipe in pipes)
    assert strips.call_count == 1
    assert (whole - parts).abs().max() < 1e-4


def test_weights_in_another_dtype_share_memory_without_mixing() -> None:
    """Several layers, one after the other and in two threads, and where gradients are recorded."""
    layers: Any = [streamed(Linear(64, 64).to(torch.bfloat16)) for _ in range(3)]
    for layer in layers:
        layer.bias.data = layer.bias.float()
    x = torch.randn(256, 64)

    def run(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = layer(x)
        return x

    def expected(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = torch.nn.functional.linear(x, layer.weight.float(), layer.bias)
        return x

    with torch.no_grad():
        right = expected(x)
        assert torch.equal(run(x), right)
        with ThreadPoolExecutor(2) as pool:
            assert all(torch.equal(result, right) for result in pool.map(lambda _: no_grad(run, x), range(200)))
    with ThreadPoolExecutor(1) as pool:  # a thread that has no such memory yet
        pool.submit(torch.inference_mode()(run), x).result()
        assert torch.equal(pool.submit(no_grad, run, x).result(), right), "what that mode has left can be written"
    run(x).sum().backward()
    gradients = [layer.weight.grad for layer in layers]
    for layer in layers:
        layer.weight.grad = None
    expected(x).sum().backward()
    for layer, gradient in zip(layers, gradients, strict=True):
        assert gradient is not None and torch.equal(gradient, layer.weight.grad)


def no_grad(run: Any, x: torch.Tensor) -> torch.Tensor:
    """The mode is each thread's own."""
    with torch.no_grad():
        result: torch.Tensor = run(x)
    return result
