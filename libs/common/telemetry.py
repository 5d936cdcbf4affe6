"""OpenTelemetry set-up, and the names of all spans, attributes and metrics.

Span and attribute names follow OpenTelemetry's semantic conventions where they have one. No
payload and no secret goes into a span; a tenant's name is the only label a customer decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from libs.common import senders
from libs.common.echo import LABEL_CHARACTERS_MAX, short

TENANT = "basalt.tenant"
MODEL = "basalt.model"
MODEL_VERSION = "basalt.model.version"
DATASET = "basalt.dataset"
JOB = "basalt.job"
AGGREGATE = "basalt.aggregate"
# The class of an error and nothing of its text, which may hold what a caller sent.
ERROR_TYPE = "error.type"
# The convention's names that have an underscore of their own.
_WITH_UNDERSCORE = {"messaging_batch_message_count": "messaging.batch.message_count"}

# Upper bounds of latency histograms in milliseconds; one more bucket holds what is above.
LATENCY_MS_BOUNDS = (
    0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 25.0, 40.0, 60.0, 100.0, 160.0,
    250.0, 400.0, 600.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
)  # fmt: skip

# Prometheus metrics, as monitoring exposes them.
REQUESTS_TOTAL = "basalt_inference_requests_total"
ERRORS_TOTAL = "basalt_inference_errors_total"
LATENCY_SECONDS = "basalt_inference_latency_seconds"
DRIFT_STATISTIC = "basalt_drift_statistic"
COMPONENT_UP = "basalt_component_up"
DEAD_LETTERS_TOTAL = "basalt_dead_letters_total"
SPANS_REFUSED_TOTAL = "basalt_spans_refused_total"

EXPORT_TIMEOUT_S = 5
EXPORT_DELAY_MS = 500


def set_up(service: str, otlp_address: str, otlp_token: str = "") -> Callable[[], None]:
    """Sends this process's spans to `otlp_address`, by OTLP over gRPC; "" keeps them in.

    `otlp_token` says there that this process may send in the name of `service`. Call the answer
    before the process ends: it sends what is still waiting.
    """
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.namespace": "basalt"}),
        span_limits=SpanLimits(max_attribute_length=LABEL_CHARACTERS_MAX),
    )
    if otlp_address:
        exporter = exporter_to(otlp_address, otlp_token, EXPORT_TIMEOUT_S)
        provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_DELAY_MS)
        )
    trace.set_tracer_provider(provider)
    return provider.shutdown


def exporter_to(otlp_address: str, otlp_token: str, timeout_s: int) -> OTLPSpanExporter:
    """Sends spans to `otlp_address` as whose token it has."""
    return OTLPSpanExporter(
        endpoint=otlp_address,
        insecure=True,
        timeout=timeout_s,
        headers={senders.HEADER: senders.authorization(otlp_token)},
    )


def tracer() -> trace.Tracer:
    return trace.get_tracer("basalt")


def traceparent() -> str:
    """The W3C traceparent of the current span; "" outside of one."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


def trace_id() -> str:
    """The current trace's id, 32 hex digits; "" outside of one."""
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else ""


def is_traceparent(text: str) -> bool:
    """Whether it names a span (W3C Trace Context, 3.2)."""
    return trace.get_current_span(parent(text)).get_span_context().is_valid if text else False


def parent(traceparent: str) -> context.Context:
    """The context to start a span under, from a traceparent that came from elsewhere."""
    return propagate.extract({"traceparent": traceparent} if traceparent else {})


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    under: str | None = None,
    links: tuple[str, ...] = (),
    **attributes: str | int | float | bool,
) -> Iterator[Span]:
    """A span around a block. `under` is the traceparent it continues (None: the current span).

    Attributes are given as `basalt_model_version=3` for "basalt.model.version". An error that
    leaves the block is told by its class.
    """
    linked = [trace.get_current_span(parent(link)).get_span_context() for link in links if link]
    with tracer().start_as_current_span(
        short(name),
        context=None if under is None else parent(under),
        kind=kind,
        links=[Link(each) for each in linked if each.is_valid],
        attributes={
            _WITH_UNDERSCORE.get(key, key.replace("_", ".")): (
                short(value) if isinstance(value, str) else value
            )
            for key, value in attributes.items()
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            # Who caught it before may have said more.
            if current.is_recording() and not _has_failed(current):
                failed(current, type(error).__name__)
            raise


def failed(span: Span, reason: str) -> None:
    """Marks a span as failed: `reason` is a status or the class of an error, never its text."""
    span.set_attribute(ERROR_TYPE, reason)
    span.set_status(StatusCode.ERROR, reason)


def _has_failed(span: Span) -> bool:
    return isinstance(span, ReadableSpan) and span.status.status_code is StatusCode.ERROR
