"""What the dispatcher tells of what it served: events on a real Kafka, spans to a collector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from aiokafka import AIOKafkaConsumer
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from libs.common.events import PredictionsServed
from libs.common.flow import PREDICTIONS_SERVED
from libs.common.telemetry import LATENCY_MS_BOUNDS
from tests.support.door import Door, open_door, outcome, request
from tests.support.eventually import eventually
from tests.support.topics import make_platform_topics
from tools.servers import Kafka, Triton
from tools.servers.ports import free_ports

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans in, as any collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def of(self, trace_id: str) -> list[Any]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    async def Export(  # noqa: N802
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    server.add_insecure_port(address)
    await server.start()
    yield collector, address
    await server.stop(None)


async def batches(kafka: Kafka, door: Door, requests: int) -> list[PredictionsServed]:
    """The events that tell of so many requests of acme's, counted since the door opened."""
    found: list[PredictionsServed] = []
    async with AIOKafkaConsumer(
        PREDICTIONS_SERVED.name, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
    ) as consumer:

        async def enough() -> bool:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    event = PredictionsServed.model_validate_json(record.value or b"")
                    if event.tenant == door.tenant:
                        found.append(event)
            return sum(event.requests for event in found) >= requests

        await eventually(enough, within_s=20)
    return found


async def test_every_call_is_told_of_once_with_its_features_and_trace(
    kafka: Kafka, models: Triton, short_folder: Path, collector: tuple[Collector, str]
) -> None:
    kept, address = collector
    async with open_door(short_folder, kafka.bootstrap, models, BASALT_OTLP=address) as door:
        # A tenant of its own: others' events lie on the same topic.
        door.tenant = "initech"
        door.neighbours.tenants.append(door.tenant)
        door.neighbours.route(door.tenant, "double", {1: 100}, internal="acme--double--v1")
        await eventually(door.answers, within_s=20)
        traced = (*door.bearer(), ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"))
        async with door.inference() as stub:
            for number in range(30):
                made = request([[number, 1], [number, 2]])
                await stub.ModelInfer(made, metadata=traced, timeout=10)
            failed = stub.ModelInfer(request([[-1, 0]]), metadata=door.bearer(), timeout=10)
            assert (await outcome(failed))[0] is grpc.StatusCode.INTERNAL
        events = await batches(kafka, door, 32)
        await eventually(lambda: len(kept.of(TRACE_ID)) == 30, within_s=10)

    assert sum(event.requests for event in events) == 32
    assert sum(event.rows for event in events) == 61
    assert sum(event.errors_by_code.get("INTERNAL", 0) for event in events) == 1
    assert {(event.model, event.version) for event in events} == {("double", 1)}
    counts = [sum(column) for column in zip(*(e.latency_ms_counts for e in events), strict=True)]
    assert len(counts) == len(LATENCY_MS_BOUNDS) + 1
    assert sum(counts) == 32
    samples = [sample for event in events for sample in event.samples]
    assert sum(event.samples_dropped for event in events) == 0
    assert len(samples) == 31
    own = [sample for sample in samples if TRACE_ID in sample.traceparent]
    assert sorted(sample.features for sample in own) == [
        ((float(n), 1.0), (float(n), 2.0)) for n in range(30)
    ]
    assert all(
        sample.outputs == tuple(tuple(2 * each for each in row) for row in sample.features)
        for sample in own
    )
    spans = kept.of(TRACE_ID)
    assert {span.name for span in spans} == {"inference.GRPCInferenceService/ModelInfer"}
    assert {span.parent_span_id.hex() for span in spans} == {PARENT_ID}


async def test_while_kafka_is_away_predictions_go_on_and_are_told_of_later(
    models: Triton, short_folder: Path
) -> None:
    with Kafka(short_folder / "kafka") as kafka:
        await make_platform_topics(kafka.bootstrap)
        async with open_door(short_folder, kafka.bootstrap, models) as door:
            await door.routed()
            kafka.kill()
            async with door.inference() as stub:
                for _ in range(50):
                    await stub.ModelInfer(request([[1, 2]]), metadata=door.bearer(), timeout=5)
            await asyncio.to_thread(kafka.start)
            door.tenant = "acme"
            events = await batches(kafka, door, 50)
            assert len({event.id for event in events}) == len(events)
            # The canary and others were not asked; the calls of `routed` are in it too.
            answered = sum(event.requests for event in events)
            log = (door.folder / "dispatcher.log").read_text()
            assert answered >= 50, json.dumps(log)
