"""The key table: the official key sets in both layouts, and bitwise round trips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from editing import edit
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.errors import CheckpointError
from sdxl.models.config import ModelConfig
from sdxl.models.published import BASE, INPAINTING, REFINER
from sdxl.weights.checkpoint import open_checkpoint, open_component
from sdxl.weights.component import Component
from sdxl.weights.container import Weights
from sdxl.weights.infer import infer_model
from sdxl.weights.info import METADATA_KEY
from sdxl.weights.keymap import component_rows, ignorable, match, summarize, unet_rows
from sdxl.weights.ops import stored_shape

# the counts in the published files; the two keys that are not weights are position_ids and logit_scale
SINGLE: dict[str, Any] = {"text_encoder": 196, "text_encoder_2": 389, "unet": 1680, "vae": 248}
FOLDER: dict[str, Any] = {"text_encoder": 196, "text_encoder_2": 517, "unet": 1680, "vae": 248}

# keys of the official files that are easy to map wrongly
LANDMARKS = {
    "base": {
        "model.diffusion_model.output_blocks.2.2.conv.weight": "up.0.upsample.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight": "up.1.upsample.conv.weight",
        "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (
            "down.2.attn.1.blocks.9.cross_attn.k.weight"
        ),
        "model.diffusion_model.input_blocks.3.0.op.bias": "down.0.downsample.conv.bias",
        "first_stage_model.decoder.up.3.block.2.conv1.weight": "decoder.up.0.res.2.conv1.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight": "decoder.up.2.upsample.conv.weight",
        "conditioner.embedders.1.model.text_projection": "projection.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc2.weight": "layers.11.ff.down.weight",
    },
    "refiner": {
        "model.diffusion_model.output_blocks.2.1.conv.weight": "up.0.upsample.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight": "up.1.upsample.conv.weight",
        "model.diffusion_model.output_blocks.8.2.conv.weight": "up.2.upsample.conv.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.3.ff.net.0.proj.weight": (
            "mid.attn.0.blocks.3.ff.proj.weight"
        ),
        "conditioner.embedders.0.model.positional_embedding": "position_embed.weight",
    },
}


@pytest.mark.parametrize(
    ("config", "single", "folder"),
    [
        (BASE, SINGLE, FOLDER),
        (INPAINTING, SINGLE, FOLDER),
        (
            REFINER,
            {"text_encoder_2": 389, "unet": 1220, "vae": 248},
            {"text_encoder_2": 517, "unet": 1220, "vae": 248},
        ),
    ],
    ids=["base", "inpainting", "refiner"],
)
def test_counts(config: ModelConfig, single: dict[str, int], folder: dict[str, int]) -> None:
    rows = component_rows(config)
    assert {name: len(match(table, "single")) for name, table in rows.items()} == single
    assert {name: len(match(table, "folder")) for name, table in rows.items()} == folder
    for table in rows.values():
        assert len({row.ours for row in table}) == len(table)


@pytest.mark.parametrize("name", LANDMARKS)
def test_landmarks(name: str) -> None:
    rows = component_rows(BASE if name == "base" else REFINER)
    ours_by_key = {key: group[0].ours for table in rows.values() for key, group in match(table, "single").items()}
    for key, ours in LANDMARKS[name].items():
        assert ours_by_key[key] == ours


def test_folder_names_are_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    config = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    }
    with torch.device("meta"):
        reference = diffusers.UNet2DConditionModel(**config).state_dict()
    assert {row.folder for row in unet_rows(BASE.unet)} == set(reference)


def test_ignorable() -> None:
    for key in ("denoiser.sigmas", "betas", "model_ema.decay", "ztsnr", "conditioner.embedders.1.model.logit_scale"):
        assert ignorable(key)
    for key in ("model.diffusion_model.out.0.weight", "alphas", "lora_unet_x.alpha", "edm_mean"):
        assert not ignorable(key)


def test_summarize() -> None:
    assert summarize(["a.1.w", "a.2.w", "b"]) == "a.*.w (2), b"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*/*.safetensors"))
    assert files
    return {f"{file.parent.name}/{key}": value for file in files for key, value in load_file(file).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for key in a:
        assert a[key].dtype == b[key].dtype
        assert torch.equal(a[key], b[key]), key


def test_round_trip(tiny_folder: Path, tmp_path: Path) -> None:
    one, two, folder = tmp_path / "one.safetensors", tmp_path / "two.safetensors", tmp_path / "folder"
    sdxl.convert(tiny_folder, one)
    sdxl.convert(one, folder)
    sdxl.convert(folder, two)
    same(load_file(one), load_file(two))
    ours, theirs = weights(folder), weights(tiny_folder)
    # transformers 5 leaves the prefix out of CLIPTextModel
    theirs = {k.replace("text_encoder/", "text_encoder/text_model."): v for k, v in theirs.items()}
    same(ours, theirs)


def test_metadata_holds_values_that_shapes_do_not_show(
    tiny_folder: Path, tmp_path: Path, tiny_pipe: sdxl.Pipeline
) -> None:
    sdxl.convert(tiny_folder, tmp_path / "one.safetensors")
    sdxl.convert(tmp_path / "one.safetensors", tmp_path / "folder")
    for path in (tmp_path / "one.safetensors", tmp_path / "folder"):
        assert open_checkpoint(path).info == tiny_pipe.info
        pipe = sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu")
        arguments = {"steps": 2, "seed": 3, "output": "tensor", "progress": False}
        assert torch.equal(pipe("a red cat!", **arguments).images, tiny_pipe("a red cat!", **arguments).images)


def test_diffusers_reads_what_we_write(tiny_folder: Path, tmp_path: Path, reference_pipe: object) -> None:
    diffusers = pytest.importorskip("diffusers")
    sdxl.convert(tiny_folder, tmp_path / "one.safetensors")
    sdxl.convert(tmp_path / "one.safetensors", tmp_path / "folder")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "folder", add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)

    def generate(which: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return which("a red cat!", num_inference_steps=2, generator=generator, output_type="latent").images  # type: ignore[operator]

    assert torch.equal(generate(pipe), generate(reference_pipe))


def test_missing_and_unexpected_keys(single: Path, tmp_path: Path) -> None:
    path = edit(single, tmp_path / "m.safetensors", lambda t: t.pop("model.diffusion_model.out.2.bias"))
    with pytest.raises(
        CheckpointError, match=r"1 tensors of the unet are missing: model\.diffusion_model\.out\.2\.bias"
    ):
        open_checkpoint(path)
    path = edit(single, tmp_path / "u.safetensors", lambda t: t.update({"stray.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"1 tensors do not belong to this SDXL model: stray\.weight"):
        open_checkpoint(path)


def test_wrong_shape(single: Path, tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    path = edit(single, tmp_path / "s.safetensors", lambda t: t.update({key: torch.zeros(5)}))
    with pytest.raises(CheckpointError, match=r"out\.2\.bias has shape \[5\]"):
        open_checkpoint(path)


def test_models_of_other_tasks_and_families_are_named(single: Path, tmp_path: Path) -> None:
    bare = {"format": "pt"}  # without our description
    key = "model.diffusion_model.input_blocks.0.0.weight"

    def edits(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = torch.zeros(tensors[key].shape[0], 8, 3, 3)

    with pytest.raises(CheckpointError, match=r"e.safetensors: .* takes 8 channels, as models that edit by instruct"):
        open_checkpoint(edit(single, tmp_path / "e.safetensors", edits, bare))

    def unet(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if not name.startswith("model."):
                del tensors[name]
        tensors["encoder_hid_proj.weight"] = torch.zeros(2, 2)

    assert sdxl.inspect(edit(single, tmp_path / "k.safetensors", unet, bare)).kind == "Kolors"

    for marks, family in (
        ("model.diffusion_model.joint_blocks.0.x.weight", "Stable Diffusion 3"),
        ("double_blocks.0.img_mlp.0.weight", "Flux"),
        ("transformer_blocks.0.img_mlp.net.2.weight", "Wan or Qwen-Image"),
        ("model.diffusion_model.blocks.0.cross_attn.q.weight", "Wan or Qwen-Image"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "Stable Diffusion 2.x"),
    ):
        save_file({marks: torch.zeros(2, 1024)}, tmp_path / "f.safetensors")
        assert sdxl.inspect(tmp_path / "f.safetensors").kind == family

    def vae(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if not name.startswith("first_stage_model.") or "quant_conv" in name:
                del tensors[name]
        conv = tensors["first_stage_model.decoder.conv_in.weight"]
        tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(conv.shape[0], 16, 3, 3)

    path = edit(single, tmp_path / "v.safetensors", vae, bare)
    with pytest.raises(CheckpointError, match=r"v.safetensors: the VAE has latents of 16 channels, as those") as found:
        sdxl.inspect(path)
    assert str(found.value).count("v.safetensors") == 1


def test_clip_l_without_its_last_layer(single: Path, tmp_path: Path, tiny_pipe: sdxl.Pipeline) -> None:
    prefix = "conditioner.embedders.0.transformer.text_model."

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            if key.startswith((prefix + "encoder.layers.2.", prefix + "final_layer_norm.")):
                del tensors[key]

    path = edit(single, tmp_path / "short.safetensors", change)
    pipe = sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu")
    arguments = {"steps": 2, "seed": 3, "output": "latent", "progress": False}
    assert torch.equal(pipe("cat", **arguments).images, tiny_pipe("cat", **arguments).images)


@pytest.mark.parametrize("config", [BASE, REFINER, INPAINTING], ids=lambda config: config.kind)
def test_the_shapes_of_a_published_file_give_its_config(config: ModelConfig) -> None:
    """Those files have no metadata of ours."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rows in component_rows(config).items():
        network = Component(name, getattr(config, name), rows, "single", Weights([])).build()
        own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        shapes |= {row.single: stored_shape(own[row.ours], row.op) for row in rows}
    assert infer_model(shapes) == config


def test_attention_of_the_vae_as_matrices(single: Path, tmp_path: Path) -> None:
    """Some tools write the 1x1 convolutions of a single file as what they are, linear layers."""
    weights = [
        f"{half}.mid.attn_1.{name}.weight" for half in ("encoder", "decoder") for name in ("q", "k", "v", "proj_out")
    ]

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in weights:
            tensors[f"first_stage_model.{name}"] = tensors[f"first_stage_model.{name}"][:, :, 0, 0].contiguous()

    expected = dict(open_checkpoint(single).components["vae"].tensors())
    path = edit(single, tmp_path / "matrices.safetensors", change)
    found = dict(open_checkpoint(path).components["vae"].tensors())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_odd_header_length(single: Path, tiny_pipe: sdxl.Pipeline) -> None:
    """The published file's header is no multiple of 8 bytes, so float32 data can stand at any address."""
    data = single.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for pad in (1, 4):
        single.write_bytes(
            (length + pad).to_bytes(8, "little") + data[8 : 8 + length] + b" " * pad + data[8 + length :]
        )
        pipe = sdxl.Pipeline.from_pretrained(single, dtype="float32", device="cpu")
        arguments = {"steps": 1, "seed": 3, "output": "latent", "progress": False}
        assert torch.equal(pipe("cat", **arguments).images, tiny_pipe("cat", **arguments).images)


def test_old_folder_names(tiny_folder: Path, tmp_path: Path) -> None:
    """Text encoders with the prefix, old attention names of the VAE, the fp16 variant and shards."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_folder, folder)
    file = folder / "text_encoder/model.safetensors"
    bare = load_file(file)
    assert not any(key.startswith("text_model.") for key in bare)
    save_file({"text_model." + key: value for key, value in bare.items()}, file)
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(key: str) -> str:
        for new, name in names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        return key

    save_file({old(key): value for key, value in load_file(file).items()}, file)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    halves = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    table: dict[str, Any] = {}
    for n, half in enumerate(halves):
        name = f"diffusion_pytorch_model-0000{n + 1}-of-00002.safetensors"
        save_file(half, folder / "unet" / name)
        table |= dict.fromkeys(half, name)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    save_file({k: v.half() for k, v in tensors.items()}, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    for variant in (None, "fp16"):
        checkpoint = open_checkpoint(folder, variant)
        assert checkpoint.components["unet"].weights.dtype("conv_in.weight") == ("F16" if variant else "F32")
        old_state = dict(open_checkpoint(tiny_folder).components["unet"].tensors())
        new_state = dict(checkpoint.components["unet"].tensors())
        assert all(torch.equal(old_state[key], new_state[key].float()) for key in old_state)
    (folder / "unet/diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors is missing"):
        open_checkpoint(folder)


def test_components_alone(tiny_folder: Path, single: Path, tmp_path: Path) -> None:
    """A UNet or a VAE alone: bare or prefixed names of a single file, a folder's file, a folder, a complete model."""
    whole = load_file(single)
    like = open_checkpoint(tiny_folder).info.config
    for name, prefix in (("unet", "model.diffusion_model."), ("vae", "first_stage_model.")):
        alone = {key: value for key, value in whole.items() if key.startswith(prefix)}
        save_file(alone, tmp_path / f"{name}.safetensors")
        save_file({key[len(prefix) :]: value for key, value in alone.items()}, tmp_path / f"bare_{name}.safetensors")
        shutil.copy(tiny_folder / name / "diffusion_pytorch_model.safetensors", tmp_path / f"alone_{name}.safetensors")
        expected = dict(open_checkpoint(tiny_folder).components[name].tensors())
        for path in (
            tmp_path / f"{name}.safetensors",
            tmp_path / f"bare_{name}.safetensors",
            tmp_path / f"alone_{name}.safetensors",
            tiny_folder / name,
            tiny_folder / name / "diffusion_pytorch_model.safetensors",
            tiny_folder,
            single,
        ):
            component = open_component(path, name, like)
            assert component.config == getattr(like, name), path
            same(dict(component.tensors()), expected)
    with pytest.raises(CheckpointError, match="is a unet, not a vae of SDXL"):
        open_component(tmp_path / "unet.safetensors", "vae", like)


def test_metadata_is_written_once(single: Path) -> None:
    data = single.read_bytes()
    assert METADATA_KEY in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
