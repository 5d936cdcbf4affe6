"""Reads the numbers out of sampled requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from services.gateway.core.datatypes import DTYPES
from services.gateway.core.reporting import DecodedSample, Rows
from services.gateway.dispatcher.recording import Sample

ROWS_MAX = 256  # Of one sample; the rest of a larger request is not looked at.
Table = NDArray[np.float64]


class OpenInferenceSamples:
    def decode(self, sample: Sample, features: int) -> DecodedSample | None:
        try:
            asked = pb.ModelInferRequest.FromString(sample.request)
            answered = pb.ModelInferResponse.FromString(sample.answer)
            rows = _side_by_side(asked.inputs, asked.raw_input_contents)
            outputs = _side_by_side(answered.outputs, answered.raw_output_contents)
        except (DecodeError, ValueError):
            return None
        if rows is None or outputs is None or rows.shape[1] != features:
            return None
        return DecodedSample(_plain(rows), _plain(outputs))


def _side_by_side(tensors: Sequence[Any], raws: Sequence[bytes]) -> Table | None:
    """All tensors' columns, in their order; None where one is no table of numbers."""
    if not tensors or len(raws) not in (0, len(tensors)):
        return None
    tables: list[Table] = []
    for index, tensor in enumerate(tensors):
        dtype = DTYPES.get(tensor.datatype)
        if dtype is None:
            return None
        elements = (
            np.frombuffer(raws[index], dtype) if raws else np.array(_typed(tensor.contents), dtype)
        )
        shape = tuple(tensor.shape)
        table = elements.reshape(shape[0] if shape else 1, -1)
        tables.append(table[:ROWS_MAX].astype(np.float64))
    if len({len(table) for table in tables}) != 1:
        return None
    return np.concatenate(tables, axis=1)


def _typed(contents: Any) -> list[Any]:
    """The one list of a tensor's typed contents that is filled."""
    for _, values in contents.ListFields():
        return list(values)
    return []


def _plain(table: Table) -> Rows:
    return tuple(tuple(row) for row in table.tolist())
