"""Prometheus' exposition of what this process saw. The names are those of `telemetry.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from libs.common import telemetry
from libs.common.echo import short
from libs.common.events import PredictionsServed
from services.monitoring.core.components import Component, State
from services.monitoring.core.drift import Comparison, DriftReport
from services.monitoring.core.serving import Series, Totals, mean_ms

# A label's values are bounded: what comes after is counted together under OTHER.
SERIES_MAX = 2_000
DRIFT_SERIES_MAX = 200
COMPONENTS_MAX = 200
DEAD_LETTER_SERIES_MAX = 200
TENANTS_MAX = 200
COMPARISONS_MAX = 100
OTHER = "other"
LABELS = ("tenant", "model", "version")
CODES = frozenset(code.name for code in grpc.StatusCode)


class PrometheusMeters(Collector):
    """Counters begin at 0 with the process, as Prometheus expects; it adds replicas up."""

    def __init__(self) -> None:
        self._served: dict[Series, Totals] = {}
        self._reports: dict[Series, DriftReport] = {}
        self._components: dict[str, Component] = {}
        self._dead_letters: dict[tuple[str, str], int] = {}
        self._spans_refused: dict[str, int] = {}
        self._tenants: set[str] = set()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    # What the core tells.

    def served(self, batch: PredictionsServed) -> None:
        series = Series.of(batch)
        if not self._has_room_for(series.tenant):
            series = Series(OTHER, OTHER, 0)
        if series not in self._served and len(self._served) >= SERIES_MAX:
            series = Series(OTHER, OTHER, 0)
        self._served.setdefault(series, Totals()).add(batch)

    def compared(self, tenant: str, report: DriftReport) -> None:
        if not self._has_room_for(tenant):
            return
        series = Series(tenant, report.model, report.version)
        # The one compared last is put last: the first are those that nobody compares any more.
        self._reports.pop(series, None)
        self._reports[series] = report
        if len(self._reports) > DRIFT_SERIES_MAX:
            del self._reports[next(iter(self._reports))]

    def components(self, components: Sequence[Component]) -> None:
        self._components = {each.name: each for each in components[:COMPONENTS_MAX]}

    def dead_letter(self, topic: str, consumer: str) -> None:
        key = (topic, consumer)
        if key not in self._dead_letters and len(self._dead_letters) >= DEAD_LETTER_SERIES_MAX:
            key = (OTHER, OTHER)
        self._dead_letters[key] = self._dead_letters.get(key, 0) + 1

    def spans_refused(self, reason: str, count: int) -> None:
        """The reasons are those of `core/senders.py`, so they are few."""
        self._spans_refused[reason] = self._spans_refused.get(reason, 0) + count

    def _has_room_for(self, tenant: str) -> bool:
        """Whether its name may be a label: one customer's many tenants leave the others theirs."""
        if tenant not in self._tenants and len(self._tenants) >= TENANTS_MAX:
            return False
        self._tenants.add(tenant)
        return True

    # What Prometheus reads.

    def collect(self) -> Iterable[Metric]:
        yield from self._serving()
        yield self._drift()
        up = GaugeMetricFamily(
            telemetry.COMPONENT_UP, "1: serving, 0.5: degraded, 0: not serving.", labels=["name"]
        )
        for component in self._components.values():
            up.add_metric(_labels(component.name), _UP[component.state])
        yield up
        letters = CounterMetricFamily(
            telemetry.DEAD_LETTERS_TOTAL,
            "Events that a consumer could not handle.",
            labels=["topic", "consumer"],
        )
        for key, count in self._dead_letters.items():
            letters.add_metric(_labels(*key), count)
        yield letters
        refused = CounterMetricFamily(
            telemetry.SPANS_REFUSED_TOTAL, "Spans that were not taken in.", labels=["reason"]
        )
        for reason, count in self._spans_refused.items():
            refused.add_metric([reason], count)
        yield refused

    def _serving(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            telemetry.REQUESTS_TOTAL,
            "Prediction requests answered, errors included.",
            labels=LABELS,
        )
        errors = CounterMetricFamily(
            telemetry.ERRORS_TOTAL, "Prediction requests that failed.", labels=[*LABELS, "code"]
        )
        latency = HistogramMetricFamily(
            telemetry.LATENCY_SECONDS,
            "Response times of predictions; the sum is estimated from the buckets.",
            labels=LABELS,
        )
        for series, totals in self._served.items():
            labels = _labels(series.tenant, series.model, series.version)
            requests.add_metric(labels, totals.requests)
            for code, count in _known_codes(totals.errors_by_code).items():
                errors.add_metric([*labels, *_labels(code)], count)
            counts = totals.latency_ms_counts
            total_s = mean_ms(counts) * sum(counts) / 1_000.0
            latency.add_metric(labels, _buckets(counts), total_s)
        yield from (requests, errors, latency)

    def _drift(self) -> Metric:
        drift = GaugeMetricFamily(
            telemetry.DRIFT_STATISTIC,
            "How far live rows are from the training rows, by the newest comparison.",
            labels=[*LABELS, "feature", "statistic"],
        )
        for series, report in self._reports.items():
            # The ones that moved most are what anybody looks for.
            for each in _furthest(report)[:COMPARISONS_MAX]:
                drift.add_metric(
                    _labels(
                        series.tenant, series.model, series.version, each.feature, each.statistic
                    ),
                    each.value,
                )
        return drift


def _furthest(report: DriftReport) -> list[Comparison]:
    return sorted(report.comparisons, key=lambda each: each.value / each.limit, reverse=True)


def _known_codes(counts: Mapping[str, int]) -> dict[str, int]:
    """By gRPC's codes; whatever else an event may say is counted together."""
    known: dict[str, int] = {}
    for code, count in counts.items():
        label = code if code in CODES else OTHER
        known[label] = known.get(label, 0) + count
    return known


_UP = {State.SERVING: 1.0, State.DEGRADED: 0.5, State.NOT_SERVING: 0.0}


def _labels(*values: object) -> list[str]:
    """Some of them are words of tenants: a feature's name, a model's."""
    return [short(value) for value in values]


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound in seconds, as the exposition has them."""
    bounds = [str(bound / 1_000.0) for bound in telemetry.LATENCY_MS_BOUNDS] + ["+Inf"]
    total, buckets = 0, list[tuple[str, float]]()
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
