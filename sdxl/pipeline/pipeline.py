"""The pipeline: a model in memory that is called with a prompt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import torch
from torch import Tensor

from ..adapters.embedding import read_embeddings
from ..adapters.lora import LoRA, read_loras
from ..errors import ArgumentError, UnsupportedError, warn
from ..images.image import check_latents, check_pixels, check_posterior_noise
from ..models.tiny_vae import AnyVAE
from ..models.unet import UNet
from ..runtime.lazy import Lazy
from ..runtime.locks import Turns, check_fork, without_modes
from ..runtime.offload import Offload
from ..runtime.placement import Placement
from ..runtime.precision import Precision
from ..sampling.guidance import NEGATIVE, POSITIVE
from ..text.encode import TextStage
from ..weights.info import ModelInfo
from ..weights.path import expanded
from .adapters import ActiveEmbedding, ActiveLoRA
from .additions import Additions, adapter_folders, open_additions
from .arguments import call_arguments, load_arguments, with_any_others, with_request_arguments
from .batch_sizes import MOST
from .call import Call
from .callback import Callback
from .controls import Controls
from .diffusers_members import DiffusersNames
from .encoding import EncodedPrompt, encoded_prompt
from .expert import Expert
from .generators import read_generators
from .latents import Latents
from .loading import Changes, choose, idle_sources, open_loader
from .model import Model
from .model_hashes import ModelHashes
from .model_request import ModelRequest
from .overview import overview
from .own_networks import check_networks, with_configs
from .plan import Plan
from .prompts import check_one_text, reading_of
from .request import Request
from .residency import Residency
from .result import Output, PipelineStep, Result
from .saving import save
from .target import read_target
from .tokens import Tokens, tokenize, tokenizers_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from .request_arguments import NoArguments, RequestArguments


class Pipeline(DiffusersNames):
    """A model in memory. Call it with a prompt; `steps` is the generator underneath.

    Calls share nothing: the same arguments give the same image. Threads may share a pipeline: they take turns.
    """

    def __init__(
        self,
        residency: Residency,
        source: dict[str, Any] | None = None,
        hashes: ModelHashes | None = None,
        additions: Additions | None = None,
    ) -> None:
        """`source` says how the model was loaded, and `hashes` from which files, for the record of its images.
        `additions` are its LoRAs and embeddings, and what opens the networks of a request.
        """
        self.residency, self.source, self.hashes = residency, source or {}, hashes or ModelHashes()
        self._additions = additions or Additions(Controls(residency.model.info.config.unet))
        self._lock = Turns()  # one image at a time, whichever thread asks for it

    @classmethod
    @with_any_others
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        refiner: str | Path | None = None,
        unet: str | Path | None = None,
        vae: str | Path | None = None,
        revision: str | None = None,
        variant: str | None = None,
        offload: Offload = "none",
        max_memory: float | None = None,
        int8: bool = False,
        fp8: bool = False,
        loras: Sequence[Any] = (),
        lora_dir: str | Path | None = None,
        control_dir: str | Path | None = None,
        embeddings: Sequence[Any] | Mapping[str, Any] = (),
        embedding_dir: str | Path | None = None,
        preview_vae: str | Path | None = None,
        trainable: bool = False,
        **diffusers_names: Unpack[NoArguments],
    ) -> Pipeline:
        """Load a model.

        `model` is a single .safetensors file, a diffusers folder, or an id on the hub; a base, an inpainting model or a
        refiner. `refiner` is another model that takes over at the end (SDXL paper, section 2.5). `unet` and `vae`
        replace that component by another file's; a UNet also sets the prediction type if its file states it. `dtype` is
        that of the weights: None takes bfloat16 where the hardware computes it fast, float16 on GPUs that are fast in
        that alone, else float32 (float16 if "auto" finds too little memory for that). Where the hardware is slow in it
        the arithmetic is float32, and so is the VAE's for float16, where it could overflow. `revision` and `variant`
        ("fp16") are the hub's; without a variant, the fp16 files are taken where there are any, unless `dtype` is
        float32. An address of the hub works as an id does, and a name without a slash may be that of a model in the
        folder `SDXL_MODELS_DIR`.

        `offload` says what is in memory: "none" keeps all of the model; "text" all but the matrices of the text
        encoders, which are fetched when they are needed (for a GPU); "stage" loads text encoders, UNets and VAE when
        their turn comes and releases them after it; "block" fetches every layer's weights when they are needed, which
        takes least memory and most time; "auto" chooses one that fits into the free memory, or into `max_memory` bytes.
        `int8` computes the transformer blocks of the UNet in 8 bits, on CPUs that are fast in them: an approximation.
        `fp8` keeps the weights of transformer blocks, also those of text encoders and ControlNets, in float8_e4m3fn,
        and casts them to the dtype of the arithmetic when they are used. They take half the memory of 16 bits: an
        approximation, unless the files are in float8 already.
        With `trainable` all layers are plain ones, whose weights can be read, changed and trained: gradients flow. It
        keeps them in memory, in float32 if no `dtype` is given.

        `loras` are those of every image that names no others: see `set_loras`. Names of LoRAs are looked for in
        `lora_dir`, and those of the networks of `control` and `reference` in `control_dir`. `embeddings` are words with
        learned vectors: see `set_embeddings`; all files of `embedding_dir` are known by their names. `vae` may be a
        tiny VAE in TAESDXL's layout, for drafts; as `preview_vae` it decodes the previews of steps. diffusers' names of
        equal meaning, such as `torch_dtype`, are taken with a warning. Raises `SDXLError`.
        """
        arguments = load_arguments(
            diffusers_names,
            model=model,
            refiner=refiner,
            unet=unet,
            vae=vae,
            revision=revision,
            variant=variant,
            dtype=dtype,
            offload=offload,
            int8=int8,
            fp8=fp8,
            max_memory=max_memory,
            device=device,
            loras=loras,
            lora_dir=lora_dir,
            control_dir=control_dir,
            embeddings=embeddings,
            embedding_dir=embedding_dir,
            preview_vae=preview_vae,
            trainable=trainable,
        )
        request = ModelRequest(**arguments)
        pipe = cls.from_request(request)
        for name, reason in idle_sources(request.model, revision, variant):  # the files are known to be right by now
            warn(f"{name} has no effect: {reason}")
        return pipe

    @classmethod
    def from_request(cls, request: ModelRequest, precision: Precision | None = None) -> Pipeline:
        """Load the model that a request names; with a `precision`, such as a recorded one, in that, fast or not. Raises
        `SDXLError`.
        """
        folders = adapter_folders(request)  # a wrong one is an error before a download
        loader, variant = open_loader(request, precision)
        additions = open_additions(request, loader, variant, folders)
        loader, offload = choose(additions.applied(loader, additions.loras), request)
        residency = Residency(loader.model(offload), loader, request.offload == "auto", request.max_memory)
        pipe = cls(residency, request.record(variant), loader.hashes, additions)
        with pipe._lock:
            residency.retry(lambda model: model.load())
        return pipe

    @classmethod
    def from_networks(cls, info: ModelInfo, unet: UNet, vae: AnyVAE, text: Sequence[TextStage]) -> Pipeline:
        """A pipeline of networks that are in memory already, such as those in training. `info` is that of a loaded
        pipeline, whose configs become those of the networks; `text` are its text encoders in their order. Raises
        `ArgumentError`, and `ConfigError` for networks that do not fit each other.
        """
        check_networks(info, unet, vae, text)
        info = with_configs(info, unet, vae, text)
        weight = unet.norm_out.weight
        placement = Placement(weight.device, weight.dtype, weight.dtype)
        expert = Expert(info, Lazy(lambda: unet), Lazy(lambda: list(text)), placement)
        return cls(Residency(Model((expert,), Lazy(lambda: vae))))

    def __repr__(self) -> str:
        return overview(type(self).__name__, self.residency, self.source)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise UnsupportedError(
            "a pipeline cannot be pickled or copied; send its ModelRequest and load it there with "
            "Pipeline.from_request. Calls share nothing, so one pipeline is enough for all threads"
        )

    def to(self, *target: Any, device: Any = None, dtype: Any = None) -> Pipeline:
        """Move the model to a device, a dtype, or both, as in `pipe.to("cuda", torch.float16)`; gives itself. It is
        loaded again from its files. Networks in memory (`from_networks`, `trainable`) are moved themselves. Raises
        `ArgumentError`.
        """
        place = read_target(target, device, dtype)
        with self._lock:
            self.residency.move(*place)
        return self

    def save(self, path: str | Path) -> None:
        """Write the model as a diffusers folder, or as a single file if `path` ends in .safetensors: the present
        weights of networks in memory (`from_networks`, `trainable`), else those of the files, with `change_weights`.
        Raises `OutputError`, and `ArgumentError` for layers of one's own, which a model's file has no place for.
        """
        with self._lock:
            save(self.residency, expanded(path))

    def compile(self) -> None:
        """Make every image after the first of its size faster on CUDA: compiled blocks in the recorded steps.

        On other devices there is nothing to gain: on a CPU the layers are fused as they are. Raises `ArgumentError`
        with offload block, where every step reads the weights again.
        """
        with self._lock:
            self.residency.compile()

    def prepare_for_many(self) -> None:
        """Before a long job: keep all of the model in memory if "auto" may choose and it fits, and encode every text
        once; weights of the text encoders must not be changed in place after this.
        """
        with self._lock:
            self.residency.prepare_for_many()

    def most_images(self, request: Request, most: int = MOST) -> int:
        """How many images like those of a request fit into memory at once beside the present model, by an estimate:
        `most`, halved as often as it takes, at least 1. Raises `ArgumentError` for a request that does not fit the
        model.
        """
        plan = self.plan(request)
        with self._lock:
            return self.residency.most_images(plan, most)

    def change_weights(self, changes: Changes) -> None:
        """Load the weights again with functions applied to some, in place of all earlier changes; {} restores the
        model bit for bit.

        `changes` maps names such as `unet.conv_in.weight` or `text_encoder_2.layers.0.attn.q.weight` (a refiner's begin
        with `refiner.`) to functions from the weight of the file, in float32, to the one that is used. Raises
        `ArgumentError` for a name that no weight has.
        """
        with self._lock:
            self.residency.change(changes)

    def set_loras(self, loras: Sequence[Any]) -> None:
        """The LoRAs of every image that names no others, from now on, in place of the present ones; [] removes all,
        and the model is bit for bit what it was.

        Each is a path, a name in the folder `lora_dir`, owner/name or owner/name/file on the hub, a pair of one of
        these and a weight, or an `sdxl.LoRA`. All formats of LoRA, LoCon, LoHa, LoKr, DoRA, OFT, GLoRA, IA3 and full
        differences are read. The changes are computed in float32 from the weights of the model's files and added once.
        Raises `CheckpointError` for a file that does not fit, before anything is changed.
        """
        with self._lock:
            resolved = self._additions.resolve(read_loras(loras))
            self._adapt(resolved)
            self._additions.set_loras(resolved)

    @property
    def loras(self) -> tuple[ActiveLoRA, ...]:
        """The LoRAs of every image that names no others, each with the report of its file."""
        return tuple(self._additions.open_adapters().report(lora) for lora in self._additions.loras)

    def set_embeddings(self, embeddings: Sequence[Any] | Mapping[str, Any]) -> None:
        """Words with learned vectors (textual inversion), from now on, in place of the present ones; [] removes all but
        those of `embedding_dir`.

        A list of files, each for the word that it states or else for its name, or a mapping from words to files; a
        tuple of two files is one embedding in diffusers' form. A word is found wherever its tokens are in a prompt, the
        longest first. Raises `CheckpointError`.
        """
        with self._lock:
            added = self._additions
            opened = added.open_adapters().open_embeddings(read_embeddings(embeddings))
            added.embeddings, old = opened, added.embeddings
            try:
                self._adapt(added.loras)
            except BaseException:
                added.embeddings = old
                raise

    @property
    def embeddings(self) -> dict[str, ActiveEmbedding]:
        """The words with learned vectors."""
        return {each.word: each for each in self._additions.embeddings}

    def _adapt(self, loras: Sequence[LoRA], additions: Additions | None = None) -> None:
        """Have the model's weights changed by these LoRAs and no others, and the words of these additions known."""
        if self.residency.loader is not None:
            self.residency.use((additions or self._additions).applied(self.residency.loader, loras))

    @property
    def info(self) -> ModelInfo:
        """Everything about the model but its weights."""
        return self.residency.model.info

    about = info  # its name until version 0.1

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The model's UNet and text encoders, and those of the refiner."""
        return self.residency.model.experts

    @property
    def offload(self) -> str:
        """What is in memory: none, text, stage or block."""
        return self.residency.model.offload

    @property
    def is_compiled(self) -> bool:
        """Whether the networks run as compiled blocks."""
        return self.residency.model.is_compiled

    @property
    def unet(self) -> UNet:
        """The model's UNet, with the LoRAs of the last call."""
        return self.experts[0].unet()

    @property
    def text(self) -> list[TextStage]:
        """The model's text encoders with their tokenizers, with the LoRAs of the last call."""
        return self.experts[0].text()

    @property
    def vae(self) -> AnyVAE:
        """The autoencoder."""
        return self.residency.model.vae()

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.residency.model.placement.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the UNet's weights."""
        return self.residency.model.placement.dtype

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        output: Literal["pil"] | None = None,
        progress: bool = True,
        callback: Callback | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Result[list[Image]]: ...

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        output: Literal["tensor", "latent"],
        progress: bool = True,
        callback: Callback | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Result[Tensor]: ...

    @with_request_arguments
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        output: Output | None = None,
        progress: bool = True,
        callback: Callback | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Result:
        """Generate images. The arguments are `Request`'s fields: negative_prompt, width, height, steps, seed, ...

        Text to image, with `image` image to image, with `mask` or `outpaint` too inpainting. `prompt` may be a list and
        `seed` too, one per image; there are prompts x `num_images` images, in the order of the prompts. `output` is
        "pil" (the default), "tensor" (float32, 0..1) or "latent" (float32, as the UNet sees them).

        `callback` gets every step, as `steps` gives them. If it returns True, the call ends with the step's guess of
        the images. Where memory runs out and less of the model is kept, the steps begin again. `generator`, in place of
        `seed`, is a list of one torch generator for each image, or a single one that draws the whole batch at once.
        diffusers' names of equal meaning, such as `num_inference_steps`, are taken with a warning.

        Raises `ArgumentError` before any work is done, and `NonFiniteError` rather than giving a black image.
        """
        given = call_arguments(arguments, output=output)
        output = given.pop("output", "pil")
        return self._call(prompt, given, generator).result(output, progress, callback)

    @with_request_arguments
    def steps(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Generator[PipelineStep, None, None]:
        """The generator under a call, with the same arguments. Each step has a `preview()` and a `result()`: that of
        the last one is the call's; `decode` turns any step's latents into pixels. With `close()` it ends early.
        """
        return self._call(prompt, call_arguments(arguments), generator).steps()

    def _call(self, prompt: Any, arguments: dict[str, Any], generator: Any) -> Call:
        request = Request(prompt, **arguments)
        generators = None if generator is None else read_generators(generator, request.count)
        if generators is not None:
            if request.seed is not None:
                raise ArgumentError("generator and seed are both given; give one of them")
            request = replace(request, seed=generators.seeds)
        plan, prepare = self._planned(request)
        return Call(plan, self.residency, lambda: self.source | self.hashes.record(), prepare, self._lock, generators)

    def plan(self, request: Request) -> Plan:
        """The request with this model's defaults filled in, its files opened and seeds drawn. Raises `ArgumentError`
        for what does not fit.
        """
        return self._planned(request)[0]

    def _planned(self, request: Request) -> tuple[Plan, Callable[[], None]]:
        """The plan of a request, and what has the model changed as it asks for: with the LoRAs and embeddings of this
        moment, since other threads may set others before this one has its turn.
        """
        check_fork()  # here too, since what opens an image computes with torch
        additions = replace(self._additions)
        refiner = self.experts[1].info if len(self.experts) > 1 else None
        with without_modes():
            plan = additions.plan(request, self.info, refiner)
        return plan, lambda: self._adapt(read_loras(plan.request.loras or ()), additions)

    def tokenize(self, text: str, prompt_syntax: str = "plain", long_prompt: str = "chunk") -> list[Tokens]:
        """The tokens of a prompt for each text encoder: the ids and weights of each chunk, start, end and pads
        included. Words are those of the pipeline's embeddings. Nothing is loaded. Raises `ArgumentError`, also for a
        prompt that changes from step to step or has several parts, which is several texts.
        """
        request, added = Request(text, prompt_syntax=prompt_syntax, long_prompt=long_prompt), self._additions
        if added.adapters is None:
            counts = {word: len(own) for word, own in self.text[-1].embeddings.items()}
        else:
            counts = added.adapters.counts(added.embeddings, added.loras)
        return tokenize(tokenizers_of(self.info), text, reading_of(request), counts)

    @with_request_arguments
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        refiner: bool = False,
        **arguments: Unpack[RequestArguments],
    ) -> EncodedPrompt:
        """The UNet's input from text and sizes, float32: `context` (B, L, D), `pooled` (B, P), `vector` (B, V), and the
        same of the negative prompt. The arguments are those of a call; `refiner` asks for the refiner's. Raises
        `ArgumentError`, also for a prompt that changes from step to step or has several parts.
        """
        if refiner and len(self.experts) == 1:
            raise ArgumentError("refiner is True but no refiner is loaded; load one with refiner=")
        given: dict[str, Any] = {"prompt": prompt, **call_arguments(arguments)}
        plan, prepare = self._planned(Request(**given))
        check_one_text(plan.branches)

        def encode(model: Model) -> EncodedPrompt:
            expert = model.experts[int(refiner)]
            with model.using(expert.text):
                both = expert.encode(plan, (POSITIVE, NEGATIVE))
            return encoded_prompt(both[POSITIVE], both[NEGATIVE])

        with self._lock:
            prepare()
            return self.residency.retry(encode)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in 0..1 to scaled latents (B, 4, h, w), float32: samples of their posteriors with
        standard normal `noise` of that shape, or several samples of one image; without noise the means. H and W are
        multiples of 8. Raises `ArgumentError`.
        """
        check_pixels(pixels, self.info.config.vae)
        if noise is not None:
            check_posterior_noise(noise, pixels, self.info.config.vae)

        def encode(model: Model) -> Tensor:
            with model.using(model.vae):
                return Latents(model, self.residency.room).encode_pixels(pixels, noise)

        with self._lock:
            return self.residency.retry(encode)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) to images (B, 3, H, W) in 0..1, float32, one at a time to save memory. Raises
        `ArgumentError`.
        """
        check_latents(latents, "latents", self.info.config.vae.latent_channels)
        with self._lock:
            return self.residency.retry(lambda model: Latents(model, self.residency.room).decode(latents))
