"""monitoring's RPCs: convert, call, convert."""

from __future__ import annotations

from typing import Any, ClassVar

import grpc.aio

from libs.common import identity
from libs.common.history import Happening
from libs.common.paging import page_size
from libs.common.pb.basalt.v1 import health_pb2
from libs.common.pb.basalt.v1 import monitoring_pb2 as pb
from libs.common.pb.basalt.v1 import monitoring_pb2_grpc as pb_grpc
from libs.common.stores.ports import Entry
from services.monitoring.core.alerts import Alerts, alert_of
from services.monitoring.core.components import Component
from services.monitoring.core.deadletters import DeadLetter, DeadLetters, Remedies
from services.monitoring.core.health import PlatformHealth, overall, page_of
from services.monitoring.core.recording import Recording
from services.monitoring.core.serving import ServingFigures
from services.monitoring.core.spans import Span, TraceSummary
from services.monitoring.core.traces import Traces
from services.monitoring.core.watch import DriftAnswer, DriftWatch
from services.monitoring.ports import History


class MonitoringRpc(pb_grpc.MonitoringServiceServicer):
    RPC_NAME: ClassVar[str] = pb.DESCRIPTOR.services_by_name["MonitoringService"].full_name

    def __init__(
        self,
        *,
        health: PlatformHealth,
        history: History | None,
        recording: Recording,
        watch: DriftWatch,
        alerts: Alerts,
        traces: Traces,
        letters: DeadLetters,
        remedies: Remedies,
    ) -> None:
        self._health = health
        self._history = history
        self._recording = recording
        self._watch = watch
        self._alerts = alerts
        self._traces = traces
        self._letters = letters
        self._remedies = remedies

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_MonitoringServiceServicer_to_server(self, server)

    async def GetPlatformHealth(  # noqa: N802
        self, request: pb.GetPlatformHealthRequest, context: Any
    ) -> pb.GetPlatformHealthResponse:
        components = await self._health.look()
        return pb.GetPlatformHealthResponse(
            state=health_pb2.HealthState.Name(overall(components)),
            components=[_component(each.told_to(identity.caller().tenant)) for each in components],
        )

    async def ListPlatformEvents(  # noqa: N802
        self, request: pb.ListPlatformEventsRequest, context: Any
    ) -> pb.ListPlatformEventsResponse:
        tenant, page = identity.caller().tenant, request.page
        events, token = page_of(self._history, tenant, page_size(page.size), page.token)
        return pb.ListPlatformEventsResponse(
            events=[_event(each) for each in events], next_page_token=token
        )

    async def GetServingMetrics(  # noqa: N802
        self, request: pb.GetServingMetricsRequest, context: Any
    ) -> pb.GetServingMetricsResponse:
        figures = await self._recording.figures(
            identity.caller().tenant, request.model, request.window_s
        )
        return pb.GetServingMetricsResponse(metrics=[_metrics(each) for each in figures])

    async def GetDriftReport(  # noqa: N802
        self, request: pb.GetDriftReportRequest, context: Any
    ) -> pb.GetDriftReportResponse:
        answer = await self._watch.newest(identity.caller().tenant, request.model, request.version)
        return pb.GetDriftReportResponse(report=_report(answer))

    async def ListAlerts(  # noqa: N802
        self, request: pb.ListAlertsRequest, context: Any
    ) -> pb.ListAlertsResponse:
        entries, token = await self._alerts.page(
            identity.caller().tenant, page_size(request.page.size), request.page.token
        )
        return pb.ListAlertsResponse(
            alerts=[_alert(entry) for entry in entries], next_page_token=token
        )

    async def GetTrace(  # noqa: N802
        self, request: pb.GetTraceRequest, context: Any
    ) -> pb.GetTraceResponse:
        spans = await self._traces.get(identity.caller().tenant, request.trace_id)
        return pb.GetTraceResponse(spans=[_span(each) for each in spans])

    async def ListTraces(  # noqa: N802
        self, request: pb.ListTracesRequest, context: Any
    ) -> pb.ListTracesResponse:
        traces, token = await self._traces.page(
            identity.caller().tenant, page_size(request.page.size), request.page.token
        )
        return pb.ListTracesResponse(
            traces=[_summary(each) for each in traces], next_page_token=token
        )

    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        letters, token = await self._letters.page(
            identity.caller().tenant,
            request.topic,
            page_size(request.page.size),
            request.page.token,
        )
        return pb.ListDeadLettersResponse(
            letters=[_letter(each) for each in letters], next_page_token=token
        )

    async def ReplayDeadLetter(  # noqa: N802
        self, request: pb.ReplayDeadLetterRequest, context: Any
    ) -> pb.ReplayDeadLetterResponse:
        who = identity.caller()
        letter, already = await self._remedies.replay(who.tenant, request.id, who.subject)
        return pb.ReplayDeadLetterResponse(letter=_letter(letter), already_replayed=already)

    async def DiscardDeadLetter(  # noqa: N802
        self, request: pb.DiscardDeadLetterRequest, context: Any
    ) -> pb.DiscardDeadLetterResponse:
        who = identity.caller()
        letter, already = await self._remedies.discard(who.tenant, request.id, who.subject)
        return pb.DiscardDeadLetterResponse(letter=_letter(letter), already_discarded=already)


def _event(happening: Happening) -> pb.PlatformEvent:
    event = pb.PlatformEvent(
        component=happening.component,
        kind=happening.kind,
        detail=happening.detail,
        mended_by=happening.mended_by,
        took_s=happening.took_s,
    )
    event.at.FromDatetime(happening.at)
    return event


def _component(component: Component) -> health_pb2.ComponentHealth:
    answer = health_pb2.ComponentHealth(
        component=component.name,
        state=health_pb2.HealthState.Name(component.state),
        problem=component.problem,
        reported_by=component.reported_by,
    )
    answer.checked_at.FromDatetime(component.checked_at)
    return answer


def _metrics(figures: ServingFigures) -> pb.ServingMetrics:
    answer = pb.ServingMetrics(
        model=figures.series.model,
        version=figures.series.version,
        requests=figures.requests,
        errors_by_code=figures.errors_by_code,
        requests_per_second=figures.requests_per_second,
        latency_ms_p50=figures.latency_ms_p50,
        latency_ms_p95=figures.latency_ms_p95,
        latency_ms_p99=figures.latency_ms_p99,
        rows=figures.rows,
        rows_per_second=figures.rows_per_second,
        error_rate=figures.error_rate,
        load=figures.load,
    )
    answer.since.FromDatetime(figures.since)
    return answer


def _report(drift: DriftAnswer) -> pb.DriftReport:
    report = drift.report
    answer = pb.DriftReport(
        model=report.model,
        version=report.version,
        drifted=report.drifted,
        features=[
            pb.FeatureDrift(
                feature=each.feature,
                statistic=each.statistic,
                value=each.value,
                limit=each.limit,
                p_value=each.p_value,
                drifted=each.drifted,
                reference_mean=each.reference_mean,
                live_mean=each.live_mean,
            )
            for each in report.comparisons
        ],
        live_rows=report.live_rows,
        reference_rows=report.reference_rows,
        trace_id=drift.episode.trace_id if drift.episode else "",
        event_id=drift.episode.event_id if drift.episode else "",
        problem=report.problem,
        alpha=report.alpha,
    )
    answer.at.FromDatetime(report.at)
    return answer


def _alert(entry: Entry) -> pb.Alert:
    alert = alert_of(entry)
    answer = pb.Alert(
        id=alert.id,
        severity=alert.severity,
        kind=alert.kind,
        subject=alert.subject,
        message=alert.message,
        trace_id=alert.trace_id,
    )
    answer.at.FromDatetime(alert.at)
    return answer


def _span(span: Span) -> pb.Span:
    answer = pb.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        service=span.service,
        name=span.name,
        kind=span.kind,
        duration_ms=span.duration_us / 1_000.0,
        failed=span.failed,
        status_message=span.status_message,
        attributes=span.attributes,
        linked_trace_ids=span.linked_trace_ids,
    )
    answer.started_at.FromMicroseconds(span.started_us)
    return answer


def _summary(trace: TraceSummary) -> pb.TraceSummary:
    answer = pb.TraceSummary(
        trace_id=trace.trace_id,
        root=trace.root,
        spans=trace.spans,
        failed=trace.failed,
        duration_ms=trace.duration_us / 1_000.0,
    )
    answer.started_at.FromMicroseconds(trace.started_us)
    return answer


def _letter(letter: DeadLetter) -> pb.DeadLetter:
    answer = pb.DeadLetter(
        id=letter.id,
        topic=letter.topic,
        consumer=letter.consumer,
        error=letter.error,
        attempts=letter.attempts,
        body=letter.body,
        replayed=letter.replayed,
        discarded=letter.discarded,
        hopeless=letter.hopeless,
        size_bytes=letter.size_bytes,
    )
    answer.at.FromDatetime(letter.at)
    return answer
