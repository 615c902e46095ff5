"""Files of images: what they record, and who reads it."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

import sdxl
from sdxl.errors import ArgumentError, OutputError
from sdxl.images import encode_image, open_picture, read_parameters, save_image, save_png
from sdxl.images.a1111 import parameters_text
from sdxl.images.exif import pack_exif
from sdxl.images.image import open_latents

SUFFIXES = [".png", ".jpg", ".JPEG", ".webp"]
EXIF_IFD, MAKER_NOTE, USER_COMMENT = 0x8769, 0x927C, 0x9286


def picture(mode: str = "RGB", width: int = 24, height: int = 16) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def parameters(**more: Any) -> dict[str, Any]:
    """A record of an image, as `Result.parameters` has it."""
    resolved = {"sampler": "euler", "schedule": "leading", "steps": 30, "guidance_scale": 5.0}
    request = vars(sdxl.Request("a cat", seed=1, **resolved)) | more  # type: ignore[arg-type]
    return {"version": "sdxl 0.0", "torch": "2", "model": {"model": "a.safetensors", "dtype": "float32"}} | {
        "request": json.loads(json.dumps(request))
    }


def a1111_values(text: str) -> dict[str, str]:
    """A reader of the last line: "name: value" with commas between, where a value that begins with a quote is JSON."""
    rest, values = text.rpartition("\n")[2], {}
    while rest:
        name, _, rest = rest.partition(": ")
        if rest.startswith('"'):
            values[name], end = json.JSONDecoder().raw_decode(rest)
        else:
            end = (rest + ",").index(",")
            values[name] = rest[:end].strip()
        assert rest[end : end + 2] in ("", ", "), f"something stands behind {name}"
        rest = rest[end + 2 :]
    return values


def a1111_text(path: Path) -> str:
    """The text where AUTOMATIC1111 puts it: in a PNG a chunk, else the EXIF's UserComment, UTF-16 with a code."""
    with Image.open(path) as image:
        if image.format == "PNG":
            return str(image.info["parameters"])
        comment = image.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_its_record_back(suffix: str, tmp_path: Path) -> None:
    image, path = picture(), tmp_path / f"image{suffix}"
    for prompt in ("a cat", "línea 1\nline 2: \U0001f408, \x1b[31m\0", "x" * 10_000, ""):
        record = parameters(prompt=prompt, negative_prompt='"no", dogs')
        save_image(image, path, record)
        assert read_parameters(path) == record
        assert a1111_text(path) == parameters_text(record, image.size)
    with Image.open(path) as written:
        assert (written.mode, written.size) == ("RGB", image.size)
        assert written.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        if written.format == "JPEG":
            assert [layer[1:3] for layer in written.layer] == [(1, 1)] * 3, "4:4:4"  # type: ignore[attr-defined]
            again = io.BytesIO()
            image.save(again, "JPEG", quality=95)
            with Image.open(again) as reference:
                assert written.quantization == reference.quantization  # type: ignore[attr-defined]
        else:
            assert written.tobytes() == image.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_path_that_is_not_unicode_comes_back(suffix: str, tmp_path: Path) -> None:
    record = parameters() | {"model": {"model": "/m/mod\udce9le.safetensors"}}
    save_image(picture(), tmp_path / f"image{suffix}", record)
    assert read_parameters(tmp_path / f"image{suffix}") == record
    assert "Model: mod?le, " in a1111_text(tmp_path / f"image{suffix}")


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "a, b",
        "a: b",
        "a\nb",
        "a\rb",
        '"a"',
        '"',
        'say "a", b',
        "back\\slash, \\",
        " a ",
        "x, Seed: 5",
        "é, \x85",
    ],
)
def test_every_value_of_the_text_comes_back(name: str) -> None:
    """Also with a model, a sampler and a schedule that bear such names."""
    record = parameters(negative_prompt="dogs, Seed: 7", sampler=name, schedule=name, strength=0.5)
    text = parameters_text(record | {"model": {"model": f"/models/{name}.safetensors"}, "version": name}, (24, 16))
    values = a1111_values(text)
    assert [values[key] for key in ("Sampler", "Schedule type", "Model", "Version")] == [name] * 4
    assert (values["Seed"], values["Size"], values["Steps"]) == ("1", "24x16", "30")
    assert float(values["Denoising strength"]) == 0.5
    assert f"Model: {name}, " in text or ": " in name or '"' in name or set(name) & set(",:\n\r ")


def test_the_model_hash_is_the_first_ten_digits() -> None:
    model = {"model": "a.safetensors", "sha256": {"model": "0123456789abcdef"}}
    assert a1111_values(parameters_text(parameters() | {"model": model}, (24, 16)))["Model hash"] == "0123456789"
    others: list[dict[str, Any]] = [{}, {"sha256": None}, {"sha256": {}}, {"sha256": {"model": 5}}]
    for other in others:
        assert "Model hash" not in parameters_text(parameters() | {"model": other}, (24, 16))


@pytest.mark.parametrize(
    ("compat", "source"),
    [
        (None, "CPU"),
        ("comfyui", "CPU"),
        ("a1111", "NV"),
        ({"profile": "a1111", "noise": "cpu"}, "CPU"),
        ({"noise": "philox"}, "NV"),
    ],
)
def test_the_source_of_the_noise_is_that_of_the_conventions(compat: Any, source: str) -> None:
    assert a1111_values(parameters_text(parameters(compat=compat), (24, 16)))["RNG"] == source


def test_options_are_written_under_automatic1111s_names() -> None:
    """Those that it has: `r` is no option there."""
    record = parameters(sampler="heun", sampler_options={"s_churn": 4, "rho": 5, "r": 0.4}, guidance_rescale=0.7)
    values = a1111_values(parameters_text(record, (24, 16)))
    assert (values["Sigma churn"], values["Schedule rho"], values["CFG Rescale phi"]) == ("4", "5", "0.7")
    assert "0.4" not in values.values()


def test_a_value_is_quoted_only_where_it_must_be() -> None:
    text = parameters_text(parameters(sampler="dpmpp_2m", schedule="karras"), (24, 16))
    assert "Sampler: DPM++ 2M, Schedule type: Karras, " in text
    assert '"' not in text


def test_exif_that_another_program_wrote_again(tmp_path: Path) -> None:
    """PIL writes the other order of bytes, and more fields before ours."""
    record, path = parameters(), tmp_path / "image.webp"
    save_image(picture(), path, record)
    with Image.open(path) as image:
        fields = image.getexif().get_ifd(EXIF_IFD)
        exif = Image.Exif()
        exif.endian = "<"
        exif[0x0112], exif[0x0131], exif[EXIF_IFD] = 1, "editor", dict(fields) | {0x9003: "2026:01:01 00:00:00"}
        image.save(path, exif=exif, lossless=True)
    assert b"II*\0" in path.read_bytes()
    assert read_parameters(path) == record


def test_a_jpeg_that_is_too_small_for_its_record_names_png(tmp_path: Path) -> None:
    record, path = parameters(prompt="a" * 30_000), tmp_path / "image.jpg"
    with pytest.raises(OutputError, match=r"bytes of EXIF; expected at most 65533 in a JPEG. Try PNG"):
        save_image(picture(), path, record)
    assert not list(tmp_path.iterdir())
    for suffix in (".png", ".webp"):
        save_image(picture(), path.with_suffix(suffix), record)
        assert read_parameters(path.with_suffix(suffix)) == record
    length = 65533 - (len(encode_exif(parameters(prompt="")))) & ~1
    longest = parameters(prompt="é" * (length // 4))
    assert 65525 < len(encode_exif(longest)) <= 65533
    save_image(picture(), path, longest)
    assert read_parameters(path) == longest


def encode_exif(record: dict[str, Any]) -> bytes:
    return pack_exif(parameters_text(record, (24, 16)), json.dumps(record, ensure_ascii=False))


def test_what_cannot_be_encoded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"is '.gif'; expected .png, .jpg, .jpeg or .webp. Try .*image.png"):
        save_image(picture(), tmp_path / "image.gif", parameters())
    with pytest.raises(OutputError, match=r"format is 'GIF'; expected PNG, JPEG, WEBP. Try PNG"):
        encode_image(picture(), parameters(), "GIF")
    with pytest.raises(OutputError, match=r"mode RGBA cannot be written as JPEG .*; convert it to RGB, or try PNG"):
        encode_image(picture("RGBA"), parameters(), "jpeg")
    with pytest.raises(OutputError, match=r"20000 x 1 and mode RGB cannot be written as WEBP"):
        encode_image(picture(width=20000, height=1), parameters(), "webp")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parameters", [{}, {"version": "sdxl 0.0", "request": {"prompt": "cat"}}])
def test_parameters_that_are_none_are_an_error(parameters: Any, tmp_path: Path) -> None:
    for save in (save_image, save_png):
        with pytest.raises(ArgumentError, match=r"parameters have no (version|model); expected those of an image"):
            save(Image.new("RGB", (8, 8)), tmp_path / "x.png", parameters)
    assert not [*tmp_path.iterdir()]


def test_save_png_writes_a_png(tmp_path: Path) -> None:
    for name in ("image.png", "image"):
        save_png(picture(), tmp_path / name, parameters())
        assert (tmp_path / name).read_bytes() == encode_image(picture(), parameters(), "PNG")


# ---- hostile files ---------------------------------------------------------------------------------------------------


def with_text(path: Path, text: str, compressed: bool = False) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_text("sdxl", text, compressed)
    picture().save(path, pnginfo=info)
    return path


def test_a_long_prompt_is_read_back(tmp_path: Path) -> None:
    record = parameters(prompt="a" * 10**6)
    save_image(picture(), tmp_path / "image.png", record)
    assert read_parameters(tmp_path / "image.png") == record


def test_hostile_text_is_an_error(tmp_path: Path) -> None:
    long = with_text(tmp_path / "long.png", '{"request": {}, "model": {"a": "' + "a" * 2**23 + '"}}')
    with pytest.raises(ArgumentError, match=r"damaged \(8388643 characters, expected at most 8388608\)"):
        read_parameters(long)
    packed = with_text(tmp_path / "packed.png", " " * 2**21, compressed=True)
    with pytest.raises(ArgumentError, match=r"(?i)decompressed data too large"):
        read_parameters(packed)
    for text in ("", "{", "[" * 10**5, "[]", "null", '{"request": 1, "model": {}}', "1" * 5000, "\x1b[31m", "{\x1b}"):
        with pytest.raises(ArgumentError) as caught:
            read_parameters(with_text(tmp_path / "text.png", text))
        assert str(caught.value).isprintable()


def test_hostile_images_are_errors(tmp_path: Path) -> None:
    path, data = tmp_path / "bomb.png", io.BytesIO()
    picture().save(data, "PNG")
    header = b"IHDR" + struct.pack(">LL", 20000, 20000) + data.getvalue()[24:29]  # 1.2 GB of pixels
    path.write_bytes(data.getvalue()[:12] + header + struct.pack(">L", zlib.crc32(header)) + data.getvalue()[33:])
    with pytest.raises(ArgumentError, match="cannot be read as an image"):
        read_parameters(path)
    path.write_bytes(b"P6 \x1b[31m1 10 255\n")
    for read in (read_parameters, open_picture):
        with pytest.raises(ArgumentError) as caught:
            read(path)
        assert str(caught.value).isprintable(), "PIL repeats what is in the file"


def test_texts_of_a_tool_that_is_not_read_are_named(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("other_metadata", "{}")
    picture().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ArgumentError, match="has no parameters of a tool that is read, but the texts 'other_meta"):
        read_parameters(tmp_path / "a.png")
    info.add_text("parameters", '{"prompt": "a cat"}')
    picture().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ArgumentError, match=r"cannot be read \(it is JSON of a tool that is not read\); give"):
        read_parameters(tmp_path / "a.png")
    info.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler a")  # the last one counts
    picture().save(tmp_path / "a.png", pnginfo=info)
    assert read_parameters(tmp_path / "a.png")["request"]["prompt"] == "a cat"


def test_pixels_of_a_large_image_are_not_read_for_its_text(tmp_path: Path) -> None:
    """A PNG may have text behind its pixels, whose reading takes time and memory by their number."""
    text = b"tEXtsdxl\0" + json.dumps(parameters()).encode()
    chunk = struct.pack(">L", len(text) - 4) + text + struct.pack(">L", zlib.crc32(text))

    def save(image: Image.Image) -> Path:
        data = io.BytesIO()
        image.save(data, "PNG")
        (tmp_path / "late.png").write_bytes(data.getvalue()[:-12] + chunk + data.getvalue()[-12:])  # before the end
        return tmp_path / "late.png"

    assert read_parameters(save(picture())) == parameters()
    with pytest.raises(ArgumentError, match="has no recorded parameters"):
        read_parameters(save(Image.new("1", (8300, 8300))))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: data[:-300], lambda data: data.replace(b"{", b"\xff", 1)]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_record_is_an_error(format: str, damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(damage(encode_image(Image.new("RGB", (8, 8)), parameters(), format)))
    with pytest.raises(ArgumentError) as caught:
        read_parameters(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "exif", [b"", b"MM", b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"Exif\0\0junk"]
)
def test_foreign_or_damaged_exif_is_an_error(exif: bytes, tmp_path: Path) -> None:
    picture().save(tmp_path / "image.webp", exif=exif)
    with pytest.raises(ArgumentError, match=r"has no recorded parameters|its EXIF ends too early"):
        read_parameters(tmp_path / "image.webp")


def test_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ~ in every path of Python too; no folder of that name is made."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    save_image(picture(), "~/a.png", parameters())
    save_png(picture(), "~/b.png", parameters())
    (tmp_path / "c.txt").write_text(parameters_text(parameters(), (24, 16)))
    save_file({"x": torch.ones(1, 4, 2, 2)}, tmp_path / "d.safetensors")
    for name in ("a.png", "b.png", "c.txt"):
        assert read_parameters(f"~/{name}").request["prompt"] == "a cat"
    assert open_latents("~/d.safetensors", "latents").shape == (1, 4, 2, 2)
    with pytest.raises(OutputError, match=r"~ is a folder; give a file name such as ~.picture\.png"):
        save_image(picture(), "~", parameters())
    assert not list((tmp_path / "elsewhere").iterdir())
