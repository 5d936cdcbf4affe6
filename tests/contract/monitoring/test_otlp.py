"""Spans by OTLP over gRPC and HTTP, protobuf and JSON, into one store."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode
from prometheus_client.parser import text_string_to_metric_families

from libs.common import senders, telemetry
from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, LimitError, NotFoundError
from libs.common.http import HttpServer
from services.monitoring.core.senders import (
    BYTES_AT_ONCE_MAX,
    BYTES_PER_S_MAX,
    SPANS_AT_ONCE_MAX,
    Senders,
)
from services.monitoring.core.spans import Span
from services.monitoring.core.traces import Traces
from services.monitoring.inbound.http import JSON, PROTOBUF, metrics_app, otlp_app
from services.monitoring.inbound.otlp import MESSAGE_BYTES_MAX, OtlpServer
from services.monitoring.inbound.spans import ATTRIBUTES_MAX, SPANS_MAX, VALUE_CHARACTERS_MAX
from services.monitoring.outbound.prometheus import PrometheusMeters
from services.monitoring.outbound.sqlite_traces import SqliteTraces
from tests.support.eventually import eventually

KEY = "what the tokens are made with"
METRICS_KEY = "the key for the figures"
TRACE = "0af7651916cd43dd8448eb211c80319c"
# As Triton 2.51 sends it: hexadecimal ids, times as text.
TRITON = {
    "resourceSpans": [
        {
            "resource": {
                "attributes": [{"key": "service.name", "value": {"stringValue": "triton"}}]
            },
            "scopeSpans": [
                {
                    "scope": {"name": "triton-server"},
                    "spans": [
                        {
                            "traceId": TRACE,
                            "spanId": "b7ad6b7169203331",
                            "parentSpanId": "",
                            "name": "InferRequest",
                            "kind": 2,
                            "startTimeUnixNano": "1700000000000000000",
                            "endTimeUnixNano": "1700000000005000000",
                            "attributes": [
                                {"key": "basalt.tenant", "value": {"stringValue": "acme"}},
                                {"key": "triton.model_version", "value": {"intValue": "1"}},
                            ],
                            "status": {},
                            "unknownField": 1,
                        },
                        {
                            "traceId": TRACE.upper(),
                            "spanId": "00f067aa0ba902b7",
                            "parentSpanId": "b7ad6b7169203331",
                            "name": "compute",
                            "kind": "SPAN_KIND_INTERNAL",
                            "startTimeUnixNano": 1700000000001000000,
                            "endTimeUnixNano": 1700000000002000000,
                            "status": {"code": 2, "message": "it broke"},
                        },
                    ],
                }
            ],
        }
    ]
}


@dataclass(frozen=True)
class Receiver:
    """Both receivers on one store, at a time that stands still until it is told to pass."""

    store: SqliteTraces
    traces: Traces
    grpc: str
    http: str
    meters: PrometheusMeters
    time: list[float]

    async def post(
        self, body: bytes, content_type: str = JSON, as_: str = "triton", **headers: str
    ) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        said = {"content-type": content_type, **authorization(as_), **headers}
        request = urllib.request.Request(self.http, body, said, method="POST")  # noqa: S310 - ours.

        def send() -> tuple[int, str, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    return answer.status, answer.headers["content-type"], answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.headers["content-type"], error.read()

        return await asyncio.to_thread(send)

    def refused(self) -> dict[str, float]:
        """How many spans were, by reason."""
        families = text_string_to_metric_families(self.meters.exposition().decode())
        return {
            sample.labels["reason"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == telemetry.SPANS_REFUSED_TOTAL
        }

    async def tree(self, trace_id: str, count: int, tenant: str = "acme") -> list[Span]:
        async def all_there() -> list[Span]:
            try:
                spans = await self.traces.get(tenant, trace_id)
            except NotFoundError:
                return []
            return spans if len(spans) >= count else []

        return await eventually(all_there)


def authorization(sender: str) -> dict[str, str]:
    return {"authorization": senders.authorization(senders.token(KEY, sender))}


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    store = SqliteTraces(tmp_path / "traces.db", SystemClock(), spans_max=10_000, age_s_max=1e12)
    meters, time = PrometheusMeters(), [0.0]
    known = Senders(KEY, meters, lambda: time[0])
    grpc = OtlpServer("127.0.0.1:0", store, known)
    http = HttpServer("otlp http", "127.0.0.1:0", otlp_app(store, known))
    for part in (store, grpc, http):
        await part.start()
    yield Receiver(
        store,
        Traces(store),
        f"127.0.0.1:{grpc.port}",
        f"http://127.0.0.1:{http.port}/v1/traces",
        meters,
        time,
    )
    for part in (http, grpc, store):
        await part.stop()


def altered(**changes: Any) -> dict[str, Any]:
    """The first span of Triton's request, alone, with some of its fields replaced."""
    request = json.loads(json.dumps(TRITON))
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans[:] = [{**spans[0], **changes}]
    return request


async def test_spans_of_our_own_exporter_make_a_tree(receiver: Receiver) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "ingest"}))
    exporter = telemetry.exporter_to(receiver.grpc, senders.token(KEY, "ingest"), 5)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def make_spans() -> str:
        with tracer.start_as_current_span("cause") as cause:
            linked = cause.get_span_context()
        with tracer.start_as_current_span(
            "consume", kind=SpanKind.CONSUMER, links=[Link(linked)]
        ) as root:
            root.set_attribute("basalt.tenant", "acme")
            with tracer.start_as_current_span("write") as child:
                child.set_status(StatusCode.ERROR, "no disk")
                child.set_attributes({"rows": 3, "ok": True, "share": 0.5, "names": ["a", "b"]})
        provider.shutdown()
        return f"{root.get_span_context().trace_id:032x}"

    trace_id = await asyncio.to_thread(make_spans)

    consume, write = await receiver.tree(trace_id, 2)
    assert (consume.service, consume.name, consume.kind) == ("ingest", "consume", "consumer")
    assert (consume.parent_span_id, consume.failed, consume.tenant) == ("", False, "acme")
    assert (write.parent_span_id, write.kind) == (consume.span_id, "internal")
    assert (write.failed, write.status_message) == (True, "no disk")
    assert write.attributes == {"rows": "3", "ok": "true", "share": "0.5", "names": "a, b"}
    assert len(consume.linked_trace_ids) == 1
    # The linked trace names no tenant: the platform alone sees it.
    assert len(await receiver.tree(trace_id, 3, "platform")) == 3


async def test_json_as_triton_sends_it(receiver: Receiver) -> None:
    status, content_type, body = await receiver.post(json.dumps(TRITON).encode())

    assert (status, content_type, json.loads(body)) == (200, JSON, {})
    request, compute = await receiver.tree(TRACE, 2)
    assert (request.service, request.name, request.kind) == ("triton", "InferRequest", "server")
    assert request.duration_us == 5_000
    assert request.attributes["triton.model_version"] == "1"
    assert compute.parent_span_id == request.span_id
    assert (compute.failed, compute.status_message) == (True, "it broke")


@pytest.mark.parametrize("compressed", [False, True])
async def test_protobuf_over_http(receiver: Receiver, compressed: bool) -> None:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = bytes.fromhex(TRACE), b"12345678", "work"
    span.attributes.add(key="basalt.tenant").value.string_value = "acme"
    body = request.SerializeToString()

    if compressed:
        headers = {"content-encoding": "gzip"}
        answer = await receiver.post(gzip.compress(body), PROTOBUF, "collector", **headers)
    else:
        answer = await receiver.post(body, PROTOBUF, "collector")

    assert answer[:2] == (200, PROTOBUF)
    (found,) = await receiver.tree(TRACE, 1)
    assert found.name == "work"


async def test_spans_that_cannot_be_kept_are_counted(receiver: Receiver) -> None:
    wrong = altered(traceId="abcd")

    status, _, body = await receiver.post(json.dumps(wrong).encode())

    assert status == 200
    assert json.loads(body)["partialSuccess"]["rejectedSpans"] == "1"

    many = ExportTraceServiceRequest()
    spans = many.resource_spans.add().scope_spans.add().spans
    too_many = SPANS_AT_ONCE_MAX + 5
    for number in range(too_many):
        spans.add(trace_id=bytes(15) + b"1", span_id=number.to_bytes(8, "big"))
    status, _, answer = await receiver.post(many.SerializeToString(), PROTOBUF, "collector")
    assert status == 200
    rejected = ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
    assert rejected == too_many - SPANS_MAX


async def test_a_span_is_bounded(receiver: Receiver) -> None:
    large = altered(
        name="n" * 10_000,
        attributes=[
            {"key": "basalt.tenant", "value": {"stringValue": "acme"}},
            *({"key": f"k{n}", "value": {"stringValue": "v" * 5_000}} for n in range(100)),
        ],
    )
    await receiver.post(json.dumps(large).encode())

    (span,) = await receiver.tree(TRACE, 1)

    assert len(span.name) == 256
    assert len(span.attributes) == ATTRIBUTES_MAX
    assert max(map(len, span.attributes.values())) == VALUE_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", JSON, 400),
        (b"[1, 2]", JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b'{"resourceSpans": 5}', JSON, 400),
        (b"\xff\xff\xff", PROTOBUF, 400),
        (b"hello", "text/plain", 415),
        (b" " * (MESSAGE_BYTES_MAX + 1), JSON, 400),
        (b"{}", f"{JSON}; charset=utf-8", 200),
    ],
)
async def test_what_is_not_otlp_is_refused(
    receiver: Receiver, body: bytes, content_type: str, status: int
) -> None:
    assert (await receiver.post(body, content_type))[0] == status


async def test_a_small_body_does_not_unpack_to_a_large_one(receiver: Receiver) -> None:
    bomb = gzip.compress(bytes(50 * 1024 * 1024))

    status, _, body = await receiver.post(bomb, JSON, **{"content-encoding": "gzip"})

    assert status == 400
    assert b"is over" in body
    assert (await receiver.post(b"no gzip", JSON, **{"content-encoding": "gzip"}))[0] == 400


async def test_a_taken_port_is_named(receiver: Receiver) -> None:
    taken, known = receiver.grpc, Senders(KEY, receiver.meters, lambda: 0.0)
    for part in (
        OtlpServer(taken, receiver.store, known),
        HttpServer("otlp http", taken, otlp_app(receiver.store, known)),
        HttpServer("otlp http", "nowhere", otlp_app(receiver.store, known)),
    ):
        with pytest.raises(DependencyError, match="cannot be listened on"):
            await part.start()


def spans_of(service: str, count: int = 1) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    spans = resource.scope_spans.add().spans
    for number in range(count):
        span = spans.add(
            trace_id=bytes.fromhex(TRACE), span_id=(number + 1).to_bytes(8, "big"), name="work"
        )
        span.attributes.add(key="basalt.tenant").value.string_value = "acme"
    return request


async def export(
    receiver: Receiver, request: ExportTraceServiceRequest, header: str | None, **more: Any
) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(receiver.grpc) as channel:
        metadata = () if header is None else (("authorization", header),)
        try:
            await TraceServiceStub(channel).Export(request, metadata=metadata, **more)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


GENUINE = senders.token(KEY, "ingest")
STRANGERS = [
    None,
    "",
    "Bearer ",
    "Bearer ingest",
    "Bearer ingest.",
    f"Bearer {senders.token('another key', 'ingest')}",
    f"Bearer security.{GENUINE.partition('.')[2]}",
    f"Bearer {GENUINE[:-1]}",
    f"Bearer {GENUINE}0",
    f"Basic {GENUINE}",
    GENUINE,
    f"Bearer INGEST.{GENUINE.partition('.')[2]}",
    "Bearer " + "a" * 5_000 + "." + "0" * 64,
]


@pytest.mark.parametrize("header", STRANGERS)
async def test_strangers_spans_are_refused_unread_and_counted(
    receiver: Receiver, header: str | None
) -> None:
    request = spans_of("ingest")

    assert await export(receiver, request, header) is grpc.StatusCode.UNAUTHENTICATED
    said = {"authorization": header or ""}
    for body in (request.SerializeToString(), b"not even spans"):
        assert (await receiver.post(body, PROTOBUF, **said))[0] == 401

    assert receiver.refused() == {"unknown_sender": 3}
    with pytest.raises(NotFoundError):
        await receiver.traces.get("platform", TRACE)


async def test_a_sender_speaks_in_its_own_name_only(receiver: Receiver) -> None:
    forged, own = spans_of("security"), spans_of("ingest")
    forged.MergeFrom(own)

    answer = await receiver.post(forged.SerializeToString(), PROTOBUF, "ingest")

    said = ExportTraceServiceResponse.FromString(answer[2])
    assert said.partial_success.rejected_spans == 1
    (found,) = await receiver.tree(TRACE, 1)
    assert found.service == "ingest"
    assert receiver.refused() == {"foreign_name": 1}
    # What passes on the spans of others may.
    header = senders.authorization(senders.token(KEY, senders.COLLECTOR))
    assert await export(receiver, spans_of("security"), header) is grpc.StatusCode.OK
    assert receiver.refused() == {"foreign_name": 1}


async def test_a_senders_excess_is_its_own_and_passes(receiver: Receiver) -> None:
    batch = spans_of("ingest", SPANS_MAX)
    statuses = [
        (await receiver.post(batch.SerializeToString(), PROTOBUF, "ingest"))[0]
        for _ in range(SPANS_AT_ONCE_MAX // SPANS_MAX + 1)
    ]

    assert statuses == [200] * (len(statuses) - 1) + [429]
    header = senders.authorization(GENUINE)
    assert await export(receiver, batch, header) is grpc.StatusCode.UNAVAILABLE
    # However little of that the store has written by now, others have their places there.
    for other in ("trainer", "security", "gateway"):
        own = spans_of(other, SPANS_MAX).SerializeToString()
        assert (await receiver.post(own, PROTOBUF, other))[0] == 200
    assert receiver.refused() == {"too_much": 2.0 * SPANS_MAX}
    receiver.time[0] += 60
    assert (await receiver.post(batch.SerializeToString(), PROTOBUF, "ingest"))[0] == 200


async def test_bytes_are_weighed_before_they_are_parsed(receiver: Receiver) -> None:
    known = Senders(KEY, receiver.meters, lambda: receiver.time[0])
    for _ in range(BYTES_AT_ONCE_MAX // MESSAGE_BYTES_MAX):
        known.weighed("ingest", MESSAGE_BYTES_MAX)
    with pytest.raises(LimitError, match="ingest sends more"):
        known.weighed("ingest", MESSAGE_BYTES_MAX)
    receiver.time[0] += MESSAGE_BYTES_MAX / BYTES_PER_S_MAX
    known.weighed("ingest", MESSAGE_BYTES_MAX)


async def test_a_grpc_message_does_not_unpack_to_a_large_one(receiver: Receiver) -> None:
    bomb = spans_of("ingest")
    bomb.resource_spans[0].schema_url = "x" * (50 * 1024 * 1024)
    header = senders.authorization(GENUINE)

    code = await export(receiver, bomb, header, compression=grpc.Compression.Gzip)

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await export(receiver, spans_of("ingest"), header) is grpc.StatusCode.OK


@pytest.mark.parametrize("encoding", ["deflate", "br", "gzip, gzip", "zstd" * 1_000])
async def test_what_is_packed_otherwise_is_refused(receiver: Receiver, encoding: str) -> None:
    answer = await receiver.post(b"{}", JSON, **{"content-encoding": encoding})
    assert answer[0] == 400
    assert len(answer[2]) < 300


@pytest.mark.parametrize("wrong", ["zz" * 8, "abcd", "", "é" * 16, 7, None, ["a"], {"a": "b"}])
async def test_a_malformed_context_is_lost_alone(receiver: Receiver, wrong: Any) -> None:
    request = json.loads(json.dumps(TRITON))
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    links = [{"traceId": wrong, "spanId": wrong}, {"traceId": "11" * 16, "spanId": "22" * 8}]
    spans[0] |= {"parentSpanId": wrong, "links": links}
    spans.append({**spans[1], "traceId": wrong})

    status, _, body = await receiver.post(json.dumps(request).encode())

    assert (status, json.loads(body)["partialSuccess"]["rejectedSpans"]) == (200, "1")
    first, _ = await receiver.tree(TRACE, 2)
    assert (first.parent_span_id, first.linked_trace_ids) == ("", ("11" * 16,))
    assert receiver.refused() == {"malformed": 1}


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", METRICS_KEY, f"Bearer {METRICS_KEY}x", f"Basic {METRICS_KEY}"],
)
async def test_figures_are_for_who_has_their_key(header: str) -> None:
    server = HttpServer("metrics", "127.0.0.1:0", metrics_app(lambda: b"tenants", METRICS_KEY))
    await server.start()

    def asked(said: str) -> int:
        url = f"http://127.0.0.1:{server.port}/metrics"
        request = urllib.request.Request(url, headers={"authorization": said})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    try:
        assert await asyncio.to_thread(asked, header) == 401
        assert await asyncio.to_thread(asked, f"Bearer {METRICS_KEY}") == 200
    finally:
        await server.stop()
