"""The adapters of a pipeline: which files its LoRAs and embeddings are, and what they change."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..adapters.adapter import read_adapter, sidecar
from ..adapters.changes import make_changes
from ..adapters.embedding import Embedding
from ..adapters.inversion import Inversion, read_bundled, read_inversion
from ..adapters.lookup import adapter_files, checked_hash, find_again, find_named
from ..adapters.lora import LoRA
from ..adapters.matching import Host, Match, make_host, match
from ..adapters.report import AdapterReport, distilled, report_adapter
from ..errors import ArgumentError, CheckpointError, warn
from ..sampling.presets import Family
from ..text.chunks import Reading, unknown_names, words_of
from ..text.tokenizer import Tokenizer
from ..weights.checkpoint import Checkpoint
from ..weights.hashes import tensor_hash
from ..weights.keymap import TEXT_2
from .loading import PREFIXES, Changes, Embeddings

_LOG = logging.getLogger("sdxl")
_MOST_OPEN = 64  # files of LoRAs, as many as a request can name: each takes a descriptor of the system, and memory


@dataclass(frozen=True)
class ActiveLoRA:
    """A LoRA of a pipeline with the report of its file: `modules` counts those that it changes in each component."""

    lora: LoRA
    path: Path
    modules: Mapping[str, int]
    unknown: Sequence[str]
    report: AdapterReport


@dataclass(frozen=True)
class ActiveEmbedding:
    """A word of a pipeline that stands for learned vectors, `count` of them for each text encoder."""

    embedding: Embedding
    inversion: Inversion

    @property
    def word(self) -> str:
        """What stands for it in prompts."""
        return self.inversion.word

    @property
    def count(self) -> int:
        """How many tokens it takes."""
        return self.inversion.count


class Adapters:
    """Opens adapter files for the models of some checkpoints; those that were used last stay open. LoRAs are looked for
    in `lora_folders`, the embeddings of `embedding_folders` are all registered.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        lora_folders: Sequence[Path] = (),
        embedding_folders: Sequence[Path] = (),
    ) -> None:
        self._checkpoints, self._lora_folders, self._embedding_folders = checkpoints, lora_folders, embedding_folders
        self._hosts: list[Host] = []
        # by hash: the file, its sidecar's text, and it; the last used one comes last
        self._matches: dict[str, tuple[tuple[Path, str], Match]] = {}
        self._held: frozenset[str] = frozenset()  # hashes of those that stay open
        self._words: tuple[object, Embeddings] = ((), {})  # the last ones, and what they were made from
        self._tokenizer: Tokenizer | None = None

    # ---- LoRAs

    def resolve(self, loras: Sequence[LoRA]) -> tuple[LoRA, ...]:
        """LoRAs with the hashes of their files, which are opened and held against the model. Raises
        `CheckpointError`.
        """
        return tuple(self._resolve(lora) for lora in loras)

    def hold(self, loras: Sequence[LoRA]) -> None:
        """Keep the files of these resolved LoRAs open and no others, whatever becomes of their paths."""
        self._held = frozenset(str(lora.hash) for lora in loras)

    def resolve_named(self, loras: Sequence[LoRA]) -> tuple[LoRA, ...]:
        """The same for names in prompts, which only the folders are searched for. Raises `ArgumentError` too."""
        if loras and not self._lora_folders:
            raise ArgumentError(
                f"the prompt asks for the LoRA {loras[0].file}, and no folder of LoRAs is given; give lora_dir"
            )
        paths = []
        for lora in loras:
            try:
                paths.append(find_named(str(lora.file), self._lora_folders, "LoRA"))
            except CheckpointError as error:
                raise ArgumentError(f"{error}; the prompt asks for it") from error
        return tuple(self._opened(lora, path) for lora, path in zip(loras, paths, strict=True))

    def _resolve(self, lora: LoRA) -> LoRA:
        return self._opened(lora, find_again(lora.file, lora.hash, self._lora_folders, "LoRA"))

    def _opened(self, lora: LoRA, path: Path) -> LoRA:
        hash = checked_hash(path, lora.hash)
        source = path, sidecar(path)
        known = self._matches.pop(hash, None)
        if known is None or known[0] != source:
            known = source, match(read_adapter(path), self._all_hosts())
            self._close([old for old, (other, _) in list(self._matches.items()) if other[0] == path])  # it has changed
        self._matches[hash] = known
        self._close(list(self._matches)[:-_MOST_OPEN])
        return replace(lora, hash=hash)

    def _close(self, hashes: Sequence[str]) -> None:
        for hash in hashes:
            if hash not in self._held:
                self._matches.pop(hash, None)

    def _all_hosts(self) -> list[Host]:
        self._hosts = self._hosts or [make_host(checkpoint.components) for checkpoint in self._checkpoints]
        return self._hosts

    def changes(self, loras: Sequence[LoRA]) -> Changes:
        """The changes of weights by resolved LoRAs."""
        return make_changes([(lora, str(lora.hash), self._match(lora)) for lora in loras], PREFIXES)

    def _match(self, lora: LoRA) -> Match:
        known = self._matches.get(str(lora.hash))
        while known is None:  # closed since it was resolved
            known = self._matches.get(str(self._resolve(lora).hash))
        return known[1]

    def families(self, loras: Sequence[LoRA]) -> list[Family]:
        """The presets that the files of resolved LoRAs show, of those that act."""
        found = (distilled(self._match(lora).adapter) for lora in loras if lora.weight)
        return [family for family in found if family is not None]

    def report(self, lora: LoRA) -> ActiveLoRA:
        """What a resolved LoRA changes."""
        matched, counts = self._match(lora), dict[str, int]()
        for pair in matched.pairs:
            name = PREFIXES[matched.host] + pair.target.component
            counts[name] = counts.get(name, 0) + 1
        adapter = matched.adapter
        return ActiveLoRA(lora, adapter.path, counts, matched.unknown, report_adapter(adapter))

    def a1111_hashes(self, loras: Sequence[LoRA]) -> dict[str, str]:
        """AUTOMATIC1111's hash of each resolved LoRA, by the name of its file: of the bytes behind the header."""
        paths = {str(lora.file): self._match(lora).adapter.path for lora in loras}
        return {Path(name).name.removesuffix(".safetensors"): tensor_hash(path)[:12] for name, path in paths.items()}

    # ---- embeddings

    @property
    def _widths(self) -> dict[str, int]:
        return {name: config.dim for name, config in self._checkpoints[0].info.encoders.items()}

    def open_embeddings(self, embeddings: Sequence[Embedding]) -> tuple[ActiveEmbedding, ...]:
        """Embeddings with the hashes of their files, which are opened, and before them those of the folders. Raises
        `CheckpointError`.
        """
        found = {each.word: each for each in self._of_folders()}
        own: dict[str, ActiveEmbedding] = {}
        for embedding in embeddings:
            opened = self._open_embedding(embedding)
            if opened.word in own:
                raise ArgumentError(f"two embeddings have the word {opened.word!r}; give them as {{word: file}}")
            own[opened.word] = opened
        return tuple((found | own).values())

    def _open_embedding(self, embedding: Embedding) -> ActiveEmbedding:
        folders = self._embedding_folders
        paths = [find_again(file, embedding.hash, folders, "embedding") for file in embedding.files]
        hash = "+".join(checked_hash(path, None if len(paths) > 1 else embedding.hash) for path in paths)
        if embedding.hash not in (None, hash) and len(paths) > 1:
            raise CheckpointError(
                f"{paths[0]} and {paths[1]} are not the files that are asked for; give the right ones"
            )
        inversion = read_inversion(paths, embedding.word, self._widths)
        return ActiveEmbedding(replace(embedding, hash=hash, word=inversion.word), inversion)

    def _of_folders(self) -> list[ActiveEmbedding]:
        """The embeddings of the folders, which need not be of this model's family."""
        found, others = [], []
        for path in adapter_files(self._embedding_folders):
            try:
                found.append(self._open_embedding(Embedding(path)))
            except CheckpointError as error:
                others.append(error)
        if others:
            warn(f"{len(others)} files of the folder of embeddings are not used, such as: {others[0]}")
        return [replace(each, embedding=replace(each.embedding, file=each.inversion.paths[0].name)) for each in found]

    def words(self, embeddings: Sequence[ActiveEmbedding], loras: Sequence[LoRA]) -> Embeddings:
        """The vectors of each text encoder by word, with those that LoRAs have brought with them; the same object for
        the same files.
        """
        bundled = [lora for lora in loras if self._match(lora).adapter.bundled]
        key = ([each.embedding for each in embeddings], bundled)
        known, vectors = self._words  # which another thread may replace meanwhile
        if known != key:
            vectors = self._vectors(embeddings, bundled)
            self._words = key, vectors
        return vectors

    def _vectors(self, embeddings: Iterable[ActiveEmbedding], loras: Iterable[LoRA]) -> Embeddings:
        of_loras = [each for lora in loras for each in read_bundled(self._match(lora).adapter.file, self._widths)]
        vectors: dict[str, dict[str, Tensor]] = {name: {} for name in self._widths}
        for inversion in [*of_loras, *(each.inversion for each in embeddings)]:
            for name in vectors:
                vectors[name][inversion.word] = inversion.vectors[name]
        return vectors if any(vectors.values()) else {}

    def counts(self, embeddings: Sequence[ActiveEmbedding], loras: Sequence[LoRA]) -> dict[str, int]:
        """How many vectors each word has."""
        return {word: len(own) for word, own in self.words(embeddings, loras).get(TEXT_2, {}).items()}

    def used(
        self, embeddings: Sequence[ActiveEmbedding], loras: Sequence[LoRA], texts: Sequence[str], reading: Reading
    ) -> tuple[Embedding, ...]:
        """Those whose words are in the texts of a prompt. Warns of `embedding:NAME` where no word has that name."""
        info = self._checkpoints[0].info
        self._tokenizer = self._tokenizer or Tokenizer(info.tokenizers[TEXT_2], info.config.text_encoder_2.positions)
        counts = self.counts(embeddings, loras)
        words = {word: (self._tokenizer.ids(word), count) for word, count in counts.items()}
        for name in dict.fromkeys(name for text in texts for name in unknown_names(text, reading, words)):
            known = ", ".join(sorted(words)) or "none"
            warn(f"embedding:{name} in the prompt is left out: there is no embedding of that name, known are {known}")
        if not words:
            return ()
        present = {word for text in texts for word in words_of(self._tokenizer, text, reading, words)}
        if present:
            _LOG.info("embeddings in the prompts: %s", ", ".join(sorted(present)))
        return tuple(each.embedding for each in embeddings if each.word in present)
