"""LoRAs that prompts ask for: `<lora:name:text:unet>`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import save, save_layout
from torch import Tensor

import sdxl
from sdxl.adapters import LoRA
from sdxl.cli.main import main
from sdxl.errors import ArgumentError
from sdxl.images import parameters_text, read_parameters, save_png
from sdxl.jobs import read_job
from sdxl.pipeline.tags import tagged_loras, untagged_loras

Draw = Callable[..., Tensor]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Two LoRAs, one of which is found by the name that its training gave it."""
    (tmp_path / "loras/styles").mkdir(parents=True)
    save_layout("kohya sgm", tiny_folder, tmp_path / "loras/styles/ink.safetensors")
    save({"lora_unet_out_2.diff_b": torch.ones(4)}, tmp_path / "loras/x.safetensors", {"ss_output_name": "sketch"})
    return tmp_path / "loras"


@pytest.fixture
def pipe(tiny_folder: Path, folder: Path) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", lora_dir=folder)


@pytest.fixture
def draw(pipe: sdxl.Pipeline) -> Draw:
    def draw(prompt: Any, **more: Any) -> Tensor:
        arguments = {"steps": 2, "seed": 3, "output": "latent", "progress": False, "prompt_syntax": "a1111"} | more
        images = pipe(prompt, **arguments).images
        assert isinstance(images, Tensor)
        return images

    return draw


TAGS = {
    "<lora:ink>": LoRA("ink"),
    "<lora:ink:0.8>": LoRA("ink", 0.8),
    "<lora:ink:0.8:0.5>": LoRA("ink", 0.5, 0.8),  # the text encoders' first
    "<lora:ink:0.8:0.8>": LoRA("ink", 0.8),
    "<lyco: ink : -1 >": LoRA("ink", -1.0),
    "<lora:ink:te=0.3:unet=2>": LoRA("ink", 2.0, 0.3),
    "<lora:ink:te=0.3>": LoRA("ink", 0.3),
    "<lora:ink:0.8:unet=0.1>": LoRA("ink", 0.1, 0.8),
}


@pytest.mark.parametrize("tag", TAGS)
def test_weights(tag: str) -> None:
    assert tagged_loras(sdxl.Request(f"a {tag} cat", prompt_syntax="a1111")) == (TAGS[tag],)
    assert tagged_loras(sdxl.Request(f"a {tag} cat")) == ()
    assert tagged_loras(sdxl.Request("cat", negative_prompt=tag, prompt_syntax="a1111")) == ()


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("<lora:ink:1:1:4>", "4 of <lora:ink> is ignored: the rank of a LoRA is not changed"),
        ("<lora:ink:dyn=4>", "dyn=4 of <lora:ink> is ignored"),
        ("<lora:ink:mid=4>", "mid=4 of <lora:ink> is ignored; its values are"),
        ("<hypernet:ink:1>", "<hypernet:ink> in the prompt is ignored: only <lora:...> has an effect"),
    ],
)
def test_what_has_no_effect_is_a_warning(tag: str, message: str) -> None:
    with pytest.warns(sdxl.SDXLWarning, match=message):
        tagged_loras(sdxl.Request(tag, prompt_syntax="a1111"))


def test_a_tag_is_the_lora_and_no_words(pipe: sdxl.Pipeline, draw: Draw) -> None:
    wanted = draw("a  cat", loras=[sdxl.LoRA("ink", 0.5, 0.8), ("sketch", 0.4)])
    assert torch.equal(draw("a <lora:ink:0.8:0.5> cat<lora:sketch:0.4>"), wanted)
    assert torch.equal(draw("a  cat<lora:sketch:0.4>", loras=[sdxl.LoRA("ink", 0.5, 0.8)]), wanted)
    pipe.set_loras([("sketch", 0.4)])
    assert torch.equal(draw("a <lora:ink:0.8:0.5> cat"), wanted), "beside those of the pipeline"
    pipe.set_loras([])
    assert not torch.equal(draw("a  cat"), wanted)
    assert torch.equal(draw("a cat", prompt_2="a cat<lora:ink:1>"), draw("a cat", loras=["ink"])), (
        "a prompt for the second encoder"
    )
    encoded = pipe.encode_prompt("a cat<lora:ink:1>", prompt_syntax="a1111")
    assert torch.equal(encoded.context, pipe.encode_prompt("a cat", loras=["ink"]).context)


def test_record_and_replay(pipe: sdxl.Pipeline, tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    """The record has the prompt as it was typed and the files; a replay applies none twice, and another prompt has
    none of the old one's.
    """
    text = "a <lora:ink:0.8> cat <lora:ink:0.1>"
    result = pipe(text, loras=["sketch"], steps=2, seed=3, progress=False, prompt_syntax="a1111")
    request = result.parameters[0]["request"]
    assert request["prompt"] == text
    assert [(each["file"], each["weight"]) for each in request["loras"]] == [("sketch", 1), ("ink", 0.8), ("ink", 0.1)]
    assert all(each["hash"] for each in request["loras"])
    a1111 = parameters_text(result.parameters[0], (64, 64)).splitlines()
    assert a1111[0] == f"{text} <lora:sketch:1>"
    assert "ink: " in a1111[1]
    save_png(result.images[0], tmp_path / "a.png", result.parameters[0])
    common = ["generate", "--from", str(tmp_path / "a.png"), "--device", "cpu", "--quiet", "--lora-dir", str(folder)]
    for more, expected in (
        ([], [("sketch", 1), ("ink", 0.8), ("ink", 0.1)]),
        (["--prompt", "a dog <lora:ink:0.3>"], [("sketch", 1), ("ink", 0.3)]),
        (["--prompt", "a dog"], [("sketch", 1)]),
    ):
        output = tmp_path / "b.png"
        assert main([*common, *more, "--output", str(output)]) == 0
        again = read_parameters(output)["request"]
        assert [(each["file"], each["weight"]) for each in again["loras"]] == expected
        if not more:
            assert output.read_bytes()[-4000:] == (tmp_path / "a.png").read_bytes()[-4000:]


@pytest.mark.parametrize(
    "damage",
    [{"prompt": ["a", "b"], "prompt_2": ["c"]}, {"prompt": []}, {"prompt": 5}, {"prompt": [5]}, {"compat": 5}],
)
def test_a_damaged_record_is_one_error(damage: dict[str, Any]) -> None:
    """Also where another prompt replaces its own, whose LoRAs are left out."""
    with pytest.raises(ArgumentError):
        untagged_loras({"prompt": "a", "prompt_syntax": "a1111", "loras": [{"file": "a.safetensors"}], **damage})


def test_errors(pipe: sdxl.Pipeline, draw: Draw, tiny_pipe: sdxl.Pipeline, folder: Path, tmp_path: Path) -> None:
    for prompt, message in (
        ("<lora:imk:1>", "the LoRA imk does not exist; perhaps ink is meant; the prompt asks for it"),
        ("<lora:../loras/x:1>", "does not exist"),
        (f"<lora:{folder}/x:1>", "does not exist"),
        ("<lora:owner/name:1>", "does not exist"),  # nothing is downloaded for a prompt
        ("<lora:ink:strong>", r"a weight of <lora:ink> is 'strong'; expected a number such as 0\.8"),
        ("<lora:ink:nan>", "expected a number"),
        (["a", "<lora:ink:1>"], "ask for different LoRAs, none and ink of weight 1, .* as lines of --batch FILE"),
    ):
        with pytest.raises(sdxl.ArgumentError, match=message):
            draw(prompt)
    assert draw(["a <lora:ink:1>", "<lora:ink:1> b"]).shape[0] == 2
    with pytest.raises(sdxl.ArgumentError, match="asks for the LoRA ink, and no folder of LoRAs is given"):
        tiny_pipe("<lora:ink:1>", prompt_syntax="a1111")


def test_images_of_different_tags_share_no_batch_of_a_job(pipe: sdxl.Pipeline, folder: Path, tmp_path: Path) -> None:
    """A LoRA belongs to its image by its content: another file under the name would be another image."""
    prompts = ["a", "b <lora:ink:1>", "c", "d <lora:ink:1>", "e <lora:ink:0.5>", "f <lora:none:1>"]
    lines = [json.dumps({"prompt": prompt, "prompt_syntax": "a1111", "steps": 1}) for prompt in prompts]
    (tmp_path / "job.jsonl").write_text("\n".join(lines))
    job = read_job(tmp_path / "job.jsonl", {}, {}, folder)
    assert list(job.faults) == [6]
    assert "the LoRA none does not exist" in str(job.faults[6])
    batches = job.batches(8, 0)
    assert [batch.arguments["prompt"] for batch in batches] == [["a", "c"], [prompts[1], prompts[3]], prompts[4]]
    assert [[each["weight"] for each in batch.arguments.get("loras", [])] for batch in batches] == [[], [1], [0.5]]
    for batch in batches:
        result = pipe(**batch.arguments, progress=False)
        assert len(result.parameters[0]["request"]["loras"] or []) == len(batch.arguments.get("loras", []))
    (folder / "styles/ink.safetensors").write_bytes((folder / "x.safetensors").read_bytes())
    again = read_job(tmp_path / "job.jsonl", {}, {}, folder)
    same = [job.key([file], 0) == again.key([file], 0) for file in job.files]
    assert same == [True, False, True, False, False]
