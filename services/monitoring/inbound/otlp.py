"""Where spans arrive by OTLP over gRPC: open, so it listens on loopback or a private network."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from libs.common.errors import DependencyError, LimitError
from services.monitoring.inbound.spans import spans_of
from services.monitoring.ports import TraceStore

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
CALLS_MAX = 64
STOP_GRACE_S = 2.0


class SpanServicer(pb_grpc.TraceServiceServicer):
    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def Export(  # noqa: N802
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        spans, refused = spans_of(request)
        try:
            await self._store.add(spans)
        except LimitError as error:
            # The protocol's word for "later": an exporter tries again.
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return answer(refused)


def answer(refused: int) -> pb.ExportTraceServiceResponse:
    if not refused:
        return pb.ExportTraceServiceResponse()
    return pb.ExportTraceServiceResponse(
        partial_success=pb.ExportTracePartialSuccess(
            rejected_spans=refused,
            error_message="Spans without a trace id of 16 bytes and a span id of 8, or too many"
            " in one request.",
        )
    )


class OtlpServer:
    """A part of the runtime. It makes no spans of its own: they would make more of them."""

    name = "otlp"

    def __init__(self, listen: str, store: TraceStore) -> None:
        self._listen = listen
        self._servicer = SpanServicer(store)
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ],
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        pb_grpc.add_TraceServiceServicer_to_server(self._servicer, server)
        try:
            self.port = server.add_insecure_port(self._listen)
        except RuntimeError as error:
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
