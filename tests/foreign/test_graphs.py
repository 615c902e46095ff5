"""ComfyUI's graphs, read into requests."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from graphs import BASE, Case, graph, link, node, two_samplers
from graphs import CASES as OWN
from pack_graphs import CASES as PACKS
from PIL import Image

import sdxl
from sdxl.images import Parameters

KNOWN = {each.name for each in fields(sdxl.Request)}
PIXELS = Image.new("RGB", (64, 64))


def read(nodes: Any, folder: Path) -> Parameters:
    file = folder / "graph.json"
    file.write_text(json.dumps(nodes), encoding="utf-8")
    return sdxl.read_parameters(file)


@pytest.mark.parametrize("case", [*OWN, *PACKS], ids=lambda case: case.name)
def test_a_graph_is_the_right_request(case: Case, tmp_path: Path) -> None:
    found = read(case.nodes, tmp_path)
    assert found.request == BASE | case.expected
    assert (found.tool, found.model) == ("ComfyUI", ("base_v1.safetensors", None))
    assert set(found.unmapped) == case.unmapped
    assert found.sources == case.sources
    assert {name: value for name, value in found["model"].items() if name != "model"} == case.files
    sources = {name: PIXELS.convert("L") if name == "mask" else PIXELS for name in found.sources}
    sdxl.Request(**{name: value for name, value in found.request.items() if name in KNOWN}, **sources)


FAMILIES = {  # by what ComfyUI's own examples for them have
    "Flux": {
        "n4": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "n6": node("FluxGuidance", guidance=3.5, conditioning=link("21")),
        "n20": node("DualCLIPLoader", clip_name1="t5xxl.safetensors", clip_name2="clip_l.safetensors", type="flux"),
        "n21": node("CLIPTextEncode", text="a lighthouse", clip=link("20")),
    },
    "Stable Diffusion 3": {
        "n6": node("CLIPTextEncodeSD3", clip_l="a lighthouse", clip_g="a lighthouse", t5xxl="", clip=link("4", 1)),
    },
    "Wan": {
        "n4": node("ModelSamplingSD3", shift=8, model=link("20")),
        "n20": node("UNETLoader", unet_name="wan2.1_t2v.safetensors", weight_dtype="default"),
        "n21": node("CLIPLoader", clip_name="umt5_xxl.safetensors", type="wan"),
        "n6": node("CLIPTextEncode", text="a lighthouse", clip=link("21")),
        "n22": node("LoraLoaderModelOnly", lora_name="speed.safetensors", strength_model=1.0, model=link("4")),
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_another_family_of_models_is_named(family: str, tmp_path: Path) -> None:
    """Its files were read as SDXL's, and refused by the model if they were found."""
    nodes = FAMILIES[family]
    found = read(graph({"model": link("22")} if "n22" in nodes else None, **nodes), tmp_path)
    assert not found["model"] and "loras" not in found.request
    assert found.request["steps"] == 20
    for part in {"unet" if "unet_name" in str(nodes) else "model", *(["loras"] if "n22" in nodes else [])}:
        assert f"the graph is for {family}, as " in found.unmapped[part].reason


@pytest.mark.parametrize(
    "other",
    [
        node("DualCLIPLoader", clip_name1="clip_g.safetensors", clip_name2="clip_l.safetensors", type="sdxl"),
        node("CLIPLoader", clip_name="clip_g.safetensors", type="stable_diffusion"),
        node("FluxResolutionNode", megapixel="1.0", aspect_ratio="1:1"),
    ],
    ids=lambda other: other["class_type"],
)
def test_nodes_for_any_family_leave_the_model(other: dict[str, Any], tmp_path: Path) -> None:
    own = {"n6": node("CLIPTextEncode", text="a lighthouse", clip=link("20"))}
    apart = {"n30": node("FluxGuidance", guidance=3.5, conditioning=link("6"))}  # that leads to no image
    assert read(graph(**own, **apart, n20=other), tmp_path).model.name == "base_v1.safetensors"


def joined(levels: int, leaf: str) -> Any:
    """A prompt of nodes that join the text of the one before three times."""
    names = [f"j{n}" for n in range(levels)]
    texts: list[Any] = [*map(link, names[1:]), leaf]
    parts = [{f"text_{part}": text for part in "abc"} for text in texts]
    nodes = {name: node("Text Concatenate", delimiter=",", **each) for name, each in zip(names, parts, strict=True)}
    return graph(n6=node("CLIPTextEncode", text=link("j0"), clip=link("4", 1))) | nodes


@pytest.mark.parametrize("name", ["", ".pth", " ", 5, None])
def test_a_network_without_a_name_is_lanczos(name: Any, tmp_path: Path) -> None:
    own = {
        **two_samplers(node("VAEEncode", pixels=link("15"), vae=link("4", 2))),
        "14": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
        "15": node("ImageUpscaleWithModel", upscale_model=link("16"), image=link("14")),
        "16": node("UpscaleModelLoader", model_name=name),
    }
    found = read(own, tmp_path)
    hires = found.request["hires"]
    assert (hires["upscaler"], hires["scale"]) == ("lanczos", 4)
    reason = "its network is not known; lanczos takes its place, and 4 is taken as its scale"
    assert found.unmapped["ImageUpscaleWithModel 15"].reason == reason


@pytest.mark.parametrize(("levels", "leaf"), [(20, "x"), (4, 50_000 * "x")])
def test_texts_that_grow_without_end_are_not_read(levels: int, leaf: str, tmp_path: Path) -> None:
    found = read(joined(levels, leaf), tmp_path)
    assert found.request["prompt"] == ""
    assert "is not read" in found.unmapped["CLIPTextEncode 6: text"].reason
    assert read(joined(2, "x"), tmp_path).request["prompt"] == ",".join(9 * "x")


def test_stacks_of_stacks_without_end_are_not_read(tmp_path: Path) -> None:
    lora = {"model": link("4"), "lora_name_1": "ink.safetensors", "model_weight_1": 1, "clip_weight_1": 1}
    stacks = {f"s{n}": node("Stack", lora_stack=link(f"s{n - 1}"), **lora) for n in range(3000)}
    assert len(read(graph({"model": link("s3")}) | stacks, tmp_path).loras) == 4
    found = read(graph({"model": link("s2999")}) | stacks, tmp_path)  # none is lost in silence
    assert (found.loras, set(found.unmapped)) == ([], {"Stack s2999"})


def test_stacks_that_stand_for_too_many_nodes_are_refused(tmp_path: Path) -> None:
    loras = {f"{name}_{n}": value for n in range(100) for name, value in (("lora_name", "a"), ("model_weight", 1))}
    stacks = {f"s{n}": node("Stack", model=link("4"), **loras) for n in range(60)}
    with pytest.raises(sdxl.ArgumentError, match="expected 1 to 5000"):
        read(graph() | stacks, tmp_path)
