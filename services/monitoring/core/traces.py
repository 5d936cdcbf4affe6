"""Traces: which spans belong together, and who may see them.

A trace belongs to the tenants that its spans name (`basalt.tenant`). A tenant sees a trace when
one of its spans is the tenant's; in it, the tenant's own spans and what they caused, and, as long
as no other tenant is in the trace, all the rest. So nobody gets at foreign spans by sending
another tenant's trace id. The platform's administrators see everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libs.common.errors import InvalidInputError, NotFoundError, PreconditionError
from libs.common.identity import PLATFORM
from libs.common.paging import not_a_token, token_number
from services.monitoring.core.spans import Span, TraceSummary
from services.monitoring.ports import TraceStore

SPANS_SHOWN_MAX = 5_000
LINKED_TRACES_MAX = 50
LINK_STEPS_MAX = 6
ANCESTORS_MAX = 1_000
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Traces:
    """`store` is None where traces are kept elsewhere."""

    store: TraceStore | None

    async def get(self, tenant: str, trace_id: str) -> list[Span]:
        """The spans of a trace and of the traces linked to it, oldest first."""
        store = self._kept()
        if not _TRACE_ID.fullmatch(trace_id.lower()):
            raise InvalidInputError(
                f"{trace_id!r} is not a trace's id.",
                which="trace_id",
                next_step="Give its 32 hexadecimal digits; `basalt trace` lists them.",
            )
        trace_id = trace_id.lower()
        spans = await self._seen(store, tenant, [trace_id])
        if not spans:
            raise NotFoundError(
                f"There is no trace {trace_id}.",
                which=trace_id,
                next_step="Spans take a second to arrive and are kept for some days:"
                " `basalt trace` lists the newest.",
            )
        linked = await self._linked(store, tenant, trace_id)
        return sorted([*spans, *linked], key=lambda span: (span.started_us, span.span_id))

    async def page(self, tenant: str, size: int, token: str) -> tuple[list[TraceSummary], str]:
        """Newest first, and the token of the next page."""
        of = None if tenant == PLATFORM else tenant
        found = await self._kept().newest(of, _position(token), size + 1)
        more = len(found) > size
        found = found[:size]
        return found, f"{found[-1].started_us}-{found[-1].trace_id}" if more else ""

    async def _linked(self, store: TraceStore, tenant: str, trace_id: str) -> list[Span]:
        """Links lead from cause to effect and back; only through what the tenant may see."""
        known, reached, spans = {trace_id}, [trace_id], list[Span]()
        for _ in range(LINK_STEPS_MAX):
            room = LINKED_TRACES_MAX + 1 - len(known)
            found = sorted(await store.linked(reached, room) - known)[:room]
            if not found:
                break
            known.update(found)
            seen = await self._seen(store, tenant, found)
            reached = sorted({span.trace_id for span in seen})
            spans += seen
        return spans

    async def _seen(
        self, store: TraceStore, tenant: str, trace_ids: Sequence[str]
    ) -> Sequence[Span]:
        spans = await store.spans(trace_ids, SPANS_SHOWN_MAX)
        if tenant == PLATFORM:
            return spans
        by_trace: dict[str, list[Span]] = {}
        for span in spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        return [span for each in by_trace.values() for span in visible(tenant, each)]

    def _kept(self) -> TraceStore:
        if self.store is None:
            raise PreconditionError(
                "Traces are not kept here: the services send them to the OpenTelemetry Collector.",
                which="traces",
                next_step="Look in the tracing backend that the collector passes them to,"
                " or set BASALT_TRACES=sqlite:FOLDER.",
            )
        return self.store


def visible(tenant: str, spans: Sequence[Span]) -> list[Span]:
    """The spans of one trace that a tenant may see."""
    tenants = {span.tenant for span in spans if span.tenant}
    if tenant not in tenants:
        return []
    if tenants == {tenant}:
        return list(spans)
    by_id = {span.span_id: span for span in spans}
    return [span for span in spans if _belongs_to(span, by_id) == tenant]


def _belongs_to(span: Span, by_id: Mapping[str, Span]) -> str:
    """The tenant of a span, or of what caused it."""
    current: Span | None = span
    for _ in range(ANCESTORS_MAX):
        if current is None or current.tenant:
            break
        current = by_id.get(current.parent_span_id)
    return current.tenant if current else ""


def _position(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    started_us, _, trace_id = token.partition("-")
    if not _TRACE_ID.fullmatch(trace_id):
        raise not_a_token()
    return token_number(started_us), trace_id
