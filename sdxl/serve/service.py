"""A service: names, limits, the engine and its workers. What skins use."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .catalog import Catalog
from .engine import Engine
from .job import Job
from .settings import Settings
from .uploads import Upload, read_upload
from .work import Work, make_work
from .worker import Load, Worker, load

_DECODERS = 2  # uploads that are decoded at the same time, which bounds their memory


@dataclass
class Service:
    """`model` is the name of the model of requests that name none: the one that was switched to last."""

    settings: Settings
    catalog: Catalog
    engine: Engine
    workers: list[Worker]
    model: str
    _decoders: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_DECODERS))

    def start(self) -> None:
        """Have the workers load the first model."""
        for worker in self.workers:
            worker.start()

    def make_work(
        self,
        given: Mapping[str, Any],
        batches: int = 1,
        model: str | None = None,
        origin: str = "api",
        session: str | None = None,
    ) -> Work:
        """The work of the fields of `Request` that are given; `image` and `mask` are an `Upload` or a list of them,
        `loras` names ones of the catalog. Each of the `batches` takes the next seeds. Raises `ArgumentError` and
        `UnknownError`.
        """
        name = self.model if model is None else model
        return make_work(given, self.settings, self.catalog, name, batches, origin, session)

    async def upload(self, data: bytes, name: str) -> Upload:
        """An image file that a client has sent as an argument, decoded once. Raises `ArgumentError` and
        `TooLargeError`.
        """
        async with self._decoders:
            return await asyncio.to_thread(read_upload, data, name, self.settings.image_pixels)

    def switch(self, model: str, origin: str = "api", session: str | None = None) -> Job:
        """A job that loads a model, which is from now on that of requests that name none. Raises `UnknownError`."""
        name = self.catalog.model(model)
        job = self.engine.submit(Work((), name, origin, session))
        before, self.model = self.model, name

        def restore() -> None:
            if job.state.status == "failed" and self.model == name:
                self.model = before

        job.watch(restore)
        return job


def make_service(settings: Settings, catalog: Catalog, load: Load = load) -> Service:
    """A service whose workers are not started yet."""
    engine = Engine(settings.queue, settings.keep, len(settings.devices))
    workers = [Worker(engine, catalog, settings, number, load) for number in range(len(settings.devices))]
    return Service(settings, catalog, engine, workers, next(iter(catalog.models)))
