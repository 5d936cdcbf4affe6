"""How well a model answers rows that it has not seen, how quickly, and how alike for groups."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl

BATCH_ROWS = 4_096
LATENCY_CALLS = 500
LATENCY_WARM_UP_CALLS = 50
LATENCY_S_MAX = 20.0
GROUPS_MAX = 20
LABEL = "label"

Array = np.ndarray[Any, Any]


def measured(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ports.Measurement`."""
    try:
        rows = pl.read_parquet(folder / "evaluation.parquet")
    except (pl.exceptions.PolarsError, OSError) as error:
        return {"objections": [f"evaluation.parquet cannot be read: {str(error)[:200]}"]}
    objection = _objection(rows, asked)
    if objection:
        return {"objections": [objection]}
    truth = labels(rows[LABEL], asked["classes"])
    if truth is None:
        return {"objections": ["The evaluation's labels are not among the model's classes."]}
    try:
        session = _session(folder / "model.onnx")
        features = _matrix(rows, asked["features"])
        answers = _answers(session, features)
    except Exception as error:
        return {"objections": [f"It cannot be run: {str(error).partition(chr(10))[0][:200]}"]}
    p50, p99 = _latency_ms(session, features)
    return {
        "rows": len(truth),
        "accuracy": float(np.mean(answers == truth)),
        "balanced_accuracy": balanced_accuracy(answers, truth),
        "classes_seen": len(np.unique(truth)),
        "latency_ms_p50": p50,
        "latency_ms_p99": p99,
        **_champion(folder, rows, truth, asked["champion_features"]),
        **(_selection_rates(rows, answers, asked) if asked["group"] else {}),
    }


def _objection(rows: pl.DataFrame, asked: dict[str, Any]) -> str:
    missing = [name for name in (*asked["features"], LABEL) if name not in rows.columns]
    if missing:
        return f"Its evaluation rows lack the columns {', '.join(missing)[:200]}."
    if rows.height == 0:
        return "It has no evaluation rows."
    if LABEL not in {each["name"] for each in asked["outputs"]}:
        return f"It has no output named {LABEL}, so its answers cannot be judged."
    return ""


def labels(column: pl.Series, classes: list[str]) -> Array | None:
    """Class indices. Whole numbers are taken as such, text by its place among the classes."""
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        return column.cast(pl.Int64).to_numpy()
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return whole.to_numpy() if (whole == column).all() else None
    places = {name: place for place, name in enumerate(classes)}
    found = [places.get(str(value), -1) for value in column]
    return np.array(found, np.int64) if -1 not in found else None


def balanced_accuracy(answers: Array, truth: Array) -> float:
    """The mean of the classes' recalls (Brodersen et al. 2010, for any number of classes)."""
    recalls = [np.mean(answers[truth == label] == label) for label in np.unique(truth)]
    return float(np.mean(recalls))


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _matrix(rows: pl.DataFrame, features: list[str]) -> Array:
    return np.ascontiguousarray(rows.select(pl.col(features).cast(pl.Float32)).to_numpy())


def _answers(session: onnxruntime.InferenceSession, features: Array) -> Array:
    feature_input = session.get_inputs()[0].name
    parts = [
        np.asarray(session.run([LABEL], {feature_input: features[start : start + BATCH_ROWS]})[0])
        for start in range(0, len(features), BATCH_ROWS)
    ]
    return np.concatenate(parts).reshape(-1)


def _latency_ms(session: onnxruntime.InferenceSession, features: Array) -> tuple[float, float]:
    """The median and the 99th percentile of single rows, one after the other on one thread."""
    feature_input = session.get_inputs()[0].name
    taken: list[float] = []
    begun = time.perf_counter()
    for call in range(LATENCY_WARM_UP_CALLS + LATENCY_CALLS):
        row = features[call % len(features)][None, :]
        start = time.perf_counter()
        session.run(None, {feature_input: row})
        end = time.perf_counter()
        taken.append((end - start) * 1_000)
        if end - begun > LATENCY_S_MAX:
            break
    counted = taken[LATENCY_WARM_UP_CALLS:] or taken
    return float(np.percentile(counted, 50)), float(np.percentile(counted, 99))


def _champion(
    folder: Path, rows: pl.DataFrame, truth: Array, features: list[str]
) -> dict[str, Any]:
    """The version in service on the same rows."""
    path = folder / "champion.onnx"
    if not path.exists():
        return {}
    missing = [name for name in features if name not in rows.columns]
    if missing:
        return {"champion_objection": f"it needs {', '.join(missing)[:200]}, which is not there."}
    try:
        answers = _answers(_session(path), _matrix(rows, features))
    except Exception as error:
        return {"champion_objection": f"it cannot be run: {str(error)[:200]}"}
    return {"champion_accuracy": float(np.mean(answers == truth))}


def _selection_rates(rows: pl.DataFrame, answers: Array, asked: dict[str, Any]) -> dict[str, Any]:
    """The share of each group that is answered with the positive class (demographic parity)."""
    group = asked["group"]
    if group not in rows.columns:
        return {"group_objection": f"Its evaluation rows have no column {group} to group by."}
    selected = pl.DataFrame(
        {"group": rows[group].cast(pl.String), "selected": answers == asked["positive"]}
    )
    rates = selected.group_by("group").agg(pl.col("selected").mean()).sort("group")
    if not 2 <= rates.height <= GROUPS_MAX:
        return {
            "group_objection": f"The column {group} makes {rates.height} groups; 2 to {GROUPS_MAX} "
            "can be compared."
        }
    return {"selection_rates": {str(name): float(rate) for name, rate in rates.iter_rows()}}
