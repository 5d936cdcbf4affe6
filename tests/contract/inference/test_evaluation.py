"""Measuring in a process of its own: real ONNX files, good, bad and hostile."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from libs.common.errors import DependencyError
from services.inference.core.manifest import Tensor
from services.inference.outbound import evaluation
from services.inference.outbound.evaluation import ProcessEvaluator
from services.inference.ports import Measurement, Question
from tests.support.candidates import (
    CLASSES,
    FEATURES,
    ROWS,
    contrary_model,
    dense_softmax,
    evaluation_rows,
    good_model,
    parquet,
)

INPUTS = (Tensor(name="features", datatype="FP32", shape=(-1, 3)),)
OUTPUTS = (
    Tensor(name="label", datatype="INT64", shape=(-1,)),
    Tensor(name="probabilities", datatype="FP32", shape=(-1, 2)),
)
QUESTION = Question(
    model=good_model(),
    evaluation=evaluation_rows(),
    inputs=INPUTS,
    outputs=OUTPUTS,
    features=FEATURES,
    classes=CLASSES,
)


async def measured(**changes: Any) -> Measurement:
    return await ProcessEvaluator().measure(replace(QUESTION, **changes))


async def test_a_model_that_is_right() -> None:
    found = await measured(champion=contrary_model(), champion_features=FEATURES)

    assert found.objections == ()
    assert (found.rows, found.accuracy, found.balanced_accuracy) == (ROWS, 1.0, 1.0)
    assert found.classes_seen == 2
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p99
    assert found.champion_accuracy == 0.0


async def test_a_model_that_always_says_the_same() -> None:
    constant = dense_softmax(np.zeros((3, 2))).SerializeToString()

    found = await measured(model=constant)

    assert found.balanced_accuracy == 0.5


async def test_labels_may_be_the_names_of_classes() -> None:
    rows = pl.read_parquet(QUESTION.evaluation)
    named = rows.with_columns(label=pl.Series([CLASSES[label] for label in rows["label"]]))

    assert (await measured(evaluation=parquet(named))).accuracy == 1.0


async def test_labels_that_are_no_class() -> None:
    rows = pl.read_parquet(QUESTION.evaluation).with_columns(label=pl.lit("huge"))

    found = await measured(evaluation=parquet(rows))

    assert found.objections == ("The evaluation's labels are not among the model's classes.",)


async def test_a_champion_of_other_features() -> None:
    found = await measured(champion=good_model(), champion_features=("width", "colour"))

    assert found.champion_accuracy is None
    assert found.champion_objection == "it needs colour, which is not there."


async def test_selection_rates_by_group() -> None:
    group = ["a", "b"] * (ROWS // 2)
    found = await measured(evaluation=evaluation_rows(extra={"kind": group}), group="kind")

    answers = pl.read_parquet(QUESTION.evaluation)["label"].to_numpy()
    assert found.selection_rates == pytest.approx(
        {"a": answers[0::2].mean(), "b": answers[1::2].mean()}
    )


@pytest.mark.parametrize(
    ("group", "said"), [("colour", "no column colour"), ("width", f"makes {ROWS} groups")]
)
async def test_groups_that_cannot_be_compared(group: str, said: str) -> None:
    found = await measured(group=group)

    assert found.selection_rates is None
    assert said in found.group_objection


def external() -> bytes:
    model = dense_softmax(np.ones((3, 2)))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return model.SerializeToString()


def external_inside_of_a_branch() -> bytes:
    """Hidden in the constant of a graph in a node's attribute."""
    hidden = numpy_helper.from_array(np.ones(1, np.float32), "hidden")
    hidden.ClearField("raw_data")
    hidden.data_location = TensorProto.EXTERNAL
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    constant = helper.make_node("Constant", [], ["inner"], value=hidden)
    branch = helper.make_graph(
        [constant], "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])]
    )
    model = dense_softmax(np.ones((3, 2)))
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch)
    )
    return model.SerializeToString()


def foreign_inside_of_a_function() -> bytes:
    model = dense_softmax(np.ones((3, 2)))
    model.functions.append(
        helper.make_function(
            "local",
            "Trick",
            ["x"],
            ["y"],
            [helper.make_node("Run", ["x"], ["y"], domain="com.evil")],
            [helper.make_opsetid("com.evil", 1)],
        )
    )
    return model.SerializeToString()


def with_fixed_rows() -> bytes:
    model = dense_softmax(np.ones((3, 2)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"", "is not valid ONNX|is not an ONNX file"),
        (b"not a model at all", "is not an ONNX file"),
        (external(), "keeps data outside of the file: weights"),
        (external_inside_of_a_branch(), "keeps data outside of the file: hidden"),
        (
            dense_softmax(np.ones((3, 2)), domain="com.example").SerializeToString(),
            "operators that are not ONNX's own: com.example",
        ),
        (foreign_inside_of_a_function(), "operators that are not ONNX's own: com.evil"),
        (dense_softmax(np.ones((4, 2))).SerializeToString(), r"FP32 \[-1, 4\], not FP32 \[-1, 3\]"),
        (dense_softmax(np.ones((3, 3))).SerializeToString(), r"probabilities is FP32 \[-1, 3\]"),
        (with_fixed_rows(), "takes 1 rows only"),
    ],
    ids=[
        "empty",
        "text",
        "external",
        "external in a branch",
        "custom operator",
        "custom operator in a function",
        "other inputs",
        "other outputs",
        "one row only",
    ],
)
async def test_what_must_not_be_served(model: bytes, said: str) -> None:
    found = await measured(model=model)

    assert len(found.objections) >= 1
    assert re.search(said, found.objections[0]), found.objections


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"width": [1.0], "height": [1.0], "label": [1]}, "lack the columns depth"),
        ({"width": [1.0], "height": [1.0], "depth": [1.0]}, "lack the columns label"),
    ],
)
async def test_evaluation_rows_that_lack_columns(
    columns: Mapping[str, list[float]], said: str
) -> None:
    found = await measured(evaluation=parquet(pl.DataFrame(columns)))

    assert said in found.objections[0]


async def test_evaluation_rows_that_are_no_table() -> None:
    found = await measured(evaluation=b"not a table")

    assert "evaluation.parquet cannot be read" in found.objections[0]


async def test_no_rows_at_all() -> None:
    found = await measured(evaluation=parquet(pl.read_parquet(QUESTION.evaluation).head(0)))

    assert found.objections == ("It has no evaluation rows.",)


async def test_a_model_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EVALUATION_S_MAX", 0.01)

    found = await measured()

    assert found.objections == ("Measuring it took more than 0 s.",)


async def test_a_failure_of_ours_is_not_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "PROGRAM", "services.inference.no_such_program")

    with pytest.raises(DependencyError, match="could not be measured"):
        await measured()


def test_the_models_of_these_tests_are_valid() -> None:
    onnx.checker.check_model(onnx.load(io.BytesIO(good_model())))
