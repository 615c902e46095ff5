"""Between pixels and latents: encoding, decoding, and the paste of the result into its source image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..models.tiny_vae import AnyVAE, TinyVAE
from ..runtime.memory import fits_in_a_map, is_out_of_memory, trim, vae_bytes
from ..runtime.vae_strips import decode_strips, encode_strips
from .finite import check_finite
from .model import Model
from .plan import Plan
from .stages import stage


@dataclass(frozen=True)
class Latents:
    """The VAE of a model. `room` says how many bytes may still be taken: where they are too few for the whole, the VAE
    works in strips (tiled VAE), whose results are the same.
    """

    model: Model
    room: Callable[[], float]

    def encode(self, images: Sequence[Tensor], noise: Tensor | None) -> Tensor:
        """A sample of the posterior of each image (3, H, W) with its `noise`, or without that the mean, (B, 4, h, w);
        one that several share is encoded once.
        """
        latents: list[Tensor] = [torch.empty(0, dtype=torch.float32)] * len(images)
        with self.model.using(self.model.vae):
            for image in {id(image): image for image in images}.values():
                rows = [i for i, each in enumerate(images) if each is image]
                own = self.encode_pixels(image[None], None if noise is None else noise[rows])
                for row, each in zip(rows, own.expand(len(rows), -1, -1, -1), strict=True):
                    latents[row] = each
        return torch.stack(latents)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Images (B, 3, H, W) in 0..1 to scaled latents (B, 4, h, w), float32; without noise the posterior's means."""
        vae = self.model.vae()
        x = _beside(vae, pixels * 2 - 1)
        strips = None if isinstance(vae, TinyVAE) else partial(encode_strips, vae, x, noise)
        with stage("encoding", self.model.placement):
            latents = self._in_room(x.shape[2:], len(x), partial(vae.encode, x, noise), strips).float()
        check_finite(latents, "the VAE's encoder", self.model.placement)
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) to images (B, 3, H, W) in 0..1, float32, one at a time to save memory."""
        with self.model.using(self.model.vae):
            vae = self.model.vae()
            factor = vae.config.factor
            size = latents.shape[2] * factor, latents.shape[3] * factor
            z = _beside(vae, latents).split(1)
            strips = None if isinstance(vae, TinyVAE) else partial(decode_strips, vae)
            with stage("decoding", self.model.placement):
                pixels = self._in_room(
                    size,
                    1,
                    lambda: torch.cat([vae.decode(each) for each in z]),
                    None if strips is None else lambda: torch.cat([strips(each) for each in z]),
                ).float()
            check_finite(pixels, "the VAE's decoder", self.model.placement)
            return (pixels / 2 + 0.5).clamp(0, 1)

    def finish(self, plan: Plan, latents: Tensor) -> list[Tensor]:
        """The images (3, H, W) in 0..1, with the parts that a mask keeps pasted back."""
        pixels = self.decode(latents)
        if not plan.pastes:
            return [*pixels]
        return [canvas.paste(x) for canvas, x in zip(plan.canvases, pixels, strict=True)]

    def _in_room(
        self, size: Sequence[int], count: int, whole: Callable[[], Tensor], strips: Callable[[], Tensor] | None
    ) -> Tensor:
        """`whole()` if there is memory for the VAE to work on `count` whole images of (height, width) at once, else
        `strips()`; a tiny VAE has none and needs none.
        """
        if strips is None:
            return whole()
        model, config = self.model, self.model.info.config.vae
        needed, is_small = vae_bytes(config, size, model.placement), fits_in_a_map(config, size, count, model.placement)
        if model.offload != "block" and is_small and count * needed <= self.room():
            try:
                return whole()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            trim()  # out here nothing holds intermediate results any more
        return strips()


@torch.no_grad()
def decode_preview(vae: TinyVAE, latents: Tensor) -> Tensor | None:
    """Scaled latents (B, 4, h, w) to images (B, 3, H, W) in 0..1, float32, by the tiny VAE of previews; None where
    memory runs out, which is no reason to end the work that is shown.
    """
    try:
        pixels = torch.cat([vae.decode(each) for each in _beside(vae, latents).split(1)]).float()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return (pixels / 2 + 0.5).nan_to_num().clamp(0, 1)


def _beside(vae: AnyVAE, x: Tensor) -> Tensor:
    """x on the device and in the dtype that a VAE computes in, which a bias of its layers is in, packed or not."""
    bias = vae.decoder.conv_in.bias
    assert bias is not None
    return x.to(bias.device, bias.dtype)
