"""Control as a value of a request: with every way to keep a model, its windows, images, records and jobs."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_folder  # noqa: F401  fixtures
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers")
import control_nets
import tiny
import tiny_reference

import sdxl
from sdxl import Control
from sdxl.adapters.ip_adapter import places
from sdxl.errors import CheckpointError
from sdxl.models.controlnet import ControlNet, FuserBlock, HintEncoder
from sdxl.models.ip_adapter import KeyValue, Resampler
from sdxl.models.lllite import LLLite, Place
from sdxl.models.t2i_adapter import T2IAdapter
from sdxl.models.vision import VisionEncoder
from sdxl.runtime.cuda_graph import Graph, Graphs
from sdxl.runtime.int8 import can_quantize
from sdxl.weights import open_checkpoint
from sdxl.weights.diffusers_config import read_unet

QUICK: dict[str, Any] = {"steps": 4, "seed": 5, "progress": False, "output": "latent"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of networks: files, a folder, and an image."""
    root = tmp_path_factory.mktemp("nets")
    control_nets.save(control_nets.controlnet().state_dict(), root / "canny.safetensors")
    control_nets.save(control_nets.union().state_dict(), root / "union.safetensors")
    control_nets.save(control_nets.tencent(control_nets.t2i_adapter()), root / "t2i.safetensors")
    control_nets.save(control_nets.lllite(), root / "lllite.safetensors")
    control_nets.save_folder(control_nets.controlnet(seed=21), root / "depth")
    tiny_reference.vision("ViT-H").save_pretrained(root / "encoder")
    (root / "empty").mkdir()
    (root / "empty/config.json").write_text('{"_class_name": "ControlNetModel"}')
    tiny.picture(3).save(root / "image.png")
    tiny.picture(5).save(root / "other.png")
    return root


def latents(pipe: sdxl.Pipeline, control: Any, **arguments: Any) -> Tensor:
    images = pipe("a red cat", control=control, **(QUICK | arguments)).images
    assert isinstance(images, Tensor)
    return images


def load(model: Path, **options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(model, **{"dtype": "float32", "device": "cpu", **options})


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path, folder: Path) -> sdxl.Pipeline:
    return load(tiny_folder, control_dir=folder)


def test_no_image_with_a_network_whose_file_is_written_to(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    """As with the files of the model. The next call opens the new file."""
    file = tmp_path / "net.safetensors"
    shutil.copy(folder / "canny.safetensors", file)
    pipe, given = load(tiny_folder, offload="block"), Control(file, folder / "image.png")
    first = latents(pipe, given)

    def write(step: object) -> None:
        file.write_bytes(file.read_bytes()[:-4000] + bytes(4000))

    with pytest.raises(CheckpointError, match=r"net\.safetensors has changed since it was opened"):
        latents(pipe, given, callback=write)
    second = latents(pipe, given)
    assert not torch.equal(first, second)
    assert torch.equal(second, latents(load(tiny_folder, offload="block"), given))


def test_names_paths_and_folders_are_the_same(pipe: sdxl.Pipeline, folder: Path) -> None:
    image = folder / "image.png"
    named = latents(pipe, Control("canny", image))
    assert torch.equal(named, latents(pipe, [Control(folder / "canny.safetensors", Image.open(image))]))
    assert torch.equal(named, latents(pipe, {"net": "canny.safetensors", "image": str(image)}))
    assert torch.equal(latents(pipe, Control("depth", image)), latents(pipe, Control(folder / "depth", image)))
    with pytest.raises(sdxl.CheckpointError, match="the ControlNet cany does not exist; perhaps canny is meant"):
        latents(pipe, Control("cany", image))


def test_off_is_bitwise_without_control_and_calls_nothing(pipe: sdxl.Pipeline, folder: Path) -> None:
    plain, image = latents(pipe, None), folder / "image.png"
    with pytest.warns(sdxl.SDXLWarning, match="control canny has no effect: its scale is 0"):
        assert torch.equal(latents(pipe, Control("canny", image, 0)), plain)
    with pytest.warns(sdxl.SDXLWarning, match="has no effect: no step lies within its start and end"):
        assert torch.equal(latents(pipe, Control("t2i", image, start=0.3, end=0.4)), plain)
    with pytest.warns(sdxl.SDXLWarning, match="control lllite has no effect: its scale is 0"):
        assert torch.equal(latents(pipe, Control("lllite", image, 0)), plain)
    assert torch.equal(latents(pipe, ()), plain)
    # a window: the steps before it are those without control
    steps = [
        step.latents for step in pipe.steps("a red cat", control=Control("canny", image, start=0.5), steps=4, seed=5)
    ]
    bare = [step.latents for step in pipe.steps("a red cat", steps=4, seed=5)]
    assert [torch.equal(a, b) for a, b in zip(steps, bare, strict=True)] == [True, True, False, False]


MODES: list[Any] = [
    {"offload": "stage"},
    *(
        pytest.param(mode, marks=pytest.mark.slow)
        for mode in (
            {"offload": "block", "dtype": "bfloat16"},
            {"offload": "block"},
            {"offload": "auto"},
            {"dtype": "bfloat16"},
            {"dtype": "float16"},
            {"int8": True},
            {"fp8": True},
            {"trainable": True},
        )
    ),
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(map(str, mode.values())))
def test_every_way_to_keep_the_model(
    mode: dict[str, Any], pipe: sdxl.Pipeline, tiny_folder: Path, folder: Path, error: Any
) -> None:
    """The same image in float32, in half precision about the same. Between calls nothing is kept that offload says is
    not.
    """
    if mode.get("int8") and not can_quantize(CPU):
        pytest.skip("this processor has no 8-bit layers")
    low, _ = control_nets.control_lora(open_checkpoint(tiny_folder).components["unet"])
    control_nets.save(low, folder / "low.safetensors")
    other, plain = load(tiny_folder, control_dir=folder, **mode), latents(pipe, None)
    bound = 0.15 if "dtype" in mode or "int8" in mode or "fp8" in mode else 1e-5
    for net in ("canny", "union", "t2i", "low", "lllite"):
        control = Control(net, folder / "image.png", 0.7, type=3 if net == "union" else None)
        found = latents(other, control)
        assert error(found, latents(pipe, control)) < bound
        assert error(found, plain) > 0.15
        assert torch.equal(found, latents(other, control))
    model = other.residency.model
    assert [net.loaded is not None for net in model.extras.all()] == [model.keeps] * 5


def test_nets_move_with_the_model(tiny_folder: Path, folder: Path) -> None:
    """Those of earlier calls too, which lie in another dtype."""
    moved, control = load(tiny_folder, control_dir=folder), Control("canny", folder / "image.png")
    latents(moved, control)
    moved.to(torch.bfloat16)
    fresh = load(tiny_folder, control_dir=folder, dtype="bfloat16")
    assert torch.equal(latents(moved, control), latents(fresh, control))


def test_the_nets_of_other_calls_make_room(pipe: sdxl.Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents(pipe, Control("canny", folder / "image.png"))
    latents(pipe, Control("depth", folder / "image.png"))
    extras = pipe.residency.model.extras
    assert sum(net.loaded is not None for net in extras.all()) >= 2
    checks = []

    def once(self: Any, plan: Any) -> None:
        checks.append(plan)
        if len(checks) == 1:
            raise sdxl.OutOfMemoryError("too little; try less")

    monkeypatch.setattr(type(pipe.residency), "_check", once)
    latents(pipe, Control("depth", folder / "image.png"))
    assert [net.loaded is not None for net in extras.all()].count(True) == 1
    # where memory runs out at work, again without them and with as much of the model
    latents(pipe, Control("canny", folder / "image.png"))
    tries = []

    def work(model: Any) -> int:
        tries.append((model.offload, [net.loaded is not None for net in extras.all()].count(True)))
        if len(tries) == 1:
            raise MemoryError
        return 5

    assert pipe.residency.retry(work) == 5
    assert tries == [("none", 2), ("none", 1)]
    with pytest.raises(sdxl.OutOfMemoryError, match="memory ran out with offload none"):
        pipe.residency.retry(lambda _: torch.zeros(2**60))
    plan = pipe.plan(sdxl.Request("a", control=[Control("depth", folder / "image.png")] * 2))
    parameters = sum(value.numel() for value in control_nets.controlnet().parameters())
    assert pipe.residency.model.missing_bytes(plan.extras) == (4 * parameters, 0), "one network, whose weights count"


def test_a_net_does_not_know_loras_but_the_image_does(
    pipe: sdxl.Pipeline, folder: Path, tiny_folder: Path, error: Any
) -> None:
    control = Control("canny", folder / "image.png")
    before = latents(pipe, control)
    loaded = [net.loaded for net in pipe.residency.model.extras.all()]
    pipe.change_weights({"unet.conv_out.weight": lambda w: 2 * w})
    assert error(latents(pipe, control), before) > 1e-2
    assert [net.loaded for net in pipe.residency.model.extras.all()] == loaded, "it stays in memory"
    pipe.change_weights({})
    assert torch.equal(latents(pipe, control), before)


def test_the_refiner_is_not_controlled(tiny_folder: Path, refiner_folder: Path, folder: Path) -> None:
    """Control ends at the hand-off; it counts the steps of both."""
    both = load(tiny_folder, refiner=refiner_folder, control_dir=folder)
    arguments: dict[str, Any] = {"steps": 4, "seed": 5, "refine_at": 0.5}
    control = Control("canny", folder / "image.png")
    steps = list(both.steps("a red cat", control=control, **arguments))
    plan = both.plan(sdxl.Request("a", control=control, **arguments))
    assert 0 < plan.handoff < 4
    base = load(tiny_folder, control_dir=folder)
    alone = list(base.steps("a red cat", control=control, steps=4, seed=5))
    for n in range(plan.handoff):
        assert torch.equal(steps[n].latents, alone[n].latents)
    with pytest.raises(sdxl.CheckpointError, match=r"has features of|has a context of width"):
        load(refiner_folder, control_dir=folder)("a", image=tiny.picture(1), control=control)


def test_mask_padding_cuts_the_control_image(pipe: sdxl.Pipeline, folder: Path) -> None:
    """The window of the control image is that of the source; as if it had been cut out by hand."""
    source, mask, edges = tiny.picture(1, 128, 128), Image.new("L", (128, 128)), tiny.picture(2, 128, 128)
    mask.paste(255, (40, 48, 64, 72))
    arguments: dict[str, Any] = {"image": source, "mask": mask, "mask_padding": 8, "width": 64, "height": 64}
    plan = pipe.plan(sdxl.Request("a", control=Control("canny", edges), **arguments))
    cut = edges.crop(plan.canvases[0].box).resize((64, 64), Image.Resampling.LANCZOS)
    assert plan.controls[0].images[0].tobytes() == cut.tobytes()


def test_images_are_fitted_and_prepared(pipe: sdxl.Pipeline, folder: Path) -> None:
    from sdxl.images.preprocess import PREPROCESSORS

    wide = tiny.picture(1, 96, 64)
    with pytest.warns(sdxl.SDXLWarning, match="the image of control canny is 96 x 64, of another shape than 64 x 64"):
        plan = pipe.plan(sdxl.Request("a", control=Control("canny", wide, preprocess="canny")))
    wanted = PREPROCESSORS["canny"](wide.crop((16, 0, 80, 64)))
    assert plan.controls[0].images[0].tobytes() == wanted.tobytes()
    white = control_nets.plain("white")
    with pytest.warns(sdxl.SDXLWarning, match="is mostly white; canny expects white lines on black"):
        pipe.plan(sdxl.Request("a", control=Control("union", white, type="canny")))
    with pytest.warns(sdxl.SDXLWarning, match="is mostly white; canny expects white lines on black"):
        pipe.plan(sdxl.Request("a", control=Control("canny", white)))  # as the name of the network says
    pipe.plan(sdxl.Request("a", control=Control("depth", white)))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    request = sdxl.Request(
        "a", image=tiny.picture(1), mask=mask, control=Control("union", tiny.picture(1), type=5, preprocess="repaint")
    )
    repainted = pipe.plan(request).controls[0].images[0]
    assert repainted.crop((0, 0, 32, 64)).getbbox() is None
    assert repainted.crop((32, 0, 64, 64)).tobytes() == tiny.picture(1).crop((32, 0, 64, 64)).tobytes()


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (Control("union", "image.png"), "is a union of 6 types; give the type of its image: openpose, depth, hed"),
        (Control("union", "image.png", type="tile"), "is tile, number 6, and the union has 6 types"),
        (Control("union", "image.png", type=9), "is 9, number 9, and the union has 6 types"),
        (Control("canny", "image.png", type="canny"), "is a ControlNet, which has no types; leave type canny out"),
        (Control("t2i", "image.png", guess=True), "is a T2I-Adapter, which has no guess mode"),
        (
            Control("lllite", "image.png", guess=True),
            "is a ControlNet-LLLite, which has no guess mode; leave guess out",
        ),
        (Control("lllite", "image.png", type=3), "is a ControlNet-LLLite, which has no types; leave type 3 out"),
        (Control("canny", ["image.png"] * 3), "has 3 entries for 1 images; give one for each"),
        (Control("canny", 5), "the image of control canny is 5; give a path or a PIL image"),
        (Control("canny", "absent.png"), "absent.png does not exist"),
        (Control("canny", "image.png", preprocess="depth"), "depth"),
        (Control("union", "image.png", type=3, preprocess="repaint"), "which needs a mask"),
        (Control("canny", "image.png", hash="00"), "is not the network that is asked for"),
        (Control("encoder", "image.png"), "encoder is an image encoder; give it as encoder= of a reference"),
        (Control("empty", "image.png"), r"empty/diffusion_pytorch_model\.safetensors is missing; download it"),
    ],
)
def test_what_cannot_be(
    control: Control, message: str, pipe: sdxl.Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(sdxl.SDXLError, match=message):
        pipe("a", control=control, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": ""}, "the net of a control is ''"),
        ({"image": None}, "the image of control a is None"),
        ({"image": [[]]}, r"the image of control a is \[\[\]\]"),
        ({"scale": -1}, "the scale of control a is -1; expected a number from 0 to 100"),
        ({"scale": float("nan")}, "the scale of control a is nan"),
        ({"scale": 10**400}, "the scale of control a is 1000.*; expected a number from 0 to 100"),
        ({"hash": " "}, "the hash of control a is ' '; expected a text"),
        ({"start": 0.5, "end": 0.5}, "acts from 0.5 to 0.5 of the steps"),
        ({"end": 1.5}, "the end of control a is 1.5; expected a number from 0 to 1"),
        ({"type": "cany"}, "the type of control a is 'cany'; expected a number, or openpose"),
        ({"type": ["canny"]}, r"the type of control a is \['canny'\]; expected a number, or openpose"),
        ({"guess": "maybe"}, "the guess of control a is 'maybe'"),
        ({"preprocess": 3}, "the preprocess of control a is 3"),
    ],
)
def test_wrong_values(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sdxl.ArgumentError, match=message):
        Control(**({"net": "a", "image": "b"} | arguments))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("canny", r"control is 'canny'; expected a list such as \[sdxl.Control\(net, image\)\]"),
        (3, "control is 3; expected a list"),
        ([3], r"3 is no control; expected sdxl.Control\(net, image\) or an object such as {'net': ..., 'image': ...}"),
        ([{"net": "a"}], "the control {'net': 'a'} names no image; give {'net': ..., 'image': ...}"),
        ([{"net": "a", "image": "b", "weight": 1}], "a control has no 'weight'; its values are net, image, scale"),
    ],
)
def test_no_controls(value: Any, message: str) -> None:
    with pytest.raises(sdxl.ArgumentError, match=message):
        sdxl.Request("a", control=value)


def test_an_idle_control_is_reported(pipe: sdxl.Pipeline, folder: Path) -> None:
    with pytest.warns(sdxl.SDXLWarning, match="control has no effect: strength is 0"):
        pipe("a", image=tiny.picture(1), strength=0, control=Control("canny", folder / "image.png"), **QUICK)


# ---- records, --from, jobs, command line -----------------------------------------------------------------------------


def test_a_record_has_the_hashes_and_makes_the_image_again(pipe: sdxl.Pipeline, folder: Path, tmp_path: Path) -> None:
    images = [folder / "image.png", tiny.picture(5)]
    control = Control("canny", images, 0.8, end=0.75, guess=True)
    result = pipe("a red cat", control=control, num_images=2, **(QUICK | {"output": "pil"}))
    records = [each["request"]["control"][0] for each in result.parameters]
    assert records[0]["image"] == str(folder / "image.png")
    assert records[1]["image"] is None
    assert {len(each["hash"]) for each in records} == {64}
    assert records[0]["image_hash"] != records[1]["image_hash"]
    assert {name: records[0][name] for name in ("net", "scale", "end", "guess")} == {
        "net": "canny",
        "scale": 0.8,
        "end": 0.75,
        "guess": True,
    }
    again = json.loads(json.dumps(result.parameters[0]["request"]))
    known = {each: again[each] for each in ("prompt", "control", "seed", "steps")}
    first = pipe(**known, progress=False)
    assert first.images[0].tobytes() == result.images[0].tobytes()
    with pytest.raises(sdxl.ArgumentError, match=r"the image of control canny is None; .*Try --control NET=IMAGE"):
        sdxl.Request("a", control=result.parameters[1]["request"]["control"])
    changed = records[0] | {"image": str(folder / "other.png")}
    with pytest.warns(sdxl.SDXLWarning, match="is not the one that the recorded image was made with"):
        pipe.plan(sdxl.Request("a", control=[changed]))


def test_the_command_line_and_from(
    tiny_folder: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxl.cli.main import main

    monkeypatch.setenv("SDXL_MODEL", str(tiny_folder))
    base = ["generate", "--dtype", "float32", "--device", "cpu", "--quiet", "--control-dir", str(folder)]
    flag = f"union={folder / 'image.png'},scale=.8,type=canny,end=.6,preprocess=canny"
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = ["--control", flag, "--control", f"t2i={folder / 'other.png'},scale=.5"]
        assert main([*base, "a red cat", "--steps", "3", "--seed", "1", *more, "--output", str(first)]) == 0
        assert main([*base, "--from", str(first), "--output", str(second)]) == 0
    assert Image.open(first).tobytes() == Image.open(second).tobytes()
    recorded = sdxl.read_parameters(first)["request"]["control"]
    assert recorded == sdxl.read_parameters(second)["request"]["control"]
    assert [each["net"] for each in recorded] == ["union", "t2i"]
    assert recorded[0]["type"] == "canny"
    for wrong, message in (
        ("canny", "is not NET=IMAGE"),
        ("canny=a.png,scale=x", "the scale of control canny is 'x'"),
        ("canny=a.png,scale=1,scale=2", "gives scale twice"),
        ("canny=a.png,strength=1,scale=2", "gives strength; expected image, scale, start, end, type"),
        ("canny=a.png, strength=1, scale=2", "gives strength; expected image, scale, start, end, type"),
        ("canny=a.png, scale=x", "the scale of control canny is 'x'"),
    ):
        with pytest.raises(SystemExit):
            main([*base, "a", "--control", wrong])
        assert message in capsys.readouterr().err


def test_jobs(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    """Paths are relative to the job's file; the hash of a net belongs to the identity of its images."""
    from sdxl.jobs.job import identity, parse_job

    lines = [
        {"prompt": ["a", "b"], "control": [{"net": "canny", "image": ["image.png", "other.png"], "scale": 0.5}]},
        {"prompt": "c", "control": {"net": "canny.safetensors", "image": "image.png", "scale": 0.5}},
        {"prompt": "d", "control": {"net": "absent", "image": "image.png"}},
    ]
    job = parse_job("\n".join(map(json.dumps, lines)), folder, {}, identity({"model": "x"}, 1), control_dir=folder)
    assert list(job.faults) == [3]
    assert "the ControlNet absent does not exist" in str(job.faults[3])
    images = [item.arguments["control"][0]["image"] for item in job.items]
    assert images == [str(folder / "image.png"), str(folder / "other.png"), str(folder / "image.png")]
    assert [len(batch.items) for batch in job.batches(4, 1)] == [2, 1], "the first and the third share all"
    assert len({item.arguments["control"][0]["hash"] for item in job.items}) == 1
    sdxl.Request(**job.items[0].arguments)


def test_networks_in_memory_are_steered_too(pipe: sdxl.Pipeline, tiny_folder: Path, folder: Path) -> None:
    control = Control(folder / "canny.safetensors", folder / "image.png")
    source = load(tiny_folder, trainable=True)
    made = sdxl.Pipeline.from_networks(source.info, source.unet, source.vae, source.text)
    assert torch.equal(latents(made, control), latents(source, control))
    low, _ = control_nets.control_lora(open_checkpoint(tiny_folder).components["unet"])
    path = control_nets.save(low, folder / "low.safetensors")
    with pytest.raises(sdxl.CheckpointError, match="and this model has none; load it from files"):
        latents(made, Control(path, folder / "image.png"))


@pytest.mark.parametrize("net", ["canny", "lllite"])
def test_hires_fix_fits_the_image_to_both_passes(net: str, tiny_folder: Path, folder: Path) -> None:
    """With a reference beside it: both passes are those that are done by hand, each with a window of its own."""
    adapter = tiny_reference.save(folder / "plus", "plus", places(read_unet(tiny.UNET)), 11)
    pipe = load(tiny_folder, control_dir=folder)
    control = Control(net, tiny.picture(3, 160, 160), end=0.5)
    reference = sdxl.Reference(adapter, tiny.picture(5), scale=0.7, start=0.5)
    both: dict[str, Any] = {"control": control, "reference": reference}
    found = latents(pipe, hires=sdxl.Hires(2, strength=0.75), **both)
    own = {"seed": None, "generator": [torch.Generator().manual_seed(5)], **both}
    first = latents(pipe, **own)
    image = torch.nn.functional.interpolate(first, (16, 16), mode="bilinear")
    assert torch.equal(found, latents(pipe, image=image, strength=0.75, **own))
    assert not torch.equal(found, latents(pipe, None, hires=sdxl.Hires(2, strength=0.75)))


@pytest.mark.parametrize("hires", [None, sdxl.Hires(1.5, strength=0.5)])
def test_sizes_that_a_lllite_does_not_fit(hires: Any, pipe: sdxl.Pipeline, folder: Path) -> None:
    """Its tokens are squares of 32 pixels, of which sides are no multiples in the first pass or in the second."""
    control, height = Control("lllite", control_nets.plain(size=(96, 96))), 72 if hires is None else 96
    size = f"96 x {height}" if hires is None else "144 x 144"
    better = "96 x 64" if hires is None else "128 x 128"
    message = f"control lllite is a ControlNet-LLLite, and the size is {size}; expected multiples of 32. Try {better}"
    with pytest.raises(sdxl.ArgumentError, match=message):
        latents(pipe, control, width=96, height=height, hires=hires)


def test_what_acts_in_one_pass_of_hires_has_an_effect(tiny_folder: Path, folder: Path) -> None:
    """Four steps and one: a window of half of them has no step of the second pass. Warnings are errors in tests."""
    adapter = tiny_reference.save(folder / "half", "plus", places(read_unet(tiny.UNET)), 11)
    pipe, image = load(tiny_folder, control_dir=folder), folder / "image.png"
    more: dict[str, Any] = {"hires": sdxl.Hires(2, strength=0.25)}
    plain = latents(pipe, None, **more)
    for reference in (None, sdxl.Reference(adapter, image, end=0.5)):
        assert not torch.equal(latents(pipe, Control("canny", image, end=0.5), reference=reference, **more), plain)
    with pytest.warns(sdxl.SDXLWarning, match="control canny has no effect: its scale is 0") as caught:
        assert torch.equal(latents(pipe, Control("canny", image, 0), **more), plain)
    assert len(caught) == 1


# ---- what is computed once -------------------------------------------------------------------------------------------


class Calls(dict[str, int]):
    """How often each method was called."""

    def __init__(self, patch: pytest.MonkeyPatch, **methods: tuple[type, str]) -> None:
        super().__init__(dict.fromkeys(methods, 0))
        for name, (owner, method) in methods.items():
            patch.setattr(owner, method, self._counted(name, getattr(owner, method)))

    def _counted(self, name: str, method: Any) -> Any:
        def counted(*arguments: Any, **more: Any) -> Any:
            self[name] += 1
            return method(*arguments, **more)

        return counted

    def since(self) -> dict[str, int]:
        """The counts, which begin again."""
        found = dict(self)
        self.update(dict.fromkeys(self, 0))
        return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(
        monkeypatch,
        net=(ControlNet, "predict"),
        hint=(HintEncoder, "forward"),
        fuser=(FuserBlock, "forward"),
        t2i=(T2IAdapter, "forward"),
        lllite=(LLLite, "forward"),
        place=(Place, "forward"),
        encoder=(VisionEncoder, "forward"),
        tokens=(Resampler, "forward"),
        keys=(KeyValue, "forward"),
    )


def test_what_follows_from_an_image_is_computed_once(tiny_folder: Path, folder: Path, calls: Calls) -> None:
    """Not in each step, nor for each image of a batch, nor by both halves of the guidance, nor in both passes."""
    adapter = tiny_reference.save(folder / "once", "plus", places(read_unet(tiny.UNET)), 11)
    pipe, image, none = load(tiny_folder, control_dir=folder), folder / "image.png", dict.fromkeys(calls, 0)
    both = [Control("union", image, type=3), Control("union", folder / "other.png", 0.5, type=1)]
    latents(pipe, both, num_images=2)
    assert calls.since() == none | {"net": 4, "hint": 2, "fuser": 2}, "two types in one call of each step"
    latents(pipe, Control("canny", image, end=0.5), num_images=2)
    assert calls.since() == none | {"net": 2, "hint": 1}, "in its window alone"
    latents(pipe, Control("t2i", image, 0.5), num_images=2)
    assert calls.since() == none | {"t2i": 1}
    latents(pipe, Control("lllite", image, 0.5, end=0.5), num_images=2)
    assert calls.since() == none | {"lllite": 1, "place": 2 * 32}, "for both halves at once, in its window alone"
    latents(pipe, Control("lllite", image, 0.5), hires=sdxl.Hires(1.5, strength=0.5))
    assert calls.since() == none | {"lllite": 2, "place": 6 * 32}, "for each size"
    latents(pipe, Control("canny", image), hires=sdxl.Hires(2, strength=0.5))
    assert calls.since() == none | {"net": 4 + 2, "hint": 2}, "for each size"
    reference, count = sdxl.Reference(adapter, folder / "image.png", start=0.25), len(places(read_unet(tiny.UNET)))
    once = none | {"encoder": 2, "tokens": 2, "keys": 2 * count}  # of the image, and of none for the negative half
    found = latents(pipe, None, num_images=2, reference=reference, hires=sdxl.Hires(2, strength=0.75))
    assert calls.since() == once
    again = latents(pipe, None, num_images=2, reference=reference, hires=sdxl.Hires(2, strength=0.75))
    assert calls.since() == none, "the next call has the same image"
    assert torch.equal(again, found)
    latents(pipe, None, reference=sdxl.Reference(adapter, folder / "other.png"))
    assert calls.since() == none | {"encoder": 1, "tokens": 1, "keys": count}, "that of none is known"


def test_images_are_hashed_once(pipe: sdxl.Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdxl.pipeline.control_images
    import sdxl.pipeline.reference_images

    adapter = tiny_reference.save(folder / "once", "plus", places(read_unet(tiny.UNET)), 11)
    rooms: Any = (sdxl.pipeline.control_images, sdxl.pipeline.reference_images)
    hashed = Calls(monkeypatch, control=(rooms[0], "fingerprint"), reference=(rooms[1], "fingerprint"))
    reference = sdxl.Reference(adapter, (tiny.picture(1), tiny.picture(2)), mask=tiny.mask(1))
    latents(pipe, Control("canny", folder / "image.png"), num_images=3, reference=reference)
    assert hashed == {"control": 1, "reference": 3}


# ---- batches, windows, graphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["union", "t2i", "lllite"])
def test_rows_see_their_own_images(net: str, pipe: sdxl.Pipeline, folder: Path, error: Any) -> None:
    """Two prompts with two images each: a list has an entry for each prompt, or for each image."""
    images, prompts = [tiny.picture(n) for n in (3, 4, 5, 6)], ["a red cat", "a dog"]
    type = 3 if net == "union" else None

    def run(control: Any, **more: Any) -> Tensor:
        found = pipe(control=control, **(QUICK | more)).images
        assert isinstance(found, Tensor)
        return found

    for own in (images, images[:2]):
        together = run(Control(net, own, 0.7, type=type), prompt=prompts, num_images=2, seed=[1, 2, 3, 4])
        for n in range(4):
            image = own[n * len(own) // 4]
            alone = run(Control(net, image, 0.7, type=type), prompt=prompts[n // 2], seed=n + 1)
            assert error(together[n : n + 1], alone) < 1e-5


def test_a_union_sees_the_types_whose_windows_are_open(pipe: sdxl.Pipeline, folder: Path, calls: Calls) -> None:
    first, second = Control("union", folder / "image.png", type=3), Control("union", folder / "other.png", type=1)

    def run(*controls: Control) -> list[Tensor]:
        return [step.latents for step in pipe.steps("a red cat", control=controls, steps=4, seed=5)]

    both = run(first, replace(second, end=0.5))
    assert calls.since()["net"] == 4
    assert [torch.equal(a, b) for a, b in zip(both, run(first, second), strict=True)] == [True, True, False, False]
    late, alone = run(replace(first, start=0.5), replace(second, start=0.75)), run(replace(first, start=0.5))
    assert [torch.equal(a, b) for a, b in zip(late, alone, strict=True)] == [True, True, True, False]


def test_a_window_changes_which_graph_is_replayed(
    pipe: sdxl.Pipeline, folder: Path, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorded graph holds its ControlNets; another image needs no other one."""
    monkeypatch.setattr(Graph, "run", lambda _, graphs, conditioned, x, t: conditioned(x, t))
    own = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    graphs = Graphs()
    own.residency.model = replace(own.residency.model, graphs=graphs)
    control = Control(folder / "canny.safetensors", folder / "image.png", 0.5, end=0.5)
    assert error(latents(own, control), latents(pipe, control)) < 1e-5
    assert len(graphs) == 2, "with the control, and without"
    latents(own, replace(control, image=folder / "other.png", end=0.75))
    assert len(graphs) == 2
    latents(own, [control, Control(folder / "t2i.safetensors", folder / "image.png", end=0.25)])
    assert len(graphs) == 3, "with both, with one, and without"
    changes = Control(folder / "lllite.safetensors", folder / "image.png", 0.5, end=0.5)
    assert error(latents(own, changes), latents(pipe, changes)) < 1e-5
    assert len(graphs) == 4, "with its changes, and without"
    latents(own, replace(changes, image=folder / "other.png", scale=0.7))
    assert len(graphs) == 4
