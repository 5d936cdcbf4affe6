"""Predictions, between numpy and the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from basalt.errors import BasaltError
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


@dataclass(frozen=True, slots=True)
class Prediction:
    """`labels` [rows], `probabilities` [rows, classes]; and which model said so."""

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


def from_response(answer: oip.ModelInferResponse, classes: Sequence[str]) -> Prediction:
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
        named = _named(labels, classes) if classes else labels
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


def _named(labels: npt.NDArray[Any], classes: Sequence[str]) -> npt.NDArray[Any]:
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
