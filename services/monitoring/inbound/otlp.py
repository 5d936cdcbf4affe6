"""Where known senders' spans arrive by OTLP over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb

from libs.common import senders
from libs.common.errors import DependencyError, InvalidInputError, LimitError, UnauthenticatedError
from libs.common.unix import clear_address
from services.monitoring.core.senders import Senders
from services.monitoring.inbound.spans import from_protobuf, spans_of
from services.monitoring.ports import TraceStore

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
CALLS_MAX = 64
STOP_GRACE_S = 2.0


_SERVICE = pb.DESCRIPTOR.services_by_name["TraceService"].full_name


class _Known(grpc.aio.ServerInterceptor):
    """Refuses strangers by their headers alone: nothing of what they send is read."""

    def __init__(self, known: Callable[[str], str]) -> None:
        self._known = known

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        try:
            self._known(_authorization(handler_call_details.invocation_metadata))
        except UnauthenticatedError as error:
            refusal = str(error)

            async def refuse(_stream: Any, context: Any) -> None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal)

            return grpc.stream_unary_rpc_method_handler(refuse)  # pyright: ignore[reportArgumentType]
        return await continuation(handler_call_details)


def _authorization(metadata: Any) -> str:
    return next((value for key, value in metadata or () if key == senders.HEADER), "")


class SpanServicer:
    """Takes bytes: a message is parsed once its sender may send as much."""

    def __init__(self, store: TraceStore, senders: Senders) -> None:
        self._store = store
        self._senders = senders

    def handler(self) -> grpc.GenericRpcHandler:
        export = grpc.unary_unary_rpc_method_handler(
            self.export,
            response_serializer=pb.ExportTraceServiceResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Export": export})

    async def export(self, body: bytes, context: Any) -> pb.ExportTraceServiceResponse:
        sender = self._senders.known(_authorization(context.invocation_metadata()))
        refused = 0
        try:
            self._senders.weighed(sender, len(body))
            spans, refused = self._senders.own(sender, *spans_of(from_protobuf(body)))
            await self._store.add(spans)
        except LimitError as error:
            # The protocol's word for "later": an exporter tries again.
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except InvalidInputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return answer(refused)


def answer(refused: int) -> pb.ExportTraceServiceResponse:
    if not refused:
        return pb.ExportTraceServiceResponse()
    return pb.ExportTraceServiceResponse(
        partial_success=pb.ExportTracePartialSuccess(
            rejected_spans=refused,
            error_message="Spans without a trace id of 16 bytes and a span id of 8, of another"
            " service than the sender, or too many in one request.",
        )
    )


class OtlpServer:
    """A part of the runtime. It makes no spans of its own: they would make more of them."""

    name = "otlp"

    def __init__(self, listen: str, store: TraceStore, senders: Senders) -> None:
        self._listen = listen
        self._senders = senders
        self._servicer = SpanServicer(store, senders)
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ],
            interceptors=[_Known(self._senders.known)],
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        server.add_generic_rpc_handlers((self._servicer.handler(),))
        try:
            self.port = server.add_insecure_port(clear_address(self._listen))
        except (RuntimeError, OSError) as error:
            raise DependencyError(
                f"{self._listen} cannot be listened on.",
                which=self._listen,
                next_step="Another process may hold the port: end it, or set BASALT_OTLP_LISTEN.",
            ) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
