"""Brings calls to Triton and answers back: when what is sent, merged or alone, once or again."""

import asyncio
import ssl
from time import monotonic

from services.gateway.dispatcher.calls import ABANDONED, SENT, WAITING, Call, RefusedError, Status
from services.gateway.dispatcher.exchanges import Exchange
from services.gateway.dispatcher.frames import header
from services.gateway.dispatcher.ledger import Ledger
from services.gateway.dispatcher.limits import Limits
from services.gateway.dispatcher.merging import MERGE_REQUEST_BYTES_MAX, Lane, SplitError
from services.gateway.dispatcher.queues import ModelQueue
from services.gateway.dispatcher.routing import RoutingTable, Target
from services.gateway.dispatcher.upstream import Upstream
from services.gateway.dispatcher.wire import GRPC_PREFIX_BYTES, grpc_prefix

# Errors that are the server's state, not something that one member of a batch may have caused.
_NOT_A_MEMBERS_FAULT = frozenset({Status.UNAVAILABLE})
ABSENCE_LOOK_S = 0.05
# Whose deadline is nearer than this is told that Triton is away while there is time to hear it.
LAST_MOMENT_S = 0.2


class Delivery:
    """The queues of all models, and the connection that empties them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        triton_address: str,
        ledger: Ledger,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop
        self._ledger = ledger
        self._limits = limits
        self._dirty: list[ModelQueue] = []
        self._absence: asyncio.TimerHandle | None = None
        self.models: dict[tuple[str, str], ModelQueue] = {}
        self.upstream = Upstream(
            triton_address, self, answer_bytes_max=limits.answer_bytes_max, tls=tls
        )
        self.triton_requests = 0
        self.calls_merged = 0

    def start(self) -> None:
        self.upstream.start()
        self.watch_absence()

    async def close(self) -> None:
        if self._absence is not None:
            self._absence.cancel()
        await self.upstream.close()

    def use(self, table: RoutingTable) -> None:
        """Takes over the routes' limits, and forgets models that are out of use."""
        for routed in table.models.values():
            for target in routed.targets:
                model = self.models.get(target.key)
                if model is not None:
                    model.outstanding_max = target.route.outstanding_max
        keys = table.internal_keys()
        self.models = {
            key: model for key, model in self.models.items() if key in keys or not model.idle
        }

    # Calls go out.

    def model_of(self, target: Target) -> ModelQueue:
        model = self.models.get(target.key)
        if model is None:
            model = self.models[target.key] = ModelQueue(target)
        return model

    def check_room(self, model: ModelQueue, target: Target) -> None:
        """Raises RefusedError where a call for the model cannot even wait."""
        limits = self._limits
        if model.waiting >= limits.model_waiting_max:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"{model.waiting} calls wait for model '{target.route.model}', the limit; "
                "try again shortly",
            )
        upstream = self.upstream
        if (
            upstream.current is None
            and monotonic() - upstream.down_since > limits.triton_absent_s_max
        ):
            raise RefusedError(Status.UNAVAILABLE, self._absence_message())

    def _absence_message(self) -> str:
        # Why, and where it is looked for, is in the log: `upstream.py`.
        return "Triton cannot be reached; try again shortly"

    def enqueue(self, call: Call, model: ModelQueue, target: Target) -> None:
        form = call.form
        lane: Lane | None = None
        merges = (
            0 < form.rows <= target.merge_rows_max > 1
            and model.splits
            and len(call.body) <= MERGE_REQUEST_BYTES_MAX
        )
        if merges:
            lane = model.lane_for(call, target)
        model.add(call, lane)
        if not model.dirty and (lane is None or model.merged_out < model.outstanding_max):
            self._mark(model)

    def _mark(self, model: ModelQueue) -> None:
        # Sending waits for the end of the loop's turn: what came together leaves together.
        model.dirty = True
        if not self._dirty:
            self._loop.call_soon(self._send_dirty)
        self._dirty.append(model)

    def _send_dirty(self) -> None:
        models, self._dirty = self._dirty, []
        for model in models:
            model.dirty = False
            self._send(model)
        if self.upstream.current is not None:
            self.upstream.current.flush()

    def _send(self, model: ModelQueue) -> None:
        """Sends what the model's bounds allow; the rest leaves when answers come."""
        upstream = self.upstream
        while (connection := upstream.current) is not None and connection.has_room:
            taken = model.take_batch()
            if taken is None:
                break
            lane, batch, rows = taken
            exchange = Exchange(model, batch, lane, rows)
            if len(batch) > 1:
                self.calls_merged += len(batch)
            self._transmit(exchange, lane.merged(batch, rows))
        while (connection := upstream.current) is not None and connection.has_room:
            call = model.take_single()
            if call is None:
                break
            rewriting = call.target.rewriting
            length = len(call.body) - GRPC_PREFIX_BYTES + len(rewriting)
            message = memoryview(call.body)[GRPC_PREFIX_BYTES:]
            body = b"".join((grpc_prefix(length), message, rewriting))
            self._transmit(Exchange(model, [call], None, 0), body)

    def _transmit(self, exchange: Exchange, body: bytes) -> None:
        connection = self.upstream.current
        assert connection is not None  # noqa: S101  The caller has seen it in this very turn.
        self.triton_requests += 1
        traceparent = b""
        for call in exchange.batch:
            call.state = SENT
            if call.span_id and not traceparent and call.headers.trace is not None:
                trace = call.headers.trace
                traceparent = f"00-{trace.trace_id}-{call.span_id}-01".encode()
        connection.send(exchange, body, traceparent)

    # Answers come back: the port of `upstream.py`.

    def writable(self) -> None:
        if self._absence is not None:
            self._absence.cancel()
            self._absence = None
        for model in self.models.values():
            if model.waiting and not model.dirty:
                self._mark(model)

    def interrupted(self) -> None:
        self.watch_absence()

    def answered(self, exchange: Exchange, body: bytes) -> None:
        self._returned(exchange)
        if len(body) < GRPC_PREFIX_BYTES or body[0]:
            self._fail(exchange, Status.INTERNAL, "Triton's answer holds no plain message")
        elif exchange.lane is None:
            self._answer_single(exchange.batch[0], body)
        else:
            self._answer_batch(exchange, exchange.lane, body)

    def failed(self, exchange: Exchange, code: int, message: str) -> None:
        self._returned(exchange)
        if code == Status.NOT_FOUND:
            # It is routed to, so it is there: a Triton that has restarted is being given it again.
            name = exchange.batch[0].target.variant.internal_name
            code = Status.UNAVAILABLE
            message = f"Triton has not loaded '{name}' yet; try again shortly"
        if len(exchange.batch) > 1 and code not in _NOT_A_MEMBERS_FAULT:
            self._send_singly(exchange)
        else:
            self._fail(exchange, code, message)

    def lost(self, exchange: Exchange) -> None:
        self._returned(exchange)
        message = "the connection to Triton broke while it worked on this call; try again"
        self._fail(exchange, Status.UNAVAILABLE, message)

    def not_taken(self, exchange: Exchange) -> None:
        self._returned(exchange)
        self._send_singly(exchange)

    def _returned(self, exchange: Exchange) -> None:
        """Gives the next request to Triton before this answer is taken apart."""
        model = exchange.model
        if exchange.lane is None:
            model.singles_out -= 1
        else:
            model.merged_out -= 1
        if model.waiting:
            self._send(model)
            if self.upstream.current is not None:
                self.upstream.current.flush()

    def _send_singly(self, exchange: Exchange) -> None:
        """Sends each member by itself, so that none gets an answer that another caused."""
        model = exchange.model
        now = monotonic()
        for call in exchange.batch:
            if call.state == ABANDONED:
                self._ledger.release(call)
                continue
            call.state = WAITING
            model.add(call, None)
            if self.upstream.current is None and now - self.upstream.down_since > (
                self._limits.triton_absent_s_max
            ):
                model.remove(call)
                self._ledger.refuse(call, Status.UNAVAILABLE, self._absence_message())
        if model.waiting and not model.dirty:
            self._mark(model)

    def _fail(self, exchange: Exchange, code: int, message: str) -> None:
        for call in exchange.batch:
            if call.state == ABANDONED:
                self._ledger.release(call)
                continue
            target = call.target
            public = message.replace(target.variant.internal_name, target.route.model)
            self._ledger.refuse(call, code, public)

    def _answer_single(self, call: Call, body: bytes) -> None:
        target = call.target
        if call.state == ABANDONED:
            self._ledger.release(call)
            return
        length = len(body) - GRPC_PREFIX_BYTES + len(target.identity)
        message = memoryview(body)[GRPC_PREFIX_BYTES:]
        lead = b"".join((grpc_prefix(length), message, target.identity))
        opening = target.answer_headers + header(0, 0, 0, len(lead))[:5]
        call.connection.answer(call, opening, lead, b"")
        self._ledger.settle(call, target, lead, b"", monotonic())

    def _answer_batch(self, exchange: Exchange, lane: Lane, body: bytes) -> None:
        batch = exchange.batch
        try:
            split = lane.split(batch, exchange.rows, body[GRPC_PREFIX_BYTES:])
        except SplitError:
            # Such a model mixes its rows, so its requests go one by one from now on.
            exchange.model.splits = False
            self._send_singly(exchange)
            return
        now = monotonic()
        message, row_bytes, row = split.message, split.row_bytes, 0
        for call in batch:
            target, rows = call.target, call.form.rows
            if call.state == ABANDONED:
                self._ledger.release(call)
            elif row_bytes and not call.request_id:
                member = split.member(target, rows)
                start = split.start + row * row_bytes
                raw = message[start : start + rows * row_bytes]
                call.connection.answer(call, member.opening, member.lead, raw)
                self._ledger.settle(call, target, member.lead, raw, now)
            else:
                lead = split.body(call, row, rows)
                opening = target.answer_headers + header(0, 0, 0, len(lead))[:5]
                call.connection.answer(call, opening, lead, b"")
                self._ledger.settle(call, target, lead, b"", now)
            row += rows

    # Triton's absence.

    def watch_absence(self) -> None:
        if self._absence is None:
            self._absence = self._loop.call_later(ABSENCE_LOOK_S, self._look_for_triton)

    def _look_for_triton(self) -> None:
        """Tells callers that Triton is away: all when it is too long, before it who must go."""
        self._absence = None
        if self.upstream.current is not None:
            return
        now = monotonic()
        given_up = now - self.upstream.down_since > self._limits.triton_absent_s_max
        for model in self.models.values():
            for call in model.drain() if given_up else model.take_due(now + LAST_MOMENT_S):
                self._ledger.refuse(call, Status.UNAVAILABLE, self._absence_message())
        if not given_up:
            self.watch_absence()
