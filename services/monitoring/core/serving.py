"""What serving does: response time, throughput, errors and load, by model version."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from libs.common import telemetry
from libs.common.errors import InvalidInputError
from libs.common.events import PredictionsServed

BUCKETS = len(telemetry.LATENCY_MS_BOUNDS) + 1
ERROR_CODES_MAX = 32
# Codes that are the platform's fault; the others are for the caller to mend.
FAULT_CODES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
# gRPC's status codes by number, for a gateway that counts numbers.
CODE_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """What is counted together: one version of one model of one tenant."""

    tenant: str
    model: str
    version: int

    @classmethod
    def of(cls, batch: PredictionsServed) -> Series:
        return cls(batch.tenant, batch.model, batch.version)


@dataclass(slots=True)
class Totals:
    """Sums of batches. `latency_ms_counts` goes by `telemetry.LATENCY_MS_BOUNDS`."""

    requests: int = 0
    rows: int = 0
    errors_by_code: dict[str, int] = field(default_factory=dict)
    latency_ms_counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    since: datetime | None = None
    until: datetime | None = None

    def add(self, batch: PredictionsServed) -> None:
        self.requests += batch.requests
        self.rows += batch.rows
        for code, count in batch.errors_by_code.items():
            self.add_errors(code, count)
        for bucket, count in enumerate(batch.latency_ms_counts):
            self.latency_ms_counts[bucket] += count
        self.cover(batch.since, batch.until)

    def add_errors(self, code: str, count: int) -> None:
        name = code_name(code)
        if name not in self.errors_by_code and len(self.errors_by_code) >= ERROR_CODES_MAX:
            name = "OTHER"
        self.errors_by_code[name] = self.errors_by_code.get(name, 0) + count

    def cover(self, since: datetime, until: datetime) -> None:
        self.since = min(self.since or since, since)
        self.until = max(self.until or until, until)

    @property
    def errors(self) -> int:
        return sum(self.errors_by_code.values())

    @property
    def faults(self) -> int:
        return sum(self.errors_by_code.get(code, 0) for code in FAULT_CODES)


@dataclass(frozen=True, slots=True)
class ServingFigures:
    """Of one series in one window. Times in milliseconds, rates per second."""

    series: Series
    requests: int
    rows: int
    errors_by_code: dict[str, int]
    error_rate: float
    requests_per_second: float
    rows_per_second: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    load: float
    since: datetime


def figures(series: Series, totals: Totals, now: datetime, window_s: float = 0) -> ServingFigures:
    """`window_s` 0: the span from the first to the last batch counts, else the window's own."""
    since, until = totals.since or now, totals.until or now
    span_s = (until - since).total_seconds()
    if window_s:
        # A window that began before the first batch is only as long as there is something in it.
        span_s = min(window_s, (now - since).total_seconds())
    span_s = max(span_s, 1.0)
    per_second = totals.requests / span_s
    counts = totals.latency_ms_counts
    return ServingFigures(
        series=series,
        requests=totals.requests,
        rows=totals.rows,
        errors_by_code=dict(totals.errors_by_code),
        error_rate=totals.errors / totals.requests if totals.requests else 0.0,
        requests_per_second=per_second,
        rows_per_second=totals.rows / span_s,
        latency_ms_p50=percentile_ms(counts, 0.50),
        latency_ms_p95=percentile_ms(counts, 0.95),
        latency_ms_p99=percentile_ms(counts, 0.99),
        load=per_second * mean_ms(counts) / 1_000.0,
        since=since,
    )


def percentile_ms(counts: list[int], quantile: float) -> float:
    """The quantile of a histogram, linear within its bucket, in milliseconds; 0 without counts.

    The rule of Prometheus' `histogram_quantile`: the first bucket begins at 0, and what lies in
    the last one, which has no upper bound, is answered with the highest bound.
    Source: https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
    """
    total = sum(counts)
    rank, below = quantile * total, 0
    for bound, (lower, count) in zip(
        telemetry.LATENCY_MS_BOUNDS,
        zip((0.0, *telemetry.LATENCY_MS_BOUNDS), counts, strict=False),
        strict=False,
    ):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below += count
    return telemetry.LATENCY_MS_BOUNDS[-1] if total else 0.0


def mean_ms(counts: list[int]) -> float:
    """The mean of a histogram, each bucket at its middle; above every bound, at the highest."""
    total = sum(counts)
    if not total:
        return 0.0
    bounds = telemetry.LATENCY_MS_BOUNDS
    middles = [(low + high) / 2 for low, high in zip((0.0, *bounds), bounds, strict=False)]
    return sum(n * middle for n, middle in zip(counts, [*middles, bounds[-1]], strict=True)) / total


def code_name(code: str) -> str:
    """A status code's name, whether it came as a name or as a number."""
    if code.isdecimal():
        return CODE_NAMES[int(code)] if int(code) < len(CODE_NAMES) else "OTHER"
    return code


def checked(batch: PredictionsServed) -> PredictionsServed:
    """The batch itself. Raises InvalidInputError for numbers that cannot be added up."""
    counts = batch.latency_ms_counts
    if len(counts) not in (0, BUCKETS):
        raise InvalidInputError(
            f"A batch counts response times in {len(counts)} buckets instead of {BUCKETS}.",
            which=batch.id,
            next_step="Count by telemetry.LATENCY_MS_BOUNDS; the last bucket is above them all.",
        )
    numbers = (batch.requests, batch.rows, *counts, *batch.errors_by_code.values())
    if min(numbers) < 0 or batch.until < batch.since:
        raise InvalidInputError(
            "A batch counts backwards.", which=batch.id, next_step="Mend the gateway that sent it."
        )
    return batch
