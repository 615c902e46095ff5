"""LoRAs in a pipeline: exact, whatever their order and however the model is kept; and files that are none."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_files import Layer, kohya, layers, pair, save, save_layout
from deep import deep_folder, deep_pipe  # noqa: F401  fixtures
from torch import Tensor

import sdxl
from sdxl.adapters import LoRA, lookup
from sdxl.adapters.lookup import adapter_files, checked_hash, find_again, find_file, find_named
from sdxl.images import read_parameters, save_png
from sdxl.pipeline import loading
from sdxl.runtime.int8 import can_quantize
from sdxl.runtime.memory import used
from sdxl.runtime.streamed import PLAIN
from sdxl.weights import file_hash
from sdxl.weights.component import Component
from sdxl.weights.container import TensorFile

LATENT: dict[str, Any] = {"steps": 2, "seed": 3, "output": "latent", "progress": False}
CPU = torch.device("cpu")
MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "stage": {"offload": "stage"},
    "text": {"offload": "text"},
    "block": {"offload": "block"},
    "bfloat16": {"dtype": "bfloat16"},
    "block bfloat16": {"offload": "block", "dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"int8": True},
    "fp8": {"fp8": True},
}


def load(model: Path, mode: str = "none", **more: Any) -> sdxl.Pipeline:
    options = {"dtype": "float32", "device": "cpu", **MODES[mode], **more}
    if options.get("int8") and not can_quantize(CPU):
        pytest.skip("this processor has no 8-bit layers")
    return sdxl.Pipeline.from_pretrained(model, **options)


def latents(pipe: sdxl.Pipeline, **more: Any) -> Tensor:
    images = pipe("a red cat", **(LATENT | more)).images
    assert isinstance(images, Tensor)
    return images


def save_kind(kind: str, model: Path, path: Path, every: int = 3, seed: int = 0) -> Path:
    """An adapter of one kind on some layers of a model."""
    state: dict[str, Tensor] = {}
    for layer in layers(model)[seed % every :: every]:
        state |= {f"{kohya(True)(layer)}.{end}": value for end, value in parts(kind, layer, seed).items()}
    return save(state, path)


def parts(kind: str, layer: Layer, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(layer.seed + seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 8

    out, fan, kernel = layer.shape[0], layer.shape[1], layer.shape[2:]
    up, down = pair(layer)
    lora = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0 + seed)}
    if kind == "LoRA":
        return lora
    if kind == "DoRA":
        return lora | {"dora_scale": 1 + randn(out, *[1] * (len(layer.shape) - 1))}
    if kind == "LoHa":
        flat = fan * (kernel[0] * kernel[1] if kernel else 1)
        return {
            "hada_w1_a": randn(out, 2),
            "hada_w1_b": randn(2, flat),
            "hada_w2_a": randn(out, 2),
            "hada_w2_b": randn(2, flat),
        }
    if kind == "full":
        return {"diff": randn(*layer.shape) / 4}
    if kind == "LoKr":
        return {"lokr_w1": randn(1, 1), "lokr_w2": randn(*layer.shape), "alpha": torch.tensor(1e10)}
    if kind == "GLoRA":
        factors = {"a1": (fan, 2), "a2": (2, fan), "b1": (out, 2), "b2": (2, fan, *kernel)}
        return {f"{name}.weight": randn(*shape) for name, shape in factors.items()}
    if kind == "IA3":
        return {"weight": randn(out, 1, *[1] * len(kernel)), "on_input": torch.tensor(0)}
    if kind == "BOFT":
        return {"oft_blocks": randn(1, out // 2, 2, 2)}
    assert kind == "OFT"
    return {"oft_blocks": randn(out // 2, 2, 2), "rescale": 1 + randn(out, 1, *[1] * len(kernel))}


KINDS = ("LoRA", "DoRA", "LoHa", "full", "OFT")
MORE_KINDS = ("LoKr", "GLoRA", "IA3", "BOFT")


@pytest.mark.parametrize(
    "mode", [name if name in ("none", "block") else pytest.param(name, marks=pytest.mark.slow) for name in MODES]
)
def test_weights_that_any_way_of_keeping_them_holds(mode: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Each is bit for bit the weight of a model whose files hold it: the other ways are as exact as the model is."""
    files = [save_kind(kind, tiny_folder, tmp_path / f"{kind}.safetensors", seed=n) for n, kind in enumerate(KINDS)]
    chosen = [(file, 0.5 + n / 4) for n, file in enumerate(files)]
    pipe = load(tiny_folder, mode)
    before = latents(pipe)
    pipe.set_loras(chosen)
    changed = latents(pipe)
    assert not torch.equal(changed, before)
    assert torch.equal(latents(load(tiny_folder, mode, loras=chosen)), changed), "set before loading and after it"
    other = "block" if mode == "none" else mode
    assert torch.equal(
        latents(load(tiny_folder, other, loras=chosen[::-1])), latents(load(tiny_folder, other, loras=chosen))
    )
    pipe.set_loras([])
    assert torch.equal(latents(pipe), before)


def held(pipe: sdxl.Pipeline) -> dict[str, Tensor]:
    """The weights as the model holds them, with streamed ones as they are computed with."""
    found = {}
    for number, network in enumerate([pipe.unet, *(stage.encoder for stage in pipe.text)]):
        for name, module in network.named_modules():
            for own, value in module.named_parameters(recurse=False):
                read = getattr(module, "read", PLAIN) if own == "weight" else PLAIN
                found[f"{number}.{name}.{own}"] = read(value)
    return found


def test_the_streamed_weight_is_the_kept_one(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same arithmetic in float32; held against plain layers, whose weights can be read."""
    monkeypatch.setattr("sdxl.runtime.placement.can_pack", lambda *_: False)
    files = [save_kind(kind, tiny_folder, tmp_path / f"{kind}.safetensors", seed=n) for n, kind in enumerate(KINDS)]
    kept, streamed = (held(load(tiny_folder, mode, loras=files)) for mode in ("none", "block"))
    plain = held(load(tiny_folder))
    assert kept.keys() == streamed.keys() == plain.keys()
    assert all(torch.equal(kept[name], streamed[name]) for name in kept)
    assert sum(not torch.equal(kept[name], plain[name]) for name in kept) > 50


def test_the_order_of_loras_does_not_matter(tiny_folder: Path, tmp_path: Path) -> None:
    """To the bit. Three are on each layer: a sum of two is the same either way."""
    files = [save_kind("LoRA", tiny_folder, tmp_path / f"{n}.safetensors", seed=3 * n) for n in range(3)]
    pipe = load(tiny_folder, "block")
    found = []
    for order in (files, files[1:] + files[:1], files[::-1]):
        pipe.set_loras([(file, 0.3) for file in order])
        found.append(held(pipe))
    assert all(torch.equal(other[name], found[0][name]) for other in found[1:] for name in found[0])


@pytest.mark.parametrize(
    ("mode", "count"),
    [("none", 12), *(pytest.param(name, 100, marks=pytest.mark.slow) for name in MODES)],
)
def test_switches_leave_no_trace(mode: str, count: int, tiny_folder: Path, tmp_path: Path) -> None:
    """The state is bit for bit the first one, and the memory is flat."""
    choice = random.Random(0)
    files = [save_kind(kind, tiny_folder, tmp_path / f"{kind}.safetensors", seed=n) for n, kind in enumerate(KINDS)]
    pipe = load(tiny_folder, mode)
    before, text = latents(pipe), pipe.encode_prompt("a cat").context
    seen: dict[tuple[tuple[Path, float], ...], Tensor] = {}
    memory = []
    for _ in range(count):
        chosen = tuple((file, choice.choice([-1.0, 0.25, 1.0])) for file in choice.sample(files, choice.randint(0, 3)))
        pipe.set_loras(chosen)
        key = tuple(sorted(chosen))
        if key not in seen or choice.random() < 0.2:
            found = latents(pipe, steps=1)
            assert torch.equal(seen.setdefault(key, found), found)
        memory.append(used(CPU))
    pipe.set_loras([])
    assert torch.equal(latents(pipe), before)
    assert torch.equal(pipe.encode_prompt("a cat").context, text)
    assert memory[-1] - memory[count // 4] < 50e6


def test_a_switch_touches_only_the_layers_that_change(tiny_folder: Path, tmp_path: Path) -> None:
    state = {}
    (layer,) = [each for each in layers(tiny_folder) if each.ours == "down.1.attn.0.blocks.0.self_attn.q.weight"]
    state["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight"] = pair(layer)[0]
    state["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight"] = pair(layer)[1]
    pipe = load(tiny_folder)
    before, stages = dict(pipe.unet.named_modules()), pipe.text
    pipe.set_loras([save(state, tmp_path / "one.safetensors")])
    after = dict(pipe.unet.named_modules())
    assert [name for name in after if after[name] is not before[name]] == ["down.1.attn.0.blocks.0.self_attn.q"]
    assert all(a.encoder is b.encoder for a, b in zip(pipe.text, stages, strict=True))
    again = dict(pipe.unet.named_modules())
    pipe.set_loras([tmp_path / "one.safetensors"])
    assert dict(pipe.unet.named_modules()) == again, "nothing changes"


def test_a_change_that_is_interrupted_leaves_no_mixture(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_kind("LoRA", tiny_folder, tmp_path / "lora.safetensors")
    pipe, load_again = load(tiny_folder), loading.load_again
    changed: list[str] = []

    def interrupted(component: Component, *more: Any) -> None:
        if changed:
            raise KeyboardInterrupt
        load_again(component, *more)
        changed.append(component.name)

    monkeypatch.setattr(loading, "load_again", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipe.set_loras([file])
    assert changed == ["unet"]
    assert torch.equal(latents(pipe, loras=[file]), latents(load(tiny_folder, loras=[file])))


def test_weights_of_unet_and_text_encoders(tiny_folder: Path, tmp_path: Path) -> None:
    save_layout("kohya sgm", tiny_folder, tmp_path / "lora.safetensors")
    pipe = load(tiny_folder)
    before, plain = latents(pipe), pipe.encode_prompt("a cat").context
    pipe.set_loras([LoRA(tmp_path / "lora.safetensors", weight=1, text_weight=0)])
    assert torch.equal(pipe.encode_prompt("a cat").context, plain)
    assert not torch.equal(latents(pipe), before)
    pipe.set_loras([LoRA(tmp_path / "lora.safetensors", weight=0, text_weight=1)])
    assert not torch.equal(pipe.encode_prompt("a cat").context, plain)
    pipe.set_loras([(tmp_path / "lora.safetensors", 0)])
    assert torch.equal(latents(pipe), before)


def test_loras_of_one_call(tiny_folder: Path, tmp_path: Path) -> None:
    """A call's list is in place of the pipeline's, for that call; the record has it, and gives the image again."""
    files = [save_kind(kind, tiny_folder, tmp_path / f"{kind}.safetensors") for kind in ("LoRA", "full")]
    pipe = load(tiny_folder, loras=[files[0]])
    default, other = latents(pipe), latents(pipe, loras=[(files[1], 0.5)])
    plain = latents(pipe, loras=[])
    assert len({each.numpy().tobytes() for each in (default, other, plain)}) == 3
    assert torch.equal(latents(pipe), default)
    assert torch.equal(plain, latents(load(tiny_folder)))
    result = pipe("a red cat", steps=2, seed=3, progress=False, loras=[LoRA(files[1], 0.5)])
    (recorded,) = result.parameters[0]["request"]["loras"]
    assert recorded["weight"] == 0.5 and len(recorded["hash"]) == 64
    save_png(result.images[0], tmp_path / "a.png", result.parameters[0])
    request = read_parameters(tmp_path / "a.png")["request"]
    again = load(tiny_folder)("a red cat", steps=2, seed=3, progress=False, loras=request["loras"])
    assert again.images[0].tobytes() == result.images[0].tobytes()  # type: ignore[union-attr]
    save_kind("OFT", tiny_folder, files[1])
    with pytest.raises(sdxl.CheckpointError, match="is not the file that is asked for: its hash begins with"):
        pipe("a", loras=request["loras"])


def test_open_steps_do_not_go_on_with_other_weights(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = load(tiny_folder)
    steps = pipe.steps("a cat", steps=3, seed=1)
    next(steps)
    pipe.set_loras([save_kind("LoRA", tiny_folder, tmp_path / "lora.safetensors")])
    with pytest.raises(sdxl.ArgumentError, match="the weights have changed since these steps began"):
        next(steps)
    steps = pipe.steps("a cat", steps=2, seed=1)
    next(steps)
    latents(pipe)
    next(steps)


def test_steps_that_begin_late_do_not_begin_with_other_weights(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = load(tiny_folder)
    steps = pipe.steps("a cat", steps=2, seed=1, loras=[save_kind("LoRA", tiny_folder, tmp_path / "lora.safetensors")])
    latents(pipe)  # without the LoRA
    with pytest.raises(sdxl.ArgumentError, match="the weights have changed since these steps began"):
        next(steps)


def test_a_cached_text_belongs_to_its_loras(tiny_folder: Path, tmp_path: Path) -> None:
    file = save_layout("kohya sgm", tiny_folder, tmp_path / "lora.safetensors") and tmp_path / "lora.safetensors"
    pipe, fresh = load(tiny_folder), load(tiny_folder, loras=[file])
    pipe.prepare_for_many()
    before = latents(pipe)
    assert torch.equal(latents(pipe, loras=[file]), latents(fresh))
    assert torch.equal(latents(pipe), before)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_loras(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    (folder / "styles").mkdir(parents=True)
    file = save_kind("LoRA", tiny_folder, folder / "styles/ink.safetensors")
    state = {"lora_unet_out_2.diff_b": torch.ones(4)}
    save(state, folder / "renamed.safetensors", {"ss_output_name": "sketch"})
    pipe = load(tiny_folder, lora_dir=folder)
    wanted = latents(pipe, loras=[file])
    for name in ("ink", "ink.safetensors", "styles/ink", "styles/ink.safetensors"):
        assert torch.equal(latents(pipe, loras=[name]), wanted)
    pipe.set_loras(["sketch"])
    assert pipe.loras[0].path == folder / "renamed.safetensors"
    with pytest.raises(sdxl.CheckpointError, match="the LoRA imk does not exist; perhaps ink is meant"):
        pipe.set_loras(["imk"])
    (folder / "ink.safetensors").write_bytes(file.read_bytes())
    (folder / "other").mkdir()
    (folder / "other/sketch.safetensors").write_bytes(file.read_bytes())
    (folder / "styles/sketch.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(sdxl.CheckpointError, match="sketch is the name of 2 files"):
        pipe.set_loras(["sketch"])


def test_headers_are_read_once_for_the_names_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 LoRAs took 3 s of a processor at each prompt that had a name of training."""
    for number in range(5):
        save({"a": torch.ones(1)}, tmp_path / f"{number}.safetensors", {"ss_output_name": f"title {number}"})
    opened: list[Path] = []
    monkeypatch.setattr(lookup, "TensorFile", lambda path: opened.append(path) or TensorFile(path))  # type: ignore[func-returns-value]
    for _ in range(2):
        assert find_named("title 3", [tmp_path], "LoRA") == tmp_path / "3.safetensors"
        with pytest.raises(sdxl.CheckpointError, match="does not exist"):
            find_named("another title", [tmp_path], "LoRA")
    assert len(opened) == 5
    save({"a": torch.ones(2)}, tmp_path / "4.safetensors", {"ss_output_name": "another title"})
    assert find_named("another title", [tmp_path], "LoRA") == tmp_path / "4.safetensors"
    assert len(opened) == 6


def test_a_hash_in_capitals(tmp_path: Path) -> None:
    file = save({"lora_unet_out_2.diff_b": torch.ones(4)}, tmp_path / "x.safetensors")
    assert checked_hash(file, file_hash(file)[:12].upper()) == file_hash(file)
    assert find_again("gone", file_hash(file)[:12].upper(), [tmp_path], "LoRA") == file


def test_numbers_of_numpy() -> None:
    weight = np.float32(0.5)
    assert sdxl.LoRA("a", weight) == sdxl.LoRA("a", 0.5)  # type: ignore[arg-type]
    assert sdxl.Control("a", "b", scale=weight) == sdxl.Control("a", "b", scale=0.5)  # type: ignore[arg-type]
    assert sdxl.APG(eta=weight) == sdxl.APG(eta=0.5)  # type: ignore[arg-type]


def test_wrong_arguments(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    file = save({"lora_unet_out_2.diff_b": torch.ones(4)}, tmp_path / "x.safetensors")
    for value, message in (
        (3, "loras is 3; expected a list such as"),
        ([3], "3 is no LoRA; expected a path"),
        (("ink", 0.5), r"loras is \('ink', 0.5\); expected a list. Try \[\('ink', 0.5\)\]"),
        ([(file, "much")], "the weight of LoRA .* is 'much'; expected a number such as 0.8"),
        ([(file, float("nan"))], "the weight of LoRA .* is nan"),
        ([(file, 10**400)], "the weight of LoRA .* is 1000.*; expected a number such as 0.8"),
        ([{"file": str(file), "hash": ""}], "the hash of LoRA .* is ''; expected a text"),
        ([{"file": str(file), "wieght": 1}], "a LoRA has no 'wieght'; its values are file, weight, text_weight, hash"),
        ([{"weight": 1}], "names no file"),
        ([[file], [file]], "loras has a list for each prompt.*--batch FILE"),
        ([("", 1)], "the file of a LoRA is ''"),
    ):
        with pytest.raises(sdxl.ArgumentError, match=message):
            tiny_pipe.set_loras(value)  # type: ignore[arg-type]
        with pytest.raises(sdxl.ArgumentError, match=message):
            sdxl.Request("a", loras=value)  # type: ignore[arg-type]
    for name in (
        "ink:0.5",
        "ink.safetensors=0.5",
        "ink@-1",
        "ink.safetensors,0.5",
        "ink/a.safetensors:0.5",
        "ink/a, -1",
    ):
        with pytest.raises(sdxl.CheckpointError, match=r"its weight is given as ink.*,weight=(0\.5|-1), in Python as"):
            tiny_pipe.set_loras([name])
    with pytest.raises(sdxl.CheckpointError, match=r"the LoRA nothing.safetensors does not exist; give the path"):
        tiny_pipe.set_loras(["nothing.safetensors"])
    mine = sdxl.Pipeline.from_networks(tiny_pipe.info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    with pytest.raises(sdxl.ArgumentError, match="takes no LoRAs and no embeddings; load it with from_pretrained"):
        mine.set_loras([file])


def test_a_folder_behind_a_link(tmp_path: Path) -> None:
    """Folders of models are often links to another disk; one that leads back counts once."""
    (tmp_path / "disk").mkdir()
    file = save({"lora_unet_out_2.diff_b": torch.ones(4)}, tmp_path / "disk/ink.safetensors")
    (tmp_path / "loras").mkdir()
    try:
        (tmp_path / "loras/styles").symlink_to(tmp_path / "disk", target_is_directory=True)
        (tmp_path / "disk/back").symlink_to(tmp_path / "loras", target_is_directory=True)
    except OSError:
        pytest.skip("the system makes no links")
    found = tmp_path / "loras/styles/ink.safetensors"
    assert list(adapter_files([tmp_path / "loras"])) == [found]
    assert find_file("ink", [tmp_path / "loras"], "LoRA") == found
    assert find_named("styles/ink", [tmp_path / "loras"], "LoRA") == found
    assert found.samefile(file)


# ---- files that are none ---------------------------------------------------------------------------------------------

UP, DOWN = "lora_up.weight", "lora_down.weight"
Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def zeros(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def lora(module: str, out: int, fan: int, rank: int = 2) -> dict[str, Tensor]:
    return {f"{module}.{UP}": torch.zeros(out, rank), f"{module}.{DOWN}": torch.zeros(rank, fan)}


NONE: list[tuple[str, dict[str, Tensor], str]] = [
    ("empty", {"what": torch.zeros(0)}, "is no adapter of SDXL"),
    ("up alone", {f"{Q}.{UP}": torch.zeros(64, 2)}, "has up alone, which is no whole adapter"),
    (
        "ranks",
        {f"{Q}.{UP}": torch.zeros(64, 3), f"{Q}.{DOWN}": torch.zeros(2, 64)},
        r"down \[2, 64\], up \[64, 3\] for a weight",
    ),
    ("shape", lora(Q, 32, 64), r"for a weight of shape \[64, 64\]"),
    ("NaN", lora(Q, 64, 64) | {f"{Q}.alpha": torch.tensor(float("nan"))}, "alpha has NaN or infinite numbers"),
    ("infinite", lora(Q, 64, 64) | {f"{Q}.{UP}": torch.full((64, 2), float("inf"))}, "has NaN or infinite numbers"),
    ("alphas", lora(Q, 64, 64) | {f"{Q}.alpha": torch.ones(2)}, r"alpha has shape \[2\]; expected one number"),
    ("no numbers", lora(Q, 64, 64, rank=0), "is empty"),
    ("no matrix", {f"{Q}.{UP}": torch.tensor(1.0), f"{Q}.{DOWN}": torch.tensor(1.0)}, r"shape \[\]; expected a matrix"),
    ("a line", {f"{Q}.hada_w{n}": torch.ones(4) for n in ("1_a", "1_b", "2_a", "2_b")}, "expected a matrix"),
    ("bias", {f"{K}.diff_b": torch.zeros(64)}, "changes a bias of shape .* has no bias; it cannot be used"),
    (
        "two spellings",
        lora(Q, 64, 64) | lora("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 64, 64),
        "name the same layer",
    ),
    (
        "two adapters",
        {f"unet.conv_in.lora_{n}.{name}.weight": torch.zeros(2, 2) for n in "AB" for name in ("a", "b")},
        "are of two adapters; save them in two files",
    ),
    ("PEFT's OFT", {"unet.conv_in.oft_R.weight": torch.zeros(2, 2)}, "an adapter that is not supported: .*oft_R"),
    (
        "SD 1.5",
        lora("lora_unet_down_blocks_0_attentions_0_proj_in", 64, 64) | lora(Q, 64, 64),
        r"Stable Diffusion 1\.x or 2\.x \(it has",
    ),
    (
        "SD 1.5 by its context",
        lora(K, 64, 768),
        r"a LoRA of Stable Diffusion 1\.x \(its cross-attentions take a context of width 768",
    ),
    ("SD 2.x", lora(K, 64, 1024), r"a LoRA of Stable Diffusion 2\.x"),
    ("the refiner", lora(K, 64, 1280), "a LoRA of the SDXL refiner"),
    ("full-size base", lora(K, 640, 2048), "a LoRA of SDXL base"),
    (
        "Flux",
        lora("lora_unet_double_blocks_0_img_attn_proj", 9, 9)
        | lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", 32, 16),
        "a LoRA of Flux",
    ),
    ("Flux in diffusers", lora("transformer.single_transformer_blocks.0.attn.to_q", 9, 9), "a LoRA of Flux"),
    ("SD 3", lora("lora_unet_joint_blocks_0_x_block_attn_proj", 9, 9), "a LoRA of Stable Diffusion 3"),
    (
        "Control-LoRA",
        zeros(lora_controlnet=(0,)) | {"input_hint_block.0.weight": torch.zeros(1)},
        "a Control-LoRA or ControlNet",
    ),
    ("LLLite", zeros(lllite_unet_input_blocks_4_1=(2,)), "a ControlNet-LLLite"),
    ("IP-Adapter", {"image_proj.proj.weight": torch.zeros(2, 2)}, "an IP-Adapter"),
    ("an embedding", zeros(clip_l=(1, 16), clip_g=(1, 32)), "a textual inversion embedding"),
    ("a model", {"model.diffusion_model.out.0.weight": torch.zeros(2)}, "a whole model"),
    (
        "a text encoder's and strangers",
        lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", 32, 16) | lora("lora_unet_what", 9, 9),
        "are known, and none of the UNet",
    ),
    ("strangers", lora("lora_unet_what", 9, 9), "none of its 1 modules is known, such as lora_unet_what"),
]


@pytest.mark.parametrize(("state", "message"), [each[1:] for each in NONE], ids=[each[0] for each in NONE])
def test_files_that_are_none(state: dict[str, Tensor], message: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    before = latents(tiny_pipe)
    with pytest.raises(sdxl.CheckpointError, match=message):
        tiny_pipe.set_loras([save(state, tmp_path / "bad.safetensors")])
    assert not tiny_pipe.loras
    assert torch.equal(latents(tiny_pipe), before)


def test_unknown_keys_are_counted(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    state = (
        lora(Q, 64, 64) | lora("lora_unet_new_0_x", 9, 9) | lora("lora_unet_new_1_x", 9, 9) | {"what": torch.zeros(1)}
    )
    state |= lora("lora_te1_text_projection", 9, 9)
    file = save(state, tmp_path / "some.safetensors")
    with pytest.warns(
        sdxl.SDXLWarning, match=r"5 of 9 tensors mean nothing for this model and are ignored: .*lora_unet_new_"
    ):
        tiny_pipe.set_loras([file])
    (active,) = tiny_pipe.loras
    assert len(active.unknown) == 5 and len(active.report.ignored) == 2
    tiny_pipe.set_loras([])


def test_damaged_files(tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """Each loads or raises the typed error. `make proof-fuzz` tries thousands."""
    choice = random.Random(1)
    data = bytearray(save_kind("LoRA", tiny_folder, tmp_path / "a.safetensors", every=40).read_bytes())
    raised: list[str] = []
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(choice.randint(1, 5)):
            damaged[choice.randrange(600)] = choice.randrange(256)
        (tmp_path / "b.safetensors").write_bytes(
            damaged[: choice.choice([len(damaged), choice.randrange(len(damaged))])]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tiny_pipe.set_loras([tmp_path / "b.safetensors"])
            except sdxl.SDXLError as error:
                raised.append(str(error))
    assert raised and all(message.isprintable() for message in raised)
    tiny_pipe.set_loras([])
