"""A browser for the tests of the page: the system's, or playwright's own. Tests skip where there is none."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_MAC = ("Chromium", "Google Chrome", "Microsoft Edge")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SECONDS = 60  # for what the miniature has to generate


def find_browser() -> str | None:
    """The program of a Chromium, or None."""
    applications = [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in _MAC]
    found = [os.environ.get("SDXL_BROWSER"), *map(shutil.which, _NAMES), *filter(os.path.exists, applications)]
    return next(filter(None, found), None)


@contextmanager
def started() -> Iterator[Any]:
    """A browser; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run make browser")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = find_browser() or (own if Path(own).exists() else None)
        if program is None:
            pytest.skip("there is no Chromium; run make browser")
        browser = playwright.chromium.launch(executable_path=program, args=[*_FLAGS])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """The page of a service in a tab of its own. `messages` are the errors that it wrote to the console, `foreign` the
    addresses of other hosts that it asked.
    """

    url: str
    context: Any
    page: Any = field(init=False)
    messages: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.on("console", lambda each: self.messages.append(each.text) if each.type == "error" else None)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.context.on("request", self._ask)
        self.open()

    def _ask(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def open(self) -> None:
        """Load the page, and wait until the service is ready."""
        self.page.goto(self.url)
        self.at("#state[data-state=ready]").wait_for()

    def __getitem__(self, name: str) -> Any:
        """An element by its data-testid."""
        return self.page.get_by_test_id(name)

    def at(self, selector: str) -> Any:
        """An element by a CSS selector."""
        return self.page.locator(selector)

    def fill(self, **values: object) -> None:
        """Fill in fields by their test ids."""
        for name, value in values.items():
            self[name].fill(str(value))

    def generate(self, count: int = 1) -> list[Image.Image]:
        """Press Generate, and wait until there are so many images more: these, the newest first."""
        before = self.at("#results img").count()
        self["generate"].click()
        self.at("#results img").nth(before + count - 1).wait_for()
        self["stop"].wait_for(state="hidden")
        return [self.image(number) for number in range(count)]

    def image(self, number: int = 0) -> Image.Image:
        """An image of the gallery, the newest is number 0."""
        with urlopen(self.at("#results img").nth(number).evaluate("image => image.src"), timeout=SECONDS) as answer:
            return Image.open(io.BytesIO(answer.read()))

    def start_from(self, data: bytes, name: str = "image.png") -> None:
        """Choose a source image."""
        kind = "image/jpeg" if name.endswith("jpg") else "image/png"
        self["upload"].set_input_files({"name": name, "mimeType": kind, "buffer": data})
        self["mask"].wait_for()

    def mask(self) -> np.ndarray:
        """The opacity of the mask's pixels (H, W)."""
        pixels, width = self["mask"].evaluate(
            """mask => {
              const { data } = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
              return [Array.from(data.filter((value, place) => place % 4 === 3)), mask.width];
            }"""
        )
        return np.array(pixels).reshape(-1, width)

    def stroke(self, *points: tuple[float, float]) -> None:
        """Draw with the mouse; points are parts of the mask's sides, and may lie outside of it."""
        box, mouse = self["mask"].bounding_box(), self.page.mouse
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        mouse.move(*places[0])
        mouse.down()
        for place in places[1:]:
            mouse.move(*place, steps=6)
        mouse.up()

    def drop(self, data: bytes, name: str = "image.png", at: str = "body", message: str = "Drop the image") -> None:
        """Drop a file on a part of the page, which says meanwhile what it is for."""
        dropped = self.page.evaluate_handle(
            """([bytes, name]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
              return data;
            }""",
            [list(data), name],
        )
        self.page.dispatch_event(at, "dragover", {"dataTransfer": dropped})
        self.at(f"#drop:has-text('{message}')").wait_for()
        self.page.dispatch_event(at, "drop", {"dataTransfer": dropped})
        self.at("#drop").wait_for(state="hidden")
