"""What a pipeline gives: the state after each step, and the finished images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..images.a1111 import parameters_text
from ..images.output import image_format, numbered
from ..images.pixels import to_pil
from ..images.record import save_image
from ..models.config import AnyVAEConfig
from ..runtime.locks import without_modes
from ..weights.path import expanded
from .equality import equal_fields
from .notebook import html, png, strip
from .profiles import conventions_of

if TYPE_CHECKING:
    import typing_extensions
    from PIL.Image import Image

    Either = list[Image] | Tensor
    Images = typing_extensions.TypeVar("Images", bound=Either, default=Either, covariant=True)
else:
    Images = TypeVar("Images")  # Python before 3.13 knows no default

Output = Literal["pil", "tensor", "latent"]


@dataclass(frozen=True, repr=False)
class Result(Generic[Images]):
    """`images` as asked for: PIL images, a tensor (B, 3, H, W) in 0..1, or latents (B, 4, H/8, W/8).

    `seeds[i]` and `parameters[i]` belong to image i: all that is needed to make it again. The seed of an image from a
    `generator` that no seed stands for is None. `result[i]`, `len(result)` and a loop give the images. A notebook shows
    them.
    """

    images: Images
    seeds: list[int | None]
    parameters: list[dict[str, Any]]

    def save(self, path: str | Path) -> list[Path]:
        """Write the images with their parameters, as PNG, JPEG or WebP by the suffix of `path`; several get numbers, as
        in x-1.png. Gives the files. Raises `OutputError`, and `ArgumentError` for latents.
        """
        images = self._as_pil()
        if images is None:
            raise ArgumentError("output is 'latent', and latents are no images; expected output='pil' or 'tensor'")
        path = expanded(path)
        image_format(path)  # an error before anything is written
        paths = numbered(path, len(images))
        for image, file, parameters in zip(images, paths, self.parameters, strict=True):
            save_image(image, file, parameters)
        return paths

    def _as_pil(self) -> list[Image] | None:
        """The images as PIL images; None for latents."""
        if isinstance(self.images, list):
            return self.images
        cut = any(conventions_of(each["request"].get("compat")).pixels == "cut" for each in self.parameters)
        return to_pil(self.images, cut) if self.images.shape[1] == 3 else None

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, Result) else NotImplemented

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __iter__(self: Result[list[Image]]) -> Iterator[Image]: ...

    @overload
    def __iter__(self: Result[Tensor]) -> Iterator[Tensor]: ...

    @overload
    def __iter__(self) -> Iterator[Image | Tensor]: ...

    def __iter__(self) -> Iterator[Image | Tensor]:
        return iter(self.images)

    @overload
    def __getitem__(self: Result[list[Image]], number: int) -> Image: ...

    @overload
    def __getitem__(self: Result[list[Image]], number: slice) -> list[Image]: ...

    @overload
    def __getitem__(self: Result[Tensor], number: Any) -> Tensor: ...

    @overload
    def __getitem__(self, number: Any) -> Image | list[Image] | Tensor: ...

    def __getitem__(self, number: Any) -> Image | list[Image] | Tensor:
        return self.images[number]

    def __repr__(self) -> str:
        if isinstance(self.images, list):
            what = ", ".join(sorted({f"{image.width} x {image.height}" for image in self.images}))
        else:
            what = f"tensor of {list(self.images.shape)}"
        return f"Result({len(self)} image{'s' * (len(self) > 1)}, {what}, seeds {self.seeds})"

    def _repr_html_(self) -> str | None:
        """The images, for a notebook."""
        images = self._as_pil()
        return None if images is None else html(images, [f"seed {seed}" for seed in self.seeds])


def with_text(images: list[Image], parameters: list[dict[str, Any]]) -> list[Image]:
    """The images, in whose `info["parameters"]` AUTOMATIC1111's text is, as if they came from a file."""
    for image, each in zip(images, parameters, strict=True):
        image.info["parameters"] = parameters_text(each, image.size)
    return images


_OWN = "index", "total", "sigma", "latents", "denoised"  # of a step, whichever pipeline it is of


def _no_pipeline(step: PipelineStep, output: Output) -> Result:
    raise ArgumentError("this step belongs to no pipeline, so it has no result; take it from Pipeline.steps")


@dataclass(frozen=True)
class PipelineStep:
    """The state after step `index` of `total`: `latents` at noise level `sigma`, and the guess of the clean ones.

    Both are (B, 4, H/8, W/8), float32; after the last step `latents` are the finished ones. The next steps start from
    `latents`, so a change of them in place changes what follows; `denoised` is to be read. A notebook shows the
    preview. As long as a step is kept, so is its pipeline's model; `copy.copy(step)` has the tensors alone.
    """

    index: int
    total: int
    sigma: float
    latents: Tensor = field(repr=False, hash=False)
    denoised: Tensor = field(repr=False, hash=False)
    finish: Callable[[PipelineStep, Output], Result] = field(default=_no_pipeline, repr=False, compare=False)
    vae: AnyVAEConfig | None = field(default=None, repr=False, compare=False)
    decode: Callable[[Tensor], Tensor | None] | None = field(default=None, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, PipelineStep) else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, perhaps in another process, has the tensors and shows its preview; it belongs to no pipeline."""
        return PipelineStep, (*(getattr(self, name) for name in _OWN), _no_pipeline, self.vae)

    @property
    def is_last(self) -> bool:
        """Whether the images are finished."""
        return self.index + 1 >= self.total

    @overload
    def result(self, output: Literal["pil"] = "pil") -> Result[list[Image]]: ...

    @overload
    def result(self, output: Literal["tensor", "latent"]) -> Result[Tensor]: ...

    def result(self, output: Output = "pil") -> Result:
        """The images of this step, decoded, with the parts that a mask keeps pasted back: after the last step the
        call's result, before it the present guess.
        """
        return self.finish(self, output)

    def preview(self) -> list[Image]:
        """The present guess as PIL images of the size of the latents, one product of matrices each, without the VAE.
        An empty list for a VAE whose latents have no known colours. With a `preview_vae` the images have their full
        size, decoded by that.
        """
        decoded = None if self.decode is None else self.decode(self.denoised)
        if decoded is not None:
            return to_pil(decoded.cpu())
        colours = None if self.vae is None else self.vae.preview
        if colours is None:
            return []
        z = self.denoised.float().cpu()
        matrix, bias = torch.tensor(colours, dtype=z.dtype, device=z.device).split([len(colours) - 1, 1])
        with without_modes():
            pixels = torch.einsum("bchw,cr->brhw", z, matrix) + bias[0, :, None, None]
        return to_pil((pixels / 2 + 0.5).clamp(0, 1))

    def _repr_png_(self) -> bytes | None:
        """The previews side by side, for a notebook."""
        images = self.preview()
        return png(strip(images)) if images else None
