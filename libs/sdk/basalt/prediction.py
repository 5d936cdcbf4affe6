"""Predictions, between numpy and the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from basalt.errors import BasaltError, InvalidInputError
from basalt.pb.basalt.v1 import inference_pb2
from basalt.pb.inference import grpc_inference_service_pb2 as oip
from basalt.rows import Matrix

INPUT = "features"
LABELS = "label"
PROBABILITIES = "probabilities"
DIGEST_PARAMETER = "basalt_digest"
# The protocol's datatypes of a fixed size, little-endian as it says; BYTES is not among them.
OUTPUT_TYPES: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


# The values that a model's label numbers stand for.
Classes = npt.NDArray[Any]
# By numpy's kind of the classes: what a label of them is in Python, and in words.
LABEL_TYPES: dict[str, type] = {"U": str, "i": int, "u": int, "b": bool, "f": float}
LABEL_WORDS = {
    "U": "texts",
    "i": "whole numbers",
    "u": "whole numbers",
    "b": "booleans",
    "f": "numbers",
}
SHOWN_CLASSES_MAX = 10


@dataclass(frozen=True, slots=True)
class Prediction:
    """`labels` [rows], values of the labels' column; `probabilities` [rows, classes]; and which
    model said so.
    """

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float32] | None
    model: str
    model_version: str
    manifest_sha256: str

    def __len__(self) -> int:
        return len(self.labels)


def request(model: str, version: str, matrix: Matrix) -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(
        name=INPUT, datatype="FP32", shape=list(matrix.shape)
    )
    return oip.ModelInferRequest(
        model_name=model,
        model_version=version,
        inputs=[tensor],
        raw_input_contents=[np.ascontiguousarray(matrix, dtype="<f4").tobytes()],
    )


def classes(version: inference_pb2.ModelVersion) -> Classes:
    """A version's classes as values of their column: texts, whole numbers or booleans."""
    names = list(version.classes)
    if version.class_type == "integer":
        return np.asarray(names, dtype=np.int64)
    if version.class_type == "boolean":
        return np.asarray([name == "True" for name in names])
    return np.asarray(names)


def accuracy(labels: Sequence[Any], answered: Prediction, known: Classes) -> float:
    """The part of the labels that was answered; `known` are the model's classes, [] for none.

    Raises InvalidInputError for a label that the model cannot answer: of another type, or unknown.
    """
    if len(labels) != len(answered):
        raise InvalidInputError(
            f"There are {len(labels)} labels for {len(answered)} rows.",
            which="labels",
            next_step="Give one label a row.",
        )
    kind = known.dtype.kind if len(known) else answered.labels.dtype.kind
    values = set(known.tolist())
    given = [_plain(label) for label in np.ma.asarray(labels, dtype=object).tolist()]
    for row, label in enumerate(given):
        if not isinstance(label, LABEL_TYPES[kind]) or isinstance(label, bool) != (kind == "b"):
            raise InvalidInputError(
                f"Label {row} is {label!r}, and the model answers {LABEL_WORDS[kind]}.",
                which="labels",
                next_step="Give labels as they are in the dataset; `basalt model show` has the"
                " classes.",
            )
        if values and label not in values:
            shown = ", ".join(repr(each) for each in known.tolist()[:SHOWN_CLASSES_MAX])
            raise InvalidInputError(
                f"Label {row} is {label!r}, which is none of the model's classes: {shown}.",
                which="labels",
                next_step="Leave rows of other classes out, or train with them.",
            )
    right = sum(a == b for a, b in zip(answered.labels.tolist(), given, strict=True))
    return right / len(given)


def _plain(label: Any) -> Any:
    """A numpy scalar as Python's."""
    return label.item() if isinstance(label, np.generic) else label


def from_response(answer: oip.ModelInferResponse, classes: Classes) -> Prediction:
    """Labels are named by `classes`; without classes they are the model's own numbers.

    Raises BasaltError when the answer is not what the protocol, or the model's manifest, says.
    """
    try:
        outputs: dict[str, npt.NDArray[Any]] = {
            tensor.name: np.frombuffer(raw, OUTPUT_TYPES[tensor.datatype]).reshape(
                list(tensor.shape)
            )
            for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        labels = outputs[LABELS].reshape(-1)
        named = _named(labels, classes) if len(classes) else labels
    except (KeyError, ValueError, IndexError) as error:
        raise BasaltError(
            f"{answer.model_name} version {answer.model_version} answered something that is no"
            f" prediction: {error}.",
            code="INTERNAL",
            which=answer.model_name,
            next_step="Look at what the model gives: `basalt model show`.",
        ) from error
    return Prediction(
        labels=named,
        probabilities=outputs.get(PROBABILITIES),
        model=answer.model_name,
        model_version=answer.model_version,
        manifest_sha256=answer.parameters[DIGEST_PARAMETER].string_param,
    )


def _named(labels: npt.NDArray[Any], classes: Classes) -> npt.NDArray[Any]:
    # A negative number would name a class from the end.
    if labels.size and labels.min() < 0:
        raise IndexError(f"label {labels.min()} of {len(classes)} classes")
    return np.asarray(classes)[labels]


def together(parts: Sequence[Prediction]) -> Prediction:
    """The parts of one prediction, all by the same version, in the order of their rows."""
    first = parts[0]
    known = [part.probabilities for part in parts if part.probabilities is not None]
    return Prediction(
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate(known) if len(known) == len(parts) else None,
        model=first.model,
        model_version=first.model_version,
        manifest_sha256=first.manifest_sha256,
    )
