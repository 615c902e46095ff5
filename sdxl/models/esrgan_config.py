"""What a network that enlarges images is, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from .bounds import MOST_LAYERS, MOST_LEVELS, MOST_WIDTH, bound


@dataclass(frozen=True)
class ESRGANConfig:
    """The generator of ESRGAN (arXiv 1809.00219) and Real-ESRGAN (arXiv 2107.10833): `blocks` residual-in-residual
    dense blocks of `width` channels, whose convolutions add `growth` channels each, and then `doublings` of the height
    and width. Images are first folded into `fold` * `fold` times as many channels (pixel unshuffle).
    """

    image_channels: ClassVar[int] = 3

    width: int = 64
    growth: int = 32
    blocks: int = 23
    doublings: int = 2
    fold: int = 1

    def __post_init__(self) -> None:
        bound("channels of the upscaler", (self.width, self.growth), MOST_WIDTH)
        bound("blocks of the upscaler", [self.blocks], MOST_LAYERS)
        bound("doublings of the upscaler", [self.doublings], MOST_LEVELS, least=0)
        if self.fold < 1 or 2**self.doublings % self.fold:
            raise ConfigError(
                f"the upscaler folds {self.fold} x {self.fold} pixels and enlarges {2**self.doublings} times; expected "
                "a whole number of times as large, download it again"
            )

    @property
    def scale(self) -> int:
        """How many times as high and as wide its results are."""
        return 2**self.doublings // self.fold
