"""Small real models for tests: ONNX made by hand, with the files of a candidate around them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import polars as pl
from onnx import TensorProto, helper, numpy_helper

from libs.common.events import TrainingCompleted
from services.inference.core.manifest import MANIFEST, File
from services.inference.ports import Part
from tests.support.entries import NOON

FEATURES = ("width", "height", "depth")
CLASSES = ("small", "large")
ROWS = 200
PART_BYTES = 700


def dense_softmax(weights: np.ndarray[Any, Any], *, domain: str = "") -> onnx.ModelProto:
    """`label` and `probabilities` of a dense layer; `weights` are [features, classes]."""
    columns, classes = weights.shape
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["scores"], domain=domain),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", columns])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", classes]),
        ],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    opsets = [helper.make_opsetid("", 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def good_model(scale: float = 1.0) -> bytes:
    """Says "large" where the features add up to more than zero: right on every evaluation row."""
    column = np.full((len(FEATURES), 1), scale)
    return dense_softmax(np.hstack([-column, column])).SerializeToString()


def contrary_model() -> bytes:
    """Wrong on every evaluation row."""
    return good_model(scale=-1.0)


def evaluation_rows(rows: int = ROWS, extra: Mapping[str, Any] | None = None) -> bytes:
    features = np.random.default_rng(7).normal(size=(rows, len(FEATURES)))
    columns = {name: features[:, place] for place, name in enumerate(FEATURES)}
    labels = (features.sum(axis=1) > 0).astype(np.int64)
    return parquet(pl.DataFrame({**columns, "label": labels, **(extra or {})}))


def parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


@dataclass
class Candidate:
    """A candidate of `job`; `changes` replace fields of its manifest."""

    job: str = "job-1"
    tenant: str = "acme"
    model: str = "boxes"
    author: str = "ada"
    onnx: bytes = field(default_factory=good_model)
    evaluation: bytes = field(default_factory=evaluation_rows)
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return {
            "model.onnx": self.onnx,
            "evaluation.parquet": self.evaluation,
            "reference.parquet": parquet(pl.DataFrame({"width": [1.0], "prediction": [0.5]})),
            "card.md": b"# Boxes\n\nTells large boxes from small ones.\n",
        }

    @property
    def manifest(self) -> bytes:
        content = {
            "format": "basalt.model/1",
            "model": self.model,
            "files": [reference(name, content) for name, content in self.files.items()],
            "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, len(FEATURES)]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(CLASSES)]},
            ],
            "features": FEATURES,
            "classes": CLASSES,
            "metrics": {"accuracy": 0.123},
            "baseline_metrics": {"accuracy": 0.9},
            "lineage": {
                "dataset": "measurements",
                "dataset_version": 3,
                "dataset_manifest_sha256": "d" * 64,
                "pipeline": "boxes",
                "pipeline_revision": 1,
                "job": self.job,
                "trace_id": "a" * 32,
            },
            "author": self.author,
            "gates": {"accuracy_min": 0.9},
            **self.changes,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def parts(self) -> list[Part]:
        """As the trainer streams them, in small parts."""
        parts: list[Part] = []
        for name, content in {MANIFEST: self.manifest, **self.files}.items():
            pieces = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
            parts.append(Part(pieces[0], File(**reference(name, content))))
            parts += [Part(piece) for piece in pieces[1:]]
        return parts

    def completed(self, event_id: str = "") -> TrainingCompleted:
        return TrainingCompleted(
            id=event_id or f"event-of-{self.job}",
            tenant=self.tenant,
            at=NOON,
            job=self.job,
            pipeline="boxes",
            pipeline_revision=1,
            model=self.model,
            dataset="measurements",
            dataset_version=3,
            dataset_manifest_sha256="d" * 64,
            manifest_sha256=hashlib.sha256(self.manifest).hexdigest(),
            author=self.author,
            trace_id="a" * 32,
        )


def reference(name: str, content: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }


class MemoryCandidates:
    """The trainer's shelf, held in memory."""

    def __init__(self, *candidates: Candidate) -> None:
        self.parts = {candidate.job: candidate.parts() for candidate in candidates}

    def add(self, candidate: Candidate) -> None:
        self.parts[candidate.job] = candidate.parts()

    async def read(self, job: str) -> AsyncIterator[Part]:
        for part in self.parts[job]:
            yield part
