"""Turns what the dispatcher counted and sampled into events, once each, whatever becomes of Kafka.

A batch of events is made from all that happened since the last one, and kept until Kafka has it;
while Kafka is away counts go on adding up in the dispatcher's memory, samples beyond its buffer are
dropped and counted, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from libs.common.clock import Clock
from libs.common.errors import InvalidInputError
from libs.common.events import PredictionSample, PredictionsServed
from services.gateway.core.table import Table
from services.gateway.dispatcher.recording import Sample, Sampler, Series, Snapshot
from services.gateway.dispatcher.routing import SeriesKey

# gRPC's status codes by number.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
SAMPLES_MAX = 256  # A batch's, over all series: decoding them must not hold up the hot path.
# Features and outputs of one event: about 20 bytes each in JSON, and a message has 1 MiB.
NUMBERS_MAX = 30_000

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """`features` and `outputs` are [row][column]."""

    features: Rows
    outputs: Rows


class SampleDecoder(Protocol):
    def decode(self, sample: Sample, features: int) -> DecodedSample | None:
        """None where the request does not hold rows of so many numbers."""
        ...


class EventSink(Protocol):
    async def publish(self, event: PredictionsServed) -> None:
        """Returns when it is durable; publishing the same event again does it once.

        Raises DependencyError when that is not known, InvalidInputError when it never can be.
        """
        ...


class Pause(Protocol):
    async def __call__(self) -> None:
        """Lets the hot path go first."""
        ...


@dataclass(slots=True)
class Reporting:
    snapshot: Callable[[], Snapshot]
    sampler: Sampler
    table: Callable[[], Table]
    decoder: SampleDecoder
    sink: EventSink
    clock: Clock
    pause: Pause
    lost: int = 0
    _since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _counted: Mapping[SeriesKey, Series] = field(default_factory=dict[SeriesKey, Series])
    _dropped: int = 0
    _pending: list[PredictionsServed] = field(default_factory=list[PredictionsServed])

    async def report(self) -> None:
        """One round. Raises DependencyError when Kafka is away; the batch waits for the next."""
        if not self._pending:
            self._pending = await self._batch()
        while self._pending:
            try:
                await self.sink.publish(self._pending[0])
            except InvalidInputError:
                self.lost += 1  # It would block all that follow, for ever.
            self._pending.pop(0)

    async def _batch(self) -> list[PredictionsServed]:
        seen, until = self.snapshot(), self.clock.now()
        samples = await self._samples()
        dropped, self._dropped = seen.samples_dropped - self._dropped, seen.samples_dropped
        events: list[PredictionsServed] = []
        for key, series in seen.series.items():
            grown = _difference(series, self._counted.get(key))
            if not grown.requests or not key[1]:
                continue  # What was asked of no model is nobody's to watch.
            kept = samples.get(key, _Kept())
            events.append(self._event(key, grown, kept, dropped + kept.dropped, until))
            dropped = 0
        self._counted, self._since = seen.series, until
        return events

    def _event(
        self, key: SeriesKey, grown: Series, kept: _Kept, dropped: int, until: datetime
    ) -> PredictionsServed:
        tenant, model, version = key
        return PredictionsServed(
            id=self.clock.new_id(),
            tenant=tenant,
            at=until,
            model=model,
            version=int(version),
            since=self._since,
            until=until,
            requests=grown.requests,
            rows=grown.rows,
            errors_by_code={_code(code): count for code, count in grown.errors.items()},
            latency_ms_counts=tuple(grown.latency_counts),
            samples=tuple(kept.samples),
            samples_dropped=dropped,
        )

    async def _samples(self) -> dict[SeriesKey, _Kept]:
        """What the buffer holds, decoded, by series."""
        found: dict[SeriesKey, _Kept] = {}
        widths = {(each.tenant, each.model): len(each.features) for each in self.table().routes}
        for sample in self.sampler.drain(SAMPLES_MAX):
            key = (sample.tenant, sample.model, sample.version)
            kept = found.setdefault(key, _Kept())
            width = widths.get((sample.tenant, sample.model), 0)
            decoded = self.decoder.decode(sample, width) if width else None
            if decoded is not None:
                kept.take(sample, decoded)
            await self.pause()
        return found


@dataclass(slots=True)
class _Kept:
    """The samples of one event, within its bounds."""

    samples: list[PredictionSample] = field(default_factory=list[PredictionSample])
    numbers: int = 0
    dropped: int = 0

    def take(self, sample: Sample, decoded: DecodedSample) -> None:
        numbers = sum(map(len, decoded.features)) + sum(map(len, decoded.outputs))
        if self.numbers + numbers > NUMBERS_MAX:
            self.dropped += 1
            return
        self.numbers += numbers
        traced = sample.trace_id and sample.span_id
        self.samples.append(
            PredictionSample(
                at=datetime.fromtimestamp(sample.time_ns / 1e9, UTC),
                features=decoded.features,
                outputs=decoded.outputs,
                traceparent=f"00-{sample.trace_id}-{sample.span_id}-01" if traced else "",
            )
        )


def _difference(now: Series, before: Series | None) -> Series:
    if before is None:
        return now
    errors = {code: count - before.errors.get(code, 0) for code, count in now.errors.items()}
    return Series(
        requests=now.requests - before.requests,
        rows=now.rows - before.rows,
        latency_s_sum=now.latency_s_sum - before.latency_s_sum,
        latency_counts=[
            a - b for a, b in zip(now.latency_counts, before.latency_counts, strict=True)
        ],
        errors={code: count for code, count in errors.items() if count},
    )


def _code(number: int) -> str:
    return CODES[number] if number < len(CODES) else "UNKNOWN"
