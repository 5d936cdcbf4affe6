"""Keeps account of calls: what they hold, how they end, what is recorded of them."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from time import monotonic

from services.gateway.dispatcher.calls import (
    ABANDONED,
    DONE,
    READING,
    SENT,
    WAITING,
    Call,
    RefusedError,
    Status,
)
from services.gateway.dispatcher.deadlines import Deadlines
from services.gateway.dispatcher.limits import Limits
from services.gateway.dispatcher.recording import CallSpan, Counts, Sample, Sampler
from services.gateway.dispatcher.routing import Target
from services.gateway.dispatcher.tenants import Tenant
from services.gateway.dispatcher.wire import GRPC_PREFIX_BYTES


class Ledger:
    """Every call is opened here once and released here once, however it ends."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        counts: Counts,
        sampler: Sampler,
        on_span: Callable[[CallSpan], None] | None,
    ) -> None:
        self._limits = limits
        self._counts = counts
        self._sampler = sampler
        self._on_span = on_span
        self.deadlines = Deadlines(loop, self.expired)
        self.in_flight = 0
        self.buffered_bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def open(self, call: Call) -> None:
        if not self.in_flight:
            self.idle.clear()
        self.in_flight += 1
        limits = self._limits
        timeout_s = call.headers.timeout_s
        if timeout_s is None:
            timeout_s = limits.timeout_s_default
        elif timeout_s > limits.timeout_s_max:
            timeout_s = limits.timeout_s_max
        self.deadlines.add(call, call.arrived + timeout_s, call.arrived)
        if call.headers.trace is not None:
            call.span_id = os.urandom(8).hex()

    def hold(self, call: Call, size: int) -> None:
        """Counts bytes that are kept for the call. Raises RefusedError beyond the limits."""
        call.held_bytes += size
        self.buffered_bytes += size
        if call.tenant is not None:
            self.charge(call.tenant, size)
        limits = self._limits
        if call.held_bytes > limits.message_bytes_max + GRPC_PREFIX_BYTES:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"the request is longer than the limit of {limits.message_bytes_max} bytes; "
                "send fewer rows at a time",
            )
        if self.buffered_bytes > limits.buffered_bytes_max:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"the gateway holds {limits.buffered_bytes_max} bytes of requests, its limit; "
                "try again shortly",
            )

    def charge(self, tenant: Tenant, size: int) -> None:
        """Counts bytes as the tenant's. Raises RefusedError beyond its share of all."""
        tenant.held_bytes += size
        if tenant.held_bytes > self._limits.tenant_buffered_bytes_max:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"the gateway holds {self._limits.tenant_buffered_bytes_max} bytes of this "
                "tenant's requests, its limit; wait for answers, or send fewer at a time",
            )

    def settle(self, call: Call, target: Target, lead: bytes, raw: bytes, now: float) -> None:
        """After an answer: counts, samples, and lets go."""
        self._counts.of(target.series).record(0, now - call.arrived, call.form.rows)
        share = target.route.sample
        if share and random.random() < share:  # noqa: S311  A share of traffic is no secret.
            if self._sampler.full:
                self._sampler.dropped += 1
            else:
                self._sample(call, target, (lead + raw)[GRPC_PREFIX_BYTES:])
        if call.span_id:
            self._record_span(call, 0, now)
        self.release(call)

    def refuse(self, call: Call, code: int, message: str) -> None:
        call.connection.refuse(call, code, message)
        self._record_error(call, code, monotonic())
        self.release(call)

    def expired(self, calls: Iterable[Call]) -> None:
        now = monotonic()
        for call in calls:
            where = {READING: "its message was still coming", WAITING: "it waited for its turn"}
            reason = where.get(call.state, "Triton was working on it")
            message = f"the call's deadline passed while {reason}"
            call.connection.refuse(call, Status.DEADLINE_EXCEEDED, message)
            self.end_early(call, Status.DEADLINE_EXCEEDED, now)

    def end_early(self, call: Call, code: int, now: float) -> None:
        """The caller no longer waits. Triton is not told: what was sent runs to its end."""
        if call.state in (ABANDONED, DONE):
            return
        self._record_error(call, code, now)
        if call.state == SENT:
            call.state = ABANDONED
            self.deadlines.discard(call)
            return
        if call.state == WAITING and call.model is not None:
            call.model.remove(call)
        self.release(call)

    def _record_error(self, call: Call, code: int, now: float) -> None:
        target = call.target if call.routed else None
        # What a caller merely names is no label: only what is deployed is counted by name.
        series = target.series if target is not None else (call.headers.tenant, "", "")
        self._counts.of(series).record(code, now - call.arrived)
        if call.span_id:
            self._record_span(call, code, now)

    def release(self, call: Call) -> None:
        if call.state == DONE:
            return
        call.state = DONE
        self.deadlines.discard(call)
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()
        self.buffered_bytes -= call.held_bytes
        if call.tenant is not None:
            call.tenant.in_flight -= 1
            call.tenant.held_bytes -= call.held_bytes
        # Whoever still refers to the call must not hold its bytes.
        call.body = b""
        call.chunks = None

    def _sample(self, call: Call, target: Target, answer: bytes) -> None:
        headers = call.headers
        self._sampler.offer(
            Sample(
                tenant=headers.tenant,
                subject=headers.subject,
                model=target.route.model,
                version=target.variant.version,
                digest=target.variant.digest,
                request_id=call.request_id.decode(errors="replace"),
                trace_id=headers.trace.trace_id if headers.trace is not None else "",
                time_ns=time.time_ns(),
                request=call.body[GRPC_PREFIX_BYTES:],
                answer=answer,
                span_id=call.span_id,
            )
        )

    def _record_span(self, call: Call, code: int, now: float) -> None:
        trace, target = call.headers.trace, call.target if call.routed else None
        if self._on_span is None or trace is None:
            return
        end_ns = time.time_ns()
        self._on_span(
            CallSpan(
                trace_id=trace.trace_id,
                span_id=call.span_id,
                parent_id=trace.parent_id,
                start_ns=end_ns - int((now - call.arrived) * 1e9),
                end_ns=end_ns,
                tenant=call.headers.tenant,
                model=target.route.model if target is not None else "",
                version=target.variant.version if target is not None else "",
                code=code,
            )
        )
