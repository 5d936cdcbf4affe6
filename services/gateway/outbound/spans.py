"""Sends the dispatcher's spans of sampled traces by OTLP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from libs.common import telemetry
from services.gateway.core.reporting import CODES
from services.gateway.dispatcher.recording import CallSpan

NAME = "inference.GRPCInferenceService/ModelInfer"
SCOPE = InstrumentationScope("basalt")
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
# So long a collector may be away without a loss; the buffer before it is bounded.
EXPORT_S_MAX = 30


class OtlpSpans:
    """The exporter blocks, so a thread runs it; a collector that is away loses spans, no calls."""

    def __init__(self, address: str, token: str) -> None:
        self._resource = Resource.create({"service.name": "gateway", "service.namespace": "basalt"})
        self._exporter = telemetry.exporter_to(address, token, EXPORT_S_MAX)

    async def export(self, spans: Sequence[CallSpan]) -> None:
        readable = [self._readable(span) for span in spans]
        await asyncio.to_thread(self._exporter.export, readable)

    def close(self) -> None:
        self._exporter.shutdown()

    def _readable(self, span: CallSpan) -> ReadableSpan:
        trace_id = int(span.trace_id, 16)
        code = CODES[span.code] if span.code < len(CODES) else "UNKNOWN"
        return ReadableSpan(
            name=NAME,
            context=SpanContext(trace_id, int(span.span_id, 16), False, SAMPLED),
            parent=SpanContext(trace_id, int(span.parent_id, 16), True, SAMPLED),
            resource=self._resource,
            attributes={
                "rpc.system": "grpc",
                "rpc.grpc.status_code": span.code,
                "peer.service": "triton",
                telemetry.TENANT: span.tenant,
                telemetry.MODEL: span.model,
                telemetry.MODEL_VERSION: span.version,
            },
            kind=SpanKind.SERVER,
            instrumentation_scope=SCOPE,
            status=Status(StatusCode.ERROR, code) if span.code else Status(StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
        )
