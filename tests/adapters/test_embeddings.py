"""Textual inversion in every layout: the vectors of a word in place of its tokens."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import save, save_layout
from torch import Tensor

import sdxl
from sdxl.cli.main import main
from sdxl.images import read_parameters, save_png
from sdxl.pipeline.adapters import Adapters
from sdxl.pipeline.additions import Additions
from sdxl.weights.checkpoint import open_checkpoint

LATENT: dict[str, Any] = {"steps": 2, "seed": 3, "output": "latent", "progress": False}
LONG = "a red cat, " * 20 + "photo of a dog, " * 20  # three chunks


def vectors(pipe: sdxl.Pipeline, *words: str) -> dict[str, Tensor]:
    """The vectors of known words, one each, for both text encoders: clip_l and clip_g."""
    found = {}
    for key, stage in zip(("clip_l", "clip_g"), pipe.text, strict=True):
        ids = [stage.tokenizer.ids(word)[0] for word in words]
        found[key] = stage.encoder.token_embed.weight[ids].clone()
    return found


@pytest.fixture
def pipe(tiny_folder: Path) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")


def latents(pipe: sdxl.Pipeline, prompt: str, **more: Any) -> Tensor:
    images = pipe(prompt, **(LATENT | more)).images
    assert isinstance(images, Tensor)
    return images


def spell(layout: str, found: dict[str, Tensor], folder: Path) -> Any:
    """The file or files of an embedding in a layout."""
    first, second = found["clip_l"], found["clip_g"]
    if layout == "clip_l":
        return save(found, folder / "mecha.safetensors")
    if layout == "text_encoders":
        return save({"text_encoders_0": first, "text_encoders_1": second}, folder / "mecha.safetensors")
    names = folder / "learned_embeds.safetensors", folder / "learned_embeds_2.safetensors"
    one = first[0] if len(first) == 1 else first
    save({"mecha": one}, names[0])
    save({"mecha": second}, names[1])
    return names if layout == "two files" else names[::-1]


def test_a_call_that_waits_for_its_turn_keeps_its_words(
    pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded of an image is what it was made with, whatever other threads set meanwhile."""
    file, prompt = spell("clip_l", vectors(pipe, "cat"), tmp_path), "a red mecha"
    without, planned, plan = latents(pipe, prompt), threading.Event(), Additions.plan

    def noted(self: Additions, *arguments: Any) -> Any:
        own = plan(self, *arguments)
        planned.set()
        return own

    monkeypatch.setattr(Additions, "plan", noted)
    with ThreadPoolExecutor(1) as thread:
        with pipe._lock:
            waiting = thread.submit(latents, pipe, prompt)
            assert planned.wait(20)
            pipe.set_embeddings([file])
        assert torch.equal(waiting.result(60), without)
    assert not torch.equal(latents(pipe, prompt), without)


def test_a_thread_gets_the_words_that_it_asks_for(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """The last ones are kept, and another thread may replace them at any moment."""

    class Shared(Adapters):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, ([], {}) if name == "_words" else value)

    pipe.set_embeddings([spell("clip_l", vectors(pipe, "cat"), tmp_path)])
    shared = Shared([open_checkpoint(Path(pipe.source["model"]))])
    assert "mecha" in shared.words(pipe._additions.embeddings, ())["text_encoder"]


@pytest.mark.parametrize("layout", ["clip_l", "text_encoders", "two files", "two files, exchanged"])
@pytest.mark.parametrize("words", ["cat", "photo of cat"])
def test_every_layout(layout: str, words: str, pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """With the vectors of known words the image is that of those words."""
    file = spell(layout, vectors(pipe, *words.split()), tmp_path)
    wanted, before = latents(pipe, f"a red {words} in style"), latents(pipe, "a red mecha in style")
    pipe.set_embeddings([file])
    assert [(each.word, each.count) for each in pipe.embeddings.values()] == [("mecha", len(words.split()))]
    assert torch.equal(latents(pipe, "a red mecha in style"), wanted)
    assert torch.equal(
        latents(pipe, "a dog", negative_prompt="red mecha"), latents(pipe, "a dog", negative_prompt=f"red {words}")
    )
    assert not torch.equal(wanted, before)
    pipe.set_embeddings([])
    assert torch.equal(latents(pipe, "a red mecha in style"), before)


def test_words_of_the_callers_choice(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    file = save(vectors(pipe, "cat"), tmp_path / "x.safetensors")
    pipe.set_embeddings({"robot dog": file, "favela": file})
    for text in ("a robot dog", "a favela", "the FAVELA in the favela"):
        plain = text.lower().replace("robot dog", "cat").replace("favela", "cat")
        with_words, pipe_words = latents(pipe, text), pipe.embeddings
        pipe.set_embeddings([])
        assert torch.equal(with_words, latents(pipe, plain))
        pipe.set_embeddings({word: each.embedding.file for word, each in pipe_words.items()})


def test_a_word_in_marks_is_found_beside_other_marks(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """As diffusers' files name it: the last mark of <cat-toy>, would be one token with the comma."""
    file = save(vectors(pipe, "cat"), tmp_path / "x.safetensors")
    for text in ("a <robot>, photo", "(a <ROBOT>) of a <robot>.", "a red <robot>-style, in <my robot>!", "<robot>"):
        plain = re.sub("<(my )?robot>", "cat ", text, flags=re.IGNORECASE)
        wanted = latents(pipe, plain)
        pipe.set_embeddings({"<robot>": file, "<my robot>": file})
        result = pipe(text, **LATENT)
        assert torch.equal(result.images, wanted), text  # type: ignore[arg-type]
        assert "<robot>" in [each["word"] for each in result.parameters[0]["model"]["embeddings"]]
        pipe.set_embeddings([])


def test_the_record_has_the_words_of_the_prompt_alone(pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    cat, dog = (
        save(vectors(pipe, name), tmp_path / f"{word}.safetensors")
        for name, word in (("cat", "mecha"), ("dog", "robot"))
    )
    pipe.set_embeddings([cat, dog])
    assert "embeddings" not in pipe("a dog", steps=1, progress=False).parameters[0]["model"]
    result = pipe("a robot", steps=1, seed=2, progress=False)
    (recorded,) = result.parameters[0]["model"]["embeddings"]
    assert recorded["word"] == "robot" and recorded["file"] == str(dog)
    save_png(result.images[0], tmp_path / "a.png", result.parameters[0])
    again = sdxl.Pipeline.from_pretrained(
        tiny_folder,
        dtype="float32",
        device="cpu",
        embeddings=read_parameters(tmp_path / "a.png")["model"]["embeddings"],
    )
    assert again.embeddings.keys() == {"robot"}
    assert again("a robot", steps=1, seed=2, progress=False).images[0].tobytes() == result.images[0].tobytes()  # type: ignore[union-attr]
    save(vectors(pipe, "cat"), dog)
    with pytest.raises(sdxl.CheckpointError, match="is not the file that is asked for: its hash begins with"):
        again.set_embeddings([recorded])


def test_a_folder_of_embeddings(pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("robot", "favela"):
        save(vectors(pipe, "cat"), tmp_path / f"{name}.safetensors")
    save({"emb_params": torch.zeros(2, 768)}, tmp_path / "old.safetensors")
    with pytest.warns(
        sdxl.SDXLWarning, match=r"1 files of the folder of embeddings are not used, such as: .*Stable Diffusion 1"
    ):
        known = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", embedding_dir=tmp_path)
    assert known.embeddings.keys() == {"robot", "favela"}
    assert torch.equal(latents(known, "a robot"), latents(pipe, "a cat"))
    (recorded,) = known("a robot", steps=1, progress=False).parameters[0]["model"]["embeddings"]
    assert recorded["file"] == "robot.safetensors", "no folder that nobody typed"


@pytest.mark.parametrize("name", ["lora_dir", "embedding_dir", "control_dir"])
def test_a_folder_that_is_none(
    name: str, pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words would be read as any others."""
    file = save(vectors(pipe, "cat"), tmp_path / "robot.safetensors")
    flag, output = f"--{name.replace('_', '-')}", str(tmp_path / "a.png")
    for path in (tmp_path / "none", file):
        with pytest.raises(sdxl.ArgumentError, match=f"{name} is .*, which is no folder; give the folder of the files"):
            sdxl.Pipeline.from_pretrained(tiny_folder, **{name: path})  # type: ignore[arg-type]
        assert main(["generate", "a robot", "--model", str(tiny_folder), flag, str(path), "--output", output]) == 2
        assert f"{name} is {path}, which is no folder" in capsys.readouterr().err
    tokens = ["tokens", "a robot", "--model", str(tiny_folder), "--embedding-dir", str(tmp_path / "none")]
    assert main(tokens) == 2


def test_embeddings_that_a_lora_brings_with_it(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    state = {f"bundle_emb.robot.{key}": value for key, value in vectors(pipe, "cat").items()}
    state |= {"lora_unet_out_2.diff_b": torch.zeros(4), "bundle_emb.robot.clip_g_out": torch.zeros(1, 32)}
    wanted = latents(pipe, "a cat")
    pipe.set_loras([save(state, tmp_path / "lora.safetensors")])
    assert torch.equal(latents(pipe, "a robot"), wanted)
    pipe.set_loras([])
    assert not torch.equal(latents(pipe, "a robot"), wanted)


def test_with_a_refiner_and_with_less_memory(
    tiny_folder: Path, refiner_folder: Path, pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    file = save(vectors(pipe, "cat"), tmp_path / "mecha.safetensors")
    for offload in ("stage", "block"):
        both = sdxl.Pipeline.from_pretrained(
            tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu", offload=offload, embeddings=[file]
        )
        more = {"refine_at": 0.5, "steps": 4}
        assert torch.equal(latents(both, "a mecha", **more), latents(both, "a cat", **more))


BAD: list[tuple[str, dict[str, Tensor], str]] = [
    (
        "SD 1.x",
        {"emb_params": torch.zeros(2, 768)},
        r"is an embedding for Stable Diffusion 1\.x: emb_params .* width 768",
    ),
    ("SD 2.x", {"emb_params": torch.zeros(2, 1024)}, r"for Stable Diffusion 2\.x"),
    ("one encoder", {"cat": torch.zeros(16)}, r"for one text encoder: cat has vectors of width 16"),
    ("no first", {"clip_g": torch.zeros(1, 32)}, r"has no vectors for the text_encoder of width 16"),
    (
        "widths",
        {"clip_l": torch.zeros(1, 8), "clip_g": torch.zeros(1, 32)},
        r"shape \[1, 8\]; expected up to 75 of width 16",
    ),
    ("counts", {"clip_l": torch.zeros(2, 16), "clip_g": torch.zeros(1, 32)}, "different numbers of vectors"),
    ("too many", {"clip_l": torch.zeros(76, 16), "clip_g": torch.zeros(76, 32)}, "expected up to 75"),
    ("none", {"clip_l": torch.zeros(0, 16), "clip_g": torch.zeros(0, 32)}, "expected up to 75"),
    ("NaN", {"clip_l": torch.zeros(1, 16), "clip_g": torch.full((1, 32), float("nan"))}, "has NaN or infinite numbers"),
    ("a LoRA", {f"lora_unet_x.{n}": torch.zeros(1) for n in range(9)}, "is no embedding"),
]


@pytest.mark.parametrize(("state", "message"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_files_that_are_none(state: dict[str, Tensor], message: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    with pytest.raises(sdxl.CheckpointError, match=message):
        tiny_pipe.set_embeddings([save(state, tmp_path / "bad.safetensors")])
    assert not tiny_pipe.embeddings


def test_a_pair_has_one_tensor_in_each_file(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    first, second = spell("two files", vectors(tiny_pipe, "cat"), tmp_path)
    save({"mecha": torch.zeros(1, 16), "another": torch.zeros(1, 16)}, first)
    with pytest.raises(
        sdxl.CheckpointError, match=r"learned_embeds\.safetensors has 2 tensors; a pair of embeddings has"
    ):
        tiny_pipe.set_embeddings({"robot": (first, second)})


def test_wrong_arguments(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    for value, message in (
        (3, "embeddings is 3; expected a list of files"),
        ([3], "the file of an embedding is 3"),
        ([{"files": "x"}], "is no embedding; its values are file, word, hash"),
        ([{"file": "x", "words": "y"}], "is no embedding; its values are file, word, hash"),
        ([{"word": "x"}], "is no embedding; its values are file, word, hash"),
        ({"": tmp_path}, "the word of embedding .* is ''"),
    ):
        with pytest.raises(sdxl.ArgumentError, match=message):
            tiny_pipe.set_embeddings(value)
    with pytest.raises(sdxl.CheckpointError, match=r"the embedding nothing.safetensors does not exist"):
        tiny_pipe.set_embeddings(["nothing.safetensors"])
    file = save({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(1, 32)}, tmp_path / "x.safetensors")
    with pytest.raises(sdxl.ArgumentError, match="two embeddings have the word 'x'"):
        tiny_pipe.set_embeddings([file, file])
    mine = sdxl.Pipeline.from_networks(tiny_pipe.info, tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text)
    with pytest.raises(sdxl.ArgumentError, match="takes no LoRAs and no embeddings; load it with from_pretrained"):
        mine.set_embeddings([file])
    assert not mine.embeddings and not mine.loras


def test_each_prompt_of_a_call_records_its_own_words(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    pipe.set_embeddings({"robot": save(vectors(pipe, "cat"), tmp_path / "x.safetensors")})
    result = pipe(["a robot", "a dog"], steps=1, num_images=2, progress=False)
    assert ["embeddings" in each["model"] for each in result.parameters] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("cat " * 60 + ", red mecha " + "dog " * 20, "cat " * 60 + ", red photo of cat " + "dog " * 20),
        ("cat " * 73 + "mecha dog", "cat " * 73 + "BREAK photo of cat dog"),  # it is not torn
        ("cat " * 72 + "mecha dog", "cat " * 72 + "photo of cat dog"),
        ("(a mecha:1.4) BREAK [mecha] " + LONG, "(a photo of cat:1.4) BREAK [photo of cat] " + LONG),
    ],
)
@pytest.mark.parametrize("emphasis", ["original", "comfyui"])
def test_a_word_where_a_chunk_ends(text: str, same: str, emphasis: str, pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """Moved with what follows the last comma, or to the next chunk as a whole; its weight acts on all its vectors."""
    file = save(vectors(pipe, "photo", "of", "cat"), tmp_path / "mecha.safetensors")
    more = {"prompt_syntax": "a1111", "emphasis": emphasis}
    wanted, bare = latents(pipe, same, **more), latents(pipe, text, **more)
    assert not torch.equal(wanted, bare)
    pipe.set_embeddings([file])
    assert torch.equal(latents(pipe, text, **more), wanted)


def test_a_batch_of_long_prompts_with_a_lora_and_a_word(
    pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path, error: Any
) -> None:
    lora = tmp_path / "lora.safetensors"
    save_layout("kohya sgm", tiny_folder, lora)
    pipe.set_embeddings([save(vectors(pipe, "photo", "of", "cat"), tmp_path / "mecha.safetensors")])
    prompts = [LONG + "a mecha", "a mecha", "a dog BREAK (mecha:1.3)"]
    arguments: dict[str, Any] = {"loras": [(lora, 0.7)], "prompt_syntax": "a1111"}
    batch = latents(pipe, prompts, negative_prompt=["", LONG, "mecha"], **arguments)  # type: ignore[arg-type]
    for n, (prompt, negative) in enumerate(zip(prompts, ("", LONG, "mecha"), strict=True)):
        alone = latents(pipe, prompt, negative_prompt=negative, **(arguments | {"seed": 3 + n}))
        assert error(batch[n : n + 1], alone) < 2e-5


COMFYUI = {
    "a embedding:mecha": "a photo of cat",
    "a embedding:mecha.safetensors": "a photo of cat",
    "a embedding:styles/mecha.pt dog": "a photo of cat dog",
    r"a embedding:styles\mecha, dog": "a photo of cat, dog",
    "a (embedding:mecha:1.3) dog": "a (photo of cat:1.3) dog",
    "embedding:mecha\nembedding:mecha": "photo of cat photo of cat",
}


@pytest.mark.parametrize("text", COMFYUI)
def test_names_of_comfyui(text: str, pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    wanted = latents(pipe, COMFYUI[text], prompt_syntax="comfyui")
    bare = latents(pipe, "a mecha", prompt_syntax="comfyui")
    pipe.set_embeddings([save(vectors(pipe, "photo", "of", "cat"), tmp_path / "mecha.safetensors")])
    assert torch.equal(latents(pipe, text, prompt_syntax="comfyui"), wanted)
    assert torch.equal(latents(pipe, "a mecha", prompt_syntax="comfyui"), bare), "a bare word is none there"
    used = [pipe.plan(sdxl.Request(each, prompt_syntax="comfyui")).embeddings for each in (text, "a mecha")]
    assert [len(each[0]) for each in used] == [1, 0]


def test_unknown_names_of_comfyui_are_left_out(pipe: sdxl.Pipeline) -> None:
    wanted = latents(pipe, "a , cat", prompt_syntax="comfyui")
    with pytest.warns(sdxl.SDXLWarning, match="embedding:none in the prompt is left out: .*, known are none"):
        found = latents(pipe, "a embedding:none, cat", prompt_syntax="comfyui")
    assert torch.equal(found, wanted)


def test_a_word_in_a_part_that_changes_is_recorded(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    pipe.set_embeddings([save(vectors(pipe, "photo", "of", "cat"), tmp_path / "mecha.safetensors")])
    for text, count in (("[dog:mecha:0.5]", 1), ("a AND mecha :0.3", 1), ("(me)(cha)", 1), ("dog", 0)):
        assert len(pipe.plan(sdxl.Request(text, prompt_syntax="a1111")).embeddings[0]) == count, text


def test_tokens_of_words(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    pipe.set_embeddings([save(vectors(pipe, "photo", "of", "cat"), tmp_path / "mecha.safetensors")])
    for each in pipe.tokenize("a (mecha:1.5)", prompt_syntax="a1111"):
        assert each.ids[0][2:5] == [0, 0, 0]
        assert each.weights[0][:6] == [1, 1, 1.5, 1.5, 1.5, 1]
        assert each.tokens[0][1:5] == ["a ", "mecha", "mecha", "mecha"]
