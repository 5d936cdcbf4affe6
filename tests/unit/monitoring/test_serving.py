"""Response times, throughput, errors and load out of what gateways count."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from libs.common import telemetry
from libs.common.errors import InvalidInputError
from services.monitoring.core.serving import (
    BUCKETS,
    Series,
    Totals,
    checked,
    code_name,
    figures,
    mean_ms,
    percentile_ms,
)
from tests.support.served import NOON, batch

BOUNDS = telemetry.LATENCY_MS_BOUNDS


def counts(**by_bound: int) -> list[int]:
    filled = [0] * BUCKETS
    for bound, count in by_bound.items():
        filled[BOUNDS.index(float(bound.removeprefix("to_")))] = count
    return filled


def test_a_percentile_lies_linearly_within_its_bucket() -> None:
    # 100 requests between 3 and 4 ms: the rule of histogram_quantile.
    assert percentile_ms(counts(to_4=100), 0.50) == pytest.approx(3.5)
    assert percentile_ms(counts(to_4=100), 0.99) == pytest.approx(3.99)
    assert percentile_ms(counts(to_4=50, to_12=50), 0.75) == pytest.approx(10.0)


def test_percentiles_at_the_edges() -> None:
    above = [0] * (BUCKETS - 1) + [7]

    assert percentile_ms([0] * BUCKETS, 0.99) == 0.0
    assert percentile_ms(above, 0.5) == BOUNDS[-1]
    assert percentile_ms([5] + [0] * (BUCKETS - 1), 1.0) == BOUNDS[0]


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_are_within_a_bucket_of_the_true_ones(seed: int) -> None:
    times = np.random.default_rng(seed).lognormal(2.0, 1.0, size=5_000).clip(max=9_000)
    filled = np.bincount(np.searchsorted(BOUNDS, times), minlength=BUCKETS).tolist()

    for quantile in (0.5, 0.95, 0.99):
        true = float(np.quantile(times, quantile))
        bucket = int(np.searchsorted(BOUNDS, true))
        low, high = (0.0, *BOUNDS)[bucket], BOUNDS[bucket]
        assert low <= percentile_ms(filled, quantile) <= high
    assert mean_ms(filled) == pytest.approx(times.mean(), rel=0.15)


def test_figures_of_a_window() -> None:
    totals = Totals()
    totals.add(batch("a", requests=100, errors={"INTERNAL": 4, "14": 1}, latency=counts(to_4=100)))
    totals.add(batch("b", at=NOON + timedelta(seconds=9), requests=100, latency=counts(to_4=100)))

    seen = figures(Series("acme", "cancer", 1), totals, NOON + timedelta(seconds=30))

    assert seen.requests == 200
    assert seen.errors_by_code == {"INTERNAL": 4, "UNAVAILABLE": 1}
    assert seen.error_rate == pytest.approx(0.025)
    assert seen.requests_per_second == pytest.approx(20.0)  # 200 in 10 s.
    assert seen.load == pytest.approx(20.0 * 3.5 / 1_000)  # Little's law.
    assert seen.since == NOON - timedelta(seconds=1)


def test_a_window_longer_than_the_data_is_as_long_as_the_data() -> None:
    totals = Totals()
    totals.add(batch("a", requests=100))
    now = NOON + timedelta(seconds=9)

    assert figures(Series("a", "b", 1), totals, now, 3_600).requests_per_second == pytest.approx(10)
    assert figures(Series("a", "b", 1), totals, now, 5).requests_per_second == pytest.approx(20)


def test_error_codes_are_bounded() -> None:
    totals = Totals()
    totals.add(batch("a", errors={f"CODE_{number}": 1 for number in range(100)}))

    assert len(totals.errors_by_code) == 33
    assert totals.errors == 100


def test_codes_come_as_names_or_numbers() -> None:
    assert [code_name(code) for code in ("3", "INTERNAL", "99")] == [
        "INVALID_ARGUMENT",
        "INTERNAL",
        "OTHER",
    ]


def test_numbers_that_cannot_be_added_up_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="16 buckets instead of 24"):
        checked(batch("a", latency=(1,) * 16))
    with pytest.raises(InvalidInputError, match="backwards"):
        checked(batch("a", requests=-1))
    assert checked(batch("a", latency=counts(to_4=1))).id == "a"
