"""Rows as people have them, as the matrix that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from basalt import rowfile
from basalt.errors import InvalidInputError

# numpy [rows, features], a polars or pandas DataFrame, a dict of columns, one row as a dict, a
# list of such dicts, or rows as nested lists.
Rows = Any
Matrix = npt.NDArray[np.float32]
# What numpy makes of an infinite float among texts; it is refused as what it is.
ENDLESS = frozenset({"inf", "-inf", "nan"})
NUMBERS = "fiub"  # numpy's kinds: float, int, unsigned, bool.


def as_matrix(rows: Rows, features: Sequence[str]) -> Matrix:
    """The rows as float32 [rows, features], columns in the model's order.

    Columns that the model does not know are left out. Rows without names have one column a feature
    in the model's order. True and False are 1 and 0, as in the training. Raises InvalidInputError,
    naming the feature and the row from 0.
    """
    columns = _columns(rows)
    matrix = _by_name(columns, features) if columns is not None else _by_place(rows, features)
    if len(matrix) == 0:
        raise InvalidInputError(
            "There are no rows.", which="rows", next_step="Give at least one row."
        )
    # A number beyond float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        narrow = matrix.astype(np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        row, column = (int(place) for place in np.argwhere(~finite)[0])
        raise _no_number(matrix[row, column], _name(features, column), row)
    return narrow


def _columns(rows: Rows) -> Mapping[str, Any] | None:
    """Columns by name; None when the rows have no names."""
    if isinstance(rows, Mapping):
        whole = all(_is_scalar(value) for value in rows.values())
        return {name: [value] if whole else value for name, value in rows.items()}
    if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):  # Without importing polars.
        return {str(name): rows[name] for name in rows.columns}
    if isinstance(rows, Sequence) and rows and isinstance(rows[0], Mapping):
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InvalidInputError(
                    f"Row 0 is a dict, and row {place} is a {type(row).__name__}.",
                    which="rows",
                    next_step="Give every row in the same form.",
                )
        named = cast("Sequence[Mapping[str, Any]]", rows)
        # A feature that some rows lack is missing in those rows, whichever comes first.
        names = dict.fromkeys(name for row in named for name in row)
        return {name: [row.get(name) for row in named] for name in names}
    return None


def _is_scalar(value: Any) -> bool:
    # Asking numpy would convert the value, and some cannot be.
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return True
    return getattr(value, "ndim", 1) == 0


def _by_name(columns: Mapping[str, Any], features: Sequence[str]) -> npt.NDArray[np.float64]:
    if not columns:
        raise InvalidInputError(
            "There are no rows.", which="rows", next_step="Give at least one row."
        )
    missing = [name for name in features if name not in columns]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InvalidInputError(
            f"The rows lack {len(missing)} of {len(features)} features: {shown}.",
            which=missing[0],
            next_step="Give every feature; `basalt model show` lists them.",
        )
    found = [_numbers(columns[name], name) for name in features]
    for name, column in zip(features, found, strict=True):
        if len(column) != len(found[0]):
            raise InvalidInputError(
                f"{name} has {len(column)} values, {features[0]} has {len(found[0])}.",
                which=name,
                next_step="Give one value a row in every column.",
            )
    return np.column_stack(found)


def _numbers(values: Any, name: str) -> npt.NDArray[np.float64]:
    """One column as numbers."""
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        column = np.asarray(_unmasked(values))
    except (ValueError, TypeError, OverflowError):  # Lists of different lengths, say.
        column = np.asarray(None)
    if column.ndim != 1:
        raise InvalidInputError(
            f"{name} is no column: it has to have one value a row.",
            which=name,
            next_step="Give a list of numbers, or numbers alone for one row.",
        )
    if column.dtype.kind in NUMBERS:
        return column.astype(np.float64)
    cells = column.tolist() if column.dtype.kind in "OUS" else list(column)
    return np.asarray([_number(cell, name, row) for row, cell in enumerate(cells)])


def _unmasked(values: Any) -> Any:
    """What is masked is missing, and no number: numpy would give what lies below the mask."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    masked: Any = values
    if masked.dtype.kind in NUMBERS:
        return masked.astype(np.float64).filled(np.nan)
    cells = masked.data.astype(object)
    cells[np.ma.getmaskarray(masked)] = None
    return cells


def _number(cell: Any, name: str, row: int) -> float:
    # numpy would make a number of a date too.
    if isinstance(cell, np.datetime64 | np.timedelta64 | complex | np.complexfloating):
        raise _no_number(cell, name, row)
    if isinstance(cell, str) and not (rowfile.number(cell) or cell.strip().lower() in ENDLESS):
        raise _no_number(cell, name, row)
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise _no_number(cell, name, row) from None


def _no_number(cell: Any, name: str, row: int) -> InvalidInputError:
    shown, wanted = repr(str(cell)[:40]), "which has to be a finite number"
    next_step = "Give a number, as it was for the training; a boolean as 1 or 0."
    if cell is None or str(cell).strip().lower() in ("", "nan"):
        shown = "nothing"
        next_step = "Fill what is missing before, as it was done for the training."
    elif isinstance(cell, int | float | np.floating):
        wanted = "which float32 does not hold"
        next_step = f"Give a number up to {np.finfo(np.float32).max:.1e}, of either sign."
    return InvalidInputError(
        f"Row {row} has {shown} for {name}, {wanted}.", which=name, next_step=next_step
    )


def _by_place(rows: Rows, features: Sequence[str]) -> npt.NDArray[np.float64]:
    if not isinstance(rows, np.ndarray | Sequence) or isinstance(rows, str | bytes):
        raise InvalidInputError(
            f"Rows cannot be read from a {type(rows).__name__}.",
            which="rows",
            next_step="Give a numpy array [rows, features], a DataFrame, a dict, or dicts.",
        )
    try:
        matrix = np.asarray(_unmasked(rows))
    except (ValueError, TypeError, OverflowError):
        raise _misshapen("rows of different lengths", features) from None
    if matrix.ndim == 1 and matrix.size:
        matrix = matrix[None, :]
    if matrix.ndim == 2 and len(matrix) == 0 and matrix.shape[1] == len(features):
        return np.empty((0, len(features)))
    if matrix.size == 0:
        return np.empty((0, len(features)))
    if matrix.ndim != 2 or (features and matrix.shape[1] != len(features)):
        raise _misshapen(f"the shape {matrix.shape}", features)
    if matrix.dtype.kind in NUMBERS:
        return matrix.astype(np.float64)
    names = [_name(features, place) for place in range(matrix.shape[1])]
    return np.column_stack([_numbers(matrix[:, place], name) for place, name in enumerate(names)])


def _misshapen(found: str, features: Sequence[str]) -> InvalidInputError:
    return InvalidInputError(
        f"The rows have {found}; the model takes [rows, {len(features)}].",
        which="rows",
        next_step="Give one column a feature, in the order that `basalt model show` lists.",
    )


def _name(features: Sequence[str], place: int) -> str:
    return features[place] if place < len(features) else f"column {place}"
