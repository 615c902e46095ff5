"""Where tools put their texts: chunks of a PNG, EXIF of JPEG and WebP, text files; and hostile ones."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from graphs import CASES as GRAPHS
from graphs import advanced, graph, node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from infotexts import CASES, EULER, text
from pack_graphs import CASES as PACKS
from pack_graphs import custom
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sdxl
from sdxl.errors import ArgumentError
from sdxl.images import Parameters, save_image

PLAIN = text(EULER, prompt="a naïve lighthouse 灯台", negative="blur")
PIXELS = Image.new("RGB", (16, 16), "red")
USER_COMMENT, EXIF_IFD, MAKE, MODEL = 0x9286, 0x8769, 0x010F, 0x0110
SECONDS = 10.0


def save_png(file: Path, **chunks: str) -> Path:
    info = PngInfo()
    for name, content in chunks.items():
        info.add_text(name, content) if content.isascii() else info.add_itxt(name, content)
    PIXELS.save(file, pnginfo=info)
    return file


def save_exif(file: Path, comment: bytes | None = None, tags: dict[int, str] | None = None, endian: str = ">") -> Path:
    exif = Image.Exif()
    exif.endian = endian
    for tag, value in (tags or {}).items():
        exif[tag] = value
    if comment is not None:
        exif[EXIF_IFD] = {USER_COMMENT: comment}
    PIXELS.save(file, exif=exif)
    return file


def is_plain(found: Parameters) -> bool:
    request = found.request
    return (request["prompt"], request["negative_prompt"]) == ("a naïve lighthouse 灯台", "blur") and found.model == (
        "base_v1",
        "0123456789",
    )


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("endian", [">", "<"])
def test_exif_of_every_order(suffix: str, order: str, endian: str, tmp_path: Path) -> None:
    """AUTOMATIC1111 writes big-endian UTF-16, Civitai's files have the other one too."""
    comment = b"UNICODE\0" + PLAIN.encode(order)
    assert is_plain(sdxl.read_parameters(save_exif(tmp_path / f"a{suffix}", comment, endian=endian)))


def test_exif_in_utf_8(tmp_path: Path) -> None:
    for code in (b"ASCII\0\0\0", bytes(8)):
        assert is_plain(sdxl.read_parameters(save_exif(tmp_path / "a.jpg", code + PLAIN.encode())))


def test_a_png_and_a_text_file(tmp_path: Path) -> None:
    assert is_plain(sdxl.read_parameters(save_png(tmp_path / "a.png", parameters=PLAIN)))
    (tmp_path / "params.txt").write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert is_plain(sdxl.read_parameters(tmp_path / "params.txt"))


SWARM = json.dumps({"sui_image_params": {"prompt": "a cat", "seed": 1, "steps": 20}})
FOOOCUS = json.dumps({"prompt": "a cat", "full_prompt": ["a cat, cinematic"], "steps": 30, "version": "Fooocus v2.5.0"})
UNREAD: dict[str, dict[str, str]] = {
    "SwarmUI": {"parameters": SWARM},
    "Fooocus": {"parameters": FOOOCUS, "fooocus_scheme": "fooocus"},
    "InvokeAI": {"invokeai_metadata": json.dumps({"positive_prompt": "a cat", "seed": 1})},
    "NovelAI": {"Software": "NovelAI", "Comment": json.dumps({"prompt": "a cat", "uc": "fog"})},
    "Easy Diffusion": {"prompt": "a cat", "use_stable_diffusion_model": "sd_xl_base_1.0"},
    "Draw Things": {"XML:com.adobe.xmp": "<x:xmpmeta><xmp:CreatorTool>Draw Things</xmp:CreatorTool></x:xmpmeta>"},
}


@pytest.mark.parametrize("tool", UNREAD)
def test_tools_that_are_not_read_are_named(tool: str, tmp_path: Path) -> None:
    info = PngInfo()
    for name, content in UNREAD[tool].items():
        info.add_itxt(name, content) if ":" in name else info.add_text(name, content)
    PIXELS.save(tmp_path / "a.png", pnginfo=info)
    files = [tmp_path / "a.png"]
    if (comment := UNREAD[tool].get("parameters")) is not None:
        files.append(save_exif(tmp_path / "a.jpg", b"UNICODE\0" + comment.encode("utf-16-be")))
    for file in files:
        with pytest.raises(ArgumentError, match=f"was written by {tool}, whose parameters are not read; give its pro"):
            sdxl.read_parameters(file)


JSON = {
    "SwarmUI": {"sui_image_params": {"prompt": "a cat", "seed": 1}},
    "Fooocus": {"base_model": "x", "full_prompt": ["a cat"], "metadata_scheme": "fooocus"},
    "InvokeAI": {"generation_mode": "sdxl_txt2img", "model": {"name": "x"}, "positive_prompt": "a cat"},
    "NovelAI": {"prompt": "a cat", "uc": "fog", "sampler": "k_euler", "scale": 5, "seed": 1, "steps": 28},
    "Draw Things": {"c": "a cat", "uc": "fog", "model": "x.ckpt", "sampler": "DPM++ 2M", "scale": 7, "seed": 1},
    "Easy Diffusion": {"prompt": "a cat", "use_stable_diffusion_model": "x", "seed": 1},
}


@pytest.mark.parametrize("tool", JSON)
def test_json_of_tools_that_are_not_read_is_named(tool: str, tmp_path: Path) -> None:
    """Beside an image, in EXIF, and in the comment of a PNG."""
    content = json.dumps(JSON[tool])
    (tmp_path / "a.json").write_text(content)
    files = [tmp_path / "a.json", save_exif(tmp_path / "a.jpg", b"UNICODE\0" + content.encode("utf-16-be"))]
    for file in [*files, save_png(tmp_path / "a.png", Comment=content)]:
        with pytest.raises(ArgumentError, match=f"was written by {tool}, whose parameters are not read"):
            sdxl.read_parameters(file)


def test_json_of_no_tool_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"cat": "red", "dogs": 2}))
    with pytest.raises(ArgumentError, match="it is JSON of a tool that is not read"):
        sdxl.read_parameters(tmp_path / "a.json")


def test_fooocus_in_automatic1111s_form_is_read(tmp_path: Path) -> None:
    assert is_plain(sdxl.read_parameters(save_png(tmp_path / "a.png", parameters=PLAIN, fooocus_scheme="a1111")))


def test_comfyui_in_every_file(tmp_path: Path) -> None:
    prompt = json.dumps(graph())
    files = [
        save_png(tmp_path / "a.png", prompt=prompt, workflow="{}"),
        save_exif(tmp_path / "a.webp", tags={MODEL: f"prompt:{prompt}", MAKE: "workflow:{}"}),
        save_exif(tmp_path / "a.jpg", b"UNICODE\0" + prompt.encode("utf-16-be")),
    ]
    for file in files:
        found = sdxl.read_parameters(file)
        assert (found.tool, found.request["seed"]) == ("ComfyUI", 42)


def test_civitais_graph_has_members_that_are_no_nodes(tmp_path: Path) -> None:
    """As its generator writes it into the EXIF of a JPEG."""
    more = {
        "extra": {"airs": ["urn:air:sdxl:checkpoint:civitai:1@2"]},
        "extraMetadata": json.dumps({"prompt": "a cat"}),
    }
    nodes = graph() | {"4": node("CheckpointLoaderSimple", ckpt_name="urn:air:sdxl:checkpoint:civitai:1@2")}
    nodes["6"] = node("smZ CLIPTextEncode", text="a lighthouse")
    comment = json.dumps({**nodes, **more}).encode("utf-16-be")
    found = sdxl.read_parameters(save_exif(tmp_path / "a.jpg", b"UNICODE\0" + comment))
    assert (found.tool, found.request["prompt"], found.request["seed"]) == ("ComfyUI", "a lighthouse", 42)


def test_a_graph_that_is_not_plain_leaves_the_text(tmp_path: Path) -> None:
    """Nodes that save AUTOMATIC1111's text beside a graph of other samplers."""
    other = json.dumps({"1": node("TiledSampler", noise=["2", 0]), "2": node("RandomNoise", noise_seed=1)})
    assert is_plain(sdxl.read_parameters(save_png(tmp_path / "a.png", prompt=other, parameters=PLAIN)))
    with pytest.raises(ArgumentError, match="TiledSampler"):
        sdxl.read_parameters(save_png(tmp_path / "b.png", prompt=other))


WORKFLOW: dict[str, Any] = {
    "nodes": [
        {"id": 4, "type": "CheckpointLoaderSimple", "inputs": [], "widgets_values": ["base_v1.safetensors"]},
        {"id": 5, "type": "EmptyLatentImage", "inputs": [], "widgets_values": [832, 1216, 1]},
        {
            "id": 6,
            "type": "CLIPTextEncode",
            "inputs": [{"name": "clip", "type": "CLIP", "link": 3}],
            "widgets_values": ["a lighthouse"],
        },
        {
            "id": 7,
            "type": "CLIPTextEncode",
            "inputs": [
                {"name": "clip", "type": "CLIP", "link": 5},
                {"name": "text", "type": "STRING", "link": 20, "widget": {"name": "text"}},
            ],
            "widgets_values": ["old"],
        },
        {"id": 15, "type": "PrimitiveNode", "inputs": [], "widgets_values": ["blur", "fixed"]},
        {
            "id": 3,
            "type": "KSampler",
            "inputs": [
                {"name": "model", "type": "MODEL", "link": 11},
                {"name": "positive", "type": "CONDITIONING", "link": 4},
                {"name": "negative", "type": "CONDITIONING", "link": 6},
                {"name": "latent_image", "type": "LATENT", "link": 2},
            ],
            "widgets_values": [42, "randomize", 20, 7.5, "dpmpp_2m", "karras", 1],
        },
        {
            "id": 10,
            "type": "LoraLoader",
            "mode": 4,
            "inputs": [
                {"name": "model", "type": "MODEL", "link": 1},
                {"name": "clip", "type": "CLIP", "link": 12},
            ],
            "outputs": [{"name": "MODEL", "type": "MODEL"}, {"name": "CLIP", "type": "CLIP"}],
            "widgets_values": ["ink.safetensors", 1, 1],
        },
        {
            "id": 8,
            "type": "VAEDecode",
            "inputs": [
                {"name": "samples", "type": "LATENT", "link": 7},
                {"name": "vae", "type": "VAE", "link": 8},
            ],
        },
        {
            "id": 9,
            "type": "SaveImage",
            "inputs": [{"name": "images", "type": "IMAGE", "link": 9}],
            "widgets_values": ["x"],
        },
        {
            "id": 30,
            "type": "CLIPSetLastLayer",
            "inputs": [{"name": "clip", "type": "CLIP", "link": 31}],
            "widgets_values": [-3],
        },
        {"id": 99, "type": "SaveImage", "mode": 2, "inputs": [{"name": "images", "type": "IMAGE", "link": 9}]},
        {"id": 98, "type": "Note", "widgets_values": ["seed 42"]},
    ],
    "links": [
        [1, 4, 0, 10, 0, "MODEL"],
        [2, 5, 0, 3, 3, "LATENT"],
        [3, 10, 1, 6, 0, "CLIP"],
        [4, 6, 0, 3, 1, "CONDITIONING"],
        [5, 10, 1, 7, 0, "CLIP"],
        [6, 7, 0, 3, 2, "CONDITIONING"],
        [7, 3, 0, 8, 0, "LATENT"],
        [8, 4, 2, 8, 1, "VAE"],
        [9, 8, 0, 9, 0, "IMAGE"],
        [11, 10, 0, 3, 0, "MODEL"],
        [12, 30, 0, 10, 1, "CLIP"],
        [31, 4, 1, 30, 0, "CLIP"],
        {"id": 20, "origin_id": 15, "origin_slot": 0, "target_id": 7, "target_slot": 1, "type": "STRING"},
    ],
}


LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
OBJECTS = [each if isinstance(each, dict) else dict(zip(LINK, each, strict=True)) for each in WORKFLOW["links"]]


@pytest.mark.parametrize("links", [WORKFLOW["links"], OBJECTS], ids=["lists", "objects"])
def test_a_workflow_is_read_as_its_prompt(links: list[Any], tmp_path: Path) -> None:
    """With a bypassed LoRA, a muted node, a value from another node and a seed that the page changes."""
    found = sdxl.read_parameters(save_png(tmp_path / "a.png", workflow=json.dumps({**WORKFLOW, "links": links})))
    (tmp_path / "a.json").write_text(json.dumps(graph()))
    assert found.request == sdxl.read_parameters(tmp_path / "a.json").request | {
        "negative_prompt": "blur",
        "clip_skip": 1,
    }
    assert (found.model.name, found.unmapped) == ("base_v1.safetensors", {})


# ---- hostile files


def hostile() -> dict[str, str]:
    whole = json.dumps(graph())
    cycle = graph({"latent_image": ["12", 0], "model": ["13", 0], "positive": ["6", 0]})
    cycle |= {
        "12": node("LatentUpscaleBy", samples=["12", 0]),
        "13": node("FreeU", model=["14", 0]),
        "14": node("LoraLoader", model=["13", 0], lora_name=["14", 0]),
        "6": node("CLIPTextEncode", text=["15", 0], clip=["16", 0]),
        "15": node("PrimitiveString", value=["15", 0]),
        "16": node("Reroute", any=["16", 0]),
    }
    samplers = {str(n): {**graph()["3"], "inputs": {"latent_image": [str((n + 1) % 2000), 0]}} for n in range(2000)}
    long_chain = graph({"model": ["1000", 0]}) | {
        str(n): node("LoraLoaderModelOnly", lora_name="a", strength_model=1, model=[str(n + 1), 0])
        for n in range(1000, 4000)
    }
    # ways of nodes that pass on, all leading to a node that holds what the first one gives
    passing = {str(n): node("Reroute", any=[str(n + 1), 0]) for n in range(1000, 3000)}
    values = {name: ["1000", 0] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")}
    round_trip = graph(values) | passing | {"3000": node("PrimitiveInt", value=["1000", 0])}
    latents = node("EmptySize", size="1024x1024", **{f"a{n}": ["1000", 0] for n in range(20_000)})
    many_links = graph(n5=latents) | passing | {"3000": node("PrimitiveInt", value=3)}
    doubled = graph(n6=node("CLIPTextEncode", text=["1018", 0], clip=["4", 1])) | {
        str(n): node("Join", **{f"text_{letter}": [str(n - 1), 0] for letter in "abcdefgh"}, delimiter=",")
        for n in range(1000, 1019)
    }
    return {
        "values in a circle": json.dumps(round_trip),
        "many links of one way": json.dumps(many_links),
        "a text joined to itself": json.dumps(doubled),
        "a bypassed node of many links": json.dumps(
            {
                "nodes": [
                    *WORKFLOW["nodes"],
                    {
                        **{"id": 99, "type": "X", "mode": 4, "outputs": [{"type": "U"}] * 40_000},
                        "inputs": [{"name": str(n), "type": "T", "link": 1} for n in range(40_000)],
                    },
                ],
                "links": WORKFLOW["links"],
            }
        ),
        "a huge sigma": json.dumps(custom(node("KarrasScheduler", steps=20, sigma_max=10**400))),
        "a refiner behind no step": json.dumps(
            graph(
                n3=advanced(steps=1e-10),
                n10=node("CheckpointLoaderSimple", ckpt_name="refiner.safetensors"),
                n11=advanced(start_at_step=1e308, latent_image=["3", 0], model=["10", 0]),
                n8=node("VAEDecode", samples=["11", 0], vae=["4", 2]),
            )
        ),
        "truncated": whole[:300],
        "deep": "[" * 200_000,
        "deep objects": '{"1":' * 100_000,
        "a list": "[1, 2]",
        "no nodes": "{}",
        "wrong types": json.dumps({"3": {"class_type": "KSampler", "inputs": [1]}, "4": {"class_type": 7}}),
        "wrong values": json.dumps(
            graph({"seed": {"a": 1}, "steps": "many", "cfg": [], "sampler_name": 5, "denoise": None})
        ),
        "numbers": whole.replace("7.5", "1e999").replace('"seed": 42', '"seed": -3').replace("20", "NaN"),
        "a cycle": json.dumps(cycle),
        "samplers in a circle": json.dumps(samplers),
        "a long chain": json.dumps(long_chain),
        "many nodes": json.dumps({str(n): node("KSampler") for n in range(6000)}),
        "unknown nodes": json.dumps(
            {name: {**each, "class_type": "X" + each["class_type"]} for name, each in graph().items()}
        ),
        "a workflow of nonsense": json.dumps(
            {"nodes": [1, {"id": None, "inputs": 5}, {}], "links": [[1], {"id": []}, 3]}
        ),
        "links of nonsense": json.dumps(
            {"nodes": WORKFLOW["nodes"], "links": [[{}, [], 0, 0, 0], [9, "8", "x", 1, 1]]}
        ),
        "a huge number": "Steps: " + "9" * 100_000 + ", Sampler: Euler, CFG scale: 1e400, Seed: 1, Size: 9999999999x1",
        "quotes": "a\nSteps: 1, Sampler: " + '"\\' * 100_000 + ", Seed: 1",
        "braces": "a\nSteps: 1, " + ", ".join(f"a{n}: {{[[" for n in range(20_000)),
        "many fields": "a\n" + ", ".join(f"f{n}: {n}" for n in range(100_000)),
        "many lines": "Steps: 1\n" * 200_000,
        "a lora of no number": "<lora:a:nan> <lora::> <lora:"
        + "x" * 10_000
        + ":1e999>\nSteps: 1, Sampler: Euler, Seed: 1",
        "tags": "<lora:a:1>" * 20_000 + "\nSteps: 1, Sampler: Euler, Seed: 1",
        "resources": 'a\nSteps: 1, Sampler: x, Seed: 1, Civitai resources: [1, {"type": [], "weight": {}, "modelName": 5}]',
        "hashes": 'a\nSteps: 1, Sampler: x, Seed: 1, Hashes: {"model": {}, "lora:": [], "": 1}, Lora hashes: ::,:, TI hashes: :',
    }


@pytest.mark.parametrize("name", list(hostile()))
def test_a_hostile_text_is_read_or_a_typed_error_soon(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(hostile()[name], encoding="utf-8")
    began = time.perf_counter()
    try:
        found = sdxl.read_parameters(file)
    except ArgumentError as error:
        length = len(str(error))
    else:
        length = 0
        assert isinstance(found, Parameters)
        assert json.dumps(found.request)
    assert length < 1000
    assert time.perf_counter() - began < SECONDS


def test_texts_that_are_too_long_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at most 8388608"):
        sdxl.read_parameters(save_exif(tmp_path / "a.webp", bytes(8) + b"a" * (2**23 + 1)))
    (tmp_path / "a.txt").write_bytes(b"a" * (2**23 + 1))
    with pytest.raises(ArgumentError, match="cannot be read"):
        sdxl.read_parameters(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "comment", [b"", b"UNICODE\0", b"UNICODE\0\xd8", b"JIS\0\0\0\0\0\xff\xfe", b"UNICODE\0" + b"\xdc\x00" * 50]
)
def test_comments_that_are_no_text(comment: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        sdxl.read_parameters(save_exif(tmp_path / "a.jpg", comment))


def test_a_directory_that_ends_too_early(tmp_path: Path) -> None:
    PIXELS.save(tmp_path / "a.webp", exif=b"Exif\0\0" + struct.pack(">2sHLH", b"MM", 42, 8, 60_000))
    with pytest.raises(ArgumentError, match="its EXIF ends too early"):
        sdxl.read_parameters(tmp_path / "a.webp")


ALL = [case.text for case in CASES] + [json.dumps(case.nodes) for case in (*GRAPHS, *PACKS)]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_texts_are_read_or_typed_errors(data: st.DataObject, tmp_path: Path) -> None:
    """Parts are cut out, doubled, or replaced by nonsense."""
    content = data.draw(st.sampled_from(ALL))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 40)))
        middle = data.draw(
            st.sampled_from(["", content[start:end] * 2, "null", '"', "{", "[]", "-1", ", ", ": ", "\n", "NaN"])
        )
        content = content[:start] + middle + content[end:]
    file = tmp_path / "a.txt"
    file.write_text(content, encoding="utf-8")
    try:
        found = sdxl.read_parameters(file)
    except ArgumentError:
        return
    assert json.dumps(found.request)
    assert isinstance(found.loras, list)
    assert found.model is not None


# ---- an independent reader


def test_sd_parsers_agrees_on_our_images(tmp_path: Path) -> None:
    """The package `sd-parsers` reads our files as AUTOMATIC1111's, with the same prompts, model and sampler."""
    pytest.importorskip("sd_parsers")
    from sd_parsers import ParserManager
    from sd_parsers.data import Generators

    asked: list[dict[str, Any]] = [
        {},
        {"negative_prompt": "dogs (blue)", "sampler": "dpmpp_2m_sde", "schedule": "karras"},
        {"prompt": "two\nlines", "guidance_scale": 7.5, "seed": 2**40, "steps": 3},
    ]
    for more in asked:
        resolved = {"sampler": "euler", "schedule": "linspace", "steps": 30, "guidance_scale": 5.0, "seed": 1}
        request = json.loads(json.dumps(vars(sdxl.Request(**{"prompt": "a cat", **resolved, **more}))))
        record = {
            "version": "sdxl 0.0",
            "torch": "2",
            "model": {"model": "models/mine.safetensors", "sha256": {"model": "0123456789abcdef"}},
            "request": request,
        }
        for suffix in (".png", ".jpg", ".webp"):
            file = tmp_path / f"image{suffix}"
            save_image(PIXELS, file, record)
            found = ParserManager().parse(file)
            assert found is not None and found.generator == Generators.AUTOMATIC1111
            (sampler,) = found.samplers
            own = read_as_text(file)
            assert [each.value for each in sampler.prompts] == [own["prompt"]] == [request["prompt"]]
            assert [each.value for each in sampler.negative_prompts] == [own["negative_prompt"]] * bool(
                request["negative_prompt"]
            )
            assert sampler.model is not None
            assert (sampler.model.name, sampler.model.hash) == ("mine", "0123456789")
            values = sampler.parameters
            assert (
                (int(values["steps"]), int(values["seed"]))
                == (own["steps"], own["seed"])
                == (request["steps"], request["seed"])
            )
            assert float(values["cfg_scale"]) == own["guidance_scale"] == request["guidance_scale"]
            names = sdxl.Request("a", sampler=sampler.name, schedule=values["scheduler"])
            assert (
                (names.sampler, names.schedule)
                == (own["sampler"], own["schedule"])
                == (request["sampler"], request["schedule"])
            )


def read_as_text(file: Path) -> dict[str, Any]:
    """Our own file, read by its AUTOMATIC1111 text alone."""
    from sdxl.images.texts import find_texts
    from sdxl.images.tools.webui import read_infotext

    parameters = find_texts_of_text(file) if file.suffix != ".png" else find_texts(file).parameters
    assert parameters is not None
    found = read_infotext(parameters)
    assert (found.tool, found.is_record, found.unmapped) == ("sdxl", False, {})
    assert "compat" not in found.request
    return {"negative_prompt": None, **found.request}


def find_texts_of_text(file: Path) -> str | None:
    from sdxl.images.exif import unpack_comment

    with Image.open(file) as image:
        return unpack_comment(image.info["exif"])
