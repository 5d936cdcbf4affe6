"""A definition is taken whole, or each field that is wrong is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInputError
from services.trainer.core.pipeline import from_document, parse, with_parameters
from services.trainer.core.steps import Mlp
from tests.support.training import PIPELINE


def test_defaults_are_written_out_and_read_again() -> None:
    definition = parse(PIPELINE)
    assert from_document(definition.document()) == definition
    assert definition.baseline.name == "baseline"
    assert definition.limits.threads == 1
    mlp = definition.trains[1].parameters
    assert isinstance(mlp, Mlp)
    assert (mlp.hidden, mlp.epochs, mlp.batch_rows) == ((32,), 30, 32)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 30", "epochs: 0", "step 1 (train): epochs"),
        ("epochs: 30", "epoch: 30", "epoch: no such field"),
        ("train: mlp", "train: transformer", "knows logistic_regression, mlp"),
        ("{select: log_loss}", "{select: luck}", "step 2 (select): select"),
        ("  - {select: log_loss}\n", "", "need a `select`"),
        ("  - {export: onnx}\n", "", "end with their one `export`"),
        ("{select: log_loss}", "{sort: log_loss}", "step 2 needs one of train, select, export"),
        ("as: baseline", "as: mlp", "same name"),
        ("  - {train: logistic_regression, as: baseline}\n", "  - train\n", "is no mapping"),
        ("dataset: patients, ", "", "data.dataset: Field required"),
        ("label: diagnosis", "label: diagnosis, holdout_fraction: 2", "data.holdout_fraction"),
        ("label: diagnosis", "label: diagnosis, features: []", "name 1 to"),
        ("label: diagnosis", "label: diagnosis, features: [a, a]", "named twice"),
        ("label: diagnosis", "label: a, features: [b, a]", "label 'a' is among the features"),
        ("name: tumours", "name: Big Tumours", "name: String should match"),
        ("accuracy_min: 0.9", "accuracy: 0.9", "gates.accuracy: no such field"),
        ("[dataset_versioned, drift_detected]", "[full_moon]", "triggers.0"),
        ("name: tumours", "name: [", "cannot be read: line "),
        (PIPELINE, "- 1", "not a mapping"),
        (PIPELINE, "", "not a mapping"),
        (PIPELINE, "at: 2026-99-99", "at: no such field"),
        (PIPELINE, "description: " + "x" * 70_000, "over 65536 bytes"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse(PIPELINE.replace(old, new))
    assert said in refused.value.what
    assert refused.value.next_step
    assert "pydantic" not in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_a_definition_or_an_input_error(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(text)


def test_parameters_replace_those_of_a_step_data_and_limits() -> None:
    changed = with_parameters(
        parse(PIPELINE), {"mlp.hidden": "[64, 32]", "data.seed": "9", "limits.threads": "2"}
    )
    mlp = changed.trains[1].parameters
    assert isinstance(mlp, Mlp)
    assert (mlp.hidden, mlp.epochs) == ((64, 32), 30)
    assert (changed.data.seed, changed.limits.threads) == (9, 2)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("mlp.colour", "1", r"no parameter 'mlp.colour'.* Name one of mlp.hidden, mlp.epochs, "),
        ("forest.trees", "1", "no parameter 'forest.trees'.* one of baseline, mlp, data, limits"),
        ("data.dataset", "other", "no parameter 'data.dataset'.* Name one of data.features, "),
        ("gates.accuracy_min", "0", "no parameter 'gates.accuracy_min'"),
        ("mlp", "1", "no parameter 'mlp'"),
        ("mlp.epochs", "many", "epochs"),
        ("mlp.epochs", "[", "cannot be read"),
    ],
)
def test_a_parameter_that_is_not_there_is_named(path: str, value: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        with_parameters(parse(PIPELINE), {path: value})
