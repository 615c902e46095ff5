"""What `scripts/benchmark.py` measures: this package and its peers, each with its stages at a size, by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sdxl import Pipeline
from sdxl.cli.measure import PROMPT, stages

Runs = dict[str, Callable[[], Any]]
Peer = Callable[[int], Runs]


def load_ours(options: argparse.Namespace) -> Peer:
    """Our pipeline."""
    most = None if options.max_memory is None else int(1e9 * options.max_memory)
    if most is not None and options.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    pipe = Pipeline.from_pretrained(
        options.ours,
        dtype=options.dtype,
        device=options.device,
        offload=options.offload,
        max_memory=most,
        int8=options.int8,
    )
    if options.compile:
        pipe.compile()

    def runs(size: int) -> Runs:
        def picture() -> Any:
            return pipe(PROMPT, width=size, height=size, steps=options.steps, seed=0, output="tensor", progress=False)

        parts: Runs = {"picture": picture}
        if options.offload == "none":
            parts |= {name: stage.run for name, stage in stages(pipe, size, size).items()}
        return parts

    return runs


def load_diffusers(options: argparse.Namespace) -> Peer:
    """diffusers' pipeline, eager or compiled as its documentation says."""
    from diffusers import StableDiffusionXLPipeline

    dtype = getattr(torch, options.dtype or "float32")  # its default
    pipe = StableDiffusionXLPipeline.from_pretrained(options.theirs, torch_dtype=dtype).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    if options.compile:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
        if options.whole:
            pipe.unet = torch.compile(pipe.unet, mode="max-autotune" if options.whole == "max" else None)
        else:
            pipe.unet.compile_repeated_blocks(fullgraph=True)
        pipe.vae.decode = torch.compile(pipe.vae.decode, fullgraph=True)

    def runs(size: int) -> Runs:
        x, t, context, pooled, ids = step_inputs(pipe.unet, size)
        z, pixels = decode_inputs(pipe.vae, size), torch.rand(1, 3, size, size).to(options.device, dtype)

        @torch.no_grad()
        def step() -> Any:
            added = {"text_embeds": pooled, "time_ids": ids}
            return pipe.unet(x, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)

        def picture() -> Any:
            return pipe(PROMPT, width=size, height=size, num_inference_steps=options.steps, output_type="pt")

        encode_text = torch.no_grad()(
            lambda: pipe.encode_prompt(PROMPT, device=options.device, do_classifier_free_guidance=True)
        )
        return {
            "picture": picture,
            "text": encode_text,
            "step": step,
            "decode": torch.no_grad()(lambda: pipe.vae.decode(z, return_dict=False)),
            "encode": torch.no_grad()(lambda: pipe.vae.encode(pixels)),
        }

    return runs


def load_frozen(options: argparse.Namespace) -> Peer:
    """diffusers' pipeline compiled as one graph. Weights are constants, which Inductor packs for a CPU."""
    from torch._inductor import config

    config.freezing = True
    options.compile, options.whole = True, options.whole or "default"
    return load_diffusers(options)


class Step(nn.Module):
    """diffusers' UNet with tensors only, as a converter has it."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor, ids: Tensor) -> Tensor:
        added = {"text_embeds": pooled, "time_ids": ids}
        return self.unet(x, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)[0]


class Decode(nn.Module):
    """diffusers' VAE decoder, likewise."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        return self.vae.decode(z, return_dict=False)[0]


def load_openvino(options: argparse.Namespace) -> Peer:
    """diffusers' UNet and VAE decoder in float32, which OpenVINO converts in the first run of each size.

    It computes in the dtype that is asked for, in as many threads as torch does.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if options.device != "cpu":
        raise ValueError(f"device is {options.device}; expected cpu for openvino. Try it without --device.")
    unet = UNet2DConditionModel.from_pretrained(options.theirs, subfolder="unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(options.theirs, subfolder="vae", torch_dtype=torch.float32)

    def runs(size: int) -> Runs:
        return {
            "step": converted(Step(unet), step_inputs(unet, size), options.dtype),
            "decode": converted(Decode(vae), (decode_inputs(vae, size),), options.dtype),
        }

    return runs


def converted(network: nn.Module, inputs: tuple[Tensor, ...], dtype: str | None) -> Callable[[], Any]:
    """A run of the network in OpenVINO, for these shapes alone. The first converts and compiles."""
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype or "float32"],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # else it takes one for each core
    }

    @cache
    def model() -> Any:
        shapes = [tuple(each.shape) for each in inputs]
        with torch.no_grad():
            graph = openvino.convert_model(network.eval(), input=shapes, example_input=inputs)
        return openvino.compile_model(graph, "CPU", config)

    arrays = [each.numpy() for each in inputs]
    return lambda: model()(arrays)[0]


def step_inputs(unet: Any, size: int) -> tuple[Tensor, ...]:
    """Of diffusers' UNet, for a guided step: latents, timestep, context, pooled text and sizes, each time the same."""
    generator, config = torch.Generator().manual_seed(0), unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    shapes = (2, config.in_channels, size // 8, size // 8), (2, 77, config.cross_attention_dim), (2, pooled)
    x, context, vector = (torch.randn(shape, generator=generator).to(unet.device, unet.dtype) for shape in shapes)
    ids = torch.tensor([[size, size, 0, 0, size, size]] * 2).to(unet.device, unet.dtype)
    return x, torch.tensor([500.0], device=unet.device), context, vector, ids


def decode_inputs(vae: Any, size: int) -> Tensor:
    """Latents as diffusers' VAE decodes them."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, vae.config.latent_channels, size // 8, size // 8, generator=generator)
    return (z / vae.config.scaling_factor).to(vae.device, vae.dtype)


LOADERS: dict[str, Callable[[argparse.Namespace], Peer]] = {
    "sdxl": load_ours,
    "diffusers": load_diffusers,
    "frozen": load_frozen,
    "openvino": load_openvino,
}
