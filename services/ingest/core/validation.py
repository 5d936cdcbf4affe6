"""Checks rows against a contract: whole columns at once, one row at a time only where in doubt.

A row's verdict comes from `exact`; the columns only find the rows that need not be asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

import polars as pl

from services.ingest.core.contract import PLAIN_TYPES, Column, Contract, Scalar
from services.ingest.core.moments import EPOCH, MomentError, is_plain, moment
from services.ingest.core.violation import Violation, shown

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
MICROSECOND = timedelta(microseconds=1)
FRAME_TYPES: dict[str, Any] = {
    "float": pl.Float64(),
    "integer": pl.Int64(),
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
}

Values = tuple[Any, ...]


def schema(contract: Contract) -> dict[str, Any]:
    return {each.name: FRAME_TYPES[each.type] for each in contract.columns}


@dataclass(frozen=True, slots=True)
class Checked:
    """`kept` are the indexes of the rows in `frame`, in order; `refused` says why of the others."""

    frame: pl.DataFrame
    kept: list[int]
    refused: Mapping[int, Violation]


class Checker:
    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._columns = contract.columns
        self._names = [each.name for each in contract.columns]
        self._known = frozenset(self._names)
        self._schema = schema(contract)
        self._whole = itemgetter(*self._names)

    def check(self, rows: Sequence[Any]) -> Checked:
        """Rows are JSON values; those that are not objects are refused as well."""
        kept, values, refused = self._take(rows)
        doubtful = self._doubtful(values)
        if doubtful:
            kept, values = self._settle(rows, kept, values, doubtful, refused)
        return Checked(self._frame(values), kept, refused)

    def exact(self, row: Any) -> Values | Violation:
        """The values of one row in the order of the columns, or what is wrong with it."""
        if not isinstance(row, dict):
            return Violation(
                "unparsable", f"A record is a JSON object {{column: value}}, not {shown(row)}."
            )
        unknown = [name for name in row if name not in self._known]
        if unknown:
            return Violation(
                "unknown-column",
                f"The contract has no column {shown(unknown[0])}."
                " Leave it out, or add it to the contract.",
            )
        values: list[Any] = []
        for column in self._columns:
            value = _value(column, row.get(column.name))
            if isinstance(value, Violation):
                return value
            values.append(value)
        return tuple(values)

    def _take(self, rows: Sequence[Any]) -> tuple[list[int], list[Values], dict[int, Violation]]:
        """Each row's values in the order of the columns, as they are."""
        kept: list[int] = []
        values: list[Values] = []
        refused: dict[int, Violation] = {}
        whole, width = self._whole, len(self._names)
        for index, row in enumerate(rows):
            try:
                if len(row) == width:
                    values.append(whole(row) if width > 1 else (whole(row),))
                    kept.append(index)
                    continue
            except (KeyError, TypeError, IndexError):
                pass
            exact = self.exact(row)
            if isinstance(exact, Violation):
                refused[index] = exact
            else:
                values.append(exact)
                kept.append(index)
        return kept, values, refused

    def _doubtful(self, rows: list[Values]) -> set[int]:
        """Positions of rows that `exact` has to look at; a wrong row is always among them."""
        doubtful: set[int] = set()
        for column, values in zip(self._columns, zip(*rows, strict=True), strict=False):
            types = set(map(type, values))
            plain = PLAIN_TYPES[column.type] | (frozenset() if column.required else {type(None)})
            if not types <= plain:
                doubtful.update(at for at, value in enumerate(values) if type(value) not in plain)
            doubtful.update(_beyond(column, values, types))
        return doubtful

    def _settle(
        self,
        rows: Sequence[Any],
        kept: list[int],
        values: list[Values],
        doubtful: set[int],
        refused: dict[int, Violation],
    ) -> tuple[list[int], list[Values]]:
        settled_at: list[int] = []
        settled: list[Values] = []
        for at, index in enumerate(kept):
            if at in doubtful:
                exact = self.exact(rows[index])
                if isinstance(exact, Violation):
                    refused[index] = exact
                    continue
                settled.append(exact)
            else:
                settled.append(values[at])
            settled_at.append(index)
        return settled_at, settled

    def _frame(self, rows: list[Values]) -> pl.DataFrame:
        columns = zip(*rows, strict=True) if rows else [()] * len(self._names)
        return pl.DataFrame(
            [
                _series(column, values, self._schema[column.name])
                for column, values in zip(self._columns, columns, strict=True)
            ]
        )


def _series(column: Column, values: Sequence[Any], frame_type: Any) -> pl.Series:
    if column.type == "timestamp":
        # Whole microseconds, so that no rounding of floats comes into it.
        ticks = [None if value is None else _ticks(value) for value in values]
        return pl.Series(column.name, ticks, pl.Int64()).cast(frame_type)
    return pl.Series(column.name, values, frame_type, strict=True)


def _ticks(value: datetime | str) -> int:
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (at - EPOCH) // MICROSECOND


def _beyond(column: Column, values: Sequence[Any], types: set[type]) -> list[int]:
    """Positions of values that may be out of range; all of them where a quick look is no use."""
    if column.type == "timestamp":
        return [at for at, value in enumerate(values) if not is_plain(value)]
    if column.allowed is not None:
        allowed = frozenset(column.allowed) | (set() if column.required else {None})
        try:
            return [at for at, value in enumerate(values) if value not in allowed]
        except TypeError:
            return list(range(len(values)))
    if not column.numeric or not types <= PLAIN_TYPES[column.type] | {type(None)}:
        # What is of another type is in doubt already; of the rest nothing more is asked here.
        return list(range(len(values))) if column.numeric else []
    try:
        series = pl.Series(values, dtype=FRAME_TYPES[column.type], strict=True)
    except (OverflowError, TypeError, pl.exceptions.PolarsError):
        return list(range(len(values)))
    # A null is neither within nor beyond.
    beyond = ~series.is_finite() if column.type == "float" else series.is_null() & False
    if column.minimum is not None:
        beyond |= series < column.minimum
    if column.maximum is not None:
        beyond |= series > column.maximum
    return beyond.arg_true().to_list()


def _value(column: Column, value: Any) -> Any:
    """The value as the column keeps it, or a Violation. None in a column that may lack it."""
    if isinstance(value, dict):
        value = _without_unit(column, value)
        if isinstance(value, Violation):
            return value
    if value is None:
        if column.required:
            return Violation(
                "missing", f"Column {column.name!r} is missing. Send it as {_wanted(column)}."
            )
        return None
    if column.type == "timestamp":
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value
        try:
            return moment(value, column.timezone)
        except MomentError as error:
            said = f"Column {column.name!r} is {_wanted(column)}, not {shown(value)}, {error}."
            return Violation("type", said)
    if type(value) not in PLAIN_TYPES[column.type]:
        return _mistyped(column, value)
    return _in_range(column, value)


def _without_unit(column: Column, given: dict[str, Any]) -> Any:
    """The value of {"value": 1.2, "unit": "mm"}; another unit than the contract's is refused."""
    if not given.keys() <= {"value", "unit"} or "value" not in given:
        return _mistyped(column, given)
    unit = given.get("unit")
    if unit is not None and unit != column.unit:
        return Violation(
            "unit",
            f"Column {column.name!r} is in {column.unit or 'no unit'}, not in {shown(unit)}."
            " Convert it and mend the record: units are never converted silently.",
        )
    return given["value"]


def _mistyped(column: Column, value: Any) -> Violation:
    return Violation("type", f"Column {column.name!r} is {_wanted(column)}, not {shown(value)}.")


def _in_range(column: Column, value: Any) -> Any:
    if column.type == "float":
        try:
            value = float(value)
        except OverflowError:
            return _mistyped(column, value)
        if not math.isfinite(value):
            return _mistyped(column, value)
    if column.type == "integer" and not INTEGER_MIN <= value <= INTEGER_MAX:
        return _mistyped(column, value)
    if column.allowed is not None and not _among(value, column.allowed):
        allowed = ", ".join(map(shown, column.allowed[:10]))
        return Violation(
            "range", f"Column {column.name!r} is {shown(value)}, which is not one of {allowed}."
        )
    below = column.minimum is not None and value < column.minimum
    above = column.maximum is not None and value > column.maximum
    if below or above:
        least = "" if column.minimum is None else f" from {column.minimum:g}"
        most = "" if column.maximum is None else f" up to {column.maximum:g}"
        unit = f" {column.unit}" if column.unit else ""
        return Violation(
            "range",
            f"Column {column.name!r} is {shown(value)}{unit}; the contract allows{least}{most}.",
        )
    return value


def _among(value: Scalar, allowed: list[Scalar]) -> bool:
    # 1 == True in Python, but not in a contract.
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed
    )


def _wanted(column: Column) -> str:
    article = "an" if column.type == "integer" else "a"
    unit = f" in {column.unit}" if column.unit else ""
    rest = ""
    if column.type == "timestamp":
        rest = (
            f" in RFC 3339, of {column.timezone} where it has no offset"
            if column.timezone
            else (" in RFC 3339 with an offset")
        )
    return f"{article} {column.type}{unit}{rest}"
