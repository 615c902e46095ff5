"""Weights kept in 8 bits, against the format restated as a table of its 256 values."""

from __future__ import annotations

from math import isnan, ldexp, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.miniature.exam import make_scenes, mark
from sdxl.models.layers import Linear
from sdxl.models.unet import TransformerBlock, UNet
from sdxl.models.unet_config import UNetConfig
from sdxl.pipeline.network_loading import component_bytes, load
from sdxl.runtime.fp8 import Fp8Linear, has_fp8, narrowed, widen
from sdxl.runtime.placement import Placement, choose_placement
from sdxl.weights import open_checkpoint, save_folder

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"steps": 3, "seed": 1, "output": "latent", "progress": False}
NAME = "unet.down.1.attn.0.blocks.0.cross_attn.k.weight"


def value(code: int) -> float:
    """A number of float8_e4m3fn: a sign, 4 bits of exponent with a bias of 7, and 3 of mantissa; no infinities."""
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return nan
    return sign * (ldexp(mantissa, -9) if exponent == 0 else ldexp(8 + mantissa, exponent - 10))


TABLE = [value(code) for code in range(256)]
POSITIVE = np.array(TABLE[:127])  # in order


def nearest(x: np.ndarray) -> np.ndarray:
    """The nearest numbers, the one of an even code of two."""
    above = np.searchsorted(POSITIVE, np.abs(x)).clip(1, 126)
    up, down = POSITIVE[above] - np.abs(x), np.abs(x) - POSITIVE[above - 1]
    is_above = (up < down) | ((up == down) & (above % 2 == 0))
    return np.copysign(np.where(is_above, POSITIVE[above], POSITIVE[above - 1]), x)


def scale_of(row: np.ndarray) -> float:
    """The smallest power of two that brings a row to 448 at most."""
    scale, largest = 2.0**-126, float(np.abs(row).max())
    while largest / scale > 448:
        scale *= 2
    return scale


def restated(weight: Tensor) -> Tensor:
    """A matrix as its 8 bits hold it, in float64."""
    rows = weight.double().numpy()
    scales = np.array([[scale_of(row)] for row in rows])
    return torch.tensor(nearest(rows / scales) * scales)


def hostile() -> Tensor:
    """Rows of many sizes: random numbers, the numbers of the format, what is half-way between two, and their
    neighbours.
    """
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(40, 127, generator=generator) * torch.logspace(-7, 4, 40)[:, None]
    table = torch.tensor(POSITIVE, dtype=torch.float32)
    middles = torch.cat([(table[1:] + table[:-1]) / 2, table[-1:]])
    near = [torch.nextafter(middles, torch.tensor(end)) for end in (0.0, 1e9)]
    near[1][-1] = 448.0
    exact = torch.stack([table, middles, *near, -middles, torch.zeros(127), torch.full((127,), -0.0)])
    tiny = torch.full((1, 127), 1e-41)
    return torch.cat([rows, exact, exact * 2.0**-13, exact * 2.0**7, tiny])


def test_torch_has_the_numbers_of_the_table() -> None:
    numbers = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
    np.testing.assert_array_equal(numbers.numpy(), np.array(TABLE, np.float32))
    assert has_fp8(CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_rounded_to_the_nearest_even(dtype: torch.dtype) -> None:
    weight = hostile()
    weight = weight[weight.abs().amax(1) < 6e4].to(dtype)  # float16's largest
    codes, scale = narrowed(weight)
    assert codes.dtype is torch.float8_e4m3fn
    some = weight.any(1)  # a row of zeros may have any scale
    assert scale[some].tolist() == [scale_of(row) for row in weight[some].double().numpy()]
    found = codes.double() * scale.double()[:, None]
    expected = restated(weight)
    assert torch.equal(found, expected)
    assert torch.equal(found.signbit(), expected.signbit())


def test_narrow_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(37, 60)
    whole = narrowed(weight)
    monkeypatch.setattr("sdxl.runtime.fp8.PIECE", 7 * 60 + 1)
    codes, scale = narrowed(weight)
    assert torch.equal(codes.view(torch.uint8), whole[0].view(torch.uint8))
    assert torch.equal(scale, whole[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("exponent", [-30, -13, 0, 7])
def test_weights_are_made_wide_without_a_loss(dtype: torch.dtype, exponent: int) -> None:
    """In float32 and bfloat16 nothing is rounded; in float16 only what it has no numbers for."""
    codes = torch.arange(256).to(torch.uint8).repeat(3, 1)
    scale = torch.tensor([1.0, 2.0, 0.25]) * 2.0**exponent
    expected = (torch.tensor(TABLE, dtype=torch.float64) * scale[:, None].double()).to(dtype)
    found = widen(codes.view(torch.float8_e4m3fn), scale, torch.empty(3, 256, dtype=dtype))
    finite = [code for code in range(256) if not isnan(TABLE[code])]
    assert torch.equal(found[:, finite], expected[:, finite])
    if dtype is not torch.float16:
        assert torch.equal(found[:, finite].double(), torch.tensor(TABLE)[finite].double() * scale[:, None].double())


@pytest.mark.parametrize("bad", [nan, float("inf"), -float("inf")])
def test_rows_that_are_not_finite_stay_so(bad: float) -> None:
    layer = Linear(4, 3).requires_grad_(False)
    layer.weight[1, 2] = bad
    codes, scale = narrowed(layer.weight)
    assert scale.isnan().tolist() == [False, True, False]
    with torch.no_grad():
        layer.weight.data = codes
        y = Fp8Linear(layer, scale)(torch.ones(1, 4))
    assert y.isnan().tolist() == [[False, True, False]]
    again, scale = narrowed(codes)
    assert again is codes
    assert scale.isnan().tolist() == [False, bool(codes[1].float().isnan().any()), False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("graded", [True, False])
def test_a_layer_is_within_its_bound(dtype: torch.dtype, bias: bool, graded: bool) -> None:
    """An output is off by at most sum |x| max(|w| / 16, scale / 1024), beside the rounding of the arithmetic."""
    torch.manual_seed(3)
    plain = Linear(96, 40, bias=bias).requires_grad_(False)
    weight = plain.weight.double()
    x = (torch.randn(5, 9, 96) * torch.logspace(-2, 1, 9)[:, None]).to(dtype)
    exact = x.double() @ weight.T + (plain.bias.double() if bias else 0)
    codes, scale = narrowed(plain.weight)
    off = torch.maximum(weight.abs() / 16, scale.double()[:, None] / 1024)
    bound = x.double().abs() @ off.T
    rounding = 4 * torch.finfo(dtype).eps * (x.double().abs() @ weight.abs().T + 1)
    plain.weight.data = codes
    if bias:
        plain.bias.data = plain.bias.to(dtype)
    layer = Fp8Linear(plain, scale)
    with torch.set_grad_enabled(graded):
        y = layer(x)
    assert y.dtype is dtype
    assert ((y.double() - exact).abs() <= bound + rounding).all()
    assert (y.double() - exact).norm() > 0.005 * exact.norm()  # it is an approximation
    if graded:
        moving = x.clone().requires_grad_()
        layer(moving).sum().backward()
        wide = codes.double() * scale.double()[:, None]
        torch.testing.assert_close(moving.grad, wide.sum(0).expand_as(x).to(dtype), rtol=0.02, atol=0.02)


def test_layers_can_be_traced_whole() -> None:
    """As `compile()` does on CUDA: no break in the graph."""
    plain = Linear(32, 24).requires_grad_(False)
    plain.weight.data, scale = narrowed(plain.weight.data)
    layer, x = Fp8Linear(plain, scale), torch.randn(2, 32)
    traced = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(traced(x), layer(x))


# ---- a model ---------------------------------------------------------------------------------------------------------


def in_blocks(model: sdxl.Pipeline) -> dict[str, Fp8Linear]:
    networks = {"unet": model.unet, **{str(n): stage.encoder for n, stage in enumerate(model.text)}}
    return {
        f"{network}.{name}": layer
        for network, each in networks.items()
        for name, layer in each.named_modules()
        if isinstance(layer, Fp8Linear)
    }


def latents(pipe: sdxl.Pipeline, **arguments: Any) -> Tensor:
    images = pipe("a red cat", **(QUICK | arguments)).images
    assert isinstance(images, Tensor)
    return images


def open_tiny(folder: Path, **options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(folder, **{"dtype": "float32", "device": "cpu", "fp8": True, **options})


def rewritten(folder: Path, path: Path, change: Any) -> Path:
    """The model with other weights in the blocks."""
    checkpoint = open_checkpoint(folder)
    state = {name: dict(component.tensors()) for name, component in checkpoint.components.items()}
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in state]
    for name in in_blocks(open_tiny(folder)):
        component, _, layer = name.partition(".")
        component = encoders[int(component)] if component.isdecimal() else component
        state[component][f"{layer}.weight"] = change(state[component][f"{layer}.weight"])
    save_folder(path, checkpoint.info, state)
    return path


@pytest.fixture(scope="module")
def rounded_model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model whose files hold, in float32, what the 8 bits hold."""
    return rewritten(tiny_folder, tmp_path_factory.mktemp("r") / "model", lambda w: restated(w).float())


@pytest.fixture(scope="module")
def eight_bit_model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was published in float8 without scales."""
    return rewritten(tiny_folder, tmp_path_factory.mktemp("e") / "model", lambda w: w.to(torch.float8_e4m3fn))


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({}, 1e-5),
        ({"offload": "stage"}, 1e-5),
        ({"offload": "text"}, 1e-5),
        ({"offload": "block"}, 1e-5),
        ({"dtype": "bfloat16"}, 0.1),
        ({"dtype": "float16"}, 0.02),
        ({"dtype": "float16", "offload": "block"}, 0.02),
    ],
)
@pytest.mark.filterwarnings("ignore:fp8 saves no memory")
def test_a_model_is_the_one_whose_files_hold_the_rounded_weights(
    options: dict[str, Any], bound: float, tiny_folder: Path, rounded_model: Path, error: Any
) -> None:
    found, exact = latents(open_tiny(tiny_folder, **options)), latents(open_tiny(rounded_model, fp8=False))
    assert error(found, exact) < bound
    if options.get("dtype") is None:
        assert error(found, latents(open_tiny(tiny_folder, fp8=False))) > 10 * bound


@pytest.mark.slow
def test_the_refiner_is_kept_so_too(
    tiny_folder: Path, refiner_folder: Path, rounded_model: Path, tmp_path: Path, error: Any
) -> None:
    rounded_refiner = rewritten(refiner_folder, tmp_path / "refiner", lambda w: restated(w).float())
    found = latents(open_tiny(tiny_folder, refiner=refiner_folder), refine_at=0.5)
    exact = latents(open_tiny(rounded_model, refiner=rounded_refiner, fp8=False), refine_at=0.5)
    assert error(found, exact) < 1e-5
    assert error(found, latents(open_tiny(rounded_model, refiner=refiner_folder, fp8=False), refine_at=0.5)) > 1e-4


def test_jobs_and_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job makes the pipeline's image and remembers that it is in 8 bits; its image replays."""
    (tmp_path / "job.jsonl").write_text('{"prompt": "a red circle", "seed": 0}\n')
    out, options = tmp_path / "out", ["--model", "miniature", "--steps", "3", "--dtype", "float32", "--device", "cpu"]
    job = ["generate", "--batch", str(tmp_path / "job.jsonl"), "--output-dir", str(out), *options]
    assert main([*job, "--fp8"]) == 0
    wanted = open_tiny(Path("miniature"))("a red circle", steps=3, seed=0, progress=False).images[0]
    image = Image.open(out / "00001.png")
    assert image.tobytes() == wanted.tobytes()
    assert main(job) == 1
    assert "another job" in capsys.readouterr().err
    assert main(["generate", "--from", str(out / "00001.png"), "--verify"]) == 0
    assert "identical" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:fp8 saves no memory")
def test_published_8_bits_stay_what_they_are(eight_bit_model: Path, error: Any) -> None:
    pipe = open_tiny(eight_bit_model)
    names = {"unet": "unet", "0": "text_encoder", "1": "text_encoder_2"}
    parts = {name: dict(each.tensors()) for name, each in open_checkpoint(eight_bit_model).components.items()}
    for name, layer in in_blocks(pipe).items():
        network, _, own = name.partition(".")
        stored = parts[names[network]][f"{own}.weight"]
        assert torch.equal(layer.weight.view(torch.uint8), stored.view(torch.uint8))
        assert layer.scale is not None
        assert set(layer.scale.tolist()) == {1.0}
    exact = latents(open_tiny(eight_bit_model, fp8=False))
    assert error(latents(pipe), exact) < 1e-5
    assert error(latents(open_tiny(eight_bit_model, offload="block")), exact) < 1e-5


def test_changes_act_before_the_rounding_and_leave_no_trace(tiny_folder: Path, eight_bit_model: Path) -> None:
    for folder in (tiny_folder, eight_bit_model):
        pipe = open_tiny(folder)
        before, weights = latents(pipe), {name: layer.weight.clone() for name, layer in in_blocks(pipe).items()}
        stored = dict(open_checkpoint(folder).components["unet"].tensors())[NAME.removeprefix("unet.")].float()
        pipe.change_weights({NAME: lambda w: w + 0.01})
        layer = in_blocks(pipe)[NAME.removesuffix(".weight")]
        assert layer.scale is not None
        assert torch.equal(layer.weight.double() * layer.scale.double()[:, None], restated(stored + 0.01))
        assert not torch.equal(latents(pipe), before)
        pipe.change_weights({})
        for name, layer in in_blocks(pipe).items():
            assert torch.equal(layer.weight.view(torch.uint8), weights[name].view(torch.uint8))
        assert torch.equal(latents(pipe), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_what_was_estimated(dtype: torch.dtype, tiny_folder: Path) -> None:
    """Beside the scales, 4 bytes for a row."""
    for component in open_checkpoint(tiny_folder).components.values():
        at = Placement(CPU, dtype, dtype, fp8=True)
        network = load(component, at)
        held = sum(each.numel() * each.itemsize for each in network.parameters())
        scales = sum(4 * len(each.weight) for each in network.modules() if isinstance(each, Fp8Linear))
        assert held - scales == component_bytes(component, at)
        assert (scales > 0) == (component.name != "vae")


def test_the_share_of_the_full_size_model_that_is_in_8_bits() -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    blocks = [each for each in unet.modules() if isinstance(each, TransformerBlock)]
    linear = [layer for block in blocks for layer in block.modules() if isinstance(layer, Linear)]
    count = sum(layer.weight.numel() for layer in linear)
    assert round(count / sum(each.numel() for each in unet.parameters()), 3) == 0.851


def test_images_record_it(tiny_folder: Path) -> None:
    pipe = open_tiny(tiny_folder)
    assert "blocks in float8" in repr(pipe)
    assert pipe("a cat", steps=1, progress=False).parameters[0]["model"]["fp8"] is True
    assert "fp8" not in open_tiny(tiny_folder, fp8=False)("a cat", steps=1, progress=False).parameters[0]["model"]


def test_what_cannot_be_is_refused_by_name(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="int8 and fp8 are both True"):
        choose_placement(CPU, torch.float32, int8=True, fp8=True)
    with pytest.raises(ArgumentError, match=r"trainable is True with .* fp8 True"):
        open_tiny(tiny_folder, trainable=True)
    with pytest.warns(SDXLWarning, match="fp8 saves no memory with offload block on a CPU"):
        open_tiny(tiny_folder, offload="block")
    with monkeypatch.context() as patch:
        patch.setattr("sdxl.runtime.placement.has_fp8", lambda device: False)
        with pytest.raises(ArgumentError, match="fp8 is True on cpu, which has no float8_e4m3fn"):
            open_tiny(tiny_folder)


def test_a_device_without_the_format_is_recognized() -> None:
    assert not has_fp8(torch.device("meta"))


@pytest.mark.slow
def test_8_bits_still_draw_what_the_prompt_says() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cpu", dtype="float32", fp8=True)
    assert mark(pipe, make_scenes(20, 77, things=1)) >= 0.9
