"""A span as it is kept, and a trace as it is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# This many are taken in before they are written; what comes then is refused.
SPANS_WAITING_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Span:
    """`tenant` is "" where the span names none, or the platform itself."""

    trace_id: str
    span_id: str
    parent_span_id: str
    service: str
    name: str
    kind: str
    started_us: int
    duration_us: int
    failed: bool
    status_message: str
    tenant: str
    attributes: Mapping[str, str]
    linked_trace_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    trace_id: str
    root: str
    spans: int
    failed: bool
    started_us: int
    duration_us: int
