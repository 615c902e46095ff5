"""References: their values, the files that are refused, where image encoders are found, records, flags and jobs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_reference
import torch
from deep import deep_folder, deep_pipe  # noqa: F401  fixtures
from finishing import finish
from PIL import Image
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.adapters import image_encoder
from sdxl.adapters.ip_adapter import places
from sdxl.adapters.kind import AdapterKind, read_kind
from sdxl.adapters.reference import read_references
from sdxl.cli.main import main
from sdxl.errors import HubError
from sdxl.jobs.job import Job, identity, parse_job
from sdxl.weights.diffusers_config import read_unet

WIDTHS = places(read_unet(tiny.UNET))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A plus adapter with its encoder beside it, and an image."""
    tiny.picture(3).save(tmp_path / "image.png")
    tiny.picture(4).save(tmp_path / "other.png")
    return tiny_reference.save(tmp_path / "adapters", "plus", WIDTHS)


def generate(pipe: sdxl.Pipeline, reference: Any, **more: Any) -> torch.Tensor:
    result = pipe("a cat", steps=2, seed=1, reference=reference, output="latent", progress=False, **more)
    assert isinstance(result.images, torch.Tensor)
    return result.images


# ---- values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapter": ""}, "the adapter of a reference is ''"),
        ({"adapter": 3}, "the adapter of a reference is 3"),
        ({"image": None}, "the image of reference a is None; give a path"),
        ({"image": []}, r"the image of reference a is \[\]"),
        ({"image": [()]}, r"the image of reference a is \[\(\)\]"),
        ({"scale": True}, "the scale of reference a is True; expected a number from -10 to 10"),
        ({"scale": float("nan")}, "the scale of reference a is nan"),
        ({"start": 0.5, "end": 0.5}, r"reference a acts from 0\.5 to 0\.5 of the steps"),
        ({"end": 1.1}, r"the end of reference a is 1\.1; expected a number from 0 to 1"),
        ({"only": ()}, r"only of reference a is \(\)"),
        ({"only": {"style": "much"}}, "only of reference a has 'much' for 'style'"),
        ({"only": "style:much"}, "only is 'style:much'"),
        ({"encoder": 3}, "the encoder of reference a is 3"),
        ({"hash": 3}, "the hash of reference a is 3"),
        ({"hash": ""}, "the hash of reference a is ''; expected a text"),
        ({"only": {"style": 10**400}}, "only of reference a has 1000.* for 'style'; expected a scale"),
    ],
)
def test_wrong_values(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sdxl.ArgumentError, match=message):
        sdxl.Reference(**{"adapter": "a", "image": "b.png", **arguments})


def test_values_from_json() -> None:
    references = [
        sdxl.Reference("a", "b.png", only="style+layout", mask="m.png", start=0.1, end=0.9, encoder="e"),
        sdxl.Reference("a", ("b.png", "c.png"), only={"mid": 0.5}),
        sdxl.Reference("a", ["b.png", ("c.png", "d.png")], scale=-0.5, only="mid"),
    ]
    again = read_references(json.loads(json.dumps([each.record() for each in references])))
    assert [*again] == references
    assert references[0].only == ("style", "layout")
    assert sdxl.Request("a", reference=references[0]).reference == (references[0],)
    assert sdxl.Request("a", reference=[]).reference is None
    for wrong in ("text", 3, [3], [{"adapter": "a"}], [{"adapter": "a", "image": "b", "weight": 1}]):
        with pytest.raises(sdxl.ArgumentError):
            sdxl.Request("a", reference=wrong)  # type: ignore[arg-type]


def test_scales_of_blocks() -> None:
    blocks = read_unet(tiny.UNET).block_names()
    only = {"down_blocks.2": 0.2, "down.2.attn.1": 0.5, "mid_block.attentions.0": 0.9}
    scales = dict(zip(blocks, sdxl.Reference("a", "b", only=only).scales(blocks), strict=True))
    assert scales["down.2.attn.0.blocks.1"] == 0.2
    assert scales["down.2.attn.1.blocks.0"] == 0.5, "the smallest part counts"
    assert scales["mid.attn.0.blocks.1"] == 0.9
    assert scales["up.0.attn.1.blocks.0"] == 0
    with pytest.raises(sdxl.ArgumentError, match=r"has 'up\.7', and the UNet has no cross-attention there"):
        sdxl.Reference("a", "b", only="up.7").scales(blocks)


def test_images_that_are_none(adapter: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    for image, message in (
        (tmp_path / "absent.png", r"absent\.png does not exist"),
        (tmp_path / "text.png", "is not an image in a known format"),
        (3, "or its mask is 3; give a path or a PIL image"),
    ):
        with pytest.raises(sdxl.ArgumentError, match=message):
            generate(tiny_pipe, sdxl.Reference(adapter, image))
    with pytest.warns(sdxl.SDXLWarning, match="is 100 x 40, and the image encoder sees its middle square alone"):
        generate(tiny_pipe, sdxl.Reference(adapter, tiny.picture(1, 100, 40)))


# ---- refusals


def shapes(**more: tuple[int, ...]) -> dict[str, torch.Tensor]:
    names = {"ip_adapter.1.to_k_ip.weight": (64, 48), "ip_adapter.1.to_v_ip.weight": (64, 48)}
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in (names | more).items()}


REFUSED = {
    "FaceID Plus, which needs the face recognition": shapes(image_proj__perceiver_resampler__proj_in__weight=(4, 4)),
    "FaceID, which needs the face": shapes(image_proj__proj__0__weight=(4, 4), image_proj__proj__2__weight=(4, 4)),
    "IP-Adapter FaceID": shapes(ip_adapter__0__to_q_lora__down__weight=(4, 4)),
    "full-face": shapes(image_proj__proj__2__weight=(4, 4), image_proj__proj__3__weight=(4,)),
    "an IP-Adapter of Kolors": shapes(image_proj__latents=(1, 16, 2048)),
    "of InstantID": shapes(image_proj__latents=(1, 16, 1280), image_proj__proj_in__weight=(1280, 512)),
    "an IP-Adapter of Stable Diffusion 1.x, with a context of 768": shapes()
    | {"ip_adapter.1.to_k_ip.weight": torch.zeros(320, 768)},
    "is a LoRA and no IP-Adapter": {"lora_unet_mid_block.lora_down.weight": torch.zeros(2, 2)},
    "is a ControlNet and no IP-Adapter": {"controlnet_cond_embedding.conv_in.weight": torch.zeros(2, 2)},
    "is an image encoder and no IP-Adapter; give it as encoder=": {"visual.conv1.weight": torch.zeros(2, 3, 1, 1)},
    "is no IP-Adapter; give ip-adapter_sdxl_vit-h or": {"weight": torch.zeros(2)},
    "IP-Adapter is incomplete, 'image_proj.proj.weight' is missing": shapes(),
    "IP-Adapter is incomplete, or a tensor has a wrong shape": shapes(image_proj__latents=()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(REFUSED[message], path)
    with pytest.raises(sdxl.CheckpointError, match=message.replace(".", r"\.")):
        generate(tiny_pipe, sdxl.Reference(path, tiny.picture(1)))
    assert (read_kind(path) == AdapterKind("reference")) == ("is incomplete" in message)


def test_pickles_and_other_unets(adapter: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(sdxl.CheckpointError, match=r"a\.bin is a pickle.* only \.safetensors files are read"):
        generate(tiny_pipe, sdxl.Reference(tmp_path / "a.bin", tiny.picture(1)))
    for widths, message in (
        (WIDTHS[:-1], "has keys and values for 16 cross-attentions, and the model's UNet has 17"),
        ([*WIDTHS[:-1], 32], "has keys and values of other widths, and the model's UNet"),
    ):
        save_file(tiny_reference.adapter("plus", widths), tmp_path / "other.safetensors")
        with pytest.raises(sdxl.CheckpointError, match=message):
            generate(tiny_pipe, sdxl.Reference(tmp_path / "other.safetensors", tiny.picture(1)))
    state = load_file(adapter)
    save_file(state | {"image_proj.more": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(sdxl.CheckpointError, match=r"do not belong to this SDXL model: image_proj\.more"):
        generate(tiny_pipe, sdxl.Reference(tmp_path / "more.safetensors", tiny.picture(1)))
    with pytest.raises(sdxl.CheckpointError, match="is an IP-Adapter, not an SDXL model"):
        sdxl.Pipeline.from_pretrained(adapter)


def test_weights_that_are_no_numbers(adapter: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    state = load_file(adapter)
    state["ip_adapter.5.to_v_ip.weight"][0, 0] = float("nan")
    save_file(state, adapter)
    with pytest.raises(sdxl.NonFiniteError, match=r"the IP-Adapter .* gave NaN or infinity"):
        generate(tiny_pipe, sdxl.Reference(adapter, tiny.picture(1)))


# ---- image encoders


def test_a_wrong_encoder_is_named(adapter: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    tiny_reference.vision("bigG").save_pretrained(tmp_path / "bigG")
    message = r"is not the image encoder of .*: it gives hidden states of width 80; the adapter needs .* of width 64"
    with pytest.raises(sdxl.CheckpointError, match=message):
        generate(tiny_pipe, sdxl.Reference(adapter, tiny.picture(1), encoder=tmp_path / "bigG"))
    with pytest.raises(sdxl.CheckpointError, match="the image encoder nowhere does not exist; give the path of its"):
        generate(tiny_pipe, sdxl.Reference(adapter, tiny.picture(1), encoder="nowhere"))


def test_where_encoders_are_found(
    adapter: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets").mkdir()
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", control_dir=tmp_path / "nets")
    expected = generate(pipe, sdxl.Reference(adapter, tiny.picture(1)))
    # as in the published repository: the wrong one beside the adapter, the right one in another folder
    published = tmp_path / "repository/sdxl_models"
    tiny_reference.vision("bigG").save_pretrained(published / "image_encoder")
    tiny_reference.vision("ViT-H").save_pretrained(tmp_path / "repository/models/image_encoder")
    moved = adapter.rename(published / "plus.safetensors")
    assert torch.equal(generate(pipe, sdxl.Reference(moved, tiny.picture(1))), expected)
    # in the folder of networks, and both by their names there
    alone = tmp_path / "nets/plus.safetensors"
    moved.rename(alone)
    with pytest.raises(sdxl.CheckpointError, match="needs an image encoder of another family with hidden states of"):
        generate(pipe, sdxl.Reference("plus", tiny.picture(1)))
    state = dict(tiny_reference.vision("ViT-H").state_dict())
    save_file(state, tmp_path / "nets/clip_vision.safetensors")
    assert torch.equal(generate(pipe, sdxl.Reference("plus", tiny.picture(1))), expected)
    named = sdxl.Reference("plus", tiny.picture(1), encoder="clip_vision")
    assert torch.equal(generate(pipe, named), expected)
    # on the hub
    elsewhere = (tmp_path / "nets/clip_vision.safetensors").rename(tmp_path / "hub.safetensors")
    monkeypatch.setitem(image_encoder._PUBLISHED, (64, True), ("ViT-H", "owner/name/file.safetensors"))
    asked = []
    monkeypatch.setattr(image_encoder.hub, "resolve", lambda name: asked.append(name) or elsewhere)
    pipe._additions.references._found.clear()
    assert torch.equal(generate(pipe, sdxl.Reference("plus", tiny.picture(1))), expected)
    assert asked == ["owner/name/file.safetensors"]

    def offline(_: str) -> Path:
        raise HubError("the hub does not answer")

    monkeypatch.setattr(image_encoder.hub, "resolve", offline)
    pipe._additions.references._found.clear()
    with pytest.raises(HubError, match=r"needs ViT-H .*none is beside it.*the hub does not answer; or give it as enc"):
        generate(pipe, sdxl.Reference("plus", tiny.picture(1)))


def test_published_encoders_are_named() -> None:
    from sdxl.models.vision_config import IPAdapterConfig

    plus = IPAdapterConfig(1280, 2048, (640,), 16, 4, 1280, 1280, 5120)
    assert str(image_encoder.wanted(plus)).startswith("CLIP ViT-H/14 with hidden states of width 1280 (on the hub")
    assert "ViT-bigG" in str(image_encoder.wanted(IPAdapterConfig(1280, 2048, (640,))))
    assert "ViT-H" in str(image_encoder.wanted(IPAdapterConfig(1024, 2048, (640,))))


# ---- records, flags, jobs, reports


def test_an_image_is_generated_again_from_its_record(
    adapter: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tiny_reference.save(adapter.parent, "plus", WIDTHS, seed=21)  # which no other test has hashed
    image, other = tmp_path / "image.png", tmp_path / "other.png"
    flags = ["--model", str(tiny_folder), "--steps", "2", "--seed", "1", "--quiet", "--device", "cpu"]
    text = f"{adapter}={image},scale=.8,only=style+mid,end=0.5,image={other},mask={other}"
    assert main(["generate", "a cat", *flags, "--reference", text, "--output", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as found:
        (record,), pixels = json.loads(found.text["sdxl"])["request"]["reference"], found.tobytes()
    assert record["image"] == [[str(image), str(other)]]
    assert (record["scale"], record["only"], record["end"], record["mask"]) == (0.8, ["style", "mid"], 0.5, str(other))
    assert len(record["hash"]) == 64
    assert record["image_hash"].startswith("sha256:")
    again = ["generate", "--from", str(tmp_path / "a.png"), "--quiet", "--output", str(tmp_path / "b.png")]
    assert main(again) == 0
    with Image.open(tmp_path / "b.png") as found:
        assert found.tobytes() == pixels
    assert "warning" not in capsys.readouterr().err
    adapter.rename(tmp_path / "adapters/renamed.safetensors")
    again += ["--control-dir", str(adapter.parent)]
    assert main(again) == 0, "found by its hash"
    tiny.picture(9).save(image)
    with pytest.warns(sdxl.SDXLWarning, match="is not the one that the recorded image was made with"):
        assert main(again) == 0
    save_file(tiny_reference.adapter("plus", WIDTHS, 99), adapter)
    assert main(again) == 1
    assert "is not the file that is asked for" in capsys.readouterr().err


def test_an_encoder_is_recorded_and_verified(
    adapter: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another image encoder is named; the recorded one is found elsewhere by its hash, and old records go on."""
    image, encoder = tmp_path / "a.png", adapter.parent / "image_encoder"
    flags = ["--model", str(tiny_folder), "--steps", "2", "--seed", "1", "--quiet", "--device", "cpu"]
    flags += ["--reference", f"{adapter}={tmp_path / 'image.png'}"]
    assert main(["generate", "a cat", *flags, "--output", str(image)]) == 0
    parameters = sdxl.read_parameters(image)
    (record,) = parameters["request"]["reference"]
    state = load_file(encoder / "model.safetensors")
    assert record["encoder_hash"] == hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    verified = ["generate", "--from", str(image), "--verify", "--quiet"]
    assert main(verified) == 0
    tiny_reference.vision("ViT-H", seed=9).save_pretrained(encoder)
    for command in (verified, [*verified[:3], "--output", str(tmp_path / "b.png")]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert f"{encoder / 'model.safetensors'} is not the image encoder that is asked for" in error
        assert f"expected {record['encoder_hash'][:12]}; give the right one as encoder=" in error
    (tmp_path / "nets").mkdir()
    save_file(state, tmp_path / "nets/h.safetensors", {"format": "pt"})
    assert main([*verified, "--control-dir", str(tmp_path / "nets")]) == 0, "of two that fit, the recorded one"
    shutil.rmtree(encoder)
    assert main(verified) == 0, "found by its hash alone, which was computed once"
    capsys.readouterr()
    # a record of a time before encoders were hashed
    del record["encoder_hash"]
    with Image.open(image) as opened:
        sdxl.save_png(opened.convert("RGB"), image, parameters)
    (tmp_path / "nets").rename(encoder)
    (encoder / "h.safetensors").rename(encoder / "model.safetensors")
    assert main([*verified, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["reasons"]) == ("identical", [])


def test_a_changed_encoder_is_opened_again(adapter: Path, tiny_pipe: sdxl.Pipeline) -> None:
    """While a pipeline is in memory, as an adapter is."""
    reference = sdxl.Reference(adapter, tiny.picture(1))
    first = generate(tiny_pipe, reference)
    tiny_reference.vision("ViT-H", seed=9).save_pretrained(adapter.parent / "image_encoder")
    second = generate(tiny_pipe, reference)
    assert not torch.equal(first, second)
    tiny_reference.vision("ViT-H").save_pretrained(adapter.parent / "image_encoder")
    assert torch.equal(generate(tiny_pipe, reference), first)


def test_an_image_in_memory_is_not_in_the_record(
    adapter: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    again = ["generate", "--from", str(path), "--quiet", "--output", str(tmp_path / "b.png")]
    file = tmp_path / "image.png"
    for reference in (
        sdxl.Reference(adapter, tiny.picture(3)),
        sdxl.Reference(adapter, (file, tiny.picture(3))),
        sdxl.Reference(adapter, file, mask=tiny.mask(1)),
    ):
        result = tiny_pipe("a cat", steps=1, seed=1, reference=reference, progress=False)
        sdxl.save_png(result.images[0], path, result.parameters[0])  # type: ignore[arg-type]
        assert main(again) == 2
        assert "does not contain; give it again with --reference" in capsys.readouterr().err
        assert main([*again, "--reference", f"{adapter}={file}"]) == 0


def test_all_that_a_record_lacks_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image of the miniature with a control and a reference of images in memory, made from a third one."""
    weights, image = Path("weights/adapters"), tiny.picture(3, 128, 128)
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    result = pipe(
        "a red star",
        image=image,
        control=sdxl.Control(weights / "edges.safetensors", image),
        reference=sdxl.Reference(weights / "colours.safetensors", image),
        steps=4,
        progress=False,
    )
    result.save(tmp_path / "a.png")
    assert main(["generate", "--from", str(tmp_path / "a.png"), "--verify"]) == 2
    assert (
        "a.png was made from an image and the image of a control and the image of a reference, which it does not "
        "contain; give them again with --image and --control and --reference" in capsys.readouterr().err
    )
    assert main(["inspect", str(tmp_path / "a.png")]) == 0
    assert re.search(
        r"control +net weights/adapters/edges.safetensors, image not in the file, hash [0-9a-f]{10}, image_hash "
        r"[0-9a-f]{10}, scale 1.0\n",
        capsys.readouterr().out,
    )
    image.save(file := tmp_path / "file.png")
    given = ["--image", str(file), "--reference", f"{weights}/colours.safetensors={file},end=0.5"]
    given += ["--control", f"{weights}/edges.safetensors={file},scale=1.0"]
    assert main(["generate", "--from", str(tmp_path / "a.png"), "--verify", *given]) in (4, 5)
    shown = capsys.readouterr().out
    assert "(because end of reference colours.safetensors is 0.5, and was its default)" in shown


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("a.safetensors", "is not ADAPTER=IMAGE"),
        ("a=b.png,scale=much", "the scale of reference a is 'much'"),
        ("a=b.png,scale=1,scale=2", "gives scale twice"),
        ("a=b.png,end=0", "acts from 0 to 0"),
    ],
)
def test_wrong_flags(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "a cat", "--reference", flag])
    assert message in capsys.readouterr().err


def job(folder: Path, lines: list[dict[str, Any]], control_dir: Path | None = None) -> Job:
    model = identity({"model": "tiny"}, None)
    return parse_job("\n".join(map(json.dumps, lines)), folder, {}, model, control_dir=control_dir)


def test_jobs(adapter: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """Paths are relative to the file of the lines; an adapter is known by its content."""
    reference = {"adapter": f"adapters/{adapter.name}", "image": "image.png", "scale": 0.7}
    each = {**reference, "image": ["image.png", ["image.png", "other.png"]]}
    lines: list[dict[str, Any]] = [
        {"prompt": "a cat", "seed": 1, "steps": 2, "reference": [reference]},
        {"prompt": ["a cat", "a dog"], "seed": [1, 2], "steps": 2, "reference": each},
        {"prompt": "a cat", "seed": 1, "steps": 2},
        {"prompt": "a cat", "reference": {**reference, "adapter": "absent"}},
        {"prompt": ["a cat", "a dog", "a cow"], "reference": each},
    ]
    made = job(tmp_path, lines)
    assert [*made.faults] == [4, 5]
    assert "the IP-Adapter absent does not exist" in str(made.faults[4])
    assert "has 2 entries for 3 images" in str(made.faults[5])
    assert finish(made, tiny_pipe, tmp_path / "out") == 4
    own = sdxl.Reference(adapter, (tmp_path / "image.png", tmp_path / "other.png"), scale=0.7)
    wanted = tiny_pipe("a dog", seed=2, steps=2, reference=own, progress=False).images[0]
    with Image.open(tmp_path / "out/00002-2.png") as image:
        assert image.tobytes() == wanted.tobytes()  # type: ignore[union-attr]
    (tmp_path / "nets").mkdir()
    folder = (tmp_path / "adapters").rename(tmp_path / "nets/adapters")
    lines = [{**line, "reference": _renamed(line.get("reference"), adapter.name)} for line in lines[:3]]
    moved = job(tmp_path, lines, tmp_path / "nets")
    assert not moved.faults
    assert folder.exists()
    with_same_lines = job(tmp_path, lines, tmp_path / "nets")
    assert moved.fingerprint == with_same_lines.fingerprint
    save_file(tiny_reference.adapter("plus", WIDTHS, 99), folder / adapter.name)
    changed = job(tmp_path, lines, tmp_path / "nets")
    assert changed.fingerprint != moved.fingerprint
    tiny_reference.vision("ViT-H", seed=9).save_pretrained(folder / "image_encoder")
    assert job(tmp_path, lines, tmp_path / "nets").fingerprint != changed.fingerprint, "the encoder counts too"
    shutil.rmtree(folder / "image_encoder")
    without = job(tmp_path, lines, tmp_path / "nets")
    assert [*without.faults] == [1, 2]
    assert "needs an image encoder of another family" in str(without.faults[1])


def _renamed(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_renamed(each, name) for each in value]
    return value and {**value, "adapter": name}


def test_jobs_with_the_reference_as_a_flag(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "job.jsonl").write_text('{"prompt": "a cat", "seed": 1}\n{"prompt": "a dog", "seed": 2}\n')
    flags = ["--model", str(tiny_folder), "--steps", "2", "--quiet", "--device", "cpu", "--batch-size", "2"]
    flags += ["--batch", str(tmp_path / "job.jsonl"), "--output-dir", str(tmp_path / "out")]
    reference = f"{adapter.stem}={tmp_path / 'image.png'}"
    flags += ["--reference", reference, "--control-dir", str(adapter.parent)]
    assert main(["generate", *flags]) == 0
    with Image.open(tmp_path / "out/00002.png") as image:
        (record,) = json.loads(image.text["sdxl"])["request"]["reference"]
    assert record["adapter"] == str(adapter)


def test_inspect(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(adapter)]) == 0
    assert "IP-Adapter plus, 5 tokens of width 48, for an image encoder of another family" in capsys.readouterr().out
    assert read_kind(adapter) == AdapterKind("reference")
    folder = adapter.parent / "image_encoder"
    for path in (folder, folder / "model.safetensors"):
        assert read_kind(path) is None
        assert main(["inspect", str(path)]) == 0
        assert "image encoder, CLIP of 64 channels and 3 layers, transformers' names" in capsys.readouterr().out
    save_file(tiny_reference.open_clip(load_file(folder / "model.safetensors")), tmp_path / "visual.safetensors")
    assert main(["inspect", str(tmp_path / "visual.safetensors")]) == 0
    assert "OpenCLIP's names" in capsys.readouterr().out
    state = load_file(adapter)
    del state["image_proj.proj_out.bias"]
    save_file(state | {"image_proj.more": torch.zeros(2)}, tmp_path / "b.safetensors")
    report = sdxl.inspect(tmp_path / "b.safetensors")
    assert (report.missing, report.unexpected) == (["image_proj.proj_out.bias"], ["image_proj.more"])  # type: ignore[union-attr]
    save_file(REFUSED["full-face"], tmp_path / "face.safetensors")
    assert sdxl.inspect(tmp_path / "face.safetensors").kind.startswith("IP-Adapter full-face")
