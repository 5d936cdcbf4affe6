"""The candidate's files: what inference registers, Triton serves and monitoring compares with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from services.trainer.core.order import MANIFEST_FILE, Order
from services.trainer.training.rows import Part, Rows

FORMAT = "basalt.model/1"
MODEL_FILE = "model.onnx"
REFERENCE_FILE = "reference.parquet"
EVALUATION_FILE = "evaluation.parquet"
CARD_FILE = "card.md"
# Among the metrics: the part of the dataset's rows that was used.
ROWS_USED = "rows_used"
FILES = (MODEL_FILE, REFERENCE_FILE, EVALUATION_FILE, CARD_FILE)

# Training rows that live data is compared with.
REFERENCE_ROWS_MAX = 2_000
EVALUATION_ROWS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Result:
    """What training came to. `metrics` are of the held-out rows, the baseline's of the same."""

    kept: str
    metrics: dict[str, float]
    baseline: str
    baseline_metrics: dict[str, float]
    validation_metrics: dict[str, dict[str, float]]
    probability_difference: float


def write_reference(folder: Path, rows: Rows, probabilities: NDArray[np.floating]) -> None:
    """Training rows, evenly over the dataset, with the probabilities that the model gave them.

    "prediction" is the list of them by class; of two classes the second's alone says both.
    """
    chosen = _evenly(len(rows.training), REFERENCE_ROWS_MAX)
    given = probabilities[chosen].astype(np.float64)
    answers = pl.Series("prediction", given[:, 1] if given.shape[1] == 2 else given.tolist())
    table = _table(rows, rows.training, chosen).with_columns(answers)
    table.write_parquet(folder / REFERENCE_FILE, compression="zstd", statistics=False)


def write_evaluation(folder: Path, rows: Rows) -> None:
    """Held-out rows with "label": the index of the class, as the model answers it."""
    chosen = _evenly(len(rows.evaluation), EVALUATION_ROWS_MAX)
    table = _table(rows, rows.evaluation, chosen).with_columns(
        pl.Series("label", rows.evaluation.labels[chosen])
    )
    table.write_parquet(folder / EVALUATION_FILE, compression="zstd", statistics=False)


def write_manifest(folder: Path, order: Order, rows: Rows, result: Result) -> None:
    """Canonical JSON, so that its SHA-256 names the candidate."""
    pipeline = order.pipeline
    manifest = {
        "format": FORMAT,
        "model": pipeline.model.name,
        "files": [_file(folder / name) for name in FILES],
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, len(rows.features)]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(rows.classes)]},
        ],
        "features": list(rows.features),
        "classes": list(rows.classes),
        "class_type": rows.class_type,
        "metrics": {**result.metrics, ROWS_USED: rows.used},
        "baseline_metrics": result.baseline_metrics,
        "lineage": {
            "dataset": order.dataset,
            "dataset_version": order.dataset_version,
            "dataset_manifest_sha256": order.dataset_manifest_sha256,
            "pipeline": pipeline.name,
            "pipeline_revision": order.pipeline_revision,
            "job": order.job,
            "trace_id": order.trace_id,
        },
        "author": order.author,
        "responsible": list(order.responsible),
        "gates": pipeline.gates.model_dump(mode="json", exclude_none=True),
    }
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    partial = folder / f"{MANIFEST_FILE}.writing"
    partial.write_bytes(content)
    partial.replace(folder / MANIFEST_FILE)


def _table(rows: Rows, part: Part, chosen: NDArray[np.int64]) -> pl.DataFrame:
    values = part.features[chosen].astype(np.float64)
    return pl.DataFrame({name: values[:, n] for n, name in enumerate(rows.features)})


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` of `count` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _file(path: Path) -> dict[str, str | int]:
    content = path.read_bytes()
    return {
        "name": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
