"""References as the trainer writes them, read as monitoring compares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from libs.common.errors import IntegrityError
from libs.common.events import PredictionSample
from libs.common.pb.basalt.v1 import inference_pb2 as pb
from services.monitoring.core.drift import CONFIDENCE, PREDICTION, live_columns
from services.monitoring.outbound.inference_references import reference_of
from services.trainer.training import rows
from services.trainer.training.candidate import REFERENCE_FILE, write_reference
from tests.support.served import NOON
from tests.support.training import PIPELINE, order, patients


def version(features: tuple[str, ...], classes: list[str]) -> pb.ModelVersion:
    described = pb.ModelVersion(model="m", version=1, features=features, classes=classes)
    described.outputs.add(name="label", datatype="INT64", shape=[-1, 1])
    described.outputs.add(name="probabilities", datatype="FP32", shape=[-1, len(classes)])
    return described


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_what_the_trainer_writes_is_compared_with_the_same_answers(
    tmp_path: Path, classes: int
) -> None:
    names = [f"kind {number}" for number in range(classes)]
    table = patients(300).with_columns(
        diagnosis=pl.Series([names[number % classes] for number in range(300)])
    )
    loaded = rows.load(tmp_path / "data.parquet", order(tmp_path, table, PIPELINE, key=("key",)))
    given = np.random.default_rng(0).dirichlet(np.ones(classes), size=len(loaded.training))
    write_reference(tmp_path, loaded, given)

    known = reference_of(version(loaded.features, names), (tmp_path / REFERENCE_FILE).read_bytes())

    answered = PredictionSample(
        at=NOON,
        features=tuple(map(tuple, loaded.training.features.astype(float).tolist())),
        outputs=tuple((0.0, *row) for row in given.tolist()),
    )
    live = live_columns(known, [answered], 10_000)
    assert live.keys() == known.columns.keys()
    assert (CONFIDENCE in live) == known.categorical == (classes > 2)
    for name in (PREDICTION, *([CONFIDENCE] if classes > 2 else [])):
        assert live[name] == pytest.approx(known.columns[name])


@pytest.mark.parametrize(
    "answers",
    [
        pa.array([[0.2, 0.3, 0.5]] * 3),
        pa.array([[0.2, 0.3, 0.5]] * 3, pa.large_list(pa.float32())),
        pa.array([[0.2, 0.3, 0.5]] * 3, pa.list_(pa.float64(), 3)),
    ],
)
def test_answers_are_lists_of_any_kind(tmp_path: Path, answers: pa.Array) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "prediction": answers}), tmp_path / "r")
    known = reference_of(version(("x",), ["a", "b", "c"]), (tmp_path / "r").read_bytes())
    assert known.columns[PREDICTION].tolist() == [2, 2, 2]
    assert known.columns[CONFIDENCE].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "answers", [pa.array([[0.2, 0.8], [1.0], [0.5, 0.5]]), pa.array(["a", "b", "c"])]
)
def test_answers_that_are_no_numbers_are_told(tmp_path: Path, answers: pa.Array) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "prediction": answers}), tmp_path / "r")
    with pytest.raises(IntegrityError, match="is not a table of numbers"):
        reference_of(version(("x",), ["a", "b", "c"]), (tmp_path / "r").read_bytes())
