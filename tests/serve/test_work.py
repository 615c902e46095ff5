"""What clients may ask for: every field of a request, names in place of paths, limits."""

from __future__ import annotations

import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sdxl import ArgumentError, Request
from sdxl.adapters.kind import Name
from sdxl.pipeline import ModelRequest
from sdxl.serve.catalog import Catalog, make_catalog, public_name
from sdxl.serve.refusals import TooLargeError, UnknownError
from sdxl.serve.settings import Settings
from sdxl.serve.uploads import Upload, from_base64, read_upload
from sdxl.serve.work import Work, make_work

SETTINGS = Settings(max_images=8, max_steps=50, max_pixels=512 * 512, letters=1000)


ADAPTERS = Path(__file__).parents[2] / "weights/adapters"


def copied(name: str, path: Path) -> Path:
    """One of the miniature's adapters under another name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(ADAPTERS / f"{name}.safetensors", path))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    folder = tmp_path / "loras"
    for name in ("style", "a/twin", "b/twin"):
        copied("heart", folder / f"{name}.safetensors")
    copied("sun", folder / "c/twin.safetensors")
    (folder / "notes.txt").touch()
    (folder / "half.safetensors").write_bytes(b"half a download")
    return make_catalog([ModelRequest(tmp_path / "one.safetensors", lora_dir=folder)])


def work(catalog: Catalog, batches: int = 1, **given: Any) -> Work:
    return make_work({"prompt": "a", **given}, SETTINGS, catalog, "one", batches)


def test_no_field_takes_a_path_of_a_client(catalog: Catalog, tmp_path: Path) -> None:
    """Fields that come later too: those that may name files are refused unless the service knows how to read them."""
    file = tmp_path / "secret.safetensors"
    file.write_bytes(b"secret")
    for each in fields(Request):
        if each.metadata["option"].type in (str, int, float, dict):
            continue
        for value in (str(file), [str(file)], {"file": str(file)}, [{"file": str(file)}]):
            with pytest.raises((ArgumentError, UnknownError)):
                work(catalog, **{each.name: value})


def test_fields_are_checked_as_everywhere(catalog: Catalog) -> None:
    for given, message in (
        ({"steps": 0}, "steps is 0"),
        ({"cfg_scale": 3}, "perhaps guidance_scale is meant"),
        ({"strength": 0.5}, "strength is given without image"),
        ({"sampler": "none"}, "sampler"),
        ({"latents": "x"}, "does not take from clients"),
        ({"image": "x.png"}, "expected an image file"),
        ({"image": []}, "expected an image file"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": {}}, "prompt"),
        ({"guider": {"name": "x"}}, "guider"),
    ):
        with pytest.raises(ArgumentError, match=message):
            work(catalog, **given)


def test_limits(catalog: Catalog) -> None:
    for given, message in (
        ({"steps": 51}, "steps is 51; this service takes at most 50"),
        ({"sigmas": [60.0 - n for n in range(60)]}, "steps is 59"),
        ({"width": 1024, "height": 512}, "at most 262144 pixels"),
        ({"num_images": 9}, "^num_images is 9; this service generates at most 8 images"),
        ({"prompt": ["a", "b"], "num_images": 2, "batches": 3}, "is 2 for 2 prompts in 3 batches; .* at most 8 images"),
        ({"prompt": "x" * 1001}, "prompt has 1001 characters"),
        ({"negative_prompt": ["x" * 600, "y" * 600], "prompt": ["a", "b"]}, "1200 characters"),
        ({"loras": ["style"] * 65}, "loras has 65 entries; expected at most 64"),
        ({"batches": 0}, "batches is 0"),
        ({"batches": True}, "batches is True"),
        ({"seed": [1, 2], "batches": 2}, "seed is a list"),
        ({"seed": 2**64 - 1, "batches": 2}, "seed"),
    ):
        with pytest.raises(ArgumentError, match=message):
            work(catalog, **given)
    work(catalog, width=512, height=512, steps=50, num_images=4, batches=2)


def test_seeds_of_batches_follow_each_other(catalog: Catalog) -> None:
    assert [each["seed"] for each in work(catalog, 3, seed=4, num_images=2).batches] == [4, 6, 8]
    drawn = [each["seed"] for each in work(catalog, 2).batches]
    assert drawn[1] == drawn[0] + 1
    assert work(catalog, seed=[3, 9], num_images=2).batches[0]["seed"] == [3, 9]
    assert drawn[0] != work(catalog).batches[0]["seed"]


def test_loras_are_names_of_the_folder(catalog: Catalog) -> None:
    assert list(catalog.files("lora")) == ["a/twin", "b/twin", "style"]
    for given in (["style"], ["style.safetensors"], [["style", 1.0]], [{"file": "style", "weight": 1}]):
        (lora,) = work(catalog, loras=given).batches[0]["loras"]
        assert Path(lora["file"]).name == "style.safetensors"
        assert Path(lora["file"]).is_absolute()
    for name in (
        "twin",
        "../loras/style",
        "notes",
        "c/twin",
        "half",
        str(catalog.files("lora")["style"].path),
        "hub/name",
    ):
        with pytest.raises(UnknownError, match="the name of no LoRA here"):
            work(catalog, loras=[name])
    with pytest.raises(ArgumentError, match="expected a list"):
        work(catalog, loras="style")


def test_each_list_has_its_kind(tmp_path: Path) -> None:
    """One folder for everything, as many people have it."""
    for name in ("heart", "sun", "edges", "colours"):
        copied(name, tmp_path / f"{name}.safetensors")
    copied("edges", tmp_path / "nets/lines/diffusion_pytorch_model.safetensors")
    (tmp_path / "nets/lines/config.json").write_text("{}")
    shutil.copytree(ADAPTERS / "image_encoder", tmp_path / "image_encoder")
    everything = dict.fromkeys(("lora_dir", "embedding_dir", "control_dir"), tmp_path)
    catalog = make_catalog([ModelRequest("one", **everything)])
    kinds: dict[Name, list[str]] = {
        "lora": ["heart"],
        "embedding": ["sun"],
        "control": ["edges", "lines"],
        "reference": ["colours"],
    }
    assert {kind: list(catalog.files(kind)) for kind in kinds} == kinds
    assert catalog.find("control", "lines") == tmp_path / "nets/lines"
    for number in range(30):
        copied("sun", tmp_path / f"many/{number}.safetensors")
    with pytest.raises(UnknownError, match=r"there are [^;]{50,200}, 11 more$"):
        catalog.find("embedding", "moon")
    with pytest.raises(UnknownError, match=r"control has 'colours'.*there are edges, lines$") as caught:
        catalog.find("control", "colours")
    assert caught.value.argument == "control"
    copied("two-steps", tmp_path / "colours.safetensors")  # which has changed
    assert list(catalog.files("lora")) == ["colours", "heart"]
    assert catalog.files("reference") == {}


def test_a_job_shows_what_was_asked_for_without_images(catalog: Catalog) -> None:
    asked = work(catalog, 2, image=Upload(b"abc"), strength=0.5, loras=["style"], negative_prompt=None)
    assert asked.given == {"prompt": "a", "strength": 0.5, "loras": ["style"], "batches": 2}
    assert asked.bytes == 3


def test_records_and_messages_have_names_and_no_paths(catalog: Catalog, tmp_path: Path) -> None:
    file = catalog.files("lora")["a/twin"].path
    parameters = {
        "model": {"model": str(tmp_path / "one.safetensors"), "vae": "/x/y/vae.safetensors", "revision": "main"},
        "request": {"prompt": "/not/a/file", "loras": [{"file": str(file), "weight": 1.0}, {"file": "b/twin"}]},
    }
    public = catalog.public(parameters)
    assert public["model"] == {"model": "one.safetensors", "vae": "vae.safetensors", "revision": "main"}
    assert [each["file"] for each in public["request"]["loras"]] == ["a/twin.safetensors", "b/twin"]
    assert parameters["model"]["model"] == str(tmp_path / "one.safetensors")
    for text, shown in (
        (f"{file} is damaged", "a/twin.safetensors is damaged"),
        (f"there is none of this name in {catalog.lora_dir}, give", "there is none of this name in loras, give"),
        (f"none is in {catalog.lora_dir}.", "none is in loras."),
        ("'/etc/secret/x.png' does not exist", "'x.png' does not exist"),
        ("C:\\Users\\me\\x.png does not exist", "x.png does not exist"),
        ("1/2 or https://a.b/c/d and and/or", "1/2 or https://a.b/c/d and and/or"),
    ):
        assert catalog.message(text) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="these are paths of POSIX")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/loras/own/x.png is damaged", "own/x.png is damaged"),
        ("/data/loras2/secret/x.png is damaged", "x.png is damaged"),
        ("/mnt/data/loras/secret/x.png is damaged", "x.png is damaged"),
        ("none is in /data/loras", "none is in loras"),
        ("1/2 of /m.safetensors", "1/2 of /m.safetensors"),
    ],
)
def test_folders_that_begin_or_end_like_others(text: str, shown: str) -> None:
    """In some containers a model is at the root: then no slash was left in a message."""
    assert Catalog({"m": ModelRequest("/m.safetensors")}, lora_dir=Path("/data/loras")).message(text) == shown


def test_names_of_models(tmp_path: Path) -> None:
    assert public_name("stabilityai/stable-diffusion-xl-base-1.0") == "stabilityai/stable-diffusion-xl-base-1.0"
    assert public_name(tmp_path) == tmp_path.name
    assert public_name("~/models/x.safetensors") == "x.safetensors"
    assert public_name("C:\\models\\x.safetensors") == public_name("./x.safetensors") == "x.safetensors"
    with pytest.raises(ArgumentError, match=r"two models have the name x\.safetensors"):
        make_catalog([ModelRequest("/a/x.safetensors"), ModelRequest("/b/x.safetensors")])
    with pytest.raises(ArgumentError, match="is no folder"):
        make_catalog([ModelRequest("x", lora_dir=tmp_path / "none")])


def test_images_are_checked_before_they_are_decoded() -> None:
    from PIL import Image
    from serving import png

    assert read_upload(png(Image.new("RGB", (8, 8))), "image", 64).open().size == (8, 8)
    with pytest.raises(TooLargeError, match="image is 9 x 8; expected at most 64 pixels"):
        read_upload(png(Image.new("RGB", (9, 8))), "image", 64)
    for data in (png(Image.new("1", (20_000, 4000))), png(Image.new("1", (20_000, 10_000)))):
        with pytest.raises(TooLargeError):
            read_upload(data, "image", 4096 * 4096)
    for data in (b"", b"GIF89a", png(Image.new("RGB", (64, 64)))[:-60], b"%PDF-1.4"):
        with pytest.raises(ArgumentError, match=r"image (is not an image|cannot be decoded)"):
            read_upload(data, "image", 10**6)


def test_images_are_bounded_together(catalog: Catalog) -> None:
    """All of a job are in memory at once."""
    images = [Upload(b"", Settings().image_pixels)] * 8
    work(catalog, image=images, mask=images, prompt=["a"] * 8)
    with pytest.raises(TooLargeError, match="the images have 268435457 pixels together; expected at most 268435456"):
        work(catalog, image=images, mask=[*images, Upload(b"", 1)], prompt=["a"] * 8)


def test_base64() -> None:
    assert from_base64("YWJj", "image") == from_base64("data:image/png;base64,YW\nJj", "image") == b"abc"
    assert from_base64("DATA:image/PNG;name=x.png;BASE64,YWJj", "image") == b"abc"
    for value, message in (
        ("http://example.com/x.png", "is an address, and this service opens none"),
        ("FILE:///etc/passwd", "is an address"),
        ("a b c!", "no valid base64"),
        ("YWJ", "no valid base64"),
        (5, "expected an image in base64"),
        ("ä", "no valid base64"),
    ):
        with pytest.raises(ArgumentError, match=message):
            from_base64(value, "image")


def test_settings() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"host": "0.0.0.0"}, "which others can reach"),
        ({"host": "example.com"}, "which others can reach"),
        ({"queue": 0}, "queue is 0"),
        ({"port": 70000}, "port is 70000"),
        ({"auth": "user"}, "expected USER:PASSWORD"),
        ({"auth": "user:"}, "expected USER:PASSWORD"),
        ({"api_key": " "}, "api_key is empty"),
        *(({"api_key": key}, "what a header cannot hold") for key in ("schlüssel", "a\nb", " a", "a\t", "")),
        *(
            ({"allow_hosts": (name,)}, "expected a name such as images.example.com")
            for name in ("http://a.b", "a.b:80", "a.b/", "", "a..b", "*", "ä.b")
        ),
        ({"cors": ("https://a.b/path",)}, "expected an origin"),
        ({"cors": ("null",)}, "expected an origin"),
    ]
    for given, message in wrong:
        with pytest.raises(ArgumentError, match=message):
            Settings(**given)
    safe: list[dict[str, Any]] = [{"api_key": "x"}, {"auth": "a:b"}, {"insecure": True}]
    for given in safe:
        shown = repr(Settings(host="0.0.0.0", **given))
        assert "a:b" not in shown and "'x'" not in shown
