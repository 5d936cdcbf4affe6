"""Rows are parted by what they are, and what cannot be learned from is said in a sentence."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from libs.common.errors import InvalidInputError
from services.trainer.training import rows
from tests.support.training import PIPELINE, order, patients


def load(
    folder: Path, table: pl.DataFrame, definition: str = PIPELINE, key: tuple[str, ...] = ("key",)
) -> rows.Rows:
    wanted = order(folder, table, definition, key=key)
    return rows.load(folder / "data.parquet", wanted)


def as_set(part: rows.Part) -> set[bytes]:
    return {row.tobytes() for row in part.features}


@pytest.mark.parametrize("key", [("key",), ()])
def test_a_row_stays_in_its_part_when_the_dataset_grows_or_is_shuffled(
    tmp_path: Path, key: tuple[str, ...]
) -> None:
    table = patients(300).drop([] if key else ["key"])
    grown = patients(400).drop([] if key else ["key"]).sample(fraction=1.0, shuffle=True, seed=1)
    small, large = load(tmp_path / "a", table, key=key), load(tmp_path / "b", grown, key=key)
    for name in ("training", "validation", "evaluation"):
        assert as_set(getattr(small, name)) <= as_set(getattr(large, name))
    assert large.count == 400
    assert 0.1 < len(large.evaluation) / 400 < 0.3


def test_equal_rows_never_part(tmp_path: Path) -> None:
    table = patients(200).drop("key")
    parted = load(tmp_path, pl.concat([table, table]), key=())
    assert not as_set(parted.training) & as_set(parted.evaluation)
    assert not as_set(parted.training) & as_set(parted.validation)


def test_another_seed_parts_otherwise(tmp_path: Path) -> None:
    seed_8 = PIPELINE.replace("diagnosis}", "diagnosis, seed: 8}")
    one, other = load(tmp_path / "a", patients()), load(tmp_path / "b", patients(), seed_8)
    assert as_set(one.evaluation) != as_set(other.evaluation)


def test_the_parting_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """A changed hash would move rows between the parts of all models: it may not change."""
    parted = load(tmp_path, patients())
    assert [len(parted.training), len(parted.validation), len(parted.evaluation)] == [266, 48, 86]
    assert parted.evaluation.features[:3, 0].tolist() == pytest.approx([17.99, 12.46, 13.73])


def test_incomplete_rows_and_other_columns_are_left_out_with_a_note(tmp_path: Path) -> None:
    table = patients().with_columns(
        pl.when(pl.arange(0, 400) < 7).then(None).otherwise(pl.col("mean radius")).alias("gap"),
        pl.when(pl.arange(0, 400) == 9).then(float("nan")).otherwise(1.0).alias("nan"),
        pl.lit("red").alias("colour"),
        (pl.arange(0, 400) % 2 == 0).alias("even"),
    )
    loaded = load(tmp_path, table)
    assert loaded.count == 392
    assert "even" in loaded.features
    assert "colour" not in loaded.features
    assert any("colour" in note for note in loaded.notes)
    assert any("8 of 400 rows (2.0%)" in note for note in loaded.notes)
    assert any("most lack gap (7), nan (1)" in note for note in loaded.notes)
    assert (loaded.read, loaded.used) == (400, 0.98)


NOON = 1_767_268_800  # Whole seconds since 1970.


@pytest.mark.parametrize(
    "values",
    [
        NOON + np.arange(400),
        np.where(np.arange(400) % 20, NOON + np.arange(400), -1),
        NOON + np.arange(400) * 30,  # Of three hours.
        1e12 + np.random.default_rng(0).normal(size=400),
        2**40 + np.arange(400) % 2,
    ],
)
def test_values_that_float32_does_not_tell_apart_are_refused(
    tmp_path: Path, values: np.ndarray
) -> None:
    with pytest.raises(InvalidInputError, match="'seconds' are too close to each other") as refused:
        load(tmp_path, patients().with_columns(seconds=pl.Series(values)))
    assert refused.value.which == "seconds"


@pytest.mark.parametrize(
    "values",
    [
        NOON + np.arange(400) * 216,  # Of one day, and still apart.
        NOON + np.arange(400) * 86_400,  # A day each.
        np.arange(400) * 1_000_003,
        np.random.default_rng(0).uniform(size=400),
        np.random.default_rng(0).lognormal(sigma=4, size=400),
        np.full(400, 0.1),
        np.where(np.arange(400) % 150, np.arange(400) % 100, 2_147_483_647),
        np.where(np.arange(400) == 7, 9_999_999_999.0, np.random.default_rng(0).normal(size=400)),
        np.round(np.exp(np.random.default_rng(0).normal(5, 4, size=400))),
        np.full(400, float(NOON)),
        np.where(np.arange(400) % 50, 0.0, 1e30),
    ],
)
def test_values_that_float32_tells_apart_are_kept(tmp_path: Path, values: np.ndarray) -> None:
    loaded = load(tmp_path, patients().with_columns(seconds=pl.Series(values)))
    assert "seconds" in loaded.features


@pytest.mark.parametrize("values", [[0, 1], [False, True], ["a", "b"], [-3, 12]])
def test_classes_are_sorted_and_labels_are_their_index(
    tmp_path: Path, values: list[object]
) -> None:
    table = patients().with_columns(
        diagnosis=pl.Series([values[label == "benign"] for label in patients()["diagnosis"]])
    )
    loaded = load(tmp_path, table)
    assert loaded.classes == tuple(str(value) for value in values)
    named = {bool: "boolean", int: "integer", str: "string"}
    assert loaded.class_type == named[type(values[0])]
    assert np.bincount(loaded.evaluation.labels).min() > 0


@pytest.mark.parametrize(
    ("table", "definition", "said"),
    [
        (patients(22), PIPELINE, "at least"),
        (patients().with_columns(diagnosis=pl.lit("benign")), PIPELINE, "nothing to tell apart"),
        (patients(), PIPELINE.replace("diagnosis}", "diagnoses}"), "no column 'diagnoses'"),
        (
            patients().with_columns(colour=pl.lit("red")),
            PIPELINE.replace("diagnosis}", "diagnosis, features: [colour]}"),
            "'colour' is not a number",
        ),
        (patients().select("key", "diagnosis"), PIPELINE, "no numeric column"),
        (patients().with_columns(label=pl.lit(1.0)), PIPELINE, "No feature may be called 'label'"),
        (patients().with_columns(diagnosis=pl.lit(0.5)), PIPELINE, "is a float"),
        (patients().with_columns(huge=pl.lit(1e300)), PIPELINE, "beyond the range"),
        (patients().head(0), PIPELINE, "0 distinct"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, table: pl.DataFrame, definition: str, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as refused:
        load(tmp_path, table, definition)
    assert refused.value.which
    assert refused.value.next_step
