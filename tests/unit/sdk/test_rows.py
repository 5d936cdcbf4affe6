"""Rows in every form that people have them in become the same matrix, or are refused by name."""

import datetime
import decimal
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from basalt.errors import InvalidInputError
from basalt.rows import as_matrix

FEATURES = ["age", "dose", "mass"]
ROWS = [[41.0, 0.5, 70.0], [29.0, 1.5, 82.5]]
DICTS = [dict(zip(FEATURES, row, strict=True)) for row in ROWS]
COLUMNS = {name: [row[place] for row in ROWS] for place, name in enumerate(FEATURES)}
SHUFFLED = [{"mass": row["mass"], "id": "p1", **row} for row in DICTS]


@pytest.mark.parametrize(
    "rows",
    [
        np.array(ROWS),
        np.array(ROWS, dtype=np.float16).astype(np.float64),
        np.array(ROWS, dtype=object),
        ROWS,
        tuple(map(tuple, ROWS)),
        DICTS,
        tuple(DICTS),
        SHUFFLED,
        COLUMNS,
        {name: np.array(values) for name, values in COLUMNS.items()},
        {name: pl.Series(values) for name, values in COLUMNS.items()},
        {"id": ["p1", "p2"], **COLUMNS},
        pl.DataFrame(DICTS),
        pl.DataFrame(SHUFFLED),
        [{name: str(value) for name, value in row.items()} for row in DICTS],
        [{name: decimal.Decimal(value) for name, value in row.items()} for row in DICTS],
    ],
)
def test_every_form_gives_the_same_matrix(rows: Any) -> None:
    matrix = as_matrix(rows, FEATURES)
    assert matrix.dtype == np.float32
    assert matrix.tolist() == ROWS


@pytest.mark.parametrize(
    "row", [DICTS[0], ROWS[0], np.array(ROWS[0]), {"age": np.float64(41), "dose": 0.5, "mass": 70}]
)
def test_one_row_is_a_matrix_of_one(row: Any) -> None:
    assert as_matrix(row, FEATURES).tolist() == [ROWS[0]]


@pytest.mark.parametrize(
    ("rows", "which", "what"),
    [
        ([{"age": 1, "dose": 2}], "mass", "lack 1 of 3 features: mass"),
        (pl.DataFrame({"age": [1]}), "dose", "lack 2 of 3 features: dose, mass"),
        ([DICTS[0], {"age": 1, "mass": 2}], "dose", "Row 1 has nothing for dose"),
        ([DICTS[0], {**DICTS[1], "dose": None}], "dose", "Row 1 has nothing for dose"),
        ({**DICTS[0], "dose": None}, "dose", "Row 0 has nothing for dose"),
        ({**COLUMNS, "dose": [1.0, math.nan]}, "dose", "Row 1 has nothing for dose"),
        (pl.DataFrame({**COLUMNS, "dose": [None, 1.0]}), "dose", "Row 0 has nothing for dose"),
        ([{**DICTS[0], "dose": ""}], "dose", "Row 0 has nothing for dose"),
        ([{**DICTS[0], "dose": "high"}], "dose", "Row 0 has 'high' for dose"),
        ([{**DICTS[0], "dose": [1]}], "dose", "dose is no column"),
        ([{**DICTS[0], "dose": {}}], "dose", "Row 0 has '{}' for dose"),
        ([{**DICTS[0], "dose": 1j}], "dose", "Row 0 has '1j' for dose"),
        ([{**DICTS[0], "dose": 10**400}], "dose", "Row 0 has '1000"),
        ([{**DICTS[0], "dose": datetime.date(2026, 1, 1)}], "dose", "Row 0 has '2026-01-01'"),
        ({**COLUMNS, "dose": np.array(["2026-01-01"] * 2, "M8[D]")}, "dose", "'2026-01-01'"),
        ({**COLUMNS, "dose": [1.0]}, "dose", "dose has 1 values, age has 2"),
        ({**COLUMNS, "dose": 1.0}, "dose", "dose is no column"),
        ({**COLUMNS, "dose": [[1.0], [2.0, 3.0]]}, "dose", "dose is no column"),
        ([[1.0, math.inf, 2.0]], "dose", "Row 0 has 'inf' for dose"),
        (np.array([[1.0, 1e39, 2.0]]), "dose", "Row 0 has '1e+39' for dose"),
        ([[1.0, "x", 2.0]], "dose", "Row 0 has 'x' for dose"),
        (np.zeros((2, 4)), "rows", "the shape (2, 4); the model takes [rows, 3]"),
        (np.zeros((2, 3, 1)), "rows", "the shape (2, 3, 1)"),
        ([[1.0, 2.0, 3.0], [1.0]], "rows", "rows of different lengths"),
        (np.zeros((0, 3)), "rows", "no rows"),
        (pl.DataFrame({name: [] for name in FEATURES}), "rows", "no rows"),
        ([], "rows", "no rows"),
        ({}, "rows", "no rows"),
        ("age,dose", "rows", "cannot be read from a str"),
        (7, "rows", "cannot be read from a int"),
        ((row for row in DICTS), "rows", "cannot be read from a generator"),
    ],
)
def test_what_is_no_row_is_refused_by_name(rows: Any, which: str, what: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        as_matrix(rows, FEATURES)
    assert what in raised.value.what
    assert raised.value.which == which
    assert raised.value.next_step
    assert raised.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (None, "Fill what is missing"),
        (math.nan, "Fill what is missing"),
        ("abc", "Give a number, as it was"),
        (datetime.date(2026, 1, 1), "Give a number, as it was"),
        (1e300, "Give a number up to 3.4e+38"),
        ("1e300", "Give a number up to"),
        (10**400, "Give a number up to"),
        (math.inf, "Give a number up to"),
        ("[5.1]", "Give a number, as it was"),
    ],
)
def test_advice_is_for_what_is_wrong(value: Any, advice: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        as_matrix([{**DICTS[0], "dose": "1"}, {**DICTS[1], "dose": value}], FEATURES)
    assert advice in raised.value.next_step


def test_booleans_are_one_and_zero() -> None:
    flags = [{**DICTS[0], "dose": True}, {**DICTS[1], "dose": False}]
    assert as_matrix(flags, FEATURES)[:, 1].tolist() == [1.0, 0.0]


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(InvalidInputError) as raised:
        as_matrix([{**DICTS[0], "dose": "x" * 10_000}], FEATURES)
    assert len(raised.value.what) < 200


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=numbers))
def test_forms_agree_on_any_numbers(matrix: np.ndarray) -> None:
    frame = pl.DataFrame(matrix, schema=FEATURES)
    for rows in (
        matrix,
        matrix.tolist(),
        frame,
        frame.select(reversed(FEATURES)),
        frame.to_dicts(),
        frame.to_dict(as_series=False),
    ):
        np.testing.assert_array_equal(as_matrix(rows, FEATURES), matrix)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*FEATURES, "other"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(anything)
def test_whatever_is_given_it_becomes_numbers_or_a_refusal(rows: Any) -> None:
    try:
        matrix = as_matrix(rows, FEATURES)
    except InvalidInputError:
        return
    assert matrix.shape[1] == 3
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize(
    "rows",
    [
        np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], [[False, False], [False, True]]),
        np.ma.masked_array([[1, 2], [3, 4]], [[False, False], [False, True]]),
        {"x": [1.0, 3.0], "y": np.ma.masked_array([2, 4], [False, True])},
        {"x": [1.0, 3.0], "y": np.ma.masked_array(["2", "4"], [False, True])},
        np.ma.masked_array([[1, "2"], [3, "4"]], [[0, 0], [0, 1]], dtype=object),
    ],
)
def test_what_is_masked_is_missing_and_no_number(rows: Any) -> None:
    with pytest.raises(InvalidInputError, match="Row 1 has nothing for y"):
        as_matrix(rows, ["x", "y"])


def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    rows = np.ma.masked_array([[1, 2], [3, 4]], False)
    assert as_matrix(rows, ["x", "y"]).tolist() == [[1, 2], [3, 4]]
