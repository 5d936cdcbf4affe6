"""The rows of a dataset version: read, checked, and parted in a way that only they decide.

A row's part depends on its key (or, without one, on its values) and the seed, so a row stays in
its part when the dataset grows, and equal rows never end up on both sides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from libs.common.errors import InvalidInputError
from services.trainer.core.order import Order
from services.trainer.core.pipeline import Data, float_label, not_a_number

TRAINING_ROWS_MIN = 20
VALIDATION_ROWS_MIN = 5
EVALUATION_ROWS_MIN = 5
CLASSES_MAX = 1_000
LACKING_SHOWN_MAX = 3
# What rounding to 32 bits may change, as a part of how much the values of a column differ; and from
# where on it may make no more than so many of the different ones the same.
ROUNDING_MAX, ROUNDING_NOTICED, COLLAPSED_MAX = 1e-2, 1e-4, 0.1
# Names that the candidate's own files use for columns.
RESERVED = frozenset({"label", "prediction"})
# Separates the choice of validation rows from that of held-out rows.
VALIDATION_SALT = 0x9E3779B97F4A7C15

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
# Of the column that the classes are values of.
ClassType = Literal["string", "integer", "boolean"]


@dataclass(frozen=True, slots=True)
class Part:
    """`features` is [rows, columns], `labels` the index of each row's class."""

    features: Features
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def taking(self, chosen: NDArray[np.bool_]) -> Part:
        return Part(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True, slots=True)
class Rows:
    """`read` is how many the dataset has; `notes` say what was left out."""

    training: Part
    validation: Part
    evaluation: Part
    features: tuple[str, ...]
    classes: tuple[str, ...]
    class_type: ClassType
    read: int
    notes: tuple[str, ...]

    @property
    def used(self) -> float:
        """The part of the dataset's rows that lack no value."""
        return self.count / max(self.read, 1)

    @property
    def count(self) -> int:
        return len(self.training) + len(self.validation) + len(self.evaluation)


def load(file: Path, order: Order) -> Rows:
    """Raises InvalidInputError, saying which column or class is at fault."""
    data = order.pipeline.data
    table = pl.read_parquet(file)
    data.require_in(table.columns, order.dataset)
    features, notes = _features(table, data, order)
    complete = table.drop_nulls([*features, data.label])
    complete = complete.filter(_finite(complete, features))
    if left_out := len(table) - len(complete):
        notes.append(
            f"{left_out} of {len(table)} rows ({left_out / len(table):.1%}) lack a value and are"
            f" left out; most lack {_lacking(table, [*features, data.label])}"
        )
    labels, classes = _labels(complete[data.label], data.label)
    whole = Part(_matrix(complete, features), labels)
    keys = [column for column in order.key_columns if column in complete.columns]
    held_out, validation = _parts(complete.select(keys or [*features, data.label]), data)
    rows = Rows(
        training=whole.taking(~held_out & ~validation),
        validation=whole.taking(~held_out & validation),
        evaluation=whole.taking(held_out),
        features=tuple(features),
        classes=classes,
        class_type=_class_type(complete[data.label]),
        read=len(table),
        notes=tuple(notes),
    )
    _require_enough(rows, data)
    return rows


def _features(table: pl.DataFrame, data: Data, order: Order) -> tuple[list[str], list[str]]:
    """The columns to learn from, and notes on those that were left out."""
    if data.features != "all":
        for column in data.features:
            if not _numeric(table[column]):
                raise not_a_number(column, str(table[column].dtype))
        return _unreserved([c for c in data.features if c not in data.exclude]), []
    passed_over = {data.label, *data.exclude, *order.key_columns, *order.ignored_columns}
    candidates = [column for column in table.columns if column not in passed_over]
    features = [column for column in candidates if _numeric(table[column])]
    others = [column for column in candidates if column not in features]
    notes = [f"columns that are no numbers are left out: {', '.join(others)}"] if others else []
    if not features:
        raise InvalidInputError(
            f"The dataset {data.dataset} has no numeric column to learn from.",
            which=data.dataset,
            next_step="Name the features in data.features, and ingest them as numbers.",
        )
    return _unreserved(features), notes


def _unreserved(features: list[str]) -> list[str]:
    for column in features:
        if column in RESERVED:
            raise InvalidInputError(
                f"No feature may be called {column!r}: the candidate's files use that name.",
                which=column,
                next_step="Put it in data.exclude, or rename it in the data contract.",
            )
    return features


def _numeric(column: pl.Series) -> bool:
    return column.dtype.is_numeric() or column.dtype == pl.Boolean


def _finite(table: pl.DataFrame, features: list[str]) -> pl.Series:
    finite = pl.Series([True] * len(table), dtype=pl.Boolean)
    for column in features:
        if table[column].dtype.is_float():
            finite = finite & table[column].is_finite()
    return finite


def _lacking(table: pl.DataFrame, columns: list[str]) -> str:
    """The columns that lack most values, with how many."""
    lacking = {
        column: len(table) - int((table[column].is_not_null() & _finite(table, [column])).sum())
        for column in columns
    }
    most = sorted(lacking.items(), key=lambda each: -each[1])[:LACKING_SHOWN_MAX]
    return ", ".join(f"{column} ({count})" for column, count in most if count)


def _matrix(table: pl.DataFrame, features: list[str]) -> Features:
    """[rows, columns] as the served model will get them: 32-bit floats."""
    wide = table.select(pl.col(features).cast(pl.Float64)).to_numpy()
    with np.errstate(over="ignore"):
        matrix = wide.astype(np.float32)
    if not np.isfinite(matrix).all():
        raise InvalidInputError(
            "A feature's values are beyond the range of 32-bit floats.",
            which=features[int(np.argmin(np.isfinite(matrix).all(axis=0)))],
            next_step="Exclude it, or scale it before it is ingested.",
        )
    for column, name in enumerate(features):
        if _collapses(wide[:, column], matrix[:, column]):
            raise InvalidInputError(
                f"The values of {name!r} are too close to each other for their size: as 32-bit"
                " floats, which models take, many become the same.",
                which=name,
                next_step="Ingest what tells them apart, such as the seconds since a start instead"
                " of since 1970; or put it in data.exclude.",
            )
    return np.ascontiguousarray(matrix)


def _collapses(exact: NDArray[np.float64], rounded: NDArray[np.float32]) -> bool:
    """Whether rounding changes a hundredth of how much the values differ; or a ten thousandth,
    and makes more than a tenth of the different ones the same.

    How much they differ is half of the quartiles' distance, which a few odd values do not stretch.
    """
    errors = np.abs(rounded.astype(np.float64) - exact)
    different = len(np.unique(exact)) if errors.any() else 0
    if different < 2:
        return False
    # Of nearly all: what a single odd value loses is its own.
    error = float(np.quantile(errors, 0.95))
    low, high = np.quantile(exact, (0.25, 0.75))
    spread = float(high - low) / 2 or float(exact.std())
    collapsed = 1 - len(np.unique(rounded)) / different
    material = error > ROUNDING_NOTICED * spread and collapsed > COLLAPSED_MAX
    return material or error > ROUNDING_MAX * spread


def _labels(column: pl.Series, name: str) -> tuple[Labels, tuple[str, ...]]:
    if column.dtype.is_float():
        raise float_label(name)
    values = column.unique().sort().to_list()
    if not 2 <= len(values) <= CLASSES_MAX:
        only = f", {values[0]!r}" if len(values) == 1 else ""
        raise InvalidInputError(
            f"The label {name!r} has {len(values)} distinct value(s){only}: there is nothing to"
            " tell apart."
            if len(values) < 2
            else f"The label {name!r} has {len(values)} distinct values, over {CLASSES_MAX}.",
            which=name,
            next_step="Check data.label, and that the rows hold every class.",
        )
    index = {value: position for position, value in enumerate(values)}
    labels = np.array([index[value] for value in column.to_list()], dtype=np.int64)
    return labels, tuple(str(value) for value in values)


def _class_type(column: pl.Series) -> ClassType:
    if column.dtype == pl.Boolean:
        return "boolean"
    return "integer" if column.dtype.is_integer() else "string"


def _parts(identity: pl.DataFrame, data: Data) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each row is held out, and whether it would be among the validation rows."""
    hashes = np.full(len(identity), data.seed, dtype=np.uint64)
    for column in identity.columns:
        hashes = _mixed(hashes ^ _bits(identity[column]))
    return (
        _fraction(hashes) < data.holdout_fraction,
        _fraction(_mixed(hashes ^ np.uint64(VALIDATION_SALT))) < data.validation_fraction,
    )


def _bits(column: pl.Series) -> NDArray[np.uint64]:
    """64 bits for each value: the same for equal values, on every machine and version."""
    if column.dtype.is_float():
        # Adding 0.0 makes -0.0 and 0.0 one.
        return (column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0).view(np.uint64)
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        return column.cast(pl.Int64).fill_null(0).to_numpy().astype(np.int64).view(np.uint64)
    texts = [str(value) for value in column.to_list()]
    digest = {
        text: int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        for text in set(texts)
    }
    return np.array([digest[text] for text in texts], dtype=np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every bit moves every bit."""
    mixed = values + np.uint64(VALIDATION_SALT)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _fraction(values: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform in [0, 1): the upper 53 bits, which a float64 holds exactly."""
    return cast("NDArray[np.float64]", (values >> np.uint64(11)) * 2.0**-53)


def _require_enough(rows: Rows, data: Data) -> None:
    for name, part, least in (
        ("training", rows.training, TRAINING_ROWS_MIN),
        ("validation", rows.validation, VALIDATION_ROWS_MIN),
        ("evaluation", rows.evaluation, EVALUATION_ROWS_MIN),
    ):
        if len(part) < least:
            raise InvalidInputError(
                f"Of {rows.count} rows, {len(part)} are for {name}; at least {least} are needed.",
                which=data.dataset,
                next_step="Ingest more rows, or change data.holdout_fraction"
                " or data.validation_fraction.",
            )
    counts = np.bincount(rows.training.labels, minlength=len(rows.classes))
    if counts.min() == 0:
        missing = rows.classes[int(counts.argmin())]
        raise InvalidInputError(
            f"The class {missing!r} has no row among the {len(rows.training)} training rows.",
            which=missing,
            next_step="Ingest more rows of it, or change data.seed.",
        )
