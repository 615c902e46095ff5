"""Every argument, method and attribute of diffusers' SDXL pipelines has our name, an alias or a sentence."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.errors import ArgumentError, SDXLWarning, UnsupportedError
from sdxl.pipeline.aliases import advice, guess
from sdxl.pipeline.diffusers_names import CALL, LOAD, MEMBERS

QUICK: dict[str, Any] = {"steps": 2, "seed": 1, "progress": False, "output": "latent"}
REQUEST = {each.name for each in fields(sdxl.Request)}
SENTENCE = re.compile(r"^\S.*[^.;]$")  # it goes on behind "x is not an argument; "


def theirs() -> list[Any]:
    diffusers = pytest.importorskip("diffusers")
    kinds = ("", "Img2Img", "Inpaint", "ControlNetPAGImg2Img", "ControlNetUnionInpaint", "Adapter", "InstructPix2Pix")
    names = [f"StableDiffusionXL{kind}Pipeline" for kind in kinds]  # between them they have the arguments of all
    return [getattr(diffusers, name) for name in names]


# ---- every name ------------------------------------------------------------------------------------------------------


def test_every_argument_of_a_call_is_ours_an_alias_or_has_a_sentence() -> None:
    ours = set(inspect.signature(sdxl.Pipeline.__call__).parameters)
    for each in theirs():
        for name in inspect.signature(each.__call__).parameters:
            if name not in ("self", "kwargs"):
                assert (name in ours) != (name in CALL), name


def test_every_argument_of_from_pretrained_is_ours_an_alias_or_has_a_sentence() -> None:
    ours = set(inspect.signature(sdxl.Pipeline.from_pretrained).parameters)
    diffusers = pytest.importorskip("diffusers")
    source = inspect.getsource(diffusers.DiffusionPipeline.from_pretrained)
    names = {*re.findall(r"kwargs\.pop\(\"(\w+)\"", source), "pretrained_model_name_or_path"}
    assert len(names) > 20
    names |= {name for each in theirs() for name in inspect.signature(each.__init__).parameters} - {"self"}
    for name in names:
        assert (name in ours) != (name in LOAD), name


def test_every_method_and_attribute_is_ours_or_has_a_sentence(reference_pipe: Any) -> None:
    public = {name for each in theirs() for name in dir(each) if not name.startswith("_")}
    public |= {name for name in vars(reference_pipe) if not name.startswith("_")}
    assert len(public) > 80
    for name in public:
        assert hasattr(sdxl.Pipeline, name) != (name in MEMBERS), name


def test_the_tables_hold_names_of_ours_and_sentences() -> None:
    loads = {each.name for each in fields(sdxl.ModelRequest)}
    for table, known in ((CALL, REQUEST | {"output"}), (LOAD, loads)):
        for name, foreign in table.items():
            assert (foreign.ours in known) if foreign.ours else SENTENCE.match(foreign.sentence), name
            assert name not in known
    for name, sentence in MEMBERS.items():
        assert SENTENCE.match(sentence), (name, sentence)


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ({"num_inference_steps": 3}, {"steps": 3}),
        ({"num_images_per_prompt": 2}, {"num_images": 2}),
        ({"crops_coords_top_left": (8, 16)}, {"crop_top_left": (8, 16)}),
        ({"negative_crops_coords_top_left": (8, 16)}, {"negative_crop_top_left": (8, 16)}),
        ({"mask_image": "mask", "padding_mask_crop": 8}, {"mask": "mask", "mask_padding": 8}),
        ({"return_dict": True}, {}),
    ],
    ids=lambda value: ",".join(value),
)
@pytest.mark.parametrize("way", ["call", "steps", "encode_prompt"])
def test_a_name_of_equal_meaning_gives_the_same_and_one_warning(
    foreign: dict[str, Any], ours: dict[str, Any], way: str, tiny_pipe: sdxl.Pipeline
) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 40, 40))
    source = {"image": Image.new("RGB", (64, 64), "red")} if "mask_image" in foreign else {}
    common = {name: value for name, value in QUICK.items() if not (name == "steps" and "steps" in ours)} | source

    def run(arguments: dict[str, Any]) -> torch.Tensor:
        given = common | {name: mask if value == "mask" else value for name, value in arguments.items()}
        if way == "call":
            return tiny_pipe("cat", **given).images  # type: ignore[return-value]
        rest = {name: value for name, value in given.items() if name not in ("progress", "output")}
        if way == "steps":
            return [*tiny_pipe.steps("cat", **rest)][-1].latents
        return tiny_pipe.encode_prompt("cat", **rest).vector

    with pytest.warns(SDXLWarning, match="these are diffusers' names: ") as caught:
        theirs = run(foreign)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    said = str(caught[0].message)
    assert all(f"{old} is {new} here" in said for old, new in zip(foreign, ours, strict=False))
    assert torch.equal(theirs, run(ours))


@pytest.mark.parametrize(("theirs", "ours"), [("pil", "pil"), ("pt", "tensor"), ("latent", "latent")])
def test_output_type(theirs: str, ours: Any, tiny_pipe: sdxl.Pipeline) -> None:
    arguments = {name: value for name, value in QUICK.items() if name != "output"}
    with pytest.warns(SDXLWarning, match="output_type is output here"):
        result = tiny_pipe("cat", output_type=theirs, **arguments)
    expected = tiny_pipe("cat", output=ours, **arguments)
    if isinstance(expected.images, torch.Tensor):
        assert torch.equal(result.images, expected.images)  # type: ignore[arg-type]
    else:
        assert result[0].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_inference_steps": 3, "steps": 3}, "num_inference_steps and steps are both given"),
        ({"output_type": "pt", "output": "pil"}, "output_type and output are both given"),
        ({"output_type": "np"}, "output_type is 'np'; expected pil, pt or latent; for numpy take output='tensor'"),
        ({"output_type": 3}, "output_type is 3; expected pil"),
        ({"return_dict": False}, "a call returns a Result; its images are result.images"),
        ({"denoising_end": 0.8}, "refine_at"),
        ({"scheduler": "euler"}, "give sampler= and schedule="),
        ({"prompt_embeds": torch.zeros(1)}, "encode_prompt"),
        ({"callback_on_step_end": print}, "give callback="),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "pipe.set_loras"),
        ({"ip_adapter_image": Image.new("RGB", (8, 8))}, "give reference= to a call, with adapter, image and scale"),
        ({"controlnet_conditioning_scale": 0.5}, "give control= to a call, with net, image, scale, start and end"),
        ({"sampler": type("LCMScheduler", (), {})()}, "Try sampler='LCMScheduler'"),
        ({"pag_scale": 3.0}, "give guider= to a call, such as sdxl.PAG("),
        ({"cfg_scale": 5}, "cfg_scale is not an argument; perhaps guidance_scale is meant"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_other_names_give_the_sentence(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    for call in (tiny_pipe, tiny_pipe.steps):
        if call is tiny_pipe or "output" not in arguments:
            with pytest.raises(ArgumentError) as caught:
                call("cat", **arguments)
            assert sentence in str(caught.value)


def test_a_call_without_a_prompt_says_what_is_missing(tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError, match="prompt_embeds is not an argument; give the texts"):
        tiny_pipe(prompt_embeds=torch.zeros(1, 77, 48))
    with pytest.raises(ArgumentError, match="prompt is empty"):
        tiny_pipe()
    assert inspect.signature(sdxl.Pipeline.__call__).parameters["prompt"].default is inspect.Parameter.empty


def test_what_asks_for_nothing_passes(tiny_pipe: sdxl.Pipeline) -> None:
    nothing = {name: None for name in CALL if name != "device"}
    assert torch.equal(tiny_pipe("cat", **nothing, **QUICK).images, tiny_pipe("cat", **QUICK).images)


def test_loading(tiny_folder: Any) -> None:
    load = sdxl.Pipeline.from_pretrained
    names: dict[str, Any] = {"pretrained_model_name_or_path": tiny_folder, "torch_dtype": torch.float32}
    harmless: dict[str, Any] = {"use_safetensors": True, "safety_checker": None, "add_watermarker": False}
    with pytest.warns(SDXLWarning, match="torch_dtype is dtype here, use_safetensors=True changes") as caught:
        pipe = load(device="cpu", **names, **harmless)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert pipe.dtype is torch.float32
    for arguments, sentence in (
        ({"torch_dtype": torch.float32, "dtype": "float32"}, "torch_dtype and dtype are both given"),
        ({"use_safetensors": False}, "only safetensors files are read"),
        ({"safety_checker": object()}, "there is no safety checker"),
        ({"cache_dir": "x"}, "HF_HOME"),
        ({"device_map": "balanced"}, "give device= and offload="),
        ({"text_encoder_2": object()}, "it comes with the model"),
        ({"vae": torch.nn.Identity()}, "vae is of type Identity; expected a path or a hub id. Try vae='owner/name'"),
        ({"controlnet": object()}, "controlnet is not an argument; give control= to a call"),
        ({"ofload": "stage"}, "ofload is not an argument; perhaps offload is meant"),
    ):
        with pytest.raises(ArgumentError, match=re.escape(sentence)):
            load(tiny_folder, device="cpu", **arguments)
    with pytest.raises(ArgumentError, match="model is None; expected a path or a hub id"):
        load()


def test_files_that_are_not_there_are_warned_of(tiny_folder: Any, converted: Any) -> None:
    load = sdxl.Pipeline.from_pretrained
    for path, more, message in (
        (tiny_folder, {"variant": "fp16"}, "variant has no effect: .* has no such files"),
        (converted, {"variant": "fp16"}, "variant has no effect: .* is a single file"),
        (tiny_folder, {"revision": "main"}, "revision has no effect: .* is on this machine"),
    ):
        with pytest.warns(SDXLWarning, match=message) as caught:
            load(path, device="cpu", **more)
        assert len(caught) == 1 and caught[0].filename == __file__


def test_hints_of_the_command_line_and_of_jobs_stay() -> None:
    known = REQUEST
    assert guess("num_inference_steps", known) == "steps"
    assert guess("scheduler", known) == "sampler"
    assert guess("generator", known) == "seed"
    assert guess("masked_image_latents", known) is None, "mask was guessed"
    assert "perhaps" not in advice("masked_image_latents", known)
    assert guess("stepz", known) == "steps"


# ---- methods and attributes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["enable_model_cpu_offload", "load_lora_weights", "scheduler", "text_encoder", "_interrupt"]
)
def test_a_member_gives_the_sentence(name: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(f"Pipeline has no {name}; {MEMBERS[name]}")):
        getattr(tiny_pipe, name)
    assert not hasattr(tiny_pipe, name)
    with pytest.raises(UnsupportedError, match=name):
        setattr(tiny_pipe, name, None)
    assert name not in vars(tiny_pipe)


def test_a_class_method_gives_the_sentence() -> None:
    with pytest.raises(UnsupportedError, match="from_pretrained reads single files too"):
        sdxl.Pipeline.from_single_file("x.safetensors")
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        sdxl.Pipeline.other  # noqa: B018


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("unet", "give unet= and vae= to from_pretrained"),
        ("vae", "from_networks"),
        ("device", "use pipe.to"),
        ("dtype", "use pipe.to"),
        ("offload", "give it to from_pretrained"),
        ("steps", "give it to a call"),
        ("sampler", "give it to a call"),
        ("info", "how the model was loaded"),
    ],
)
def test_what_has_no_effect_cannot_be_set(name: str, sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(UnsupportedError, match=f"^{name} cannot be set on a Pipeline; .*{re.escape(sentence)}"):
        setattr(tiny_pipe, name, 1)


def test_what_is_not_there_may_be_set_to_none(tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.warns(SDXLWarning, match="safety_checker = None changes nothing here"):
        tiny_pipe.safety_checker = None
    with pytest.raises(UnsupportedError, match="there is no safety checker"):
        tiny_pipe.safety_checker = object()


def test_attributes_of_ones_own_and_errors_inside_are_as_in_python(
    tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(sdxl.Pipeline):
        @property
        def broken(self) -> Any:
            return None.inside  # type: ignore[attr-defined]

    mine = Mine(tiny_pipe.residency, tiny_pipe.source)
    mine.note = "x"
    assert mine.note == "x"
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'inside'"):
        mine.broken  # noqa: B018
    with pytest.raises(UnsupportedError, match="Mine has no scheduler"):
        mine.scheduler  # noqa: B018


def test_the_vae_tiles_by_itself(tiny_pipe: sdxl.Pipeline) -> None:
    for name in ("enable_tiling", "enable_slicing", "disable_tiling"):
        with pytest.raises(UnsupportedError, match="in strips by itself"):
            getattr(tiny_pipe.vae, name)()
    with pytest.raises(AttributeError, match="'VAE' object has no attribute 'other'"):
        tiny_pipe.vae.other  # noqa: B018
