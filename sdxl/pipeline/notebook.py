"""Images as a notebook shows them."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from PIL import Image

_LEAST = 192  # pixels of the shown height


def png(image: Image.Image) -> bytes:
    """A PNG file."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


def html(images: Sequence[Image.Image], captions: Sequence[str]) -> str:
    """A row of images with their captions. The images are in the text itself."""
    figures = [
        '<figure style="display: inline-block; margin: 4px">'
        f'<img src="data:image/png;base64,{b64encode(png(image)).decode()}"/>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for image, caption in zip(images, captions, strict=True)
    ]
    return "".join(figures)


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """Small images of one size side by side, enlarged by a whole number so that they can be seen."""
    whole = side_by_side(images)
    times = -(-_LEAST // whole.height)
    return whole.resize((whole.width * times, whole.height * times), Image.Resampling.NEAREST)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size as one."""
    width, height = images[0].size
    whole = Image.new("RGB", (len(images) * width, height))
    for number, image in enumerate(images):
        whole.paste(image, (number * width, 0))
    return whole
