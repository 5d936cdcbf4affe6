"""The training rows of model versions, from inference: reference.parquet, remembered."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libs.common.errors import IntegrityError, NotFoundError
from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import inference_pb2 as pb
from libs.common.pb.basalt.v1.inference_pb2_grpc import ModelServiceStub
from libs.common.rpc import Peers, translated
from services.monitoring.core.drift import PREDICTION, Column, Reference, answer_columns
from services.monitoring.core.serving import Series

FILE = "reference.parquet"
REFERENCE_BYTES_MAX = 32 * 1024 * 1024
REFERENCE_ROWS_MAX = 10_000
# 2,000 rows of 30 columns are half a megabyte.
REFERENCES_KEPT_MAX = 64
READ_TIMEOUT_S = 20.0


class InferenceReferences:
    """A version never changes, so what was read once holds."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._kept: OrderedDict[Series, Reference] = OrderedDict()

    async def reference(self, series: Series) -> Reference:
        kept = self._kept.get(series)
        if kept is None:
            version, content = await self._read(series)
            kept = await asyncio.to_thread(reference_of, version, content)
            self._kept[series] = kept
            if len(self._kept) > REFERENCES_KEPT_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(series)
        return kept

    async def _read(self, series: Series) -> tuple[pb.ModelVersion, bytes]:
        with translated("inference"):
            stub = self._peers.stub(ModelServiceStub, "inference")
            named = {"model": series.model, "version": series.version}
            answer = await stub.GetModelVersion(pb.GetModelVersionRequest(**named))
            call = stub.ReadModelVersion(
                pb.ReadModelVersionRequest(**named), timeout=READ_TIMEOUT_S
            )
            return answer.version, await _file(call, series)


async def _file(call: Any, series: Series) -> bytes:
    """The bytes of the reference. Its neighbours, the model itself among them, pass unread."""
    wanted: common_pb2.FileRef | None = None
    content = bytearray()
    async for answer in call:
        if answer.file.name == FILE:
            wanted = answer.file
        elif answer.file.name and wanted is not None:
            break
        if wanted is not None:
            content += answer.part
            if max(len(content), wanted.size_bytes) > REFERENCE_BYTES_MAX:
                call.cancel()
                raise NotFoundError(
                    f"The {FILE} of {series.model} is over {REFERENCE_BYTES_MAX} bytes.",
                    which=series.model,
                    next_step="Keep fewer training rows in it: 2,000 are enough.",
                )
    call.cancel()
    if wanted is None:
        raise NotFoundError(
            f"Version {series.version} of {series.model} has no {FILE}.",
            which=series.model,
            next_step="Train it again: the platform's trainer writes one.",
        )
    if hashlib.sha256(content).hexdigest() != wanted.sha256:
        raise IntegrityError(
            f"The {FILE} of version {series.version} of {series.model} is not what its manifest"
            " names.",
            which=series.model,
            next_step="Restore inference's objects from a backup.",
        )
    return bytes(content)


def reference_of(version: pb.ModelVersion, content: bytes) -> Reference:
    """Raises IntegrityError when the bytes are not a table."""
    try:
        table = pq.read_table(io.BytesIO(content)).slice(0, REFERENCE_ROWS_MAX)
        names = [name for name in version.features if name in table.column_names]
        columns = {name: _column(table, name) for name in names}
        answers = _answers(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            f"The {FILE} of version {version.version} of {version.model} is not a table of"
            f" numbers: {error}",
            which=version.model,
        ) from error
    widths = [_width(tensor) for tensor in version.outputs]
    classes = len(version.classes)
    answer_width = widths[-1] if widths else 0
    # The answer that is compared is the last output; only where it has a value a class it is whole.
    whole = answers.shape[1] == classes == answer_width
    if not whole and answers.shape[1] > 1:
        answers = answers[:, [min(1, answers.shape[1] - 1)]]
    return Reference(
        features=tuple(version.features),
        columns=columns | answer_columns(answers, classes),
        output_width=sum(widths),
        answer_width=answer_width,
        classes=classes,
        whole=whole,
    )


def _column(table: pa.Table, name: str) -> Column:
    column = table.column(name).cast(pa.float64()).fill_null(float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _answers(table: pa.Table) -> Column:
    """[rows, width]: a list a row, or one number."""
    if PREDICTION not in table.column_names:
        return np.empty((len(table), 0))
    column = table.column(PREDICTION).combine_chunks()
    if not pa.types.is_nested(column.type):
        return _column(table, PREDICTION).reshape(len(table), 1)
    values = np.asarray(column.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False))
    return values.reshape(len(table), -1)


def _width(tensor: pb.Tensor) -> int:
    """Values a row: the product of the dimensions after the batch's."""
    return math.prod(max(size, 1) for size in tensor.shape[1:])
