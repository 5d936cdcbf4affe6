"""OTLP's messages as spans, from protobuf and from JSON.

Both forms are those of the OpenTelemetry Protocol 1.x: https://opentelemetry.io/docs/specs/otlp/.
Its JSON writes ids in hexadecimal where protobuf's own JSON mapping would have base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from libs.common import telemetry
from libs.common.errors import InvalidInputError
from libs.common.identity import PLATFORM
from services.monitoring.core.spans import Span

SPANS_MAX = 10_000
ATTRIBUTES_MAX = 64
LINKS_MAX = 128
NAME_CHARACTERS_MAX = 256
VALUE_CHARACTERS_MAX = 1_024
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8
NS_PER_US = 1_000
# SQLite's integers have 63 bits.
TIME_US_MAX = 1 << 61
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def from_protobuf(body: bytes) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise _not_otlp("protobuf") from error


def from_json(body: bytes) -> ExportTraceServiceRequest:
    try:
        said = json.loads(body)
        return json_format.ParseDict(
            _with_base64_ids(said), ExportTraceServiceRequest(), ignore_unknown_fields=True
        )
    except (ValueError, RecursionError, json_format.ParseError) as error:
        raise _not_otlp("JSON") from error


def spans_of(request: ExportTraceServiceRequest) -> tuple[list[Span], int]:
    """The spans that can be kept, and the number of those that cannot."""
    spans: list[Span] = []
    refused = 0
    for service, span in _each(request):
        if (
            len(span.trace_id) != TRACE_ID_BYTES
            or len(span.span_id) != SPAN_ID_BYTES
            or len(spans) >= SPANS_MAX
        ):
            refused += 1
        else:
            spans.append(_span(service, span))
    return spans, refused


def _each(request: ExportTraceServiceRequest) -> Iterator[tuple[str, trace_pb2.Span]]:
    for resource in request.resource_spans:
        attributes = _attributes(resource.resource.attributes)
        service = attributes.get("service.name", "")[:NAME_CHARACTERS_MAX]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield service, span


def _span(service: str, span: trace_pb2.Span) -> Span:
    attributes = _attributes(span.attributes)
    tenant = attributes.get(telemetry.TENANT, "")
    started_us = min(span.start_time_unix_nano // NS_PER_US, TIME_US_MAX)
    ended_us = min(span.end_time_unix_nano // NS_PER_US, TIME_US_MAX)
    parent = span.parent_span_id
    kind = trace_pb2.Span.SpanKind.Name(span.kind) if span.kind in range(6) else ""
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        # A parent that cannot be one is left out; the span is not.
        parent_span_id=parent.hex() if len(parent) == SPAN_ID_BYTES else "",
        service=service,
        name=span.name[:NAME_CHARACTERS_MAX],
        kind=kind.removeprefix("SPAN_KIND_").lower(),
        started_us=started_us,
        duration_us=max(ended_us - started_us, 0),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        status_message=span.status.message[:VALUE_CHARACTERS_MAX],
        tenant="" if tenant == PLATFORM else tenant,
        attributes=attributes,
        linked_trace_ids=tuple(
            sorted(
                {
                    link.trace_id.hex()
                    for link in span.links[:LINKS_MAX]
                    if len(link.trace_id) == TRACE_ID_BYTES and link.trace_id != span.trace_id
                }
            )
        ),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for pair in pairs:
        if len(attributes) >= ATTRIBUTES_MAX:
            break
        attributes[pair.key[:NAME_CHARACTERS_MAX]] = _text(pair.value)[:VALUE_CHARACTERS_MAX]
    return attributes


def _text(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return str(value.bool_value).lower()
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return repr(value.double_value)
        case "bytes_value":
            return value.bytes_value[:VALUE_CHARACTERS_MAX].hex()
        case "array_value":
            return ", ".join(_text(each) for each in value.array_value.values[:ATTRIBUTES_MAX])
        case "kvlist_value":
            pairs = _attributes(value.kvlist_value.values)
            return ", ".join(f"{key}={text}" for key, text in pairs.items())
        case _:
            return ""


def _with_base64_ids(said: Any) -> Any:
    """A copy in which the hexadecimal ids are what protobuf's JSON mapping reads."""
    if isinstance(said, dict):
        return {
            key: _base64(value) if key in _IDS else _with_base64_ids(value)
            for key, value in said.items()
        }
    if isinstance(said, list):
        return [_with_base64_ids(each) for each in said]
    return said


def _base64(value: Any) -> str:
    """Hexadecimal of 8 or 16 bytes as base64; "" for what is no id, so that it alone is lost."""
    if isinstance(value, str) and len(value) in (2 * TRACE_ID_BYTES, 2 * SPAN_ID_BYTES):
        with suppress(ValueError):
            return base64.b64encode(binascii.unhexlify(value)).decode()
    return ""


def _not_otlp(form: str) -> InvalidInputError:
    return InvalidInputError(
        f"The body is not OTLP spans as {form}.",
        which="otlp",
        next_step="Send an ExportTraceServiceRequest.",
    )
