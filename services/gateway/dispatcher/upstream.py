"""The connection to Triton: kept up by itself, and never told that a caller has gone.

Cancelled requests kill Triton 2.51 (its issues 7368 and 8034). So no RST_STREAM and no deadline is
ever sent: what was sent runs to its end, whoever still waits for it.
"""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Callable
from time import monotonic

import structlog

from libs.common.runtime import ended, lasting
from libs.common.unix import path_of
from services.gateway.dispatcher import frames
from services.gateway.dispatcher.calls import Status
from services.gateway.dispatcher.connection import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    Connection,
)
from services.gateway.dispatcher.exchanges import (
    AnswerHeaders,
    Exchange,
    ExchangeEnds,
    interpret_answer,
)
from services.gateway.dispatcher.frames import ErrorCode
from services.gateway.dispatcher.headers import (
    METHOD_POST,
    SCHEME_HTTP,
    HeaderReader,
    literal,
)

CONNECT_S_MAX = 5.0
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 2.0
STREAM_ID_LAST = 2**31 - 4_097  # A connection that comes near the last stream id is replaced.
KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_PROBES = 3
UNACKNOWLEDGED_MS_MAX = 20_000  # Of TCP: a peer whose machine is gone is noticed after this.

log = structlog.get_logger(__name__)

MODEL_INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"

_REQUEST_BLOCK = b"".join(
    (
        METHOD_POST,
        SCHEME_HTTP,
        literal(b":path", MODEL_INFER_PATH),
        literal(b":authority", b"triton"),
        literal(b"te", b"trailers"),
        literal(b"content-type", b"application/grpc"),
        literal(b"user-agent", b"basalt-dispatcher"),
    )
)


# Triton's errors repeat what a caller named, however long; all tenants share the connection.
TOO_LONG = AnswerHeaders(
    http_ok=True,
    status=Status.INVALID_ARGUMENT,
    message=b"Triton refused the request, with a message that is too long to be shown; "
    b"name the tensors that the model's metadata lists",
)


class TritonConnection(Connection[AnswerHeaders]):
    """The client's role on one connection."""

    def __init__(
        self,
        reader: HeaderReader[AnswerHeaders],
        loop: asyncio.AbstractEventLoop,
        ends: ExchangeEnds,
        changed: Callable[["TritonConnection"], None],
        answer_bytes_max: int,
    ) -> None:
        super().__init__(reader, loop, TOO_LONG)
        self._ends = ends
        self._changed = changed
        self._answer_bytes_max = answer_bytes_max
        self._unacknowledged: dict[int, int] = {}
        self.streams: dict[int, Exchange] = {}
        self.usable = False  # Settings have come, and neither GOAWAY nor the end.
        self._next_stream_id = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            _set_socket(raw)
        self.write(frames.PREFACE)
        self.write(
            frames.settings(
                {
                    frames.HEADER_TABLE_SIZE: 0,
                    frames.ENABLE_PUSH: 0,
                    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                }
            )
        )
        self.write(frames.window_update(0, CONNECTION_WINDOW_BYTES - frames.WINDOW_BYTES_DEFAULT))
        self.flush()

    @property
    def has_room(self) -> bool:
        return self.usable and len(self.streams) < self.peer_streams_max

    def send(self, exchange: Exchange, body: bytes, traceparent: bytes) -> None:
        stream_id = self._next_stream_id
        self._next_stream_id = stream_id + 2
        self.stream_id_last = stream_id
        self.streams[stream_id] = exchange
        block = _REQUEST_BLOCK
        if traceparent:
            block += literal(b"traceparent", traceparent)
        length = len(body)
        if self.can_write_at_once(length):
            self.send_window -= length
            data = frames.header(frames.DATA, frames.END_STREAM, stream_id, length)
            opening = frames.headers(stream_id, block, end_stream=False)
            self.write(b"".join((opening, data, body)))
        else:
            self.write_headers(stream_id, block, end_stream=False)
            self.write_body(stream_id, body, None)
        if stream_id >= STREAM_ID_LAST:
            self._retire()

    def _retire(self) -> None:
        if self.usable:
            self.usable = False
            self._changed(self)
        self.close_when_idle()

    def close_when_idle(self) -> None:
        if not self.usable and not self.streams:
            self.close(ErrorCode.NO_ERROR)

    # What comes from Triton.

    def settings_received(self) -> None:
        if not self.usable and not self.closed and self.stream_id_last == 0:
            self.usable = True
            self._changed(self)
        elif self.usable:
            self._ends.writable()

    def knows_stream(self, stream_id: int) -> bool:
        return stream_id in self.streams

    def headers_received(self, stream_id: int, meaning: AnswerHeaders, end_stream: bool) -> None:
        exchange = self.streams.get(stream_id)
        if exchange is None:
            self._check_not_idle(stream_id)
            return
        if meaning.status is not None:
            exchange.status = meaning.status
            exchange.message = meaning.message
        elif not meaning.http_ok:
            exchange.status = Status.UNAVAILABLE
        if end_stream:
            self._end(stream_id, exchange)

    def body_received(self, stream_id: int, data: bytes, length: int, end_stream: bool) -> None:
        exchange = self.streams.get(stream_id)
        if exchange is None:
            self._check_not_idle(stream_id)
            return
        exchange.body_bytes += len(data)
        # An answer beyond the limit is read to its end and forgotten: it must not be cancelled.
        if exchange.body_bytes <= self._answer_bytes_max:
            exchange.chunks.append(data)
        elif exchange.chunks:
            exchange.chunks.clear()
        if end_stream:
            self._end(stream_id, exchange)
        elif exchange.body_bytes > STREAM_WINDOW_BYTES // 4 or length != len(data):
            self._widen_stream(stream_id, length)

    def _widen_stream(self, stream_id: int, length: int) -> None:
        # Small answers fit into the window and are not counted: the first quarter is a lump sum.
        unacknowledged = self._unacknowledged.get(stream_id, STREAM_WINDOW_BYTES // 4) + length
        if unacknowledged > STREAM_WINDOW_BYTES // 2:
            self.write(frames.window_update(stream_id, unacknowledged))
            unacknowledged = 0
        self._unacknowledged[stream_id] = unacknowledged

    def _end(self, stream_id: int, exchange: Exchange) -> None:
        self._forget(stream_id)
        if exchange.status is None:
            self._ends.failed(exchange, Status.INTERNAL, "Triton's answer had no status")
        elif exchange.status:
            self._ends.failed(exchange, exchange.status, _decoded(exchange.message))
        elif exchange.body_bytes > self._answer_bytes_max:
            self._ends.failed(
                exchange,
                Status.RESOURCE_EXHAUSTED,
                f"the answer of {exchange.body_bytes} bytes is longer than the limit of "
                f"{self._answer_bytes_max} bytes; ask for fewer outputs or rows",
            )
        else:
            chunks = exchange.chunks
            self._ends.answered(exchange, chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if not self.usable:
            self.close_when_idle()

    def reset_received(self, stream_id: int, code: int) -> None:
        exchange = self.streams.get(stream_id)
        if exchange is None:
            return
        self._forget(stream_id)
        if code == ErrorCode.REFUSED_STREAM:
            self._ends.not_taken(exchange)
        else:
            self._ends.failed(
                exchange, Status.UNAVAILABLE, f"Triton reset the request (HTTP/2 error {code})"
            )
        self.close_when_idle()

    def goaway_received(self, stream_id_last: int, code: int) -> None:
        refused = [stream_id for stream_id in self.streams if stream_id > stream_id_last]
        self._retire()
        for stream_id in refused:
            exchange = self.streams[stream_id]
            self._forget(stream_id)
            self._ends.not_taken(exchange)
        self.close_when_idle()

    def _forget(self, stream_id: int) -> None:
        del self.streams[stream_id]
        if self._unacknowledged:
            self._unacknowledged.pop(stream_id, None)
        self.forget_stream(stream_id)
        if self.usable and len(self.streams) == self.peer_streams_max - 1:
            self._ends.writable()  # What waited for room was of any model.

    def close(self, code: ErrorCode, message: str = "") -> None:
        super().close(code, message)
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lose()

    def _lose(self) -> None:
        self.usable = False
        exchanges = list(self.streams.values())
        self.streams.clear()
        self._changed(self)
        for exchange in exchanges:
            self._ends.lost(exchange)


def _set_socket(raw: socket.socket) -> None:
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere the system's own patience counts.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)


def _decoded(message: bytes) -> str:
    """Undoes gRPC's percent encoding, leniently, as the protocol asks."""
    parts = message.split(b"%")
    decoded = [parts[0]]
    for part in parts[1:]:
        with contextlib.suppress(ValueError):
            decoded.append(bytes((int(part[:2], 16),)) + part[2:])
            continue
        decoded.append(b"%" + part)
    return b"".join(decoded).decode(errors="replace")


class Upstream:
    """Keeps one usable connection to Triton, as long as there is a Triton to connect to.

    `address` is host:port, or unix:PATH; `tls` is for the former.
    """

    def __init__(
        self,
        address: str,
        ends: ExchangeEnds,
        *,
        answer_bytes_max: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self._tls = tls
        self._ends = ends
        self._answer_bytes_max = answer_bytes_max
        self._reader = HeaderReader(interpret_answer)
        self._connections: set[TritonConnection] = set()
        self._task: asyncio.Task[None] | None = None
        self._turned = asyncio.Event()
        self.current: TritonConnection | None = None
        self.down_since = monotonic()
        self.down_reason = "not connected yet"

    @property
    def in_flight(self) -> int:
        return sum(len(connection.streams) for connection in self._connections)

    def start(self) -> None:
        self._task = lasting(self._keep_connected(), "connection to Triton")

    async def close(self) -> None:
        await ended(self._task)
        self._task = None
        for connection in list(self._connections):
            connection.close(ErrorCode.NO_ERROR)

    async def _keep_connected(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            self._turned.clear()
            try:
                await self._connect()
            except OSError as error:
                reason = str(error) or type(error).__name__
                if reason != self.down_reason:
                    log.warning("triton_unreachable", address=self.address, reason=reason)
                self.down_reason = reason
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311  Jitter.
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
                continue
            backoff_s = BACKOFF_S_MIN
            while self.current is not None:
                self._turned.clear()
                await self._turned.wait()
            await asyncio.sleep(BACKOFF_S_MIN)

    async def _connect(self) -> None:
        """Returns once requests may be sent. Raises OSError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S_MAX):
            _, connection = await self._open(loop)
            self._connections.add(connection)
            try:
                while not connection.usable and not connection.closed:
                    self._turned.clear()
                    await self._turned.wait()
            except asyncio.CancelledError:
                connection.close(ErrorCode.NO_ERROR)
                raise
        if connection.closed:
            raise ConnectionError("it closed the connection at once")

    async def _open(
        self, loop: asyncio.AbstractEventLoop
    ) -> tuple[asyncio.BaseTransport, TritonConnection]:
        if (path := path_of(self.address)) is not None:
            return await loop.create_unix_connection(self._protocol, str(path))
        host, _, port = self.address.rpartition(":")
        host = host.strip("[]")
        name = host if self._tls else None
        return await loop.create_connection(
            self._protocol, host, int(port), ssl=self._tls, server_hostname=name
        )

    def _protocol(self) -> TritonConnection:
        return TritonConnection(
            self._reader,
            asyncio.get_running_loop(),
            self._ends,
            self._connection_changed,
            self._answer_bytes_max,
        )

    def _connection_changed(self, connection: TritonConnection) -> None:
        self._turned.set()
        if connection.usable:
            self._connections.add(connection)
            self.current = connection
            self._ends.writable()
            return
        if connection.closed:
            self._connections.discard(connection)
        if self.current is connection:
            self.current = None
            self.down_since = monotonic()
            self.down_reason = "the connection was closed"
            self._ends.interrupted()
