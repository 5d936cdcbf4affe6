from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.core.contract import parse
from services.ingest.core.validation import Checker
from services.ingest.core.violation import SHOWN_CHARACTERS_MAX, Violation
from tests.support.upstream import CONTRACT, row

CHECKER = Checker(parse(CONTRACT))
CLOSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["benign", "malignant", "2026-01-01T00:00:00Z", "2026-01-01", "2026-13-01"]),
    st.fixed_dictionaries({"value": st.floats(), "unit": st.sampled_from(["mm", "m", None])}),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
# Mostly right rows with something changed, left out or added.
ROWS = st.one_of(
    st.builds(
        lambda number, changes, lost: {
            name: value for name, value in (row(number) | changes).items() if name not in lost
        },
        st.integers(0, 50),
        st.dictionaries(st.sampled_from([*row(), "bogus"]), CLOSE, max_size=2),
        st.sets(st.sampled_from(list(row())), max_size=1),
    ),
    st.builds(row, st.integers(0, 50)),
)
NEARLY = st.one_of(ROWS, ROWS, CLOSE)


def verdict(**changes: Any) -> Violation | None:
    checked = CHECKER.check([row(1, **changes)])
    assert len(checked.kept) + len(checked.refused) == 1
    return checked.refused.get(0)


def test_rows_that_hold_become_columns_of_the_contracts_types() -> None:
    checked = CHECKER.check([row(1, width=3), row(2, taken=None, contrast=None)])

    assert checked.kept == [0, 1]
    assert not checked.refused
    assert checked.frame.row(0) == (
        "scan-000001",
        3.0,
        2,
        False,
        datetime(2026, 1, 1, 12, tzinfo=UTC),
        "malignant" if 1 % 3 == 0 else "benign",
    )
    assert checked.frame.row(1)[3:5] == (None, None)


def test_optional_columns_may_be_left_out() -> None:
    short = row(1)
    del short["taken"], short["contrast"]

    assert CHECKER.check([short]).frame.row(0)[3:5] == (None, None)


def test_a_value_may_say_its_unit() -> None:
    checked = CHECKER.check([row(1, width={"value": 2, "unit": "mm"}, slices={"value": 3})])

    assert checked.frame.row(0)[1:3] == (2.0, 3)


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"width": {"value": 1, "unit": "m"}}, "unit", "'width' is in mm, not in 'm'"),
        ({"width": None}, "missing", "'width' is missing. Send it as a float in mm"),
        ({"width": "1.5"}, "type", "'width' is a float in mm, not '1.5'"),
        ({"width": True}, "type", "not True"),
        ({"width": -0.1}, "range", "is -0.1 mm; the contract allows from 0 up to 100"),
        ({"width": 100.1}, "range", "is 100.1 mm"),
        ({"width": 10**400}, "type", "'width' is a float"),
        ({"width": {"value": 1, "unit": "mm", "by": "me"}}, "type", "'width'"),
        ({"slices": 1.0}, "type", "'slices' is an integer, not 1.0"),
        ({"slices": False}, "type", "'slices' is an integer"),
        ({"slices": 2**63}, "type", "'slices' is an integer"),
        ({"slices": 0}, "range", "allows from 1"),
        ({"contrast": 1}, "type", "'contrast' is a boolean, not 1"),
        ({"taken": "yesterday"}, "type", "not 'yesterday'"),
        ({"taken": "2026-01-01T12:00:00"}, "type", "RFC 3339 with an offset"),
        ({"taken": 5}, "type", "timestamp"),
        ({"finding": "odd"}, "range", "not one of 'benign', 'malignant'"),
        ({"bogus": 1}, "unknown-column", "no column 'bogus'"),
        ({"scan": ["a"]}, "type", "'scan' is a string"),
    ],
)
def test_what_breaks_the_contract_is_named(changes: dict[str, Any], reason: str, said: str) -> None:
    violation = verdict(**changes)

    assert violation is not None
    assert violation.reason == reason
    assert said in violation.detail


@pytest.mark.parametrize("value", [None, 1, "text", [1], True, 1.5])
def test_what_is_no_object_is_no_record(value: object) -> None:
    violation = CHECKER.check([value]).refused[0]

    assert violation.reason == "unparsable"


def test_one_does_not_stand_for_true() -> None:
    checker = Checker(parse("name: a\ncolumns:\n  - {name: on, type: boolean, allowed: [true]}\n"))

    assert checker.check([{"on": True}]).kept == [0]
    assert checker.check([{"on": False}]).refused[0].reason == "range"
    assert checker.check([{"on": 1}]).refused[0].reason == "type"


def test_what_is_shown_of_a_value_is_never_long() -> None:
    violation = verdict(finding="x" * 10_000)

    assert violation is not None
    assert len(violation.detail) < SHOWN_CHARACTERS_MAX + 100


@given(st.lists(NEARLY, max_size=12))
def test_columns_and_single_rows_come_to_the_same_verdict(rows: list[Any]) -> None:
    checked = CHECKER.check(rows)

    exact = [CHECKER.exact(each) for each in rows]
    assert checked.refused == {
        at: each for at, each in enumerate(exact) if isinstance(each, Violation)
    }
    assert checked.kept == [at for at, each in enumerate(exact) if not isinstance(each, Violation)]
    # A row that is kept says in the frame what it said in the record.
    for found, at in zip(checked.frame.iter_rows(), checked.kept, strict=True):
        wanted = exact[at]
        assert not isinstance(wanted, Violation)
        assert found == CHECKER.check([rows[at]]).frame.row(0)
        assert [each for each in found if not isinstance(each, datetime)] == [
            each for each, got in zip(wanted, found, strict=True) if not isinstance(got, datetime)
        ]


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_a_row_has_the_same_verdict_in_any_company(rows: list[Any]) -> None:
    together = CHECKER.check(rows)

    for at, each in enumerate(rows):
        alone = CHECKER.check([each])
        assert alone.refused.get(0) == together.refused.get(at)


@given(st.binary(max_size=40))
def test_no_body_is_too_odd_to_be_judged(body: bytes) -> None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    checked = CHECKER.check([value, json.loads(json.dumps(row(3)))])

    assert checked.kept == [1]
