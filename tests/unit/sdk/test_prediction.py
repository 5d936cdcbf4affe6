"""An answer of the inference protocol becomes labels, or an error that names the model."""

import numpy as np
import pytest

from basalt import prediction
from basalt.errors import BasaltError, InvalidInputError
from basalt.pb.basalt.v1 import inference_pb2
from basalt.pb.inference import grpc_inference_service_pb2 as oip
from basalt.prediction import Prediction

NONE = np.array([])


def answer(labels: np.ndarray, datatype: str, **more: np.ndarray) -> oip.ModelInferResponse:
    made = oip.ModelInferResponse(model_name="tumour", model_version="3")
    made.parameters["basalt_digest"].string_param = "ab" * 32
    for name, values, kind in [
        ("label", labels, datatype),
        *((name, values, "FP32") for name, values in more.items()),
    ]:
        made.outputs.add(name=name, datatype=kind, shape=values.shape)
        made.raw_output_contents.append(values.tobytes())
    return made


def test_labels_are_named_and_probabilities_kept() -> None:
    told = prediction.from_response(
        answer(
            np.array([1, 0], "<i8"),
            "INT64",
            probabilities=np.array([[0.25, 0.75], [1, 0]], "<f4"),
        ),
        np.array(["benign", "malignant"]),
    )
    assert told.labels.tolist() == ["malignant", "benign"]
    assert told.probabilities is not None
    assert told.probabilities.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert (told.model, told.model_version, told.manifest_sha256) == ("tumour", "3", "ab" * 32)
    assert len(told) == 2


@pytest.mark.parametrize(("datatype", "kind"), prediction.OUTPUT_TYPES.items())
def test_every_datatype_of_a_fixed_size_is_read(datatype: str, kind: str) -> None:
    told = prediction.from_response(answer(np.array([[1], [0]], kind), datatype), NONE)
    assert told.labels.tolist() == [1, 0]
    assert told.probabilities is None


@pytest.mark.parametrize(
    ("made", "classes"),
    [
        (answer(np.array([2], "<i8"), "INT64"), ["benign", "malignant"]),
        (answer(np.array([-1], "<i8"), "INT64"), ["benign", "malignant"]),
        (answer(np.array([1], "<i8"), "BYTES"), []),
        (answer(np.array([1.0], "<f8"), "FP64"), ["benign", "malignant"]),
        (oip.ModelInferResponse(model_name="tumour", model_version="3"), []),
    ],
)
def test_what_is_no_prediction_is_an_error(
    made: oip.ModelInferResponse, classes: list[str]
) -> None:
    with pytest.raises(BasaltError, match="tumour version 3 answered something") as raised:
        prediction.from_response(made, np.array(classes))
    assert raised.value.which == "tumour"


def test_output_of_another_length_than_its_shape_says_is_an_error() -> None:
    made = answer(np.array([1, 0], "<i8"), "INT64")
    made.raw_output_contents[0] = made.raw_output_contents[0][:-1]
    with pytest.raises(BasaltError, match="no prediction"):
        prediction.from_response(made, [])


def test_request_holds_the_rows_as_little_endian_float32() -> None:
    sent = prediction.request("tumour", "3", np.array([[1, 2], [3, 4]], np.float32))
    assert (sent.model_name, sent.model_version) == ("tumour", "3")
    assert (sent.inputs[0].datatype, list(sent.inputs[0].shape)) == ("FP32", [2, 2])
    assert np.frombuffer(sent.raw_input_contents[0], "<f4").tolist() == [1, 2, 3, 4]


def test_parts_are_put_together_in_order() -> None:
    parts = [
        prediction.from_response(
            answer(
                np.array([label], "<i8"), "INT64", probabilities=np.eye(2, dtype="<f4")[[label]]
            ),
            ["a", "b"],
        )
        for label in (0, 1, 1)
    ]
    whole = prediction.together(parts)
    assert whole.labels.tolist() == ["a", "b", "b"]
    assert whole.probabilities is not None
    assert whole.probabilities.shape == (3, 2)


TYPES = [
    ("string", ["benign", "malignant"], ["malignant", "benign"]),
    ("integer", ["-3", "12"], [12, -3]),
    ("boolean", ["False", "True"], [True, False]),
    ("", ["1", "2"], ["2", "1"]),
]


def answered(classes: np.ndarray) -> Prediction:
    return prediction.from_response(answer(np.array([1, 0], "<i8"), "INT64"), classes)


@pytest.mark.parametrize(("kind", "names", "labels"), TYPES)
def test_labels_come_back_in_the_type_of_their_column(
    kind: str, names: list[str], labels: list[object]
) -> None:
    known = prediction.classes(inference_pb2.ModelVersion(classes=names, class_type=kind))
    told = answered(known).labels.tolist()
    assert told == labels
    assert [type(each) for each in told] == [type(each) for each in labels]
    for given in (labels, np.array(labels), tuple(labels)):
        assert prediction.accuracy(given, answered(known), known) == 1.0
    assert prediction.accuracy([labels[1]] * 2, answered(known), known) == 0.5


@pytest.mark.parametrize(
    ("kind", "names", "given", "said"),
    [
        ("string", ["0", "1"], [1, 0], "Label 0 is 1, and the model answers texts"),
        ("integer", ["0", "1"], ["1", "0"], "Label 0 is '1', and the model answers whole numbers"),
        ("integer", ["0", "1"], [True, False], "Label 0 is True"),
        ("integer", ["0", "1"], [1.0, 0.0], "Label 0 is 1.0"),
        ("boolean", ["False", "True"], [1, 0], "Label 0 is 1, and the model answers booleans"),
        ("boolean", ["False", "True"], ["True", "False"], "Label 0 is 'True'"),
        ("string", ["benign", "malignant"], ["benign", "M"], "Label 1 is 'M', which is none of"),
        ("integer", ["0", "1"], [1, 7], "Label 1 is 7, which is none of the model's classes: 0, 1"),
        ("string", ["benign", "malignant"], ["benign", None], "Label 1 is None"),
        ("integer", ["0", "1"], np.ma.masked_array([1, 0], [False, True]), "Label 1 is None"),
        ("string", ["benign", "malignant"], ["benign"], "1 labels for 2 rows"),
    ],
)
def test_labels_that_the_model_cannot_answer_are_an_error(
    kind: str, names: list[str], given: list[object], said: str
) -> None:
    known = prediction.classes(inference_pb2.ModelVersion(classes=names, class_type=kind))
    with pytest.raises(InvalidInputError, match=said):
        prediction.accuracy(given, answered(known), known)
