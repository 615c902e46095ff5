"""Adapters on the command line, in AUTOMATIC1111's text, in `inspect` and in `convert`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import LAYOUTS, layers, product, save, save_layout
from deep import deep_folder, deep_pipe  # noqa: F401  fixtures
from test_embeddings import vectors
from torch import Tensor

import sdxl
from sdxl.adapters import EmbeddingReport
from sdxl.adapters.kind import AdapterKind, read_kind
from sdxl.adapters.report import AdapterReport
from sdxl.cli.main import main
from sdxl.images import parameters_text, read_parameters
from sdxl.weights import open_checkpoint
from sdxl.weights.hashes import file_hash, tensor_hash

QUICK: dict[str, Any] = {"steps": 2, "seed": 3, "progress": False}


@pytest.fixture
def lora(tiny_folder: Path, tmp_path: Path) -> Path:
    save_layout("kohya sgm", tiny_folder, tmp_path / "ink.safetensors")
    return tmp_path / "ink.safetensors"


def generate(model: Path, output: Path, *flags: str) -> int:
    return main(
        [
            "generate",
            "--model",
            str(model),
            "--prompt",
            "a red cat",
            "--steps",
            "2",
            "--seed",
            "3",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--offload",
            "none",
            "--output",
            str(output),
            "--quiet",
            *flags,
        ]
    )


def test_flags_and_replay(
    lora: Path, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = save(vectors(tiny_pipe, "dog"), tmp_path / "robot.safetensors")
    flags = ["--lora", f"{lora},weight=0.5,text_weight=-1", "--embedding", f"cat={word}"]
    assert generate(tiny_folder, tmp_path / "a.png", *flags) == 0
    recorded = read_parameters(tmp_path / "a.png")
    assert recorded["request"]["loras"] == [
        {"file": str(lora), "weight": 0.5, "text_weight": -1, "hash": file_hash(lora)}
    ]
    assert recorded["model"]["embeddings"] == [{"file": str(word), "word": "cat", "hash": file_hash(word)}]
    tiny_pipe.set_embeddings({"cat": word})
    wanted = tiny_pipe("a red cat", **QUICK, loras=[sdxl.LoRA(lora, 0.5, -1)]).images[0]
    tiny_pipe.set_embeddings([])
    assert wanted.tobytes() == pixels(tmp_path / "a.png")  # type: ignore[union-attr]
    assert (
        main(
            [
                "generate",
                "--from",
                str(tmp_path / "a.png"),
                "--output",
                str(tmp_path / "b.png"),
                "--quiet",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")
    (tmp_path / "moved").mkdir()
    lora.rename(tmp_path / "moved/brush.safetensors")
    again = [
        "generate",
        "--from",
        str(tmp_path / "a.png"),
        "--quiet",
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "c.png"),
    ]
    assert main([*again, "--lora-dir", str(tmp_path / "moved")]) == 0, "found by its hash"
    assert pixels(tmp_path / "a.png") == pixels(tmp_path / "c.png")


def pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nothing.safetensors", "the LoRA nothing.safetensors does not exist"),
        ("{lora},weight=nan", "the weight of LoRA .* is nan; expected a number such as 0.8"),
        ("{lora},weight=much", "the weight of LoRA .* is 'much'"),
        ("{lora},weight=1,weight=2", "gives weight twice"),
        ("{lora},strength=0.5", "gives strength; expected weight, text_weight, hash"),
        ("{lora},weight=0.5,strength=0.5", "gives strength; expected weight"),
        ("{lora},0.5", r"its weight is given as .*safetensors,weight=0\.5"),
        ("{model}/unet/diffusion_model.safetensors", "does not exist"),
    ],
)
def test_wrong_flags(value: str, message: str, lora: Path, tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    try:
        status = generate(tiny_folder, tmp_path / "a.png", "--lora", value.format(lora=lora, model=tiny_folder))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 2
    assert status != 0
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_blanks_behind_commas(lora: Path, tiny_folder: Path, tmp_path: Path) -> None:
    named = lora.rename(tmp_path / "ink, strength=1.safetensors")  # a name may hold what looks like a value
    assert generate(tiny_folder, tmp_path / "a.png", "--lora", f"{named}, weight=0.5,  text_weight=0.25") == 0
    (own,) = read_parameters(tmp_path / "a.png")["request"]["loras"]
    assert (own["file"], own["weight"], own["text_weight"]) == (str(named), 0.5, 0.25)


@pytest.mark.parametrize("weight", ["-1", "2", ".5"])
def test_weights_of_sliders(weight: str, lora: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert generate(tiny_folder, tmp_path / "a.png", "--lora", f"{lora},weight={weight}") == 0
    assert read_parameters(tmp_path / "a.png")["request"]["loras"][0]["weight"] == float(weight)


def test_automatic1111s_text(lora: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    word = save(vectors(tiny_pipe, "dog"), tmp_path / "robot.safetensors")
    tiny_pipe.set_embeddings([word])
    result = tiny_pipe("a robot", **QUICK, loras=[(lora, 0.5), sdxl.LoRA(lora, weight=1, text_weight=2)])
    text = parameters_text(result.parameters[0], (64, 64))
    tiny_pipe.set_embeddings([])
    assert text.startswith("a robot <lora:ink:0.5> <lora:ink:2:1>\n")
    assert f'Lora hashes: "ink: {tensor_hash(lora)[:12]}"' in text
    assert f'TI hashes: "robot: {file_hash(word)[:12]}"' in text


@pytest.mark.parametrize("name", LAYOUTS)
def test_inspect_names_the_layout(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    changes = save_layout(name, tiny_folder, tmp_path / "x.safetensors")
    report = sdxl.inspect(tmp_path / "x.safetensors")
    assert isinstance(report, AdapterReport)
    assert read_kind(tmp_path / "x.safetensors") == AdapterKind("lora")
    assert sum(report.modules.values()) == len(changes)
    assert report.kinds == {"LoRA": len(changes)} and report.ranks == {4: len(changes)}
    assert not report.unknown
    words = {"SimpleTuner": "LyCORIS", "ComfyUI": "ComfyUI", "processors": "attention processors", "PEFT raw": "PEFT"}
    assert next((word for part, word in words.items() if part in name), "") in report.layout
    assert ("kohya" in report.layout) == name.startswith(("kohya", "half"))


def test_inspect_other_files(tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    word = sdxl.inspect(save(vectors(tiny_pipe, "dog"), tmp_path / "robot.safetensors"))
    assert isinstance(word, EmbeddingReport) and word.word == "robot" and word.vectors == 1
    tags = {"a set": {"my style": 30, "cat": 2}, "another": {"my style": 1, "dog": 40}}
    (layer,) = [layer for layer in layers(tiny_folder) if layer.ours == "conv_in.weight"]
    state = {"lora_unet_conv_in.diff": product(layer).float(), "lora_unet_what.alpha": torch.ones(1)}
    with pytest.raises(sdxl.CheckpointError, match="has alpha alone"):
        sdxl.inspect(save(state, tmp_path / "x.safetensors"))
    del state["lora_unet_what.alpha"]
    header = {"ss_tag_frequency": tags, "ss_base_model_version": "sdxl_base_v1-0"}
    report = sdxl.inspect(save(state, tmp_path / "x.safetensors", header))
    assert isinstance(report, AdapterReport)
    assert report.trigger_words == ["dog", "my style", "cat"]
    assert report.kind == "LoRA of SDXL" and report.kinds == {"full difference": 1}
    assert sdxl.inspect(tiny_folder).kind.startswith("SDXL base")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("lora_unet_single_blocks_0_linear1", "LoRA of Flux"),
        ("transformer.transformer_blocks.0.attn.to_q", "LoRA of Stable Diffusion 3"),
        ("diffusion_model.blocks.0.cross_attn.q", "LoRA of Wan or Qwen-Image"),
        ("diffusion_model.layers.0.attention.to_q", "unknown adapter"),
    ],
)
def test_inspect_names_loras_of_other_models(name: str, family: str, tmp_path: Path) -> None:
    """Also beside a text encoder that fits, which Flux has, and by the names of Qwen-Image that SD 3 has too."""
    text = {
        f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{side}.weight": torch.ones(4, 4) for side in ("up", "down")
    }
    state = {f"{name}.lora_{side}.weight": torch.ones(4, 4) for side in ("up", "down")}
    assert sdxl.inspect(save(state, tmp_path / "a.safetensors")).kind == family
    if family != "unknown adapter":
        assert sdxl.inspect(save(state | text, tmp_path / "b.safetensors")).kind == family
    if "3" in family:
        more = {key.replace("attn.to_q", "img_mlp.net.2"): value for key, value in state.items()}
        assert sdxl.inspect(save(state | more, tmp_path / "c.safetensors")).kind == "LoRA of Wan or Qwen-Image"


def test_a_model_is_written_with_its_loras(
    lora: Path, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    assert (
        main(["convert", str(tiny_folder), str(tmp_path / "merged.safetensors"), "--lora", f"{lora},weight=0.5"]) == 0
    )
    merged = sdxl.Pipeline.from_pretrained(tmp_path / "merged.safetensors", dtype="float32", device="cpu")
    wanted = tiny_pipe("a red cat", **QUICK, output="latent", loras=[(lora, 0.5)]).images
    assert torch.equal(merged("a red cat", **QUICK, output="latent").images, wanted)  # type: ignore[arg-type]
    sdxl.convert(tiny_folder, tmp_path / "plain.safetensors")
    plain, changed = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in ("plain", "merged"))
    for name, component in plain.components.items():
        other: dict[str, Tensor] = dict(changed.components[name].tensors())
        for own, weight in component.tensors():
            is_touched = name != "vae" and weight.ndim > 1 and (".attn" in own or "conv" in own or name == "unet")
            assert other[own].dtype == weight.dtype
            assert is_touched or ".ff." in own or torch.equal(other[own], weight), own


def test_a_request_is_json(lora: Path, tiny_pipe: sdxl.Pipeline) -> None:
    result = tiny_pipe("a cat", **QUICK, loras=[(lora, 0.5)])
    request = json.loads(json.dumps(result.parameters[0]["request"]))
    again = tiny_pipe(**request, progress=False)
    assert again.images[0].tobytes() == result.images[0].tobytes()  # type: ignore[union-attr]
