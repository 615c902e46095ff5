"""Adapter files in every layout that people have: which weights they change, and the images of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import ALPHA, LAYOUTS, RANK, Layer, dotted, kohya, layers, pair, product, save, save_layout
from deep import deep_folder, deep_inpainting, deep_pipe, deep_reference  # noqa: F401  fixtures
from test_loras import KINDS, MORE_KINDS, save_kind
from torch import Tensor

import sdxl
from sdxl.adapters.names import NameTable
from sdxl.models.published import BASE, INPAINTING, REFINER
from sdxl.weights import open_checkpoint
from sdxl.weights.keymap import component_rows

LATENT: dict[str, Any] = {"steps": 8, "seed": 3, "output": "latent", "progress": False, "sampler": "euler"}


OTHER_KINDS = [kind for kind in (*KINDS, *MORE_KINDS) if kind not in ("LoRA", "DoRA")]


@pytest.fixture
def pipe(tiny_folder: Path) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")


def effective(pipe: sdxl.Pipeline) -> dict[str, Tensor]:
    """The changes of weights by the active LoRAs."""
    loader = pipe.residency.loader
    assert loader is not None
    found = {}
    for number, prefix in enumerate(("", "refiner.")[: len(loader.checkpoints)]):
        for name, component in loader.checkpoints[number].components.items():
            for own, weight in component.tensors():
                if (change := loader.adapted.get(f"{prefix}{name}.{own}")) is not None:
                    found[f"{prefix}{name}.{own}"] = change(weight.float()) - weight.float()
    return found


def agree(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    for name, change in wanted.items():
        assert (ours[name].double() - change.double()).abs().max() < 1e-6, name


def merged(reference_pipe: Any, model: Path, changes: dict[str, Tensor]) -> Any:
    """diffusers' pipeline with these changes in its weights."""
    pipe = copy.deepcopy(reference_pipe)
    by_name = {layer.name: layer for layer in layers(model)}
    for name, change in changes.items():
        layer = by_name[name]
        parameters = dict(getattr(pipe, layer.component).named_parameters())
        key = f"{layer.folder}.weight"
        weight = parameters[key if key in parameters else key.removeprefix("text_model.")]
        weight.data = (weight.double() + change).float()
    return pipe


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_weights_of_every_layout(name: str, tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    changes = save_layout(name, tiny_folder, tmp_path / "lora.safetensors")
    tiny_pipe.set_loras([tmp_path / "lora.safetensors"])
    found = effective(tiny_pipe)
    tiny_pipe.set_loras([])
    agree(found, changes)


QUICK = ("kohya sgm", "PEFT in diffusers")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]
)
def test_the_images_of_every_layout(
    name: str, pipe: sdxl.Pipeline, reference_pipe: Any, tiny_folder: Path, tmp_path: Path, error: Any
) -> None:
    changes = save_layout(name, tiny_folder, tmp_path / "lora.safetensors")
    before = pipe("a red cat", **LATENT).images
    pipe.set_loras([tmp_path / "lora.safetensors"])
    ours = pipe("a red cat", **LATENT).images
    theirs = merged(reference_pipe, tiny_folder, changes)
    wanted = theirs(
        "a red cat",
        num_inference_steps=8,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        height=64,
        width=64,
    ).images
    assert error(ours, before) > 0.01, "the LoRA matters"
    assert error(ours, wanted) < 5e-5
    pipe.set_loras([])
    assert torch.equal(pipe("a red cat", **LATENT).images, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["DoRA", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_KINDS)])
def test_the_images_of_every_kind(
    kind: str, pipe: sdxl.Pipeline, reference_pipe: Any, tiny_folder: Path, tmp_path: Path, error: Any
) -> None:
    """diffusers' with these weights in its own layers. The weights are held against formulas in test_formulas.py."""
    pipe.set_loras([save_kind(kind, tiny_folder, tmp_path / "x.safetensors", every=4, seed=1)])
    changes = effective(pipe)
    assert len(changes) > 30
    ours = pipe("a red cat", **LATENT).images
    theirs = merged(reference_pipe, tiny_folder, {name: change.double() for name, change in changes.items()})
    generator = torch.Generator().manual_seed(3)
    more = {"output_type": "latent", "height": 64, "width": 64}
    wanted = theirs("a red cat", num_inference_steps=8, generator=generator, **more).images
    assert error(ours, wanted) < 5e-5


def test_alpha_in_the_header(pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """What diffusers writes beside keys without alpha: without it such LoRAs act too strongly or too weakly."""
    chosen = [layer for layer in layers(tiny_folder) if layer.component != "text_encoder"][::3]
    state = {}
    for layer in chosen:
        state[f"{dotted(layer)}.lora_B.weight"], state[f"{dotted(layer)}.lora_A.weight"] = pair(layer)
    first = next(layer for layer in chosen if layer.component == "unet")
    header = {
        "unet.r": RANK,
        "unet.lora_alpha": 8,
        "unet.use_rslora": False,
        "unet.alpha_pattern": {first.folder: 2},
        "unet.rank_pattern": {},
        "text_encoder_2.r": RANK,
        "text_encoder_2.lora_alpha": 6,
        "text_encoder_2.use_rslora": True,
    }
    save(state, tmp_path / "lora.safetensors", {"lora_adapter_metadata": header})
    pipe.set_loras([tmp_path / "lora.safetensors"])
    factor = {"unet": 8 / RANK, "text_encoder_2": 6 / RANK**0.5}
    wanted = {layer.name: factor[layer.component] * product(layer) for layer in chosen}
    agree(effective(pipe), wanted | {first.name: 2 / RANK * product(first)})


def test_alpha_beside_the_file(pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """PEFT's adapter_model.safetensors and adapter_config.json; the file alone cannot know its alpha."""
    chosen = [layer for layer in layers(tiny_folder) if layer.component == "unet"][::5]
    state = {}
    for layer in chosen:
        module = f"base_model.model.{layer.folder}"
        state[f"{module}.lora_B.weight"], state[f"{module}.lora_A.weight"] = pair(layer)
    save(state, tmp_path / "adapter_model.safetensors")
    config = {"r": RANK, "lora_alpha": 2, "alpha_pattern": {"to_q": 8, "^down_blocks.*conv1": 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    pipe.set_loras([tmp_path])  # a folder with one file

    def alpha(layer: Layer) -> float:
        if layer.folder.endswith("to_q"):
            return 8
        return 1 if layer.folder.startswith("down_blocks") and layer.folder.endswith("conv1") else 2

    agree(effective(pipe), {layer.name: alpha(layer) / RANK * product(layer) for layer in chosen})
    (tmp_path / "adapter_config.json").unlink()
    pipe.set_loras([tmp_path / "adapter_model.safetensors"])
    agree(effective(pipe), {layer.name: product(layer) for layer in chosen})


def test_ranks_and_alphas_of_each_module(pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """As in resized and block-weighted files."""
    state, wanted = {}, {}
    for n, layer in enumerate(layers(tiny_folder)):
        rank, alpha, module = 1 + n % 5, 0.5 * (n % 7), kohya(True)(layer)
        state[f"{module}.lora_up.weight"], state[f"{module}.lora_down.weight"] = pair(layer, rank)
        state[f"{module}.alpha"] = torch.tensor(alpha, dtype=torch.float16 if n % 2 else torch.float32)
        wanted[layer.name] = alpha / rank * product(layer, rank)
    pipe.set_loras([(save(state, tmp_path / "lora.safetensors"), 0.5)])
    agree(effective(pipe), {name: 0.5 * change for name, change in wanted.items()})
    (active,) = pipe.loras
    assert sum(active.modules.values()) == len(wanted)
    assert active.report.ranks.keys() == {1, 2, 3, 4, 5}


def test_biases_and_norms(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """`diff_b` of a layer, alone and beside a LoRA, and both of a norm."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(64, generator=generator) / 10 for _ in range(2))
    other = torch.randn(64, generator=generator) / 10
    up, down = torch.randn(64, 2, generator=generator) / 10, torch.randn(2, 64, generator=generator)
    block = "input_blocks_4_1_transformer_blocks_0"
    state = {
        f"lora_unet_{block}_norm1.w_norm": weight,
        f"lora_unet_{block}_norm1.b_norm": bias,
        f"lora_unet_{block}_attn1_to_out_0.lora_up.weight": up,
        f"lora_unet_{block}_attn1_to_out_0.lora_down.weight": down,
        f"lora_unet_{block}_attn1_to_out_0.diff_b": other,
        "lora_unet_input_blocks_4_1_proj_in.diff_b": other,
    }
    pipe.set_loras([(save(state, tmp_path / "norms.safetensors"), 2)])
    path = "unet.down.1.attn.0"
    wanted = {
        f"{path}.blocks.0.norm1.weight": 2 * weight,
        f"{path}.blocks.0.norm1.bias": 2 * bias,
        f"{path}.blocks.0.self_attn.out.weight": 2 * up.double() @ down.double(),
        f"{path}.blocks.0.self_attn.out.bias": 2 * other,
        f"{path}.proj_in.bias": 2 * other,
    }
    found = effective(pipe)
    assert found.keys() == wanted.keys()
    assert all((found[name] - wanted[name]).abs().max() < 2e-6 for name in wanted)


def test_conv_in_of_an_inpainting_model(inpainting_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """A base model's LoRA changes the first four of its nine channels."""
    (layer,) = [layer for layer in layers(tiny_folder) if layer.ours == "conv_in.weight"]
    up, down = pair(layer)
    state = {"lora_unet_conv_in.lora_up.weight": up, "lora_unet_conv_in.lora_down.weight": down}
    inpainting_pipe.set_loras([(save(state, tmp_path / "lora.safetensors"), 0.5)])
    change = effective(inpainting_pipe)["unet.conv_in.weight"]
    inpainting_pipe.set_loras([])
    assert change.shape[1] == 9
    assert (change[:, :4] - 0.5 * product(layer)).abs().max() < 1e-6
    assert not change[:, 4:].any()


@pytest.mark.slow
def test_a_refiner_and_a_base_have_loras_of_their_own(tiny_folder: Path, refiner_folder: Path, tmp_path: Path) -> None:
    both = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    base = save_layout("kohya sgm", tiny_folder, tmp_path / "base.safetensors")
    refined = save_layout("kohya diffusers", refiner_folder, tmp_path / "refiner.safetensors")
    both.set_loras([tmp_path / "refiner.safetensors", (tmp_path / "base.safetensors", 1)])
    agree(effective(both), base | {f"refiner.{name}": change for name, change in refined.items()})
    assert {"refiner.unet", "refiner.text_encoder_2"} == {*both.loras[0].modules}
    before = both("a cat", **LATENT, refine_at=0.5).images
    both.set_loras([tmp_path / "base.safetensors", tmp_path / "refiner.safetensors"])
    assert torch.equal(before, both("a cat", **LATENT, refine_at=0.5).images)  # type: ignore[arg-type]
    alone = sdxl.Pipeline.from_pretrained(refiner_folder, dtype="float32", device="cpu")
    alone.set_loras([tmp_path / "refiner.safetensors"])
    agree(effective(alone), refined)


@pytest.mark.parametrize("config", [BASE, INPAINTING, REFINER], ids=["base", "inpainting", "refiner"])
def test_names_of_all_modules_without_a_clash(config: Any) -> None:
    """In both styles, flattened and dotted, every module is found, and none under another's name."""
    rows = component_rows(config)
    table = NameTable(rows)
    spelled: dict[str, str] = {}
    for component, own in rows.items():
        if component == "vae":
            continue
        for row in own:
            ours = f"{component}.{row.ours.rpartition('.')[0]}"
            single, folder = row.single.rpartition(".")[0], row.folder.rpartition(".")[0]
            if component == "unet":
                single = single.removeprefix("model.diffusion_model.")
                names = [f"diffusion_model.{single}", f"unet.{folder}", folder]
                names += ["lora_unet_" + each.replace(".", "_") for each in (single, folder)]
            else:
                prefix = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[component]
                names = [prefix + folder.replace(".", "_"), f"{component}.{folder}"]
            for name in names:
                target = table.find(name)
                assert target is not None, name
                assert f"{target.component}.{target.path}" == ours, name
                assert spelled.setdefault(name, ours) == ours
    modules = {each for targets in table.targets.values() for each in targets.values()}
    wanted = {f"{name}.{row.ours.rpartition('.')[0]}" for name, own in rows.items() for row in own if name != "vae"}
    assert {f"{each.component}.{each.path}" for each in modules} == wanted


def test_kohya_counts() -> None:
    """The numbers of modules that kohya's scripts name: 722 of the UNet's attention, 264 of the text encoders."""
    rows = component_rows(BASE)
    names = {row.ours.rpartition(".")[0] for row in rows["unet"] if "attn" in row.ours and "norm" not in row.ours}
    assert len(names) == 722
    texts = [row.ours for name in ("text_encoder", "text_encoder_2") for row in rows[name]]
    assert len([name for name in texts if name.endswith(".weight") and (".attn." in name or ".ff." in name)]) == 264


def test_the_tiny_model_has_all_kinds_of_layers(tiny_folder: Path) -> None:
    found = layers(tiny_folder)
    assert {len(layer.shape) for layer in found} == {2, 4}
    assert {layer.component for layer in found} == {"unet", "text_encoder", "text_encoder_2"}
    assert len(found) == len({layer.name for layer in found})
    assert ALPHA != RANK
    assert open_checkpoint(tiny_folder).info.config.kind == "base"
