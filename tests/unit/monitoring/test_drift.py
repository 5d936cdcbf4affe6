"""The statistics of drift, on distributions that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from libs.common.events import PredictionSample
from services.monitoring.core.drift import (
    DriftLimits,
    live_columns,
    population_stability_index,
    psi_by_chance,
)
from tests.support.served import NOON, reference, rows, sample

LIMITS = DriftLimits()
SEEDS = range(60)


def columns(seed: int, count: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    table = {f"normal {index}": source.normal(size=count) for index in range(6)}
    table["normal 0"] += shift
    return table | {
        "skewed": source.lognormal(size=count),
        "binary": source.integers(0, 2, count).astype(float),
        "constant": np.ones(count),
        "rounded": source.normal(size=count).round(),
    }


@pytest.mark.parametrize("reference_rows", [200, 398, 2_000])
@pytest.mark.parametrize("live_rows", [100, 200, 500])
def test_the_same_distribution_never_cries_wolf(reference_rows: int, live_rows: int) -> None:
    for seed in SEEDS:
        ours, theirs = columns(seed, reference_rows), columns(seed + 10_000, live_rows)

        _, comparisons = LIMITS.compare(ours, theirs)

        assert not [each for each in comparisons if each.drifted], seed


@pytest.mark.parametrize("live_rows", [120, 500])
def test_a_shift_of_one_deviation_is_found_and_named(live_rows: int) -> None:
    for seed in SEEDS:
        ours, theirs = columns(seed, 398), columns(seed + 10_000, live_rows, shift=1.0)

        _, comparisons = LIMITS.compare(ours, theirs)

        assert {each.feature for each in comparisons if each.drifted} == {"normal 0"}, seed


def test_many_rows_do_not_make_a_tiny_difference_drift() -> None:
    limits = DriftLimits(window_rows=20_000, recent_rows=20_000)
    source = np.random.default_rng(5)

    _, comparisons = limits.compare(
        {"x": source.normal(size=20_000)}, {"x": source.normal(size=20_000) + 0.1}
    )

    ks = next(each for each in comparisons if each.statistic == "ks")
    assert ks.p_value < 1e-10
    assert not ks.drifted


def test_a_sudden_change_shows_before_it_has_the_majority() -> None:
    theirs = np.concatenate([rows(1, 200, shift=1.5)[:, 0], rows(2, 800)[:, 0]])

    compared, comparisons = LIMITS.compare({"x": rows(3, 2_000)[:, 0]}, {"x": theirs})

    assert compared == LIMITS.recent_rows
    assert all(each.drifted for each in comparisons)


def test_a_changed_spread_is_found_too() -> None:
    source = np.random.default_rng(0)

    _, comparisons = LIMITS.compare(
        {"x": source.normal(size=500)}, {"x": source.normal(scale=2.5, size=500)}
    )

    assert [each for each in comparisons if each.drifted]


def test_ks_is_that_of_scipy_with_the_tests_counted() -> None:
    ours, theirs = rows(1, 400), rows(2, 150, shift=0.7)
    names = ("a", "b", "c")

    _, comparisons = LIMITS.compare(
        {name: ours[:, i] for i, name in enumerate(names)},
        {name: theirs[:, i] for i, name in enumerate(names)},
    )

    known = stats.ks_2samp(ours[:, 0], theirs[:, 0], method="asymp")
    found = next(each for each in comparisons if (each.feature, each.statistic) == ("a", "ks"))
    assert found.value == pytest.approx(known.statistic)
    assert found.p_value == pytest.approx(known.pvalue * 3)
    assert found.reference_mean == pytest.approx(ours[:, 0].mean())
    assert found.live_mean == pytest.approx(theirs[:, 0].mean())


def test_psi_is_that_of_the_formula_by_hand() -> None:
    # A feature with two values: the only bound within the range is 0, so the bins are ≤ 0, ≤ 1
    # and above, of which the last is empty on both sides.
    ours = np.array([0.0] * 60 + [1.0] * 40)
    theirs = np.array([0.0] * 30 + [1.0] * 70)

    value, bins = population_stability_index(ours, theirs)

    p = [60.5 / 101.5, 40.5 / 101.5, 0.5 / 101.5]
    q = [30.5 / 101.5, 70.5 / 101.5, 0.5 / 101.5]
    assert bins == 3
    assert value == pytest.approx(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)))


def test_psi_of_deciles_by_hand() -> None:
    ours = np.arange(1_000, dtype=float)
    theirs = np.arange(500, dtype=float)  # Only the lower half: five bins of 100, five empty.

    value, bins = population_stability_index(ours, theirs)

    total_p, total_q = 1_000 + 0.5 * 10, 500 + 0.5 * 10
    p = [100.5 / total_p] * 10
    q = [100.5 / total_q] * 5 + [0.5 / total_q] * 5
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert bins == 10
    assert value == pytest.approx(by_hand, rel=0.02)  # A decile lies between two rows.


def test_psi_by_chance_is_what_samples_of_one_distribution_exceed_so_often() -> None:
    source = np.random.default_rng(0)
    limit = psi_by_chance(400, 150, 10, alpha=0.05)

    values = [
        population_stability_index(source.normal(size=400), source.normal(size=150))[0]
        for _ in range(2_000)
    ]

    assert np.mean(np.array(values) > limit) == pytest.approx(0.05, abs=0.015)


def test_too_few_rows_are_not_compared() -> None:
    _, comparisons = LIMITS.compare({"x": rows(0, 400)[:, 0]}, {"x": rows(1, 99, 9.0)[:, 0]})

    assert comparisons == ()


def test_missing_values_are_left_out_of_their_column_only() -> None:
    theirs = rows(1, 150)
    theirs[:60, 1] = np.nan
    known = reference()

    _, comparisons = LIMITS.compare(
        known.columns, live_columns(known, [sample(theirs, NOON)], LIMITS.window_rows)
    )

    assert {each.feature for each in comparisons} == {"radius", "area", "prediction"}


def test_live_rows_of_another_width_are_not_the_versions() -> None:
    known = reference()
    odd = PredictionSample(at=NOON, features=((1.0, 2.0),), outputs=((1.0,),))

    live = live_columns(known, [odd, sample(rows(0, 5), NOON)], 100)

    assert {name: len(column) for name, column in live.items()} == dict.fromkeys(
        ("radius", "texture", "area", "prediction"), 5
    )


def test_the_prediction_is_the_last_value_of_the_last_output() -> None:
    known = reference()
    outputs = ((1.0, 0.25, 0.754), (0.1, 0.9), (1.0,))
    given = PredictionSample(at=NOON, features=((0.0,) * 3,) * 3, outputs=outputs)

    prediction = live_columns(known, [given], 100)["prediction"]

    assert prediction[:2] == pytest.approx([0.75, 0.9])
    assert np.isnan(prediction[2])  # The caller asked for the label alone.
