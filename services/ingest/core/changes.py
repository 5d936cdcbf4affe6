"""Changes that mend many rows in the same way: a column is set, dropped, renamed or scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from libs.common.errors import InvalidInputError
from services.ingest.core.violation import shown

CHANGES_MAX = 100
VALUE_BYTES_MAX = 64 * 1024
# What JSON says exactly of whole numbers here; far more than any measure has.
NUMBER_MAX = 2**63 - 1


class DoesNotApplyError(Exception):
    """A row has nothing that the change could change; the text says what."""


@dataclass(frozen=True, slots=True)
class SetColumn:
    column: str
    value: Any

    def apply(self, row: dict[str, Any]) -> None:
        row[self.column] = self.value


@dataclass(frozen=True, slots=True)
class DropColumn:
    column: str

    def apply(self, row: dict[str, Any]) -> None:
        _taken(row, self.column)


@dataclass(frozen=True, slots=True)
class RenameColumn:
    column: str
    to: str

    def apply(self, row: dict[str, Any]) -> None:
        if self.to in row:
            raise DoesNotApplyError(f"It has a column {shown(self.to)} already.")
        row[self.to] = _taken(row, self.column)


@dataclass(frozen=True, slots=True)
class ScaleColumn:
    """Multiplies a number, and takes it out of {"value": 1.2, "unit": "m"}."""

    column: str
    factor: float

    def apply(self, row: dict[str, Any]) -> None:
        value = row.get(self.column)
        if isinstance(value, dict):
            value = value.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DoesNotApplyError(f"Its column {shown(self.column)} has no number.")
        whole = isinstance(value, int) and float(self.factor).is_integer()
        scaled = value * int(self.factor) if whole else value * self.factor
        if not -NUMBER_MAX <= scaled <= NUMBER_MAX:
            raise DoesNotApplyError(f"Its column {shown(self.column)} would be too large.")
        row[self.column] = scaled


Change = SetColumn | DropColumn | RenameColumn | ScaleColumn


def check(changes: Sequence[Change]) -> None:
    """Raises InvalidInputError for none, for too many, and for a factor that is none."""
    if not 0 < len(changes) <= CHANGES_MAX:
        raise InvalidInputError(
            f"There are {len(changes)} changes.",
            which="changes",
            next_step=f"Give 1 to {CHANGES_MAX}: set, drop, rename or scale a column.",
        )
    for each in changes:
        if not each.column or (isinstance(each, RenameColumn) and not each.to):
            raise InvalidInputError(
                "A change names no column.", which="changes", next_step="Give its name."
            )
        if isinstance(each, ScaleColumn) and not (math.isfinite(each.factor) and each.factor):
            raise InvalidInputError(
                f"{each.factor} is no factor.",
                which=each.column,
                next_step="Give a number other than 0, such as 1000 for metres to millimetres.",
            )


def changed(row: Any, changes: Sequence[Change]) -> dict[str, Any]:
    """A row with all changes made, one after the other. Raises DoesNotApplyError."""
    if not isinstance(row, dict):
        raise DoesNotApplyError("It has no row that could be changed.")
    new = dict(row)
    for each in changes:
        each.apply(new)
    return new


def _taken(row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise DoesNotApplyError(f"It has no column {shown(column)}.")
    return row.pop(column)
