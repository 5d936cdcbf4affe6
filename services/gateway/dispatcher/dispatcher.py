"""The hot path of the door: which model answers a call, what is merged, who is told what.

    Envoy ──▶ EnvoyConnection ──▶ Admission ──▶ Delivery ──▶ Upstream ──▶ Triton
              HTTP/2              route, limit   merge        HTTP/2, one connection
                                        └── Ledger ──┘
                                    deadlines, counts, samples

Everything runs on one event loop's thread; nothing here waits, and nothing takes a lock.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

from libs.common.revocations import Revocations
from libs.common.unix import listener
from services.gateway.dispatcher.admission import Admission
from services.gateway.dispatcher.delivery import Delivery
from services.gateway.dispatcher.frames import ErrorCode
from services.gateway.dispatcher.headers import HeaderReader
from services.gateway.dispatcher.ledger import Ledger
from services.gateway.dispatcher.limits import Limits
from services.gateway.dispatcher.recording import CallSpan, Counts, Sampler, Snapshot
from services.gateway.dispatcher.routing import RoutingTable
from services.gateway.dispatcher.server import EnvoyConnection, interpret_call

LAST_WORDS_S_MAX = 1.0  # How long a closing connection may take to read what it was sent.
# As asyncio has it.
BACKLOG = 100


class Dispatcher:
    """Serves ModelInfer on a Unix socket and has Triton compute it. Make it on a running loop.

    Start it with `start`, hand it routing tables with `use`, read `snapshot`, drain `sampler`.
    """

    def __init__(
        self,
        triton_address: str,
        *,
        limits: Limits | None = None,
        revocations: Revocations | None = None,
        sampler: Sampler | None = None,
        on_span: Callable[[CallSpan], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        limits = limits or Limits()
        self.sampler = sampler or Sampler()
        self._loop = asyncio.get_running_loop()
        self._counts = Counts()
        self._ledger = Ledger(self._loop, limits, self._counts, self.sampler, on_span)
        self._delivery = Delivery(self._loop, triton_address, self._ledger, limits, tls)
        # Not `or`: those that are still empty are the very ones to follow.
        known = Revocations() if revocations is None else revocations
        self._admission = Admission(limits, self._ledger, self._delivery, known)
        self._call_headers = HeaderReader(interpret_call)
        self._connections: set[EnvoyConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, socket_path: Path) -> None:
        """Listens for Envoy; only this user may connect. Triton need not be there yet."""
        self._delivery.start()
        listening = listener(socket_path, BACKLOG)
        self._server = await self._loop.create_unix_server(self._protocol, sock=listening)

    def _protocol(self) -> EnvoyConnection:
        return EnvoyConnection(self._call_headers, self._loop, self._admission, self._connections)

    async def close(self, grace_s: float = 30.0) -> None:
        """Takes no new calls, lets those in flight end within the grace, and closes."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.drain()
        # Triton is left alone until it has answered: closing on it would cancel its work.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._ledger.idle.wait()
        for connection in list(self._connections):
            connection.close(ErrorCode.NO_ERROR)
        await self._delivery.close()
        self._ledger.deadlines.stop()
        await self._end_connections()

    async def _end_connections(self) -> None:
        if self._server is None:
            return
        try:
            async with asyncio.timeout(LAST_WORDS_S_MAX):
                await self._server.wait_closed()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()

    def use(self, table: RoutingTable) -> None:
        """Routes all calls from now on by this table."""
        self._admission.use(table)
        self._delivery.use(table)

    def snapshot(self) -> Snapshot:
        delivery = self._delivery
        return Snapshot(
            series=self._counts.copy(),
            triton_requests=delivery.triton_requests,
            calls_merged=delivery.calls_merged,
            samples_dropped=self.sampler.dropped,
            calls_in_flight=self._ledger.in_flight,
            calls_waiting=sum(model.waiting for model in delivery.models.values()),
            buffered_bytes=self._ledger.buffered_bytes,
            triton_connected=delivery.upstream.current is not None,
        )
