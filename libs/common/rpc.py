"""gRPC for every service: one guard in front of each call, one way to call another service.

A call passes, in this order: span, identity, policy, audit (when privileged), its turn among the
tenants (`sharing.py`), the handler. An error becomes a status with google.rpc.ErrorInfo here and
nowhere else; its insides stay here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from libs.common import telemetry
from libs.common.auditing import PERMITTED, REFUSED, Asked
from libs.common.disk import is_full, no_room
from libs.common.echo import bounded
from libs.common.errors import (
    BasaltError,
    DependencyError,
    InternalError,
)
from libs.common.identity import (
    ADDRESS_HEADER,
    Caller,
    TokenVerifier,
    set_caller,
    set_caller_address,
)
from libs.common.peers import (
    CALL_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    OPTIONS,
    Peers,
    TokenSource,
    set_time_left,
)
from libs.common.policy import Policy
from libs.common.sharing import Sharing
from libs.common.status import ERROR_DOMAIN, from_call_error, to_status, translated
from libs.common.tls import ServerTls, tls_between
from libs.common.unix import clear_address

# What serves and what calls is found here together.
__all__ = [
    "CALL_TIMEOUT_S",
    "ERROR_DOMAIN",
    "MESSAGE_BYTES_MAX",
    "OPTIONS",
    "Auditor",
    "Guard",
    "Peers",
    "Server",
    "ServerTls",
    "TokenSource",
    "from_call_error",
    "to_status",
    "translated",
]

STOP_GRACE_S = 3.0
CONCURRENT_CALLS_MAX = 1_000
IDEMPOTENCY_KEY_CHARACTERS_MAX = 128

Metadata = dict[str, str]
log = structlog.get_logger(__name__)


class Auditor(Protocol):
    """`auditing.Auditing`, which says what is written when."""

    async def asked(
        self, who: Caller, method: str, request: Message | None, decision: str
    ) -> Asked: ...

    async def observed(
        self, who: Caller, method: str, request: Message | None, decision: str
    ) -> None: ...

    def ended(self, asked: Asked, code: str) -> None: ...


# The guard.


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands before every handler of a service."""

    verifier: TokenVerifier
    policy: Policy
    auditor: Auditor
    sharing: Sharing = field(default_factory=Sharing)

    @asynccontextmanager
    async def passing(
        self, method: str, metadata: Metadata, request: Message | Stream, context: Any
    ) -> AsyncIterator[None]:
        with telemetry.span(
            method,
            SpanKind.SERVER,
            under=metadata.get("traceparent", ""),
            rpc_system="grpc",
        ) as span:
            set_time_left(context.time_remaining())
            set_caller_address(metadata.get(ADDRESS_HEADER, ""), context.peer())
            asked: Asked = ()
            code = "CANCELLED"
            try:
                who, asked = await self._admit(method, metadata, request)
                async with self.sharing.admitted(who, method):
                    yield
                code = "OK"
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                answer = _told(error)
                code = answer.code
                if isinstance(answer, InternalError):
                    log.exception("internal_fault", method=method)
                elif answer.inside:
                    log.warning("call_failed", method=method, error=answer.whole)
                telemetry.failed(span, answer.code)
                await context.abort_with_status(rpc_status.to_status(to_status(answer)))
            finally:
                self.auditor.ended(asked, code)

    async def _admit(
        self, method: str, metadata: Metadata, request: Message | Stream
    ) -> tuple[Caller | None, Asked]:
        """Who calls, nobody where the call is open to all; and what the log says was asked."""
        access = self.policy.access(method)
        if access.open:
            return None, ()
        who = self._caller(metadata)
        set_caller(who, metadata.get("idempotency-key", "")[:IDEMPOTENCY_KEY_CHARACTERS_MAX])
        trace.get_current_span().set_attribute(telemetry.TENANT, who.tenant)
        told = None if isinstance(request, Stream) else request
        decision = self.policy.decide(who, method, told)
        if isinstance(request, Stream) and decision.allowed and access.privileged:
            # What a stream is about is in its first message.
            told = await request.first()
            decision = self.policy.decide(who, method, told)
        word = PERMITTED if decision.allowed else REFUSED
        asked: Asked = ()
        if access.privileged:
            asked = await self.auditor.asked(who, method, told, word)
        elif access.observed and not who.is_service:
            # Services read for jobs and calls that are in the log themselves.
            await self.auditor.observed(who, method, told, word)
        if not decision.allowed:
            raise decision.refusal(who, method)
        return who, asked

    def _caller(self, metadata: Metadata) -> Caller:
        return self.verifier.caller(metadata.get("authorization", ""))


class Stream:
    """The messages that a caller streams; the first can be looked at before the rest is asked."""

    def __init__(self, messages: AsyncIterator[Message]) -> None:
        self._messages = messages
        self._first: Message | None = None

    async def first(self) -> Message | None:
        """None when there is none."""
        if self._first is None:
            self._first = await anext(self._messages, None)
        return self._first

    async def __aiter__(self) -> AsyncIterator[Message]:
        if self._first is not None:
            yield self._first
        async for message in self._messages:
            yield message


def _told(error: Exception) -> BasaltError:
    """What a caller is told. Of a fault of ours: where to find it, and nothing of its insides."""
    if isinstance(error, BasaltError) and not isinstance(error, InternalError):
        return error
    if is_full(error):
        return no_room()
    reference = telemetry.trace_id()
    return InternalError(
        "The service failed on this call; nothing of it is known to have taken effect.",
        which=reference,
        next_step=f"Tell its operators the trace {reference}.",
    )


class _GuardInterceptor(grpc.aio.ServerInterceptor):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.lstrip("/")
        if cast("Any", handler) is None:
            return _unknown(method)
        if method.startswith("grpc."):
            # Health and reflection are gRPC's own, and open.
            return handler
        metadata = {
            key: value
            for key, value in handler_call_details.invocation_metadata or ()
            if isinstance(value, str)
        }
        return _guarded(handler, self._guard, method, metadata)


def _unknown(method: str) -> grpc.RpcMethodHandler:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"There is no {bounded(method)} here. gRPC reflection lists the methods that there"
            " are.",
        )

    # On the wire a single message is a stream of one, so this answers every form of call.
    return cast("grpc.RpcMethodHandler", grpc.stream_stream_rpc_method_handler(cast("Any", refuse)))


def _guarded(handler: Any, guard: Guard, method: str, metadata: Metadata) -> grpc.RpcMethodHandler:
    """The same handler behind the guard. Handlers that stream answers are async generators."""
    inner = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )

    async def answer_one(request: Any, context: Any) -> Any:
        given = Stream(aiter(request)) if handler.request_streaming else request
        async with guard.passing(method, metadata, given, context):
            answer = inner(aiter(given) if isinstance(given, Stream) else given, context)
            return await answer if inspect.isawaitable(answer) else answer

    async def answer_many(request: Any, context: Any) -> None:
        given = Stream(aiter(request)) if handler.request_streaming else request
        # Writing, not yielding: a caller that goes away ends handler and span here, in this task.
        async with (
            guard.passing(method, metadata, given, context),
            aclosing(
                inner(aiter(given) if isinstance(given, Stream) else given, context)
            ) as answers,
        ):
            async for answer in answers:
                await context.write(answer)

    maker = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[(handler.request_streaming, handler.response_streaming)]
    return cast(
        "grpc.RpcMethodHandler",
        maker(
            cast("Any", answer_many if handler.response_streaming else answer_one),
            handler.request_deserializer,
            handler.response_serializer,
        ),
    )


# The server.


class Server:
    """A service's gRPC server with guard, health and reflection; a part of its runtime.

    `register` calls the generated add_…_to_server functions; `names` are the services' full names.
    """

    name = "rpc"

    def __init__(
        self,
        listen: str,
        guard: Guard,
        register: Sequence[Callable[[grpc.aio.Server], None]],
        names: Sequence[str],
        tls: ServerTls | None = None,
        reflected: DescriptorPool | None = None,
        neighbours: Sequence[str] = (),
    ) -> None:
        """`reflected`: where reflection finds the messages, when not in the common pool.

        `neighbours`: services that answer at the same address, for reflection to list as well.
        """
        self.listen = listen
        # The port that was taken, when `listen` leaves it open with port 0.
        self.port = 0
        self._guard = guard
        self._register = register
        self._names = names
        self._tls = tls
        self._reflected = reflected
        self._neighbours = neighbours
        self._server: grpc.aio.Server | None = None
        # The asyncio servicer; the package's stubs do not know of it.
        self.health = cast("Any", health).aio.HealthServicer()

    async def start(self) -> None:
        server = grpc.aio.server(
            interceptors=[_GuardInterceptor(self._guard)],
            options=[*OPTIONS, ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX,
        )
        for register in self._register:
            register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        listed = [*self._names, *self._neighbours, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(listed, server, self._reflected)
        try:
            at = clear_address(self.listen)
            if tls := tls_between(at, self._tls):
                self.port = server.add_secure_port(at, tls.credentials())
            else:
                self.port = server.add_insecure_port(at)
        except (RuntimeError, OSError) as error:
            raise DependencyError(
                f"{self.listen} cannot be listened on.",
                which=self.listen,
                next_step="Another process may hold the port: end it, or set another address.",
            ) from error
        await server.start()
        self._server = server
        for name in ("", *self._names):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        if self._server is not None:
            await self.health.enter_graceful_shutdown()
            await self._server.stop(STOP_GRACE_S)
