"""Workflows of ComfyUI whose nodes are in subgraphs, as its page has them since 2025."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sdxl
from sdxl.errors import ArgumentError

NAME, INNER = "5a3d7a9b-0000-4000-8000-000000000001", "5a3d7a9b-0000-4000-8000-000000000002"
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot")


def links(*rows: tuple[int, ...]) -> list[dict[str, int]]:
    return [dict(zip(LINK, row, strict=True)) for row in rows]


def text(id: int, link: int, value: str, shown: int | None = None) -> dict[str, Any]:
    inputs: list[dict[str, Any]] = [{"name": "clip", "type": "CLIP", "link": link}]
    if shown is not None:
        inputs.append({"name": "text", "type": "STRING", "link": shown, "widget": {"name": "text"}})
    return {"id": id, "type": "CLIPTextEncode", "inputs": inputs, "widgets_values": [value]}


def subgraphs() -> list[dict[str, Any]]:
    """One from a model, a text and a seed to latents, and within it one that has the negative prompt."""
    sampler = {
        "id": 3,
        "type": "KSampler",
        "inputs": [
            {"name": "model", "type": "MODEL", "link": 10},
            {"name": "positive", "type": "CONDITIONING", "link": 11},
            {"name": "negative", "type": "CONDITIONING", "link": 12},
            {"name": "latent_image", "type": "LATENT", "link": 13},
            {"name": "seed", "type": "INT", "link": 14, "widget": {"name": "seed"}},
        ],
        "widgets_values": [7, "randomize", 20, 7.5, "dpmpp_2m", "karras", 1],
    }
    outer = {
        "id": NAME,
        "inputs": [{"name": "model"}, {"name": "clip"}, {"name": "text"}, {"name": "seed"}],
        "outputs": [{"name": "LATENT"}],
        "nodes": [
            sampler,
            text(6, 15, "old", 16),
            {"id": 7, "type": INNER, "inputs": [{"name": "clip", "type": "CLIP", "link": 17}]},
            {"id": 5, "type": "EmptyLatentImage", "inputs": [], "widgets_values": [832, 1216, 1]},
        ],
        "links": links(
            (10, -10, 0, 3, 0),
            (11, 6, 0, 3, 1),
            (12, 7, 0, 3, 2),
            (13, 5, 0, 3, 3),
            (14, -10, 3, 3, 4),
            (15, -10, 1, 6, 0),
            (16, -10, 2, 6, 1),
            (17, -10, 1, 7, 0),
            (18, 3, 0, -20, 0),
        ),
    }
    inner = {
        "id": INNER,
        "inputs": [{"name": "clip"}],
        "nodes": [text(1, 1, "blur")],
        "links": links((1, -10, 0, 1, 0), (2, 1, 0, -20, 0)),
    }
    return [outer, inner]


def workflow(**instance: Any) -> dict[str, Any]:
    own = {
        "id": 50,
        "type": NAME,
        "inputs": [
            {"name": "model", "type": "MODEL", "link": 1},
            {"name": "clip", "type": "CLIP", "link": 2},
            {"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}},
        ],
        "outputs": [{"name": "LATENT", "type": "LATENT"}],
        **instance,
    }
    nodes = [
        {"id": 4, "type": "CheckpointLoaderSimple", "inputs": [], "widgets_values": ["base_v1.safetensors"]},
        own,
        {
            "id": 8,
            "type": "VAEDecode",
            "inputs": [{"name": "samples", "type": "LATENT", "link": 3}, {"name": "vae", "type": "VAE", "link": 4}],
        },
        {"id": 9, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 5}]},
    ]
    rows = [
        [1, 4, 0, 50, 0, "M"],
        [2, 4, 1, 50, 1, "C"],
        [3, 50, 0, 8, 0, "L"],
        [4, 4, 2, 8, 1, "V"],
        [5, 8, 0, 9, 0, "I"],
    ]
    return {"nodes": nodes, "links": rows, "definitions": {"subgraphs": subgraphs()}}


def read(data: dict[str, Any], folder: Path) -> sdxl.images.Parameters:
    file = folder / "workflow.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return sdxl.read_parameters(file)


@pytest.mark.parametrize(
    ("values", "prompt", "seed"),
    [(["a lighthouse", 42], "a lighthouse", 42), ([], "old", 7)],
    ids=["values of the instance", "values inside"],
)
def test_the_nodes_of_a_subgraph_are_read(values: list[Any], prompt: str, seed: int, tmp_path: Path) -> None:
    found = read(workflow(widgets_values=values), tmp_path)
    request = found.request
    assert (request["prompt"], request["negative_prompt"], request["seed"]) == (prompt, "blur", seed)
    assert (request["width"], request["height"], request["steps"]) == (832, 1216, 20)
    assert (found.model.name, found.unmapped) == ("base_v1.safetensors", {})


def test_a_value_from_another_node_wins(tmp_path: Path) -> None:
    data = workflow(widgets_values=["a lighthouse", 42])
    data["nodes"][1]["inputs"][2]["link"] = 6
    data["nodes"].append({"id": 30, "type": "PrimitiveString", "inputs": [], "widgets_values": ["a harbour"]})
    data["links"].append([6, 30, 0, 50, 2, "STRING"])
    assert read(data, tmp_path).request["prompt"] == "a harbour"


def test_an_instance_that_is_off_has_no_nodes(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no KSampler"):
        read(workflow(mode=4), tmp_path)


def test_a_subgraph_within_itself_ends(tmp_path: Path) -> None:
    data = workflow()
    data["definitions"]["subgraphs"][0]["nodes"] += [{"id": 100 + n, "type": NAME} for n in range(9)]
    with pytest.raises(ArgumentError, match="subgraphs"):
        read(data, tmp_path)


def test_values_of_packs_nodes_have_their_names(tmp_path: Path) -> None:
    """A loader and a sampler that list their values, with an empty one behind the seed, and a stack of LoRAs."""
    loader = [
        "base_v1.safetensors",
        "Baked VAE",
        -2,
        "None",
        1,
        1,
        "a lighthouse",
        "blur",
        "none",
        "comfy",
        832,
        1216,
        1,
    ]
    names = ("model", "positive", "negative", "latent_image", "optional_vae")
    data = {
        "nodes": [
            {
                "id": 1,
                "type": "Efficient Loader",
                "inputs": [{"name": "lora_stack", "type": "LORA_STACK", "link": 9}],
                "widgets_values": loader,
            },
            {
                "id": 2,
                "type": "KSampler (Efficient)",
                "inputs": [{"name": name, "type": "*", "link": n} for n, name in enumerate(names)],
                "widgets_values": [42, None, 20, 7.5, "dpmpp_2m", "karras", 1, "auto", "true"],
            },
            {"id": 3, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 8}]},
            {
                "id": 4,
                "type": "LoRA Stacker",
                "inputs": [],
                "widgets_values": ["simple", 1, "ink.safetensors", 0.8, 1, 1, "old.safetensors", 1, 1, 1],
            },
        ],
        "links": [*([n, 1, n, 2, n, "*"] for n in range(5)), [8, 2, 5, 3, 0, "IMAGE"], [9, 4, 0, 1, 0, "LORA_STACK"]],
    }
    found = read(data, tmp_path)
    request = found.request
    assert (request["prompt"], request["negative_prompt"], request["seed"], request["steps"]) == (
        *("a lighthouse", "blur"),
        *(42, 20),
    )
    assert (request["width"], request["loras"]) == (832, [{"file": "ink.safetensors", "weight": 0.8}])
    assert (found.model.name, found.unmapped) == ("base_v1.safetensors", {})
