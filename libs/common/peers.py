"""Calling other services: each call has a deadline, a token, a span and its trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

import grpc
import grpc.aio
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from libs.common import telemetry
from libs.common.errors import DependencyError
from libs.common.tls import ServerTls, tls_between

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
METADATA_BYTES_MAX = 24 * 1024
CALL_TIMEOUT_S = 10.0
# What a call to another service may take of the time that our own caller gave us, so that some is
# left to say which service did not answer.
DEADLINE_SHARE_MAX = 0.9

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Over what the door lets in, and adds: else gRPC refuses some of it, at random, from 8 KiB on.
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES_MAX),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Services come and go: find them again quickly.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

T = TypeVar("T")
# When the caller of the call that is being handled stops waiting, by the monotonic clock.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def set_time_left(left_s: float | None) -> None:
    """For the guard alone: how long the caller of the call that begins now will wait."""
    _deadline.set(None if left_s is None else time.monotonic() + left_s)


class TokenSource(Protocol):
    async def token(self) -> str:
        """A token to call with, for the tenant we act for."""
        ...


class _CallInterceptor:
    """Gives a call its deadline, token, trace and span. grpc wants one object a kind of call."""

    def __init__(self, peer: str, tokens: TokenSource | None) -> None:
        self._peer = peer
        self._tokens = tokens

    async def _dress(self, continuation: Any, details: Any, request: Any, timed: bool) -> Any:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        span = telemetry.tracer().start_span(
            method.lstrip("/"),
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", "peer.service": self._peer},
        )
        with trace.use_span(span, end_on_exit=False):
            try:
                dressed = grpc.aio.ClientCallDetails(
                    method=cast("Any", details.method),
                    timeout=within_deadline(details.timeout or (CALL_TIMEOUT_S if timed else None)),
                    metadata=await self._metadata(details.metadata or ()),
                    credentials=details.credentials,
                    wait_for_ready=details.wait_for_ready,
                )
                call = await continuation(dressed, request)
            except BaseException:
                span.end()
                raise
        call.add_done_callback(lambda done: _end(span, done))
        return call

    async def _metadata(self, given: Any) -> grpc.aio.Metadata:
        metadata = grpc.aio.Metadata(*given)
        if traceparent := telemetry.traceparent():
            metadata["traceparent"] = traceparent
        if self._tokens is not None:
            metadata["authorization"] = f"Bearer {await self._tokens.token()}"
        return metadata


def within_deadline(wanted_s: float | None) -> float | None:
    """What a call may take: what it asked for, within the time that our own caller still waits."""
    deadline = _deadline.get()
    if deadline is None or (left_s := deadline - time.monotonic()) <= 0:
        # Nobody waits: this is work that a call has begun and that goes on after it.
        return wanted_s
    return min(left_s * DEADLINE_SHARE_MAX, wanted_s or left_s)


def _end(span: Any, call: Any) -> None:
    """Ends a call's span when the call has ended, with its status."""
    if call.cancelled():
        telemetry.failed(span, "CANCELLED")
        span.end()
        return

    async def end() -> None:
        code = await call.code()  # It is there already: the call is done.
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            telemetry.failed(span, code.name)
        span.end()

    ending = asyncio.get_running_loop().create_task(end())
    _endings.add(ending)
    ending.add_done_callback(_endings.discard)


# The event loop itself holds tasks by weak references only.
_endings: set[asyncio.Task[None]] = set()


class _UnaryUnary(_CallInterceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._dress(continuation, client_call_details, request, timed=True)


class _UnaryStream(_CallInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._dress(continuation, client_call_details, request, timed=False)


class _StreamUnary(_CallInterceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._dress(continuation, client_call_details, request_iterator, timed=False)


class _StreamStream(_CallInterceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._dress(continuation, client_call_details, request_iterator, timed=False)


class Peers:
    """Channels to the other services, by name; opened when first used, closed by the runtime."""

    name = "peers"

    def __init__(
        self,
        addresses: dict[str, str],
        tokens: TokenSource | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        self._addresses = addresses
        self._tokens = tokens
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}

    def stub(self, stub: Callable[[Any], T], peer: str) -> T:
        """A generated stub on the channel to `peer`. Use it inside `translated(peer)`."""
        return stub(self.channel(peer))

    def channel(self, peer: str) -> grpc.aio.Channel:
        if peer not in self._channels:
            if peer not in self._addresses:
                raise DependencyError(
                    f"No address of the service {peer} is known.",
                    which=peer,
                    next_step="Name it in BASALT_PEERS.",
                )
            interceptors: list[Any] = [
                kind(peer, self._tokens)
                for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
            ]
            address = self._addresses[peer]
            tls = tls_between(address, self._tls)
            self._channels[peer] = (
                grpc.aio.insecure_channel(address, OPTIONS, interceptors=interceptors)
                if tls is None
                else grpc.aio.secure_channel(
                    address, tls.channel_credentials(), OPTIONS, interceptors=interceptors
                )
            )
        return self._channels[peer]

    async def start(self) -> None:
        """Channels open when they are first used."""

    async def stop(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
