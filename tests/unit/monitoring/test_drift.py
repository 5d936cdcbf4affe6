"""The statistics of drift, on distributions that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from libs.common.events import PredictionSample
from services.monitoring.core.drift import (
    CONFIDENCE,
    PREDICTION,
    DriftLimits,
    Reference,
    answer_columns,
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


@pytest.mark.parametrize("share", [0.4, 0.95, 1.0])
def test_values_that_are_missing_are_compared_by_how_many_there_are(share: float) -> None:
    theirs = rows(1, 150)
    theirs[: int(150 * share), 1] = np.nan
    known = reference()

    _, comparisons = LIMITS.compare(
        known.columns, live_columns(known, [sample(theirs, NOON)], LIMITS.window_rows)
    )

    # What is left of the column is too little to be compared by its values.
    (missing,) = [each for each in comparisons if each.feature == "texture"]
    assert (missing.statistic, missing.drifted) == ("missing", True)
    assert (missing.reference_mean, missing.live_mean) == (0.0, int(150 * share) / 150)
    assert {each.feature for each in comparisons if each.statistic != "missing"} == {
        "radius",
        "area",
        "prediction",
    }


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("live_rows", [100, 500])
def test_as_many_missing_values_as_in_training_are_no_drift(share: float, live_rows: int) -> None:
    for seed in SEEDS:
        source = np.random.default_rng(seed)
        ours, theirs = source.normal(size=400), source.normal(size=live_rows)
        ours[source.uniform(size=400) < share] = np.nan
        theirs[source.uniform(size=live_rows) < share] = np.nan

        _, comparisons = LIMITS.compare({"x": ours}, {"x": theirs})

        assert not [each for each in comparisons if each.drifted], seed


def test_values_that_came_back_are_a_difference_too() -> None:
    ours = rows(0, 400)[:, 0]
    ours[:200] = np.nan
    _, comparisons = LIMITS.compare({"x": ours}, {"x": rows(1, 300)[:, 0]})
    assert [each.statistic for each in comparisons if each.drifted] == ["missing"]


# Models of several classes.


def probabilities(seed: int, count: int, shares: Sequence[float]) -> np.ndarray:
    """[count, classes]: rather sure answers, so many of each class."""
    source = np.random.default_rng(seed)
    chosen = source.choice(len(shares), size=count, p=np.asarray(shares) / sum(shares))
    given = source.dirichlet(np.ones(len(shares)) * 0.3, size=count)
    given[np.arange(count), chosen] += 3
    return given / given.sum(axis=1, keepdims=True)


def compared(ours: np.ndarray, theirs: np.ndarray, classes: int) -> set[str]:
    """The columns that drift, of a model that answers a label and probabilities."""
    known = Reference(
        features=("x",),
        columns={"x": rows(0, len(ours))[:, 0], **answer_columns(ours, classes)},
        output_width=1 + classes,
        answer_width=classes,
        classes=classes,
    )
    given = PredictionSample(
        at=NOON,
        features=tuple((x,) for x in rows(1, len(theirs))[:, 0].tolist()),
        outputs=tuple((0.0, *row) for row in theirs.tolist()),
    )
    live = live_columns(known, [given], LIMITS.window_rows)
    _, comparisons = LIMITS.compare(known.columns, live, classes if known.categorical else 0)
    assert {PREDICTION, *([CONFIDENCE] if classes > 2 else [])} <= {
        each.feature for each in comparisons
    }
    return {each.feature for each in comparisons if each.drifted}


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("live_rows", [100, 300, 1_000])
def test_answers_like_those_to_its_training_rows_never_cry_wolf(
    classes: int, live_rows: int
) -> None:
    shares = 1 / np.arange(1, classes + 1)
    for seed in range(20):
        ours = probabilities(seed, 400, shares.tolist())
        assert compared(ours, ours[:live_rows], classes) == set()
        theirs = probabilities(seed + 10_000, live_rows, shares.tolist())
        assert compared(ours, theirs, classes) == set(), seed


@pytest.mark.parametrize("moved", [(0, 1), (0, 2), (1, 2), (2, 0)])
def test_answers_that_went_from_any_class_to_any_other_are_drift(moved: tuple[int, int]) -> None:
    before, after = [3.0, 3.0, 3.0], [3.0, 3.0, 3.0]
    after[moved[0]] -= 2.5
    after[moved[1]] += 2.5
    for seed in range(20):
        ours, theirs = probabilities(seed, 400, before), probabilities(seed + 99, 300, after)
        assert PREDICTION in compared(ours, theirs, 3), seed


def test_answers_that_became_unsure_are_drift() -> None:
    ours = probabilities(0, 400, [1, 1, 1])
    theirs = probabilities(1, 300, [1, 1, 1]) * 0.4 + 0.2
    assert CONFIDENCE in compared(ours, theirs, 3)


def test_a_reference_of_before_is_compared_by_the_class_that_it_kept() -> None:
    """It has the second class's probability alone, however many classes there are."""
    ours = probabilities(0, 400, [1, 1, 5])
    columns = {"x": rows(0, 400)[:, 0], **answer_columns(ours[:, [1]], 3)}
    known = Reference(("x",), columns, output_width=4, answer_width=3, classes=3, whole=False)
    given = PredictionSample(
        at=NOON,
        features=tuple((x,) for x in rows(1, 400)[:, 0].tolist()),
        outputs=tuple((0.0, *row) for row in ours.tolist()),
    )

    live = live_columns(known, [given], LIMITS.window_rows)

    assert not known.categorical
    assert live[PREDICTION] == pytest.approx(known.columns[PREDICTION])


def test_live_rows_of_another_width_are_not_the_versions() -> None:
    known = reference()
    odd = PredictionSample(at=NOON, features=((1.0, 2.0),), outputs=((1.0,),))

    live = live_columns(known, [odd, sample(rows(0, 5), NOON)], 100)

    assert {name: len(column) for name, column in live.items()} == dict.fromkeys(
        ("radius", "texture", "area", "prediction"), 5
    )


def test_the_prediction_of_two_classes_is_the_second_of_the_last_output() -> None:
    known = reference()
    outputs = ((1.0, 0.25, 0.754), (0.1, 0.9), (1.0,))
    given = PredictionSample(at=NOON, features=((0.0,) * 3,) * 3, outputs=outputs)

    prediction = live_columns(known, [given], 100)["prediction"]

    assert prediction[:2] == pytest.approx([0.75, 0.9])
    assert np.isnan(prediction[2])  # The caller asked for the label alone.
