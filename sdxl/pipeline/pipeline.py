"""The pipeline: a model in memory that is called with a prompt."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from ..adapters.embedding import read_embeddings
from ..adapters.lora import LoRA, read_loras
from ..errors import ArgumentError
from ..images.image import check_latents, check_pixels
from ..images.pixels import to_pil
from ..models.unet import UNet
from ..models.vae import VAE
from ..runtime.lazy import Lazy
from ..runtime.memory import is_out_of_memory
from ..runtime.offload import Offload
from ..runtime.placement import Placement
from ..sampling.guidance import NEGATIVE, POSITIVE
from ..text.encode import TextStage
from ..weights.info import ModelInfo
from .adapting import ActiveEmbedding, ActiveLoRA, Adapters
from .aliases import advice
from .encoding import EncodedPrompt
from .expert import Expert
from .latents import Latents
from .loading import Changes, choose, open_loader
from .loop import run
from .metadata import describe
from .model import Model
from .model_hashes import ModelHashes
from .model_request import ModelRequest
from .plan import Plan, make_plan
from .request import TEXTS, Request
from .residency import Residency
from .result import Output, PipelineStep, Result
from .tags import missing_loras

Method = TypeVar("Method", bound=Callable[..., Any])


def _with_request_arguments(method: Method) -> Method:
    """Show `Request`'s fields in help() and notebooks where a method takes them as **arguments."""
    shown = inspect.signature(method)
    own = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    taken = {each.name for each in own}
    more = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(Request)
        if each.name not in taken
    ]
    method.__signature__ = shown.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return method


class Pipeline:
    """A model in memory. Call it with a prompt; `steps` is the generator underneath.

    Calls share nothing: the same arguments give the same image. Threads may share a pipeline: they take turns.
    """

    def __init__(
        self,
        residency: Residency,
        source: dict[str, Any] | None = None,
        hashes: ModelHashes | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """`source` says how the model was loaded, and `hashes` from which files, for the record of its images.
        `adapters` opens LoRAs for it.
        """
        self.residency, self.source, self.hashes = residency, source or {}, hashes or ModelHashes()
        self._adapters = adapters
        self._loras: tuple[LoRA, ...] = ()
        self._embeddings: tuple[ActiveEmbedding, ...] = ()
        self._lock = threading.RLock()  # one image at a time, whichever thread asks for it

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
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
        loras: Sequence[Any] = (),
        lora_dir: str | Path | None = None,
        embeddings: Sequence[Any] | Mapping[str, Any] = (),
        embedding_dir: str | Path | None = None,
    ) -> Pipeline:
        """Load a model.

        `model` is a single .safetensors file, a diffusers folder, or an id on the hub; a base, an inpainting model or a
        refiner. `refiner` is another model that takes over at the end (SDXL paper, section 2.5). `unet` and `vae`
        replace that component by another file's; a UNet also sets the prediction type if its file states it. `dtype` is
        that of the weights: None takes bfloat16 where the hardware computes it fast, else float32 (float16 if "auto"
        finds too little memory for that). On a CPU that is slow in it the arithmetic is float32, and so is the VAE's
        for float16, where it could overflow. `revision` and `variant` ("fp16") are the hub's; without a variant, the
        fp16 files are taken where there are any, unless `dtype` is float32. An address of the hub works as an id does,
        and a name without a slash may be that of a model in the folder `SDXL_MODELS_DIR`.

        `offload` says what is in memory: "none" keeps all of the model; "text" all but the matrices of the text
        encoders, which are fetched when they are needed (for a GPU); "stage" loads text encoders, UNets and VAE when
        their turn comes and releases them after it; "block" fetches every layer's weights when they are needed, which
        takes least memory and most time; "auto" chooses one that fits into the free memory, or into `max_memory` bytes.
        `int8` computes the transformer blocks of the UNet in 8 bits, on CPUs that are fast in them: an approximation.

        `loras` are those of every image that names no others: see `set_loras`. Names of LoRAs are looked for in
        `lora_dir`. `embeddings` are words with learned vectors: see `set_embeddings`; all files of `embedding_dir` are
        known by their names. Raises `SDXLError`.
        """
        request = ModelRequest(
            model=model,
            refiner=refiner,
            unet=unet,
            vae=vae,
            revision=revision,
            variant=variant,
            dtype=dtype,
            offload=offload,
            int8=int8,
            max_memory=max_memory,
            device=device,
            loras=loras,
            lora_dir=lora_dir,
            embeddings=embeddings,
            embedding_dir=embedding_dir,
        )
        return cls.from_request(request)

    @classmethod
    def from_request(cls, request: ModelRequest) -> Pipeline:
        """Load the model that a request names. Raises `SDXLError`."""
        loader, variant = open_loader(request)
        folders = ([] if each is None else [Path(each)] for each in (request.lora_dir, request.embedding_dir))
        adapters = Adapters(loader.checkpoints, *folders)
        loras = adapters.resolve(read_loras(request.loras))
        embeddings = adapters.open_embeddings(read_embeddings(request.embeddings))
        adapted, words = adapters.changes(loras), adapters.words(embeddings, loras)
        loader, offload = choose(replace(loader, adapted=adapted, embeddings=words), request)
        residency = Residency(loader.model(offload), loader, request.offload == "auto", request.max_memory)
        residency.retry(lambda model: model.load())
        pipe = cls(residency, request.record(variant), loader.hashes, adapters)
        pipe._loras, pipe._embeddings = loras, embeddings
        return pipe

    @classmethod
    def from_networks(cls, info: ModelInfo, unet: UNet, vae: VAE, text: Sequence[TextStage]) -> Pipeline:
        """A pipeline of networks that are in memory already, such as those in training."""
        weight = unet.norm_out.weight
        placement = Placement(weight.device, weight.dtype, weight.dtype)
        expert = Expert(info, Lazy(lambda: unet), Lazy(lambda: list(text)), placement)
        return cls(Residency(Model((expert,), Lazy(lambda: vae))))

    def compile(self) -> None:
        """Make every image after the first of its size faster on CUDA: compiled blocks, replayed as a CUDA graph.

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
            resolved = self._resolve(read_loras(loras))
            self._adapt(resolved)
            self._loras = resolved

    @property
    def loras(self) -> tuple[ActiveLoRA, ...]:
        """The LoRAs of every image that names no others, each with the report of its file."""
        return tuple(self._open_adapters().report(lora) for lora in self._loras)

    def set_embeddings(self, embeddings: Sequence[Any] | Mapping[str, Any]) -> None:
        """Words with learned vectors (textual inversion), from now on, in place of the present ones; [] removes all but
        those of `embedding_dir`.

        A list of files, each for the word that it states or else for its name, or a mapping from words to files; a
        tuple of two files is one embedding in diffusers' form. A word is found wherever its tokens are in a prompt, the
        longest first. Raises `CheckpointError`.
        """
        with self._lock:
            opened = self._open_adapters().open_embeddings(read_embeddings(embeddings))
            self._embeddings, old = opened, self._embeddings
            try:
                self._adapt(self._loras)
            except BaseException:
                self._embeddings = old
                raise

    @property
    def embeddings(self) -> dict[str, ActiveEmbedding]:
        """The words with learned vectors."""
        return {each.word: each for each in self._embeddings}

    def _open_adapters(self) -> Adapters:
        if self._adapters is None:
            raise ArgumentError(
                "a pipeline of networks in memory has no files to read weights from, so it takes no LoRAs and no "
                "embeddings; load it with from_pretrained"
            )
        return self._adapters

    def _resolve(self, loras: Sequence[LoRA]) -> tuple[LoRA, ...]:
        return self._open_adapters().resolve(loras) if loras else ()

    def _adapt(self, loras: Sequence[LoRA]) -> None:
        """Have the model's weights changed by these LoRAs and no others."""
        if self._adapters is not None and self.residency.loader is not None:
            adapted, words = self._adapters.changes(loras), self._adapters.words(self._embeddings, loras)
            self.residency.use(replace(self.residency.loader, adapted=adapted, embeddings=words))

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
        """Whether steps are replayed as CUDA graphs."""
        return self.residency.model.graphs is not None

    @property
    def unet(self) -> UNet:
        """The model's UNet."""
        return self.experts[0].unet()

    @property
    def text(self) -> list[TextStage]:
        """The model's text encoders with their tokenizers."""
        return self.experts[0].text()

    @property
    def vae(self) -> VAE:
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

    @_with_request_arguments
    def __call__(
        self, prompt: str | Sequence[str], *, output: Output = "pil", progress: bool = True, **arguments: Any
    ) -> Result:
        """Generate images. The arguments are `Request`'s fields: negative_prompt, width, height, steps, seed, ...

        Text to image, with `image` image to image, with `mask` or `outpaint` too inpainting. `prompt` may be a list and
        `seed` too, one per image; there are prompts x `num_images` images, in the order of the prompts. `output` is
        "pil", "tensor" (float32, 0..1) or "latent" (float32, as the UNet sees them). Raises `ArgumentError` before any
        work is done, and `NonFiniteError` rather than giving a black image.
        """
        plan = self.plan(_request(prompt, arguments))
        _check_output(plan, output)
        with self._lock:
            self._adapt(read_loras(plan.request.loras or ()))
            self.residency.fit(plan)
            return self.residency.retry(lambda model: self._generate(model, plan, output, progress))

    def _generate(self, model: Model, plan: Plan, output: Output, progress: bool) -> Result:
        from tqdm import tqdm

        latents = Latents(model, self.residency.room)
        final = torch.empty(0)
        with tqdm(total=plan.steps, disable=not progress, unit="step") as bar:
            for step in run(plan, model, latents):
                final = step.latents
                bar.update(step.total > 0)
        return self._finish(model, plan, final, output)

    def _finish(self, model: Model, plan: Plan, latents: Tensor, output: Output) -> Result:
        source = self.source | self.hashes.record()
        parameters, seeds = describe(plan, source, model.placement), list(plan.seeds)
        if output == "latent":
            return Result(latents, seeds, parameters)
        images = Latents(model, self.residency.room).finish(plan, latents)
        if output == "tensor":
            return Result(torch.stack(images), seeds, parameters)
        return Result([to_pil(image[None])[0] for image in images], seeds, parameters)

    @_with_request_arguments
    def steps(self, prompt: str | Sequence[str], **arguments: Any) -> Iterator[PipelineStep]:
        """The generator under a call, with the same arguments. Each step has a `preview()` and a `result()`: that of
        the last one is the call's; `decode` turns any step's latents into pixels.
        """
        plan = self.plan(_request(prompt, arguments))
        with self._lock:
            self._adapt(read_loras(plan.request.loras or ()))
            self.residency.fit(plan)
        model = self.residency.model
        return self._locked(plan, run(plan, model, Latents(model, self.residency.room)))

    def _locked(self, plan: Plan, steps: Iterator[PipelineStep]) -> Iterator[PipelineStep]:
        """The same steps with their results, none at the same time as another thread's; `OutOfMemoryError` for all of
        torch's words for it.
        """

        def finish(latents: Tensor, output: Output) -> Result:
            _check_output(plan, output)
            with self._lock:
                return self.residency.retry(lambda model: self._finish(model, plan, latents, output))

        revision = self.residency.revision
        while True:
            try:
                with self._lock:
                    if self.residency.revision != revision:
                        raise ArgumentError(
                            "LoRAs or change_weights have changed the weights since these steps began; begin again"
                        )
                    step = next(steps, None)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise self.residency.shortage(error) from error
            if step is None:
                return
            yield replace(step, finish=finish, vae=self.info.config.vae)

    def plan(self, request: Request) -> Plan:
        """The request with this model's defaults filled in, its files opened and seeds drawn. Raises `ArgumentError`
        for what does not fit.
        """
        loras = self._loras if request.loras is None else self._resolve(read_loras(request.loras))
        if named := missing_loras(replace(request, loras=loras)):
            loras = (*loras, *self._open_adapters().resolve_named(named))
        plan = make_plan(replace(request, loras=loras or None), *(expert.info for expert in self.experts))
        if self._adapters is None:
            return plan
        texts = [request.texts(name) or [""] * len(request.prompts) for name in TEXTS]
        used = tuple(self._adapters.used(self._embeddings, own) for own in zip(*texts, strict=True))
        return replace(plan, embeddings=used, lora_hashes=self._adapters.a1111_hashes(loras))

    @_with_request_arguments
    def encode_prompt(self, prompt: str | Sequence[str], *, refiner: bool = False, **arguments: Any) -> EncodedPrompt:
        """The UNet's input from text and sizes, float32: `context` (B, L, D), `pooled` (B, P), `vector` (B, V), and the
        same of the negative prompt. The arguments are those of a call; `refiner` asks for the refiner's. Raises
        `ArgumentError`.
        """
        if refiner and len(self.experts) == 1:
            raise ArgumentError("refiner is True but no refiner is loaded; load one with refiner=")
        plan = self.plan(_request(prompt, arguments))

        def encode(model: Model) -> EncodedPrompt:
            expert = model.experts[int(refiner)]
            with model.using(expert.text):
                both = expert.encode(plan, (POSITIVE, NEGATIVE))
            positive, negative = both[POSITIVE], both[NEGATIVE]
            return EncodedPrompt(
                context=positive.context,
                pooled=positive.pooled,
                vector=positive.vector,
                negative_context=negative.context,
                negative_pooled=negative.pooled,
                negative_vector=negative.vector,
            )

        with self._lock:
            self._adapt(read_loras(plan.request.loras or ()))
            return self.residency.retry(encode)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in 0..1 to scaled latents (B, 4, h, w), float32: samples of their posteriors with
        standard normal `noise` of that shape, or several samples of one image; without noise the means. H and W are
        multiples of 8. Raises `ArgumentError`.
        """
        check_pixels(pixels, self.info.config.vae)

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


def _check_output(plan: Plan, output: Output) -> None:
    if output not in get_args(Output):
        raise ArgumentError(f"output is {output!r}; it must be pil, tensor or latent")
    if output == "tensor" and len(sizes := {canvas.result_size for canvas in plan.canvases}) > 1:
        raise ArgumentError(f"images of different sizes {sorted(sizes)} are no tensor; use output='pil'")


def _request(prompt: str | Sequence[str], arguments: dict[str, Any]) -> Request:
    known = {each.name for each in fields(Request)}
    if unknown := [name for name in arguments if name not in known]:
        hint = advice(unknown[0], known | {"output", "progress"})
        raise ArgumentError(f"{unknown[0]} is not an argument; {hint}")
    return Request(prompt, **arguments)
