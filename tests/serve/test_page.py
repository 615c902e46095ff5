"""The page in a browser, against a running service with the miniature."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import SECONDS, Tab, started
from PIL import Image, ImageDraw, PngImagePlugin
from safetensors.numpy import save_file
from serving import ADAPTERS, PROMPT, Client, Running, in_base64, miniatures, png, serving, until

import sdxl

pytestmark = pytest.mark.slow
QUICK = {"prompt": PROMPT, "steps": 4, "seed": 7}
SLOW = {"prompt": PROMPT, "steps": 40, "width": 256, "height": 256}
Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("nets")
    for name in ("edges.safetensors", "colours.safetensors"):
        shutil.copy(ADAPTERS / name, folder)
    shutil.copytree(ADAPTERS / "image_encoder", folder / "image_encoder")
    keys = ("controlnet_cond_embedding.conv_in.weight", "add_embedding.linear_1.weight", "task_embedding")
    save_file({key: np.zeros((8, 8), np.float32) for key in keys}, folder / "union.safetensors")  # by its looks
    with serving(miniatures(lora_dir=ADAPTERS, control_dir=folder), max_steps=40) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as browser:
        yield browser


@pytest.fixture
def open_tab(browser: Any, running: Running) -> Iterator[Open]:
    """Opens the page in a browser that knows nothing yet. No page may ask another host."""
    tabs: list[Tab] = []

    def open_tab(**options: Any) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        tabs.append(Tab(f"http://127.0.0.1:{running.client.port}/", context))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.context.close()
        assert tab.foreign == []
    for job in (*running.service.engine.waiting, *running.service.engine.running):
        running.service.engine.cancel(job.id)


@pytest.fixture
def tab(open_tab: Open) -> Iterator[Tab]:
    """A tab in which nothing may go wrong."""
    tab = open_tab()
    yield tab
    assert tab.messages == []


def generated(client: Client, **given: Any) -> Image.Image:
    """The image that the same arguments give without the page."""
    job = client.done(client.job(**{"prompt_syntax": "a1111", **given})["id"])
    assert job["status"] == "done", job["error"]
    return client.image(job["images"][0])


def same(image: Image.Image, other: Image.Image) -> bool:
    return image.size == other.size and np.array_equal(np.asarray(image), np.asarray(other))


def source(side: int = 128) -> Image.Image:
    image = Image.new("RGB", (side, side), "green")
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), fill="yellow")
    return image


def test_it_generates_what_the_api_does(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK, negative="a (cat:1.2)", width=64, height=96)
    tab["prompt"].press("Control+Enter")
    tab.at("#results img").wait_for()
    given = {**QUICK, "negative_prompt": "a (cat:1.2)", "width": 64, "height": 96}
    assert same(tab.image(), generated(running.client, **given))
    facts = tab.at("#facts").inner_text()
    assert all(each in facts for each in ("seed 7", "64 \u00d7 96", "4 steps", "euler leading", "guidance 5"))
    with tab.page.expect_download() as download:
        tab.at("#save").click()
    assert download.value.suggested_filename.endswith("-1.png")
    saved = Image.open(download.value.path())
    assert str(saved.info["parameters"]).startswith(PROMPT)
    assert json.loads(str(saved.info["sdxl"]))["request"]["seed"] == 7


def test_images_come_one_after_the_other_with_the_next_seeds(tab: Tab) -> None:
    tab.fill(**QUICK)
    tab.at("#batches").fill("3")
    seeds = [json.loads(str(each.info["sdxl"]))["request"]["seed"] for each in tab.generate(3)]
    assert seeds == [9, 8, 7]
    tab.at("#results button").nth(2).click()
    assert "seed 7" in tab.at("#facts").inner_text()
    tab.page.keyboard.press("ArrowLeft")
    assert "seed 8" in tab.at("#facts").inner_text()
    tab.at("#dice").click()
    assert tab["seed"].input_value() == ""
    tab.at("#reuse").click()
    assert tab["seed"].input_value() == "8"


def test_hires_fix(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK, width=64, height=64)
    assert not tab.at("[name='hires.scale']").is_visible()
    tab.at("#hires").check()
    assert tab.at("#hires-size").inner_text().endswith("128 \u00d7 128")
    tab.at("[name='hires.scale']").fill("1.5")
    tab.at("[name='hires.strength']").fill("0.5")
    tab.at("[name='hires.upscaler']").select_option("lanczos")
    assert tab.at("#hires-size").inner_text().endswith("96 \u00d7 96")
    hires = {"scale": 1.5, "strength": 0.5, "upscaler": "lanczos"}
    expected = generated(running.client, **QUICK, width=64, height=64, hires=hires)
    assert same(tab.generate()[0], expected)
    tab.open()  # a reload loses nothing
    assert tab.at("#hires").is_checked()
    tab.at("#hires").uncheck()
    assert same(tab.generate()[0], generated(running.client, **QUICK, width=64, height=64))
    tab.at("[name='hires.scale']").evaluate("input => (input.value = '')")
    tab.at("#results button").nth(1).click()
    tab.at("#again").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    assert tab.at("[name='hires.scale']").input_value() == "1.5"
    assert tab.at("#more li").count() == 0
    tab.start_from(png(source()))
    assert not tab.at("#hires").is_visible()
    tab.generate()


def test_a_part_of_hires_fix_without_a_control(tab: Tab, running: Running) -> None:
    hires = {"size": "96x64", "steps": 3, "prompt": "a green star on a red background"}
    job = running.client.done(running.client.job(**QUICK, hires=hires)["id"])
    tab.drop(running.client.get(job["images"][0]["url"]).body)
    tab.at("#take").click()
    tab.at("#more:has-text('hires.size')").wait_for()
    assert tab.at("#more li").count() == 2
    assert tab.at("#hires-size").inner_text().endswith("96 \u00d7 64")
    assert same(tab.generate()[0], running.client.image(job["images"][0]))


def test_an_error_of_hires_fix_is_beside_its_control(open_tab: Open) -> None:
    tab = open_tab()
    tab.fill(**QUICK)
    tab.at("#hires").check()
    tab.at("[name='hires.strength']").fill("2")
    tab["generate"].click()
    tab.at("#problem:has-text('strength of hires is 2')").wait_for()
    assert tab.at("[name='hires.strength']").get_attribute("aria-invalid") == "true"
    assert tab["strength"].get_attribute("aria-invalid") is None


def test_the_gallery_outlives_the_service(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK)
    tab.at("#batches").fill("2")
    first = tab.generate(2)[0]
    tab.page.wait_for_function("() => document.querySelector('#save').href.startsWith('blob:')")
    running.service.engine._jobs.clear()  # as after an hour, or a new start
    tab.open()
    tab.at("#results img").nth(1).wait_for()
    assert tab.at("#results img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    with tab.page.expect_download() as download:
        tab.at("#save").click()
    assert same(Image.open(download.value.path()), first)
    tab.fill(seed=1)
    tab.at("#again").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    assert tab["seed"].input_value() == "8"
    tab.at("#start").click()
    tab["mask"].wait_for()
    with tab.context.expect_page() as opened:
        tab.at("#frame").click()  # at its own size
    opened.value.close()
    assert tab.generate()[0].size == (128, 128)
    assert tab.at("#results img").count() == 3


def test_an_image_is_removed_for_good(tab: Tab) -> None:
    tab.fill(**QUICK)
    tab.at("#batches").fill("2")
    tab.generate(2)
    tab.page.wait_for_function("() => document.querySelector('#save').href.startsWith('blob:')")
    tab.page.once("dialog", lambda dialog: dialog.dismiss())
    tab.at("#discard").click()
    assert tab.at("#results img").count() == 2
    for left in (1, 0):
        tab.page.once("dialog", lambda dialog: dialog.accept())
        tab.at("#discard").click()
        assert tab.at("#results img").count() == left
        assert tab.at("#reuse").is_disabled() == (not left)
        tab.open()  # the service still has both
        tab.at("#state:has-text('ready')").wait_for()
        assert tab.at("#results img").count() == left
        assert tab.at("#empty").is_visible() == (not left)


@pytest.mark.parametrize(
    "fault",
    [
        "IDBFactory.prototype.open = () => { throw new DOMException('forbidden', 'SecurityError'); }",
        "const { open } = IDBFactory.prototype;"
        "IDBFactory.prototype.open = function (name) { open.call(this, name, 9); return open.call(this, name, 1); }",
        "IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError'); }",
    ],
    ids=["forbidden", "of another version", "full"],
)
def test_a_browser_that_keeps_nothing(browser: Any, running: Running, fault: str) -> None:
    context = browser.new_context()
    context.add_init_script(fault)
    tab = Tab(f"http://127.0.0.1:{running.client.port}/", context)
    tab.fill(**QUICK)
    tab.generate()
    assert not tab.at("#problem").is_visible()
    assert [each for each in tab.messages if "VersionError" not in each] == []
    context.close()


def test_each_tab_has_its_own_words(tab: Tab, open_tab: Open) -> None:
    tab.fill(**QUICK)
    other = Tab(tab.url, tab.context)
    other.fill(prompt="a green star", steps=2)
    other.generate()
    tab.open()
    assert tab["prompt"].input_value() == PROMPT
    assert tab.at("#results img").count() == 1, "the gallery is one"
    other.page.close()


def test_a_seed_of_64_bits_is_exact(tab: Tab) -> None:
    tab.fill(**{**QUICK, "seed": 2**64 - 2})
    assert json.loads(str(tab.generate()[0].info["sdxl"]))["request"]["seed"] == 2**64 - 2
    tab.fill(seed="")
    tab.at("#again").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    assert tab["seed"].input_value() == str(2**64 - 2)


def test_progress_preview_and_stop(tab: Tab, running: Running) -> None:
    tab.fill(**SLOW)
    tab["generate"].click()
    tab.at("#frame[data-preview] img[src^='data:image/jpeg']").wait_for()
    tab.at("#progress-text:has-text('left')").wait_for()
    assert "of 40" in tab["progress"].inner_text()
    assert 0 < float(tab.at("#bar").evaluate("bar => bar.value")) < 1
    assert "%" in tab.page.title()
    tab["stop"].click()
    tab["stop"].wait_for(state="hidden")
    assert not tab.at("#results li").count()
    assert not running.service.engine.running


def test_finish_now_and_skip(tab: Tab) -> None:
    tab.fill(**SLOW)
    tab["generate"].click()
    tab.at("#keep").click()
    tab["stop"].wait_for(state="hidden")
    assert json.loads(str(tab.image().info["sdxl"]))["stopped_after"] < 40
    tab.at("#batches").fill("2")
    tab.fill(seed=7)
    tab["generate"].click()
    tab.at("#progress-text:has-text('Image 1 of 2: step')").wait_for()
    tab.at("#skip").click()
    tab.at("#progress-text:has-text('Image 2 of 2')").wait_for()
    tab.at("#keep").click()
    tab["stop"].wait_for(state="hidden")
    assert json.loads(str(tab.image().info["sdxl"]))["request"]["seed"] == 8


def test_jobs_wait_in_a_queue(tab: Tab, running: Running) -> None:
    tab.fill(**SLOW)
    for _ in range(3):
        tab["generate"].click()
        tab.at("#generate:enabled").wait_for()
    tab.at(".pending").nth(2).wait_for()
    tab.at(".pending .icon:visible").first.click()
    tab.at(".pending").nth(2).wait_for(state="detached")
    assert len(running.service.engine.waiting) == 1
    tab["generate"].click()
    tab.at("#drain:has-text('Drop 2')").click()
    tab.at(".pending").nth(1).wait_for(state="detached")
    assert not running.service.engine.waiting
    tab["stop"].click()
    tab.at(".pending").wait_for(state="detached")


def test_image_to_image(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK)
    tab.start_from(png(source()))
    assert tab["strength"].get_attribute("placeholder") == "0.3"
    tab.fill(strength=0.5)
    expected = generated(running.client, **QUICK, image=in_base64(source()), strength=0.5)
    assert same(tab.generate()[0], expected)
    tab.at("#remove").click()
    tab["mask"].wait_for(state="hidden")
    assert same(tab.generate()[0], generated(running.client, **QUICK))


def test_a_large_photograph_is_worked_on_at_a_fitting_size(tab: Tab) -> None:
    data = io.BytesIO()
    Image.new("RGB", (900, 600), "green").save(data, format="JPEG")
    tab.start_from(data.getvalue(), "photo.jpg")
    assert [tab[name].input_value() for name in ("width", "height")] == ["160", "104"]
    tab.at("#ratios button").first.click()  # its own size after all
    assert [tab[name].input_value() for name in ("width", "height")] == ["", ""]
    assert [tab[name].get_attribute("placeholder") for name in ("width", "height")] == ["896", "600"]


def test_a_photograph_lies_as_it_is_shown(tab: Tab) -> None:
    data, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.new("RGB", (96, 64), "green").save(data, format="JPEG", exif=turned)
    tab.start_from(data.getvalue(), "photo.jpg")
    tab.fill(**QUICK, strength=0.5)
    assert tab.mask().shape == (96, 64)
    assert tab.generate()[0].size == (64, 96)


def test_formats_that_the_service_does_not_take_are_converted(tab: Tab) -> None:
    data = io.BytesIO()
    source(64).save(data, format="GIF")
    tab["upload"].set_input_files({"name": "a.gif", "mimeType": "image/gif", "buffer": data.getvalue()})
    tab["mask"].wait_for()
    tab.fill(**QUICK, strength=0.5)
    assert tab.generate()[0].size == (64, 64)


def test_only_what_is_brushed_changes(tab: Tab) -> None:
    tab.start_from(png(source()))
    tab.fill(**QUICK)
    tab["brush-size"].fill("20")
    tab.stroke((0.2, 0.3), (0.7, 0.4), (0.3, 0.7))
    mask = tab.mask()
    changed = np.asarray(tab.generate()[0]) != np.asarray(source())
    assert not changed[mask == 0].any()
    assert changed[mask == 255].any(1).mean() > 0.5
    tab.fill(prompt="a green star on a red background")
    assert np.array_equal(tab.mask(), mask)  # other words, and a generation, leave it
    tab.at("#only-masked").check()
    again = np.asarray(tab.generate()[0]) != np.asarray(source())
    assert not again[mask == 0].any()
    assert json.loads(str(tab.image().info["sdxl"]))["request"]["mask_padding"] == 32


def test_the_brush(tab: Tab) -> None:
    tab.start_from(png(source()))
    tab["brush-size"].fill("16")
    tab.stroke((0.5, 0.5), (1.3, 0.5), (-0.3, 0.5))  # over both edges
    first = tab.mask()
    assert (first[64] == 255).all()
    assert 14 <= np.count_nonzero(first[:, 64]) <= 18
    tab["brush-size"].fill("40")
    tab["erase"].click()
    tab.stroke((0.5, 0.3), (0.5, 0.7))
    assert tab.mask()[64, 64] == 0
    tab["undo"].click()
    assert np.array_equal(tab.mask(), first)
    tab.at("#redo").click()
    assert tab.mask()[64, 64] == 0
    tab.page.keyboard.press("Control+z")
    assert np.array_equal(tab.mask(), first)
    tab.at("#invert").click()
    assert np.abs(tab.mask() - (255 - first)).max() <= 1
    tab["clear"].click()
    assert not tab.mask().any()
    tab["undo"].click()
    tab["undo"].click()
    assert np.array_equal(tab.mask(), first)
    tab.at("#mask-upload").set_input_files({"name": "m.png", "mimeType": "image/png", "buffer": png(mask_image())})
    tab.page.wait_for_timeout(300)
    assert np.abs(tab.mask() - np.asarray(mask_image())).max() <= 1


def mask_image() -> Image.Image:
    mask = Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).rectangle((10, 20, 60, 70), fill=255)
    ImageDraw.Draw(mask).rectangle((80, 20, 110, 70), fill=128)
    return mask


def test_zoom_is_for_the_eyes_alone(tab: Tab) -> None:
    tab.start_from(png(source()))
    tab["brush-size"].fill("8")
    before = tab.at("#fit").inner_text()
    tab.at("#in").click()
    tab.at("#in").click()
    assert tab.at("#fit").inner_text() != before
    box = tab.at("#viewport").bounding_box()
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    rows, columns = np.nonzero(tab.mask())
    assert abs(rows.mean() - 64) < 2
    assert abs(columns.mean() - 64) < 2
    assert 6 <= np.ptp(rows) <= 9
    tab.at("#fit").click()
    assert tab.at("#fit").inner_text() == before


def test_the_keyboard_paints(tab: Tab) -> None:
    tab.start_from(png(source()))
    tab["brush-size"].fill("16")
    tab["mask"].focus()
    keys = tab.page.keyboard
    keys.down(" ")
    for _ in range(4):
        keys.press("ArrowRight")
    keys.up(" ")
    mask = tab.mask()
    assert mask[64, 64] == mask[64, 80] == 255
    assert mask[64, 100] == mask[90, 64] == 0
    keys.press("e")
    keys.press("Shift+ArrowLeft")
    keys.press(" ")
    assert tab.mask()[64, 64] == 0
    keys.press("Control+z")
    assert np.array_equal(tab.mask(), mask)
    keys.press("]")
    assert int(tab["brush-size"].input_value()) == 20


def test_fingers_paint_and_zoom(open_tab: Open) -> None:
    tab = open_tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab.start_from(png(source()))
    tab["mask"].scroll_into_view_if_needed()
    box = tab["mask"].bounding_box()
    devtools = tab.context.new_cdp_session(tab.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (0.2, 0.5))
    for x in (0.4, 0.6, 0.8):
        touch("touchMove", (x, 0.5))
    touch("touchEnd")
    mask = tab.mask()
    assert mask[64, 30] == mask[64, 100] == 255
    assert tab.page.evaluate("scrollX") == 0
    before = tab.at("#fit").inner_text()
    touch("touchStart", (0.4, 0.3))
    touch("touchStart", (0.4, 0.3), (0.6, 0.3))
    touch("touchMove", (0.2, 0.3), (0.8, 0.3))
    touch("touchEnd")
    assert tab.at("#fit").inner_text() != before
    assert np.array_equal(tab.mask(), mask)  # two fingers paint nothing
    assert tab.messages == []


def test_a_reload_loses_nothing(tab: Tab) -> None:
    tab.fill(**QUICK)
    tab.generate()
    tab.start_from(png(source()))
    tab.stroke((0.3, 0.3), (0.6, 0.6))
    mask = tab.mask()
    tab.fill(**SLOW, seed=9, negative="a cat", strength=0.9)
    tab["generate"].click()
    tab.at("#progress-text:has-text('step')").wait_for()
    tab.open()
    tab.at("#progress-text:has-text('step')").wait_for()
    tab.at("#frame[data-preview] img[src^='data:image/jpeg']").wait_for()
    for name, value in {**SLOW, "seed": 9, "negative": "a cat", "strength": 0.9}.items():
        assert tab[name].input_value() == str(value)
    assert tab.at("#results img").count() == 1
    tab["mask"].wait_for()
    assert np.array_equal(tab.mask(), mask)
    tab.at("#results img").nth(1).wait_for()
    assert json.loads(str(tab.image().info["sdxl"]))["request"]["seed"] == 9
    assert "seed 9" in tab.at("#facts").inner_text()
    tab.open()
    tab.at("#results img").nth(1).wait_for()


def test_parameters_of_a_dropped_image(tab: Tab, running: Running) -> None:
    given = {"guider": "apg", "sampler": "dpmpp_2m", "schedule": "karras", "guidance_scale": 4.5, "clip_skip": 1}
    given |= {"variation_seed": 2**64 - 2, "variation_strength": 0.25}
    lora = [{"file": "heart", "weight": 0.5}]
    prompt = "a red heart on a blue background"
    first = running.client.done(running.client.job(**{**QUICK, "prompt": prompt}, **given, loras=lora)["id"])
    data = running.client.get(first["images"][0]["url"]).body
    tab.fill(prompt="something else")
    tab.drop(data)
    tab["mask"].wait_for()  # it is a source image at first
    tab.at("#take").click()
    tab["mask"].wait_for(state="hidden")
    tab.at("#more:has-text('guider')").wait_for()
    assert tab["prompt"].input_value() == prompt
    assert tab["seed"].input_value() == "7"
    assert tab.at("[name=sampler]").input_value() == "dpmpp_2m"
    assert tab.at("#added span").inner_text() == "heart"
    assert tab.at("#more li").count() == 1  # eta, as the record has it, is the sampler's own
    assert same(tab.generate()[0], running.client.image(first["images"][0]))
    tab.at("#more button").first.click()
    assert not same(tab.generate()[0], running.client.image(first["images"][0]))


def test_parameters_of_another_tool(tab: Tab) -> None:
    info = PngImagePlugin.PngInfo()
    lines = ("a (red:1.2) circle", "Negative prompt: a cat", "Steps: 9, Sampler: DPM++ 2M, Schedule type: Karras, ")
    info.add_text("parameters", "\n".join(lines) + "CFG scale: 7, Seed: 5, Size: 64x96, Version: v1.10.1")
    tab.drop(png(Image.new("RGB", (64, 96)), pnginfo=info))
    tab.at("#take").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    values = {"prompt": lines[0], "negative": "a cat", "steps": "9", "seed": "5", "width": "64", "height": "96"}
    assert {name: tab[name].input_value() for name in values} == values
    names = {"sampler": "dpmpp_2m", "schedule": "karras", "prompt_syntax": "a1111", "guidance_scale": "7"}
    assert {name: tab.at(f"[name={name}]").input_value() for name in names} == names
    tab.generate()


def test_parameters_that_cannot_be_read_are_not_passed_over(open_tab: Open) -> None:
    tab = open_tab()
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps({"3": {"class_type": "Nothing", "inputs": {}}}))
    tab.drop(png(source(), pnginfo=info))
    tab.at("#offer:has-text('cannot be read')").wait_for()
    assert not tab.at("#take").is_visible()
    tab.at("#remove").click()
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a holiday")
    tab.drop(png(source(), pnginfo=info))
    tab["mask"].wait_for()
    tab.page.wait_for_timeout(300)
    assert not tab.at("#offer").is_visible(), "a comment is no lost work"


def test_what_of_another_tool_has_no_counterpart_is_named(tab: Tab) -> None:
    info = PngImagePlugin.PngInfo()
    text = "a cat\nSteps: 9, Seed: 5, Size: 64x96, Hires upscale: 2, Hires upscaler: 4x-UltraSharp"
    info.add_text("parameters", text)
    tab.drop(png(source(), pnginfo=info))
    tab.at("#take").click()
    tab.at("#problem:has-text('4x-UltraSharp')").wait_for()
    assert tab.at("#hires").is_checked()
    assert tab.at("[name='hires.upscaler']").input_value() == "lanczos"


@pytest.mark.parametrize("hires", [{"size": 5}, {"size": "large"}, [1, 2], "large"])
def test_a_damaged_record_does_not_stay(tab: Tab, hires: Any) -> None:
    info = PngImagePlugin.PngInfo()
    record = {"version": "sdxl 0", "model": {"model": "miniature"}, "request": {"prompt": PROMPT, "hires": hires}}
    info.add_itxt("sdxl", json.dumps(record))
    tab.drop(png(source(), pnginfo=info))
    tab.at("#take").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    tab.open()
    assert tab["prompt"].input_value() == PROMPT


def test_what_is_missing_is_named(tab: Tab, running: Running) -> None:
    given = {**QUICK, "image": in_base64(source()), "strength": 0.5}
    first = running.client.done(running.client.job(**given)["id"])
    record = running.client.image(first["images"][0])
    text = str(record.info["sdxl"]).replace('"miniature"', '"another"')
    info = PngImagePlugin.PngInfo()
    info.add_itxt("sdxl", text)
    tab.drop(png(record, pnginfo=info))
    tab.at("#take").click()
    tab.at("#problem").wait_for()
    assert "its source image, the model another" in tab.at("#problem").inner_text()
    assert tab["strength"].input_value() == "0.5"


def test_use_these_again_and_start_from_it(tab: Tab) -> None:
    tab.fill(**QUICK, negative="a cat")
    first = tab.generate()[0]
    tab.fill(prompt="a green star", negative="", steps=2, seed="")
    tab.at("#again").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    assert same(tab.generate()[0], first)
    tab.fill(prompt="a green star")
    tab.at("#start").click()
    tab["mask"].wait_for()
    assert tab["prompt"].input_value() == "a green star"  # words stay
    assert tab.at("#source").evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    tab.fill(steps=10)
    assert tab.generate()[0].size == (128, 128)


def test_loras_and_models(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK)
    tab.at("#add").select_option("heart")
    tab.at("#added input").fill("0.5")
    expected = generated(running.client, **QUICK, loras=[{"file": "heart", "weight": 0.5}])
    assert same(tab.generate()[0], expected)
    tab.open()
    assert tab.at("#added input").input_value() == "0.5"
    tab.at("#added button").click()
    tab.at("#model").select_option("miniature-refiner")
    tab.start_from(png(source()))
    tab.fill(steps=10)
    tab.generate()
    assert "miniature-refiner" in tab.at("#facts").inner_text()
    tab.at("#model").select_option("miniature")
    tab.generate()


def edges() -> Image.Image:
    image = Image.new("RGB", (128, 128), "black")
    ImageDraw.Draw(image).ellipse((30, 40, 90, 100), outline="white", width=2)
    return image


def card(tab: Tab, name: str) -> Any:
    """What the page shows of a LoRA, a control or a reference."""
    return tab.at(f"#added li:has([aria-label='{name}'])")


def choose(tab: Tab, name: str, image: Image.Image) -> None:
    """Choose the image of a control or a reference."""
    file = {"name": "a.png", "mimeType": "image/png", "buffer": png(image)}
    card(tab, name).locator("input[type=file]").set_input_files(file)
    card(tab, name).locator("img").wait_for()


def test_controls_and_references(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK)
    for name in ("edges", "colours"):
        tab.at("#add").select_option(name)
    choose(tab, "edges", edges())
    choose(tab, "colours", source())
    card(tab, "edges").get_by_label("scale").fill("0.8")
    card(tab, "edges").get_by_label("end").fill("0.7")
    card(tab, "colours").get_by_label("start").fill("0")
    card(tab, "colours").get_by_label("only").select_option("style")
    control = {"net": "edges", "image": in_base64(edges()), "scale": 0.8, "end": 0.7}
    reference = {"adapter": "colours", "image": in_base64(source()), "only": "style"}
    expected = generated(running.client, **QUICK, control=[control], reference=[reference])
    assert same(tab.generate()[0], expected)
    tab.open()  # a reload loses nothing
    card(tab, "colours").locator("img").wait_for()
    assert card(tab, "edges").get_by_label("scale").input_value() == "0.8"
    assert same(tab.generate()[0], expected)
    tab.start_from(png(source()))  # beside a source image
    tab.fill(strength=0.9)
    both = generated(
        running.client,
        **QUICK,
        control=[control],
        reference=[reference],
        image=in_base64(source()),
        strength=0.9,
    )
    assert same(tab.generate()[0], both)
    tab.at("#remove").click()
    card(tab, "edges").get_by_role("button", name="Remove").click()
    card(tab, "colours").get_by_role("button", name="Remove").click()
    assert same(tab.generate()[0], generated(running.client, **QUICK))


def test_several_controls_of_one_net(tab: Tab, running: Running) -> None:
    tab.fill(**QUICK)
    controls = []
    for number, end in enumerate(("0.5", "1")):
        tab.at("#add").select_option("edges")
        one = tab.at("#added li").nth(number)
        file = {"name": "a.png", "mimeType": "image/png", "buffer": png(source())}
        one.locator("input[type=file]").set_input_files(file)
        one.locator("img").wait_for()
        one.get_by_label("preprocess").select_option("canny")
        one.get_by_label("end").fill(end)
        one.get_by_label("guess").set_checked(number == 1)
        controls.append({"net": "edges", "image": in_base64(source()), "preprocess": "canny", "end": float(end)})
    controls[1]["guess"] = True
    assert same(tab.generate()[0], generated(running.client, **QUICK, control=controls))


def test_a_union_asks_for_the_type(open_tab: Open) -> None:
    tab = open_tab()
    tab.at("#add").select_option("edges")
    assert card(tab, "edges").get_by_label("type").count() == 0
    tab.at("#add").select_option("union")
    types = card(tab, "union").get_by_label("type")
    assert types.locator("option").all_inner_texts()[:3] == ["\u2013", "openpose", "depth"]
    assert "repaint" in types.locator("option").all_inner_texts()
    types.select_option("tile")
    tab.open()
    assert card(tab, "union").get_by_label("type").input_value() == "tile"
    tab["generate"].click()
    tab.at("#problem:has-text('Image of edges is missing')").wait_for()
    assert card(tab, "edges").locator(".file").get_attribute("aria-invalid") == "true"


def test_an_image_is_dropped_or_pasted_on_a_control(tab: Tab) -> None:
    tab.at("#add").select_option("edges")
    tab.at("#add").select_option("colours")
    tab.drop(png(edges()), at="#added li:has([aria-label='edges'])", message="Image of edges")
    card(tab, "edges").locator("img").wait_for()
    assert tab["mask"].is_hidden()
    card(tab, "colours").locator("input[type=file]").focus()
    tab.page.evaluate(
        """async (bytes) => {
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
          document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        list(png(source())),
    )
    card(tab, "colours").locator("img").wait_for()
    assert tab["mask"].is_hidden()


def test_controls_of_an_image_come_back(tab: Tab, running: Running) -> None:
    """With the images that the page has still; others are asked for."""
    tab.fill(**QUICK)
    tab.at("#add").select_option("edges")
    choose(tab, "edges", edges())
    card(tab, "edges").get_by_label("scale").fill("0.8")
    first = tab.generate()[0]
    card(tab, "edges").get_by_label("scale").fill("0.1")
    tab.fill(seed=1)
    tab.at("#again").click()
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    assert card(tab, "edges").get_by_label("scale").input_value() == "0.8"
    assert same(tab.generate()[0], first)
    assert tab.at("#warnings li").count() == 0
    choose(tab, "edges", source())
    tab.at("#again").click()  # another image than that of the record, and the page says so
    tab.at("#said:has-text('parameters')").wait_for(state="attached")
    tab.generate()
    assert "is not the one that the recorded image was made with" in tab.at("#warnings").inner_text()
    card(tab, "edges").get_by_role("button", name="Remove").click()
    tab.at("#again").click()
    tab.at("#problem:has-text('the image of edges')").wait_for()
    assert card(tab, "edges").locator("img").count() == 0
    tab["generate"].click()
    tab.at("#problem:has-text('Image of edges is missing')").wait_for()
    choose(tab, "edges", edges())
    assert same(tab.generate()[0], first)


def test_embeddings_are_put_into_the_prompt(browser: Any, tmp_path: Path) -> None:
    shutil.copy(ADAPTERS / "sun.safetensors", tmp_path)
    model = sdxl.ModelRequest("miniature", dtype="float32", device="cpu", embedding_dir=tmp_path)
    with serving([model]) as running:
        tab = Tab(f"http://127.0.0.1:{running.client.port}/", browser.new_context())
        tab.fill(prompt="a", steps=4)
        tab.at("#embedding").select_option("sun")
        assert tab["prompt"].input_value() == "a sun"
        tab.generate()
        assert tab.at("#add-field").is_hidden()
        tab.context.close()


@pytest.mark.parametrize("access", [{"auth": "me:secret"}, {"api_key": "secret"}])
def test_a_log_in_is_the_browsers(browser: Any, running: Running, access: dict[str, str]) -> None:
    pipe = running.service.workers[0]._pipe
    assert pipe is not None
    with serving([sdxl.ModelRequest("miniature")], load=lambda request: pipe, **access) as guarded:
        login = {"username": "me", "password": "secret"}
        tab = Tab(f"http://127.0.0.1:{guarded.client.port}/", browser.new_context(http_credentials=login))
        tab.fill(**QUICK)
        tab["generate"].click()
        tab.at("#results img").wait_for()
        kept = tab.at("#shown[src^='blob:']")  # where the browser keeps it
        assert kept.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
        tab.context.close()


def test_generate_is_always_in_sight(open_tab: Open) -> None:
    tab = open_tab(viewport={"width": 1366, "height": 500})
    tab.fill(prompt="masterpiece, (best quality:1.2), " * 150, negative="ugly, " * 300)
    tab["generate"].click()
    tab.at("#problem:has-text('shorten it')").wait_for()
    box = tab["generate"].bounding_box()
    assert box["y"] + box["height"] <= 500
    assert tab.page.evaluate("scrollY") == 0
    tab["steps"].scroll_into_view_if_needed()
    assert tab["steps"].bounding_box()["y"] < 500


def test_the_source_and_the_result_are_beside_each_other(open_tab: Open) -> None:
    tab = open_tab(viewport={"width": 820, "height": 1180})
    tab.fill(**QUICK)
    tab.generate()
    tab.at("#start").click()
    tab["mask"].wait_for()
    boxes = [tab.at(each).bounding_box() for each in (".tools", "#viewport", ".under", "#frame", "#about")]
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"]


def test_sizes(tab: Tab) -> None:
    labels = [tab.at(f"[name={name}] option").first.inner_text() for name in ("sampler", "schedule")]
    assert labels == ["Auto: Euler", "Auto: leading"]
    assert tab["width"].get_attribute("placeholder") == "128"
    tab.at("#ratios button:has-text('4:3')").click()
    assert [tab[name].input_value() for name in ("width", "height")] == ["144", "112"]
    tab.at("#swap").click()
    assert [tab[name].input_value() for name in ("width", "height")] == ["112", "144"]
    assert tab.at("#ratios [aria-pressed=true]").inner_text().strip() == "3:4"


def test_prompts_run_from_right_to_left_where_their_letters_do(tab: Tab) -> None:
    tab.fill(**{**QUICK, "prompt": "דגל אדום, (red:1.2)", "negative": "blurred"})
    tab.generate()
    directions = [tab.at(f"#{name}").evaluate("e => getComputedStyle(e).direction") for name in ("prompt", "caption")]
    assert directions == ["rtl", "rtl"]
    assert tab["negative"].evaluate("e => getComputedStyle(e).direction") == "ltr"


def test_errors_are_sentences_beside_their_control(open_tab: Open) -> None:
    tab = open_tab()
    tab.fill(**{**QUICK, "steps": 41})
    tab["generate"].click()
    tab.at("#problem:has-text('steps is 41')").wait_for()
    assert tab["steps"].get_attribute("aria-invalid") == "true"
    tab.at("#steps + [type=range]").fill("4")
    assert tab["steps"].get_attribute("aria-invalid") is None
    assert tab["steps"].input_value() == "4"
    tab.generate()
    assert tab.at("#problem").is_hidden()
    tab.page.set_input_files("#upload", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    tab.at("#problem:has-text('a.png is no image')").wait_for()
    assert [each for each in tab.messages if "400" not in each] == []


def test_a_service_that_goes_away_and_comes_back(open_tab: Open) -> None:
    tab = open_tab()
    tab.fill(**QUICK)
    tab.context.set_offline(True)
    tab["generate"].click()
    tab.at("#problem:has-text('does not answer')").wait_for()
    assert tab.at("#state").inner_text() == "no connection"
    tab.context.set_offline(False)
    tab.at("#state[data-state=ready]").wait_for()
    tab.generate()


def test_a_job_that_the_service_has_forgotten(open_tab: Open, running: Running) -> None:
    tab = open_tab()
    tab.fill(**SLOW)
    tab["generate"].click()
    tab.at("#progress-text:has-text('step')").wait_for()
    engine = running.service.engine
    (job,) = engine.running
    tab.context.set_offline(True)
    engine.cancel(job.id)
    until(lambda: job.state.is_over)
    del engine._jobs[job.id]
    tab.context.set_offline(False)
    tab.open()
    tab["stop"].wait_for(state="hidden")
    tab.fill(**QUICK)
    tab.generate()


def test_a_phone(open_tab: Open) -> None:
    tab = open_tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab.fill(**QUICK)
    tab.generate()
    tab.at("#start").click()
    tab["mask"].wait_for()
    assert -1 < tab.at("#editor").bounding_box()["y"] < 100  # in sight
    for name in ("heart", "union", "colours"):
        tab.at("#add").select_option(name)
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 390
    for control in tab.at("button:visible, input:visible, select:visible, textarea:visible").all():
        box = control.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390, control
    generate = tab["generate"].bounding_box()
    assert generate["y"] + generate["height"] <= 844  # always in sight
    assert generate["height"] >= 40
    assert tab.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_no_fault(open_tab: Open, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed; run make browser")
    tab = open_tab(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")

    def check() -> None:
        found = axe.Axe().run(tab.page).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []

    tab.at("#hires").check()
    check()
    tab.at("#hires").uncheck()
    tab.fill(**QUICK)
    tab.generate()
    tab.start_from(png(source()))
    tab.stroke((0.3, 0.3), (0.6, 0.6))
    tab.at("summary").click()
    for name in ("heart", "edges", "colours", "union"):
        tab.at("#add").select_option(name)
    choose(tab, "edges", edges())
    check()
    for name in ("colours", "union"):
        card(tab, name).get_by_role("button", name="Remove").click()
    tab.fill(**SLOW)
    tab["generate"].click()
    tab["generate"].click()
    tab.at("#frame[data-preview]").wait_for()
    check()
    tab["stop"].click()
    tab.fill(steps=0)
    tab["generate"].click()
    tab.at("#problem").wait_for()
    check()


def test_it_is_there_at_once(tab: Tab) -> None:
    timing = json.loads(tab.page.evaluate("JSON.stringify(performance.getEntriesByType('navigation')[0])"))
    assert timing["domContentLoadedEventEnd"] < 1000 * SECONDS / 20
    assert len(tab.page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")) < 15
