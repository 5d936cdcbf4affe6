"""What the dispatcher lets others know: counts, samples of predictions, spans of sampled traces.

All of it is plain memory with a bound. The hot path only counts and appends; other tasks drain.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from libs.common.telemetry import LATENCY_MS_BOUNDS
from services.gateway.dispatcher.routing import SeriesKey

LATENCY_BOUNDS_S = tuple(bound / 1_000 for bound in LATENCY_MS_BOUNDS)
SERIES_MAX = 10_000
SERIES_OVERFLOW: SeriesKey = ("", "", "")  # Counts what came after the last series was given out.

SAMPLES_MAX = 4_096
SAMPLE_BYTES_MAX = 64 * 1024 * 1024
SPANS_MAX = 8_192


@dataclass(slots=True)
class Series:
    """Counts of one tenant, model and version. `latency_counts` has one more place than bounds."""

    requests: int = 0
    rows: int = 0  # Of the answered requests, where their form tells.
    latency_s_sum: float = 0.0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    errors: dict[int, int] = field(default_factory=dict)

    def record(self, code: int, latency_s: float, rows: int = 0) -> None:
        self.requests += 1
        self.rows += rows
        self.latency_s_sum += latency_s
        self.latency_counts[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        if code:
            self.errors[code] = self.errors.get(code, 0) + 1

    def copy(self) -> "Series":
        return Series(
            self.requests,
            self.rows,
            self.latency_s_sum,
            list(self.latency_counts),
            dict(self.errors),
        )


class Counts:
    def __init__(self) -> None:
        self._series: dict[SeriesKey, Series] = {}

    def of(self, key: SeriesKey) -> Series:
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= SERIES_MAX:
                key = SERIES_OVERFLOW
            series = self._series.setdefault(key, Series())
        return series

    def copy(self) -> dict[SeriesKey, Series]:
        return {key: series.copy() for key, series in self._series.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counts of one moment; all but the gauges only grow."""

    series: dict[SeriesKey, Series]
    triton_requests: int
    calls_merged: int  # Calls that left in merged requests of more than one call.
    samples_dropped: int
    calls_in_flight: int  # A gauge, as are those below.
    calls_waiting: int
    buffered_bytes: int
    triton_connected: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered call. Both messages are serialised protobuf of the Open Inference Protocol."""

    tenant: str
    subject: str
    model: str
    version: str
    digest: str
    request_id: str
    trace_id: str  # Empty where the caller's trace is not sampled.
    time_ns: int
    request: bytes  # A ModelInferRequest, as the caller sent it.
    answer: bytes  # A ModelInferResponse, as the caller got it.
    span_id: str = ""  # The call's own span in that trace.


class Sampler:
    """A bounded buffer of samples: a full one drops what is new, and counts it."""

    def __init__(self, samples_max: int = SAMPLES_MAX, bytes_max: int = SAMPLE_BYTES_MAX) -> None:
        self._samples: deque[Sample] = deque()
        self._samples_max = samples_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self.dropped = 0

    @property
    def full(self) -> bool:
        """No sample would be taken: it need not even be made."""
        return len(self._samples) >= self._samples_max

    def offer(self, sample: Sample) -> None:
        size = len(sample.request) + len(sample.answer)
        if len(self._samples) >= self._samples_max or self._bytes + size > self._bytes_max:
            self.dropped += 1
            return
        self._bytes += size
        self._samples.append(sample)

    def drain(self, count_max: int) -> list[Sample]:
        """Takes the oldest samples out."""
        drained: list[Sample] = []
        while self._samples and len(drained) < count_max:
            sample = self._samples.popleft()
            self._bytes -= len(sample.request) + len(sample.answer)
            drained.append(sample)
        return drained


@dataclass(frozen=True, slots=True)
class CallSpan:
    """One call of a sampled trace. Triton's own span, where it makes one, is its child."""

    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    tenant: str
    model: str
    version: str
    code: int


class SpanBuffer:
    """A bounded buffer of spans: pass its `add` as the dispatcher's `on_span`."""

    def __init__(self, spans_max: int = SPANS_MAX) -> None:
        self._spans: deque[CallSpan] = deque()
        self._spans_max = spans_max
        self.dropped = 0

    def add(self, span: CallSpan) -> None:
        if len(self._spans) >= self._spans_max:
            self.dropped += 1
        else:
            self._spans.append(span)

    def drain(self, count_max: int) -> list[CallSpan]:
        count = min(count_max, len(self._spans))
        return [self._spans.popleft() for _ in range(count)]
