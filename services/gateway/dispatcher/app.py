"""Puts the dispatcher's process together: the hot path, and what tells others of it.

It needs the door's folder and Triton alone; Kafka, the collector, security and the control plane
may come and go. Who may not come in any more it hears from security itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import uvloop

from libs.common.bus import Bus, Router
from libs.common.clock import SystemClock
from libs.common.errors import BasaltError, PreconditionError
from libs.common.kafka import KafkaAccess
from libs.common.revocations import Revocations
from libs.common.runtime import Part, Service, ended, lasting
from libs.common.tls import TLS, ServerTls, tls_for
from services.gateway.core.door import ROUTES_FILE
from services.gateway.core.envoy.clusters import DISPATCHER_SOCKET
from services.gateway.core.reporting import SAMPLES_MAX, Reporting
from services.gateway.core.table import Table
from services.gateway.dispatcher.dispatcher import Dispatcher
from services.gateway.dispatcher.following import FOLDER_FILE, Following
from services.gateway.dispatcher.recording import Sampler, SpanBuffer
from services.gateway.outbound.predictions import KafkaPredictions
from services.gateway.outbound.revocations import RevocationFile
from services.gateway.outbound.samples import OpenInferenceSamples
from services.gateway.outbound.spans import OtlpSpans
from services.gateway.settings import Settings

ROUTES_POLL_S = 0.1
REPORT_S = 1.0
SPANS_S = 0.5
SPANS_MAX = 512
# Within what the runtime grants a part: calls in flight may end.
DRAIN_S = 7.0
LAST_REPORT_S = 2.0

log = structlog.get_logger(__name__)


class Serving:
    """A part of the runtime: the dispatcher, following the table of routes in the door's folder."""

    name = "dispatcher"

    def __init__(
        self,
        triton: str,
        folder: Path,
        sampler: Sampler,
        spans: SpanBuffer,
        revocations: Revocations,
        tls: ServerTls | None = None,
    ) -> None:
        self._tls = tls_for(triton, tls)
        self._triton = triton.removeprefix(TLS)
        self._revocations = revocations
        self._folder = folder
        self._sampler = sampler
        self._spans = spans
        self._dispatcher: Dispatcher | None = None
        self._seen = (0, 0, 0)
        self._problem = ""
        self._task: asyncio.Task[None] | None = None
        self.table = Table()

    @property
    def dispatcher(self) -> Dispatcher:
        assert self._dispatcher is not None, "The dispatcher is made when it starts."  # noqa: S101
        return self._dispatcher

    async def start(self) -> None:
        self._dispatcher = Dispatcher(
            self._triton,
            revocations=self._revocations,
            sampler=self._sampler,
            on_span=self._spans.add,
            tls=self._tls.client_context() if self._tls else None,
        )
        self._look()
        try:
            await self._dispatcher.start(self._folder / DISPATCHER_SOCKET)
        except OSError as error:
            raise PreconditionError(
                f"{self._folder / DISPATCHER_SOCKET} cannot be listened on: {error.strerror}.",
                which="BASALT_DOOR_FOLDER",
                next_step="See that the folder exists, may be written, and has a short path.",
            ) from error
        self._task = lasting(self._follow(), "routes")
        # What lives as long as the process is no garbage collector's business.
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        await ended(self._task)
        await self.dispatcher.close(DRAIN_S)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(ROUTES_POLL_S)
            self._look()

    def _look(self) -> None:
        """Takes a new table when one was moved into place; one that is no good is left alone.

        So is whatever else is there in its place: the gateway puts back what should be.
        """
        file = self._folder / ROUTES_FILE
        try:
            stat = file.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen or not file.is_file():
                return
            text = file.read_text(errors="replace")
            self._seen = seen
            table = Table.read(text)
            self.dispatcher.use(table.routing())
            self.table = table
        except FileNotFoundError:
            return
        except OSError as error:
            # It is looked at again: what kept us from it may pass.
            if str(error) != self._problem:
                log.warning("routes_not_read", error=str(error))
            self._problem = str(error)
        except BasaltError as error:
            log.warning("routes_refused", error=str(error))
        else:
            self._problem = ""


class Telling:
    """A part that does `work` every so often, and once more at the end."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        self.name = name
        self._work = work
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = lasting(self._run(), self.name)

    async def stop(self) -> None:
        await ended(self._task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_REPORT_S):
                await self._turn()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._turn()

    async def _turn(self) -> None:
        try:
            await self._work()
        except BasaltError as error:
            log.warning("not_told", what=self.name, error=str(error))
        except Exception:
            log.exception("not_told", what=self.name)


def build(settings: Settings) -> Service:
    sampler, spans = Sampler(samples_max=SAMPLES_MAX), SpanBuffer()
    tls = ServerTls(settings.tls, "gateway") if settings.tls else None
    folder, revocations = settings.door_folder.absolute(), Revocations()
    serving = Serving(settings.triton, folder, sampler, spans, revocations, tls)
    access = Following(settings, revocations, RevocationFile(folder / FOLDER_FILE, revocations))
    predictions = KafkaPredictions(Bus(KafkaAccess.of(settings, "gateway"), Router("gateway")))
    reporting = Reporting(
        snapshot=lambda: serving.dispatcher.snapshot(),
        sampler=sampler,
        table=lambda: serving.table,
        decoder=OpenInferenceSamples(),
        sink=predictions,
        clock=SystemClock(),
        pause=lambda: asyncio.sleep(0),
    )
    parts: list[Part] = [predictions, Telling("predictions", reporting.report, REPORT_S)]
    if settings.otlp:
        exporter = OtlpSpans(settings.otlp, settings.otlp_token.get_secret_value())

        async def send() -> None:
            while found := spans.drain(SPANS_MAX):
                await exporter.export(found)

        parts.append(Telling("spans", send, SPANS_S))
    return Service(
        name="dispatcher",
        # What is told of calls is told once more when the last of them has ended.
        parts=[*parts, access, serving],
        log_level=settings.log_level,
        event_loop=uvloop.new_event_loop,
    )
