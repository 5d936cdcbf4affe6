"""monitoring as others meet it: its real server with real security, registry and Kafka."""

from __future__ import annotations

import asyncio
import io
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import numpy as np
import polars as pl
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from libs.common import flow, senders
from libs.common.access import AccessWatch, ServiceTokens, verify_by
from libs.common.auditing import Asked
from libs.common.bus import Bus, Router
from libs.common.clock import SystemClock
from libs.common.events import AlertRaised, DriftDetected, Event, PredictionsServed
from libs.common.identity import TokenVerifier
from libs.common.kafka import KafkaAccess
from libs.common.pb.basalt.v1 import common_pb2, health_pb2
from libs.common.pb.basalt.v1 import monitoring_pb2 as pb
from libs.common.pb.basalt.v1.monitoring_pb2_grpc import MonitoringServiceStub
from libs.common.policy import Policy
from libs.common.rpc import Guard, Peers, Server
from libs.common.stores.ports import Outgoing
from services.inference.inbound.rpc import Models
from services.monitoring.app import build
from services.monitoring.core.serving import BUCKETS
from services.monitoring.settings import Settings
from tests.support.candidates import FEATURES, Candidate
from tests.support.eventually import eventually
from tests.support.kafka import read, sender, started
from tests.support.platform import Security, bearer, running, running_security
from tests.support.registry import Registry
from tests.support.served import TRACEPARENT, batch, deployed, sample
from tools.servers import Kafka
from tools.servers.ports import free_ports

LATENCY = (0, 0, 10, *(0,) * (BUCKETS - 3))
ROWS = 400
ROLES = ("administrator", "operator")
METRICS_KEY, OTLP_KEY = "a key for the figures", "a key for the spans"


class TrainedCandidate(Candidate):
    """A candidate with the training rows that the trainer would have kept."""

    @property
    def files(self) -> dict[str, bytes]:
        table = np.random.default_rng(0).normal(size=(ROWS, len(FEATURES)))
        columns = {name: table[:, place] for place, name in enumerate(FEATURES)}
        prediction = np.random.default_rng(1).uniform(size=ROWS)
        content = io.BytesIO()
        pl.DataFrame({**columns, "prediction": prediction}).write_parquet(content)
        return {**super().files, "reference.parquet": content.getvalue()}


class Unaudited:
    async def asked(self, *_: Any) -> Asked:
        return ()

    async def observed(self, *_: Any) -> None:
        """The registry's reads are told nobody here."""

    def ended(self, *_: Any) -> None:
        """As little as they began."""


@asynccontextmanager
async def running_registry(folder: Path, security: Security) -> AsyncIterator[Registry]:
    """inference's registry behind its own RPCs; nothing is deployed to a Triton."""
    registry = Registry(folder)
    verifier = TokenVerifier()
    credential = security.credentials["inference"]
    open_peers = Peers(security.peers)
    peers = Peers(security.peers, ServiceTokens("inference", credential, open_peers))
    models = Models(registry.catalogue, registry.review, registry.artifacts)
    watch = AccessWatch(peers, "monitoring", verify_by(verifier))
    server = Server(
        security.peers["inference"],
        Guard(verifier, Policy.load(), Unaudited()),
        [models.register],
        [models.RPC_NAME],
    )
    for part in (watch, server):
        await part.start()
    yield registry
    for part in (server, watch, peers, open_peers):
        await part.stop()
    await registry.close()


@dataclass
class Monitoring:
    """A running monitoring, and the means to talk to it."""

    security: Security
    registry: Registry
    settings: Settings
    bus: Bus
    tenant: str

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MonitoringServiceStub]:
        async with (
            running(build(self.settings)),
            grpc.aio.insecure_channel(self.settings.rpc_listen) as channel,
        ):
            stub = MonitoringServiceStub(channel)
            token = bearer(await self.security.user(self.tenant, "ann", ROLES))
            # Keys arrive from security within moments of the start.
            await eventually(lambda: _answered(stub.ListAlerts(pb.ListAlertsRequest(), **token)))
            yield stub

    async def publish(self, event: Event, traceparent: str = "") -> None:
        topic = flow.BY_EVENT[type(event)]
        await self.bus.publish(
            Outgoing(
                event_id=event.id,
                topic=topic.name,
                key=topic.key_of(event),
                payload=event.model_dump_json(),
                traceparent=traceparent,
            )
        )

    async def token(self, name: str = "ann") -> dict[str, Any]:
        return bearer(await self.security.user(self.tenant, name, ROLES))

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Values by name and the tenant's or topic's labels."""
        asked = urllib.request.Request(
            f"http://{self.settings.metrics_listen}/metrics",
            headers={"authorization": f"Bearer {METRICS_KEY}"},
        )
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310
            text = answer.read().decode()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


async def _answered(call: Any) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError:
        return False
    return True


@pytest_asyncio.fixture
async def monitoring(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Monitoring]:
    ports = free_ports(3)
    async with (
        running_security(tmp_path, kafka.bootstrap) as security,
        running_registry(tmp_path / "registry", security) as registry,
        sender(kafka.bootstrap) as bus,
    ):
        settings = Settings(
            **security.settings("monitoring"),
            metrics_listen=f"127.0.0.1:{ports[0]}",
            metrics_key=SecretStr(METRICS_KEY),
            otlp_key=SecretStr(OTLP_KEY),
            otlp_listen=f"127.0.0.1:{ports[1]}",
            otlp_http_listen=f"127.0.0.1:{ports[2]}",
            traces=f"sqlite:{tmp_path / 'traces'}",
            drift_interval_s=0.1,
        )
        # Kafka is shared by the suites: a tenant of the test's own keeps them apart.
        yield Monitoring(security, registry, settings, bus, f"t{uuid4().hex[:12]}")


def served(tenant: str, id_: str, **changes: Any) -> PredictionsServed:
    now = SystemClock().now()
    return batch(id_, at=now, tenant=tenant, model="boxes", latency=LATENCY, **changes)


async def test_predictions_are_counted_once_across_a_restart(monitoring: Monitoring) -> None:
    events = [
        served(monitoring.tenant, f"{monitoring.tenant}-{number}", errors={"INTERNAL": 1})
        for number in (1, 2)
    ]
    token = await monitoring.token()

    async def requests(stub: MonitoringServiceStub) -> int:
        answer = await stub.GetServingMetrics(pb.GetServingMetricsRequest(), **token)
        return sum(each.requests for each in answer.metrics)

    async with monitoring.running() as stub:
        for event in (events[0], events[0], events[1]):
            await monitoring.publish(event)

        async def counted() -> bool:
            return await requests(stub) == 20

        await eventually(counted, 30)
        (metrics,) = (
            await stub.GetServingMetrics(
                pb.GetServingMetricsRequest(model="boxes", window_s=3_600), **token
            )
        ).metrics
        assert (metrics.model, metrics.version, metrics.rows) == ("boxes", 1, 20)
        assert dict(metrics.errors_by_code) == {"INTERNAL": 2}
        assert metrics.error_rate == pytest.approx(0.1)
        assert 0.5 < metrics.latency_ms_p50 < metrics.latency_ms_p99 <= 1.0
        exposed = await asyncio.to_thread(monitoring.metrics)
        total = ("basalt_inference_requests_total", "boxes", monitoring.tenant, "1")
        assert exposed[total] == 20

    async with monitoring.running() as stub:
        assert await requests(stub) == 20
        await monitoring.publish(events[0])
        await monitoring.publish(served(monitoring.tenant, f"{monitoring.tenant}-3"))

        async def counted_on() -> bool:
            return await requests(stub) == 30

        await eventually(counted_on, 30)


async def test_drift_is_seen_named_and_published_in_the_predictions_trace(
    monitoring: Monitoring, kafka: Kafka
) -> None:
    tenant = monitoring.tenant
    await monitoring.registry.register(TrainedCandidate(tenant=tenant))
    now = SystemClock().now()
    table = np.random.default_rng(3).normal(size=(150, len(FEATURES)))
    token = await monitoring.token()

    async with monitoring.running() as stub:
        event = deployed(1, {1: 100}, now - timedelta(minutes=1), model="boxes")
        await monitoring.publish(
            event.model_copy(update={"tenant": tenant, "id": f"{tenant}/deployment/boxes/1"})
        )

        async def report() -> pb.DriftReport:
            answer = await stub.GetDriftReport(pb.GetDriftReportRequest(model="boxes"), **token)
            return answer.report

        async def waits() -> bool:
            with _not_found_yet():
                return (await report()).problem.startswith("0 live rows of the 100")
            return False

        await eventually(waits, 30)
        healthy = served(tenant, f"{tenant}-1").model_copy(
            update={"samples": (sample(table, now),)}
        )
        await monitoring.publish(healthy)

        async def compared() -> pb.DriftReport | None:
            found = await report()
            return found if found.live_rows == 150 else None

        calm = await eventually(compared, 30)
        assert not calm.drifted
        assert calm.reference_rows == ROWS
        assert len(calm.features) == 2 * (len(FEATURES) + 1)

        shifted = table + np.array([1.5, 0.0, 0.0])
        drifting = served(tenant, f"{tenant}-2").model_copy(
            update={"samples": (sample(shifted, SystemClock().now(), TRACEPARENT),)}
        )
        await monitoring.publish(drifting)

        async def drifted() -> pb.DriftReport | None:
            found = await report()
            return found if found.drifted and found.event_id else None

        seen = await eventually(drifted, 30)
        assert {each.feature for each in seen.features if each.drifted} == {FEATURES[0]}
        assert seen.alpha == 0.0001
        assert seen.features[0].live_mean > seen.features[0].reference_mean + 0.5

        detected = await _event(kafka, DriftDetected, seen.event_id)
        assert detected.tenant == tenant
        assert {each.feature for each in detected.features} == {FEATURES[0]}
        (alert,) = (await stub.ListAlerts(pb.ListAlertsRequest(), **token)).alerts
        assert (alert.kind, alert.severity) == ("drift.detected", "warning")
        raised = await _event(kafka, AlertRaised, alert.id)
        assert raised.subject == "boxes/1"
        exposed = await asyncio.to_thread(monitoring.metrics)
        gauge = ("basalt_drift_statistic", FEATURES[0], "boxes", "ks", tenant, "1")
        assert exposed[gauge] > 0.15

    async with monitoring.running() as stub:
        # After a restart the episode is still the same one.
        assert (await report_of(stub, token)).event_id == seen.event_id
        assert len((await stub.ListAlerts(pb.ListAlertsRequest(), **token)).alerts) == 1


async def report_of(stub: MonitoringServiceStub, token: dict[str, Any]) -> pb.DriftReport:
    request = pb.GetDriftReportRequest(model="boxes")
    return (await stub.GetDriftReport(request, **token)).report


class _not_found_yet:  # noqa: N801 - reads as a statement.
    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: object, __: object) -> bool:
        return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.NOT_FOUND


async def _event(kafka: Kafka, kind: type[Any], event_id: str) -> Any:
    """The event of that id, as its topic holds it."""
    topic = flow.BY_EVENT[kind].name

    async def find() -> Any:
        from tests.support.kafka import count_of

        count = await count_of(kafka.bootstrap, topic)
        for record in await read(kafka.bootstrap, topic, count):
            event = kind.model_validate_json(record.value)
            if event.id == event_id:
                return event
        return None

    return await eventually(find, 30)


async def test_a_dead_letter_is_listed_and_goes_back_as_it_came(
    monitoring: Monitoring, kafka: Kafka
) -> None:
    tenant = monitoring.tenant
    received: list[DriftDetected] = []
    failing = True
    router = Router("trainer")

    @router.subscriber(flow.DRIFT_DETECTED)
    async def retrain(event: DriftDetected) -> None:
        if event.tenant != tenant:
            return
        if failing:
            raise ValueError("The pipeline is broken.")
        received.append(event)

    event = DriftDetected(
        id=f"{tenant}-drift",
        tenant=tenant,
        at=SystemClock().now(),
        model="boxes",
        version=1,
        features=(),
        live_rows=1,
    )
    token = await monitoring.token()
    async with monitoring.running() as stub, started(Bus(KafkaAccess(kafka.bootstrap), router)):
        await monitoring.publish(event, TRACEPARENT)

        async def listed() -> pb.DeadLetter | None:
            answer = await stub.ListDeadLetters(pb.ListDeadLettersRequest(), **token)
            return answer.letters[0] if answer.letters else None

        letter = await eventually(listed, 30)
        assert (letter.topic, letter.consumer) == ("drift.detected.v1", "trainer")
        assert letter.attempts == 3
        assert "The pipeline is broken." in letter.error
        assert DriftDetected.model_validate_json(letter.body) == event
        assert not letter.replayed

        failing = False
        request = pb.ReplayDeadLetterRequest(id=letter.id)
        for already in (False, True):
            answer = await stub.ReplayDeadLetter(request, **token)
            assert answer.letter.replayed
            assert answer.already_replayed is already
        await eventually(lambda: received == [event], 30)

        other = bearer(await monitoring.security.user(f"{tenant}x", "eve", ROLES))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ReplayDeadLetter(request, **other)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        kinds = [
            each.kind for each in (await stub.ListAlerts(pb.ListAlertsRequest(), **token)).alerts
        ]
        assert kinds == ["deadletter"]
        exposed = await asyncio.to_thread(monitoring.metrics)
        assert exposed["basalt_dead_letters_total", "trainer", "drift.detected.v1"] >= 1


async def test_a_trace_by_rpc_is_the_tenants_alone(monitoring: Monitoring) -> None:
    trace_id = uuid4()
    export = ExportTraceServiceRequest()
    resource = export.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "ingest"
    span = resource.scope_spans.add().spans.add(
        trace_id=trace_id.bytes,
        span_id=b"12345678",
        name="consume",
        start_time_unix_nano=1_700_000_000_000_000_000,
        end_time_unix_nano=1_700_000_000_250_000_000,
    )
    span.attributes.add(key="basalt.tenant").value.string_value = monitoring.tenant
    token = await monitoring.token()
    other = bearer(await monitoring.security.user("elsewhere", "eve", ROLES))
    platform = bearer(await monitoring.security.administrator())

    async with (
        monitoring.running() as stub,
        grpc.aio.insecure_channel(monitoring.settings.otlp_listen) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as stranger:
            await TraceServiceStub(channel).Export(export)
        assert stranger.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await TraceServiceStub(channel).Export(export, **bearer(senders.token(OTLP_KEY, "ingest")))
        request = pb.GetTraceRequest(trace_id=trace_id.hex)

        async def there() -> bool:
            return await _answered(stub.GetTrace(request, **token))

        await eventually(there)
        (found,) = (await stub.GetTrace(request, **token)).spans
        assert (found.service, found.name, found.duration_ms) == ("ingest", "consume", 250.0)
        assert found.started_at.ToSeconds() == 1_700_000_000
        listing = pb.ListTracesRequest(page=common_pb2.PageRequest(size=1))
        (summary,) = (await stub.ListTraces(listing, **token)).traces
        assert (summary.trace_id, summary.root) == (trace_id.hex, "ingest: consume")
        assert not (await stub.ListTraces(listing, **other)).traces
        assert len((await stub.GetTrace(request, **platform)).spans) == 1
        for wrong, code in (
            (trace_id.hex, grpc.StatusCode.NOT_FOUND),
            ("xyz", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetTrace(pb.GetTraceRequest(trace_id=wrong), **other)
            assert refused.value.code() is code


async def test_health_is_one_answer_with_the_wrong_ones_first(monitoring: Monitoring) -> None:
    token = await monitoring.token()
    async with monitoring.running() as stub:

        async def joined() -> pb.GetPlatformHealthResponse | None:
            """Kafka lets a service into its groups only some time after it serves."""
            answer = await stub.GetPlatformHealth(pb.GetPlatformHealthRequest(), **token)
            own = next(each for each in answer.components if each.component == "monitoring")
            return answer if own.state == health_pb2.HEALTH_STATE_SERVING else None

        answer = await eventually(joined, 30)

    states = {each.component: each.state for each in answer.components}
    assert answer.state == health_pb2.HEALTH_STATE_NOT_SERVING
    assert answer.components[0].state == health_pb2.HEALTH_STATE_NOT_SERVING
    for absent in ("gateway", "ingest", "trainer"):
        assert states[absent] == health_pb2.HEALTH_STATE_NOT_SERVING
    for there in ("security", "monitoring", "kafka", "journal", "objects", "serving store"):
        assert states[there] == health_pb2.HEALTH_STATE_SERVING, str(answer)
    # The registry of this test answers gRPC's health, but gives no account of itself.
    assert states["inference"] == health_pb2.HEALTH_STATE_DEGRADED
    gateway = next(each for each in answer.components if each.component == "gateway")
    assert "gateway cannot be reached" in gateway.problem
    assert "start it again" in gateway.problem
