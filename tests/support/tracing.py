"""The spans that a test's own process makes, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from libs.common import telemetry
from standalone.home import Home

# What tests are to a platform, in the names of its traces.
UPSTREAM = "upstream"


class Spans:
    """What has ended so far."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def trace_ids(self) -> set[int]:
        return {span.context.trace_id for span in self.all() if span.context}


@contextmanager
def sent_to(home: Home) -> Iterator[None]:
    """Within it, the spans that this process makes go to a platform as well."""
    token = home.otlp_token(str(_provider().resource.attributes["service.name"]))
    exporter = telemetry.exporter_to(home.otlp, token, telemetry.EXPORT_TIMEOUT_S)
    processor = BatchSpanProcessor(exporter, schedule_delay_millis=telemetry.EXPORT_DELAY_MS)
    _provider().add_span_processor(processor)
    try:
        yield
    finally:
        processor.shutdown()


def _provider() -> TracerProvider:
    """OpenTelemetry takes one provider a process; whoever set one before is added to."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider(resource=Resource.create({"service.name": UPSTREAM}))
        trace.set_tracer_provider(provider)
    return provider


@pytest.fixture(scope="session")
def _exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    _provider().add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def spans(_exporter: InMemorySpanExporter) -> Spans:
    _exporter.clear()
    return Spans(_exporter)
