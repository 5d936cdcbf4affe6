"""However many tenants, models and features there are, what Prometheus reads stays bounded."""

from __future__ import annotations

from datetime import UTC, datetime

from services.monitoring.core.drift import Comparison, DriftReport
from services.monitoring.outbound.prometheus import (
    COMPARISONS_MAX,
    OTHER,
    TENANTS_MAX,
    PrometheusMeters,
)
from tests.support.served import batch

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def lines(meters: PrometheusMeters, name: str) -> list[str]:
    return [each for each in meters.exposition().decode().splitlines() if each.startswith(name)]


def test_tenants_beyond_the_bound_are_counted_together() -> None:
    meters = PrometheusMeters()
    for number in range(TENANTS_MAX + 50):
        meters.served(batch(f"b{number}", at=NOW, tenant=f"t{number}", model="m", requests=1))

    counted = lines(meters, "basalt_inference_requests_total{")
    assert len(counted) == TENANTS_MAX + 1
    assert (
        f'basalt_inference_requests_total{{model="{OTHER}",tenant="{OTHER}",version="0"}} 50.0'
        in (counted)
    )


def test_one_tenant_s_many_models_do_not_take_the_others_names() -> None:
    meters = PrometheusMeters()
    for number in range(5_000):
        meters.served(batch(f"b{number}", at=NOW, tenant="many", model=f"m{number}", requests=1))
    assert len(lines(meters, "basalt_inference_requests_total{")) <= 2_001


def test_codes_that_are_none_are_counted_together() -> None:
    meters = PrometheusMeters()
    errors = {"INTERNAL": 2, "x" * 10_000: 3, "OUR OWN": 4}
    meters.served(batch("b", at=NOW, tenant="acme", model="m", requests=20, errors=errors))

    counted = lines(meters, "basalt_inference_errors_total{")
    assert len(counted) == 2
    assert any('code="other"' in each and each.endswith(" 7.0") for each in counted)


def test_the_features_that_moved_most_are_shown() -> None:
    meters = PrometheusMeters()
    comparisons = tuple(
        Comparison(
            feature=f"f{number}",
            statistic="ks",
            value=number / 1_000,
            limit=0.15,
            p_value=0.5,
            drifted=False,
            reference_mean=0.0,
            live_mean=0.0,
        )
        for number in range(1_000)
    )
    report = DriftReport(
        model="m", version=1, at=NOW, live_rows=10, reference_rows=10, comparisons=comparisons
    )
    meters.compared("acme", report)

    shown = lines(meters, "basalt_drift_statistic{")
    assert len(shown) == COMPARISONS_MAX
    assert any('feature="f999"' in each for each in shown)
    assert not any('feature="f0"' in each for each in shown)
