"""A service: names, limits, the engine and its workers. What skins use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar, get_args

from ..adapters.kind import Name
from ..errors import ArgumentError
from .catalog import Catalog
from .engine import Engine
from .job import Job
from .settings import Settings
from .uploads import Upload, read_upload
from .work import Work, make_work
from .worker import Load, Worker, load

_DECODERS = 2  # images that are decoded or changed at the same time, which bounds their memory
P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Service:
    settings: Settings
    catalog: Catalog
    engine: Engine
    workers: list[Worker]
    _decoders: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_DECODERS))
    _switches: list[Job] = field(default_factory=list)  # in their order, from the last one that is done

    def start(self) -> None:
        """Have the workers load the first model, and read the folders meanwhile: of thousands of files that takes a
        minute, for which the first client would wait.
        """
        for worker in self.workers:
            worker.start()
        threading.Thread(target=self._read_folders, name="sdxl folders", daemon=True).start()

    def _read_folders(self) -> None:
        for kind in get_args(Name):
            self.catalog.files(kind)

    @property
    def model(self) -> str:
        """The name of the model of requests that name none: that of the last switch which was neither cancelled nor
        failed, else the first.
        """
        lasting = self._lasting_switches()
        return lasting[-1].work.model if lasting else next(iter(self.catalog.models))

    @property
    def switching(self) -> Job | None:
        """The switch to `model`, until it is over."""
        return next((job for job in self._lasting_switches()[-1:] if not job.state.is_over), None)

    def _lasting_switches(self) -> list[Job]:
        return [job for job in self._switches if job.state.status not in ("cancelled", "failed")]

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

    def check_count(self, name: str, values: Sequence[object]) -> None:
        """Raise `ArgumentError` for more images or networks than any job takes, before they are decoded."""
        if len(values) > self.settings.max_images:
            raise ArgumentError(
                f"{name} has {len(values)} entries; this service takes at most {self.settings.max_images}, send fewer"
            )

    async def upload(self, data: bytes, name: str) -> Upload:
        """An image file that a client has sent as an argument, decoded once. Raises `ArgumentError` and
        `TooLargeError`.
        """
        return await self.work_on(read_upload, data, name, self.settings.image_pixels)

    async def work_on(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that needs the time and the memory of large images, in a thread, few at a time."""
        async with self._decoders:
            return await asyncio.to_thread(call, *args, **kwargs)

    def switch(self, model: str, origin: str = "api") -> Job:
        """A job that loads a model, which is from now on that of requests that name none, unless the job fails or is
        cancelled. Raises `UnknownError`.
        """
        job = self.engine.submit(Work((), self.catalog.model(model), origin))
        lasting = self._lasting_switches()
        done = [number for number, each in enumerate(lasting) if each.state.status == "done"]
        self._switches = [*lasting[max(done, default=0) :], job]
        return job


def make_service(settings: Settings, catalog: Catalog, load: Load = load) -> Service:
    """A service whose workers are not started yet."""
    engine = Engine(settings.queue, settings.keep, len(settings.devices))
    workers = [Worker(engine, catalog, settings, number, load) for number in range(len(settings.devices))]
    return Service(settings, catalog, engine, workers)
