"""The model of a pipeline: shown, moved, trained, saved."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.errors import ArgumentError, OutputError, SDXLWarning, UnsupportedError
from sdxl.models import TransformerBlock, UNet
from sdxl.runtime.locks import Turns
from sdxl.training import attach_lora, detach_lora

LATENT: dict[str, Any] = {"steps": 2, "seed": 1, "progress": False, "output": "latent"}
CPU: dict[str, Any] = {"device": "cpu", "dtype": "float32"}


def latents(pipe: sdxl.Pipeline, **arguments: Any) -> torch.Tensor:
    images = pipe("a red cat", **(LATENT | arguments)).images
    assert isinstance(images, torch.Tensor)
    return images


# ---- repr ------------------------------------------------------------------------------------------------------------


def test_repr_shows_the_model(tiny_folder: Path, refiner_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, offload="stage", **CPU)
    lines = dict(line.strip().split(": ", 1) for line in repr(pipe).splitlines()[1:-1])
    assert lines["model"] == f"{tiny_folder} and {refiner_folder}"
    assert lines["kind"] == "base and refiner"
    assert lines["components"].startswith("text_encoder 0.0M, text_encoder_2 0.1M, unet 0.4M, vae 0.1M, refiner.")
    assert (lines["dtype"], lines["device"], lines["offload"]) == ("float32", "cpu", "stage")
    assert lines["memory"].startswith("at most ")
    mine = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    assert "networks in memory" in repr(mine)


# ---- to --------------------------------------------------------------------------------------------------------------


def test_to_another_dtype_and_back(tiny_folder: Path, tiny_pipe: sdxl.Pipeline) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    expected = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="bfloat16", device="cpu")
    assert pipe.to("cpu", torch.bfloat16) is pipe
    assert pipe.dtype is torch.bfloat16
    assert torch.equal(latents(pipe), latents(expected))
    assert pipe.to(torch.float32).dtype is torch.float32
    assert torch.equal(latents(pipe), latents(tiny_pipe))


def test_to_where_it_is_loads_nothing(tiny_pipe: sdxl.Pipeline) -> None:
    unet = tiny_pipe.unet
    for pipe in (tiny_pipe.to("cpu"), tiny_pipe.to(torch.float32), tiny_pipe.to(device="cpu", dtype="float32")):
        assert pipe.unet is unet


def test_to_keeps_the_changes(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    pipe.change_weights({"unet.conv_out.bias": lambda weight: weight + 1})
    changed = latents(pipe)
    assert torch.equal(latents(pipe.to("bfloat16").to("float32")), changed)


def test_to_forgets_the_texts_of_the_old_dtype(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    pipe.prepare_for_many()
    latents(pipe)
    plain = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="bfloat16", device="cpu")
    assert torch.equal(latents(pipe.to("bfloat16")), latents(plain))


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ((), "there is no target"),
        ((3,), "the target is 3; expected a device"),
        (("cuda:99",), "device 'cuda:99' cannot be used"),
        (("cpu", "cuda"), "device is given twice"),
        ((torch.int8,), "dtype is torch.int8; it must be one of"),
    ],
)
def test_where_it_cannot_go(target: tuple[Any, ...], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    unet = tiny_pipe.unet
    with pytest.raises(ArgumentError, match=sentence):
        tiny_pipe.to(*target)
    assert tiny_pipe.unet is unet


def test_steps_end_where_the_model_is_moved(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    steps = pipe.steps("cat", steps=3, seed=1)
    next(steps)
    pipe.to("bfloat16")
    with pytest.raises(ArgumentError, match="the weights have changed since these steps began"):
        next(steps)


def test_networks_in_memory_are_moved_themselves(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    mine = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    unet = mine.unet
    assert mine.to("float16").unet is unet
    assert unet.conv_in.weight.dtype is torch.float16
    assert mine.vae.quant_conv.weight.dtype is torch.float32, "in float16 the VAE would overflow"
    assert mine.dtype is torch.float16
    assert latents(mine).isfinite().all()
    packed = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    theirs = sdxl.Pipeline.from_networks(packed.info, packed.unet, packed.vae, packed.text)
    with pytest.raises(ArgumentError, match="prepacked"):
        theirs.to("bfloat16")
    assert theirs.dtype is torch.float32


# ---- trainable -------------------------------------------------------------------------------------------------------


def test_gradients_flow_through_every_network(tiny_folder: Path, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    assert error(latents(pipe), latents(tiny_pipe)) < 1e-5
    text = pipe.encode_prompt("cat")
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    pipe.unet(x, t, text.context, text.vector).square().mean().backward()
    pipe.vae.decode(x).square().mean().backward()
    context, pooled = pipe.text[1].encode(["cat"], 0)
    assert pooled is not None
    (context.square().mean() + pooled.square().mean()).backward()
    for network in (pipe.unet, pipe.vae.decoder, pipe.text[1].encoder):
        parameters = dict(network.named_parameters())
        assert all(each.requires_grad for each in parameters.values())
        without = [name for name, each in parameters.items() if each.grad is None]
        assert not [name for name in without if not name.startswith("layers.3.")], without
    names = {row.ours for row in pipe.residency.loader.checkpoints[0].components["unet"].rows}  # type: ignore[union-attr]
    assert {name for name, _ in pipe.unet.named_parameters()} == names


def test_training_changes_the_images_and_no_file(tiny_folder: Path, tiny_pipe: sdxl.Pipeline) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, device="cpu")
    assert pipe.dtype is torch.float32, "the default where nothing is asked for"
    optimizer = torch.optim.SGD(pipe.unet.parameters(), lr=0.1)
    text = pipe.encode_prompt("cat")
    pipe.unet(torch.randn(1, 4, 8, 8), torch.tensor([500.0]), text.context, text.vector).square().mean().backward()
    optimizer.step()
    assert not torch.equal(latents(pipe), latents(tiny_pipe))
    again = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    assert torch.equal(latents(again), latents(tiny_pipe))


def test_a_copy_of_a_trainable_network_is_its_own(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    average = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        pipe.unet.conv_in.weight.zero_()
    assert average.conv_in.weight.any()
    assert pickle.loads(pickle.dumps(average)).conv_in.weight.equal(average.conv_in.weight)


def test_the_parameters_of_a_repacked_network_are_an_error(tiny_pipe: sdxl.Pipeline) -> None:
    for use in (
        lambda: list(tiny_pipe.unet.parameters()),
        lambda: dict(tiny_pipe.vae.named_parameters()),
        lambda: tiny_pipe.unet.requires_grad_(True),
        lambda: tiny_pipe.unet.zero_grad(),
        lambda: pickle.dumps(tiny_pipe.unet),
        lambda: copy.deepcopy(tiny_pipe.unet),
        lambda: tiny_pipe.unet.state_dict(),
    ):
        with pytest.raises(ArgumentError, match="load the model with trainable=True"):
            use()


def test_a_trainable_model_stays_in_memory_and_is_not_read_again(tiny_folder: Path) -> None:
    for options in ({"offload": "stage"}, {"offload": "auto"}, {"int8": True}):
        with pytest.raises(ArgumentError, match="trainable is True with offload"):
            sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU, **options)
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    with pytest.raises(ArgumentError, match="change its weights in place"):
        pipe.change_weights({"unet.conv_out.bias": lambda weight: weight + 1})
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(1)
    changed = pipe.unet.conv_out.bias.clone()
    assert pipe.to("bfloat16").to("float32").unet.conv_out.bias.allclose(changed, atol=1e-2), "it keeps its weights"


# ---- networks in memory ----------------------------------------------------------------------------------------------


def test_wrong_networks_are_named(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    info, unet, vae, text = pipe.info, pipe.unet, pipe.vae, pipe.text
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((info.config, unet, vae, text), "info is a ModelConfig; expected a ModelInfo. Try pipe.info"),
        (
            (info, torch.compile(unet, backend="eager"), vae, text),
            "unet is a OptimizedModule; .*torch.compile has wrapp",
        ),
        (
            (info, torch.optim.swa_utils.AveragedModel(unet), vae, text),
            "unet is a AveragedModel; expected a UNet, which it wraps. Try unet.module",
        ),
        ((info, vae, unet, text), "unet is a VAE; expected a UNet"),
        ((info, unet, unet, text), "vae is a UNet; expected a VAE"),
        (
            (info, unet, vae, text[0]),
            "text is a TextStage; expected a list of TextStage, 2 for this model. Try pipe.text",
        ),
        ((info, unet, vae, text[:1]), r"text is \[TextStage\]; expected a list of TextStage, 2"),
    ]
    for networks, words in wrong:
        with pytest.raises(ArgumentError, match=words):
            sdxl.Pipeline.from_networks(*networks)


@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_a_unet_of_another_config_is_saved_as_it_is(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    config = pipe.info.config.unet
    deeper = replace(config, down=(*config.down[:-1], (3, 3)), mid=3, up=((3, 3, 3), *config.up[1:]), heads=(4, 4, 4))
    unet = UNet(deeper).eval()
    mine = sdxl.Pipeline.from_networks(pipe.info, unet, pipe.vae, pipe.text)
    assert mine.info.config.unet == deeper and pipe.info.config.unet == config
    mine.save(tmp_path / name)
    again = sdxl.Pipeline.from_pretrained(tmp_path / name, trainable=True, **CPU)
    assert again.info.config.unet == deeper
    assert torch.equal(latents(again), latents(mine))
    odd = sdxl.Pipeline.from_networks(pipe.info, UNet(replace(config, mid=3)), pipe.vae, pipe.text)
    with pytest.raises(
        sdxl.ConfigError, match=r"depth 3 after a level of depth 2 cannot be written .*, which both layouts"
    ):
        odd.save(tmp_path / f"odd-{name}")
    with pytest.raises(sdxl.ConfigError, match="context of width 48, the UNet expects 40"):
        sdxl.Pipeline.from_networks(pipe.info, UNet(replace(config, context_dim=40)), pipe.vae, pipe.text)


def test_a_schedule_of_ones_own_has_its_preset_before_and_after_saving(tiny_pipe: sdxl.Pipeline) -> None:
    """A model that is trained on to v-prediction generates in memory with the defaults that its saved file has."""
    assert tiny_pipe.info.family is None
    info = replace(tiny_pipe.info, schedule=tiny_pipe.info.schedule.of_network("v_prediction", True))
    mine = sdxl.Pipeline.from_networks(info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    assert mine.info.family is not None
    assert mine.info.family.preset == "zero_snr"
    again = sdxl.Pipeline.from_networks(tiny_pipe.info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    assert again.info is tiny_pipe.info


def test_layers_of_ones_own_are_not_lost_without_a_word(tiny_folder: Path, tmp_path: Path) -> None:
    class Mine(UNet):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.more = torch.nn.Linear(2, 2)

    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    mine = sdxl.Pipeline.from_networks(pipe.info, Mine(pipe.info.config.unet), pipe.vae, pipe.text)
    for name in ("folder", "file.safetensors"):
        with pytest.raises(ArgumentError, match=r"the unet has 'more\.bias' \(2\), and a model's file .*torch\.save"):
            mine.save(tmp_path / name)
    attach_lora(pipe.text[1].encoder, 2, selected=lambda name: name.endswith("attn.q"))
    with pytest.raises(
        ArgumentError, match=r"the text_encoder_2 has .* and lacks 'layers\.0\.attn\.q\.bias'.*detach_lora"
    ):
        pipe.save(tmp_path / "file.safetensors")
    detach_lora(pipe.text[1].encoder)
    pipe.save(tmp_path / "file.safetensors")
    assert [*tmp_path.iterdir()] == [tmp_path / "file.safetensors"], "nothing was written before"


@pytest.mark.slow
def test_blocks_are_compiled_by_hand(tiny_folder: Path, tiny_pipe: sdxl.Pipeline) -> None:
    compiled = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    expected = latents(pipe)
    for block in pipe.unet.modules():
        if isinstance(block, TransformerBlock):
            block.compile(backend=backend)
    mine = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    assert torch.equal(latents(mine), expected) and compiled


def test_a_unet_that_was_moved_by_hand(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    expected = latents(pipe)
    pipe.unet.to(torch.bfloat16)
    with pytest.raises(
        ArgumentError, match="the UNet is on cpu in bfloat16, and its pipeline computes on cpu in float32"
    ):
        latents(pipe)
    pipe.unet.to(torch.float32)
    assert latents(pipe).shape == expected.shape


# ---- changed weights -------------------------------------------------------------------------------------------------

CONV_IN = "unet.conv_in.weight"


@pytest.mark.parametrize("offload", ["none", "stage", "block"])
def test_a_change_in_place_is_applied_once(offload: str, tiny_folder: Path, tmp_path: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, offload=offload, **CPU)
    pipe.change_weights({CONV_IN: lambda weight: 2 * weight})
    expected = latents(pipe)
    pipe.change_weights({CONV_IN: lambda weight: weight.mul_(2)})
    assert torch.equal(latents(pipe), expected) and torch.equal(latents(pipe), expected)
    pipe.save(tmp_path / "saved")
    again = sdxl.Pipeline.from_pretrained(tmp_path / "saved", offload=offload, **CPU)
    assert torch.equal(latents(again), expected)


WRONG: dict[str, tuple[Any, str]] = {
    "another shape": (lambda weight: weight[:1], r"gives \[1, 4, 3, 3\] of torch\.float32; expected .*\[16, 4, 3, 3\]"),
    "no result": (lambda weight: None, "gives None; expected a tensor"),
    "whole numbers": (
        lambda weight: weight.long(),
        "gives .* of torch.int64; expected a tensor of floating-point numbers",
    ),
    "numpy": (lambda weight: weight.numpy(), "gives an array of shape"),
    "no function": (torch.zeros(16, 4, 3, 3), "is a Tensor; expected a function"),
}


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("before", [{}, {CONV_IN: lambda weight: 2 * weight}], ids=["plain", "changed"])
def test_a_wrong_change_is_named_and_leaves_the_model_as_it_was(
    change: str, before: dict[str, Any], tiny_folder: Path
) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    pipe.change_weights(before)
    expected, (function, words) = latents(pipe), WRONG[change]
    with pytest.raises(ArgumentError, match=f"the change of {re.escape(CONV_IN)} {words}"):
        pipe.change_weights({"unet.conv_out.weight": lambda weight: -weight, CONV_IN: function})
    assert torch.equal(latents(pipe), expected)


def test_a_change_that_raises_leaves_the_model_as_it_was(tiny_folder: Path, tiny_pipe: sdxl.Pipeline) -> None:
    def fails(weight: torch.Tensor) -> torch.Tensor:
        raise KeyError("mine")

    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    with pytest.raises(KeyError, match="mine"):
        pipe.change_weights({"vae.decoder.conv_out.weight": lambda weight: -weight, CONV_IN: fails})
    assert torch.equal(latents(pipe), latents(tiny_pipe))
    with pytest.raises(ArgumentError, match="expected functions by the names of weights"):
        pipe.change_weights([fails])  # type: ignore[arg-type]


# ---- autocast, default device and default dtype ---------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [False, True])
def test_autocast_of_the_caller_changes_nothing(trainable: bool, tiny_folder: Path, tiny_pipe: sdxl.Pipeline) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=trainable, **CPU)
    expected, text = latents(pipe), pipe.encode_prompt("a red cat").context
    pixels = pipe.decode(expected)
    z = pipe.encode(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(latents(pipe), expected)
        assert torch.equal(pipe.encode_prompt("a red cat").context, text)
        assert torch.equal(pipe.decode(expected), pixels) and torch.equal(pipe.encode(pixels), z)
        *_, last = pipe.steps("a red cat", steps=2, seed=1)
        assert torch.equal(last.latents, expected)
        coloured = replace(last, vae=replace(pipe.info.config.vae, latent_rgb=((0.1, 0.2, 0.3),) * 5))
        preview = coloured.preview()[0].tobytes()
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16, "it acts again outside"
    assert coloured.preview()[0].tobytes() == preview


def test_a_default_device_of_the_caller_changes_nothing(tiny_folder: Path) -> None:
    image = Image.new("RGB", (64, 64), "red")
    given: dict[str, Any] = {"image": image, "mask": image.split()[0], "mask_padding": 8, "strength": 0.9}
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    expected, repainted, theirs = latents(pipe), latents(pipe, **given), latents(pipe, compat="comfyui")
    with torch.device("meta"):
        pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
        assert torch.equal(latents(pipe), expected)
        assert torch.equal(latents(pipe, **given), repainted)
        assert torch.equal(latents(pipe, compat="comfyui"), theirs)
        *_, last = pipe.steps("a red cat", steps=2, seed=1)
        assert torch.equal(last.latents, expected)
        assert last.result()[0].size == (64, 64)
        coloured = replace(last, vae=replace(pipe.info.config.vae, latent_rgb=((0.1, 0.2, 0.3),) * 5))
        assert coloured.preview()[0].size == (8, 8)
        assert torch.ones(2).is_meta, "it acts again outside"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_default_dtype_of_the_caller_changes_nothing(dtype: torch.dtype, tiny_folder: Path) -> None:
    image = Image.new("RGB", (64, 64), "red")
    ways: list[dict[str, Any]] = [
        {"prompt_syntax": "a1111", "prompt": "a (red:1.3) cat AND a dog :0.5"},
        {"image": image, "mask": image.split()[0], "mask_padding": 8, "strength": 0.9},
        {"compat": "comfyui", "sampler": "dpmpp_2m_sde", "schedule": "karras"},
        {"hires": {"scale": 2, "steps": 2}},
    ]

    def generated() -> list[torch.Tensor]:
        pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
        images = [pipe(**{"prompt": "a red cat", **LATENT, **way}).images for way in ways]
        *_, last = pipe.steps("a red cat", steps=2, seed=1)
        pixels = last.result("tensor").images
        coloured = replace(last, vae=replace(pipe.info.config.vae, latent_rgb=((0.1, 0.2, 0.3),) * 5))
        assert isinstance(pixels, torch.Tensor)
        preview = torch.tensor(list(coloured.preview()[0].tobytes()), dtype=torch.uint8)
        text = pipe.encode_prompt("a red cat").context
        return [*images, pixels, preview, text, pipe.encode(pixels), pipe.decode(last.latents)]  # type: ignore[list-item]

    expected = generated()
    torch.set_default_dtype(dtype)
    try:
        for ours, theirs in zip(generated(), expected, strict=True):
            assert ours.dtype is theirs.dtype and torch.equal(ours, theirs)
        assert torch.get_default_dtype() is dtype
    finally:
        torch.set_default_dtype(torch.float32)


_FACTORIES = (
    "arange asarray as_tensor empty eye full linspace logspace ones rand randint randn scalar_tensor tensor zeros"
)


def test_every_new_tensor_has_a_dtype_of_its_own() -> None:
    """Not the default, which is the caller's: but for weights of networks, and on the command line."""
    package = Path(sdxl.__file__).parent
    for path in package.rglob("*.py"):
        if "cli" in path.relative_to(package).parts or path.match("models/layers.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                f"torch.{name}" for name in _FACTORIES.split()
            }:
                names = {each.arg for each in node.keywords}
                assert "dtype" in names, f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.skipif(not torch.amp.is_autocast_available("mps"), reason="older versions of torch have none")
def test_autocast_of_apples_gpu_is_off_inside() -> None:
    with torch.autocast("mps", dtype=torch.float16):
        with Turns():
            assert not torch.is_autocast_enabled("mps")
        assert torch.is_autocast_enabled("mps")


def test_weights_that_are_changed_under_autocast(tiny_folder: Path) -> None:
    def change(weight: torch.Tensor) -> torch.Tensor:
        rows = weight.flatten(1)
        return ((rows @ rows.T) @ rows).reshape_as(weight)

    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, **CPU)
    pipe.change_weights({CONV_IN: change})
    expected = latents(pipe)
    pipe.change_weights({})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pipe.change_weights({CONV_IN: change})
    assert torch.equal(latents(pipe), expected)


# ---- save ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_a_saved_model_gives_the_same_images(name: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    tiny_pipe.save(tmp_path / name)
    again = sdxl.Pipeline.from_pretrained(tmp_path / name, **CPU)
    assert torch.equal(latents(again), latents(tiny_pipe))
    with pytest.raises(OutputError, match="exists"):
        tiny_pipe.save(tmp_path / name)


def test_changes_and_replaced_components_are_saved(tiny_folder: Path, tmp_path: Path) -> None:
    import tiny

    tiny.unet(seed=8).save_pretrained(tmp_path / "unet")
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, unet=tmp_path / "unet", **CPU)
    pipe.change_weights({"unet.conv_out.bias": lambda weight: weight + 1})
    pipe.save(tmp_path / "saved")
    again = sdxl.Pipeline.from_pretrained(tmp_path / "saved", **CPU)
    assert torch.equal(latents(again), latents(pipe))


def test_present_weights_are_saved(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, **CPU)
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(1)
        pipe.text[0].encoder.token_embed.weight.mul_(2)
        pipe.vae.decoder.conv_out.bias.add_(1)
    mine = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    for number, each in enumerate((pipe, mine)):
        each.save(tmp_path / f"{number}.safetensors")
        again = sdxl.Pipeline.from_pretrained(tmp_path / f"{number}.safetensors", trainable=True, **CPU)
        assert torch.equal(latents(again), latents(pipe))
        assert torch.equal(again.vae.decoder.conv_out.bias, pipe.vae.decoder.conv_out.bias)


def test_what_is_not_saved(tiny_folder: Path, refiner_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    both = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, **CPU)
    with pytest.warns(SDXLWarning, match="the refiner is not saved") as caught:
        both.save(tmp_path / "base.safetensors")
    assert caught[0].filename == __file__
    packed = sdxl.Pipeline.from_networks(tiny_pipe.info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    with pytest.raises(ArgumentError, match="prepacked"):
        packed.save(tmp_path / "packed.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_neither_pickled_nor_copied(tiny_pipe: sdxl.Pipeline) -> None:
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            UnsupportedError, match=r"send its ModelRequest and load it there with Pipeline\.from_request"
        ):
            use(tiny_pipe)


def test_results_and_requests_are_pickled(tiny_pipe: sdxl.Pipeline) -> None:
    result = tiny_pipe("cat", **LATENT)
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again.images, result.images)
    assert again.parameters == result.parameters
    assert pickle.loads(pickle.dumps(sdxl.ModelRequest("miniature"))) == sdxl.ModelRequest("miniature")


# ---- a call of the network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_call_of_the_unet_takes_any_dtype(dtype: str, trainable: bool, tiny_folder: Path) -> None:
    """What `encode_prompt` gives is float32, whatever the model is in."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype=dtype, device="cpu", trainable=trainable)
    text, x = pipe.encode_prompt("a red cat"), torch.randn(1, 4, 8, 8)
    own = pipe.unet.norm_out.weight.dtype
    with torch.no_grad():
        inside = pipe.unet(x.to(own), torch.tensor([500.0]), text.context.to(own), text.vector.to(own))
        assert inside.dtype is own
        for t in (torch.tensor([500.0]), torch.tensor(500)):
            output = pipe.unet(x, t, text.context, text.vector)
            assert output.dtype is x.dtype and torch.equal(output, inside.float())
    if trainable:
        pipe.unet(x, torch.tensor([500.0]), text.context, text.vector).sum().backward()
        assert pipe.unet.conv_in.weight.grad is not None and pipe.unet.conv_in.weight.grad.dtype is own
