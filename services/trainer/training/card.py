"""The model card: what a reviewer reads. After Mitchell et al., Model Cards for Model Reporting."""

from __future__ import annotations

import numpy as np

from services.trainer.core.order import Order
from services.trainer.training.candidate import Result
from services.trainer.training.export import PROBABILITY_DIFFERENCE_MAX
from services.trainer.training.rows import Labels, Rows

FEATURES_SHOWN_MAX = 60
CLASSES_SHOWN_MAX = 30


def write(order: Order, rows: Rows, result: Result) -> str:
    pipeline = order.pipeline
    return (
        "\n\n".join(
            [
                f"# {pipeline.model.name}",
                pipeline.description or f"{pipeline.model.task} of {pipeline.data.label}.",
                f"## Purpose\n\nAnswers `{pipeline.data.label}` with one of"
                f" {len(rows.classes)} classes ({_some(rows.classes, CLASSES_SHOWN_MAX)}), and the"
                " probability of each.",
                f"## Data\n\n{_data(order, rows)}",
                f"## Metrics\n\n{_metrics(result)}",
                f"## Limits\n\n{_limits(rows, result)}",
                f"## Lineage\n\n{_lineage(order)}",
            ]
        )
        + "\n"
    )


def _data(order: Order, rows: Rows) -> str:
    parts = {
        "training": rows.training.labels,
        "validation": rows.validation.labels,
        "evaluation (held out)": rows.evaluation.labels,
    }
    lines = ["| part | rows | rows by class |", "|---|---|---|"]
    lines += [f"| {name} | {len(part)} | {_counts(part, rows)} |" for name, part in parts.items()]
    lines += ["", f"{rows.count} of the dataset's {rows.read} rows ({rows.used:.1%}) are used."]
    lines += ["", f"{len(rows.features)} features: {_some(rows.features, FEATURES_SHOWN_MAX)}."]
    lines += [f"\nNote: {note}." for note in rows.notes]
    return "\n".join(lines)


def _metrics(result: Result) -> str:
    said = f"On held-out rows; `{result.kept}` was kept by its validation rows."
    columns = {result.kept: result.metrics}
    if result.kept == result.baseline:
        said += " It is the baseline itself: there is nothing to compare it with."
    else:
        columns[f"{result.baseline} (baseline)"] = result.baseline_metrics
    lines = [said, "", _cells("metric", *columns), _cells(*["---"] * (1 + len(columns)))]
    lines += [
        _cells(name, *(f"{measured[name]:.4f}" for measured in columns.values()))
        for name in result.metrics
    ]
    return "\n".join(lines)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _limits(rows: Rows, result: Result) -> str:
    return "\n".join(
        [
            f"- It has seen {len(rows.training)} rows; beyond their ranges it guesses.",
            "- Its probabilities are not calibrated beyond what the log loss shows.",
            "- Rows that lack a feature cannot be answered: there is no imputation.",
            f"- The served form differs from the trained one by at most"
            f" {result.probability_difference:.1e} in a probability"
            f" ({PROBABILITY_DIFFERENCE_MAX:g} is allowed).",
        ]
    )


def _lineage(order: Order) -> str:
    return "\n".join(
        [
            f"- dataset {order.dataset}, version {order.dataset_version},"
            f" manifest {order.dataset_manifest_sha256}",
            f"- pipeline {order.pipeline.name}, revision {order.pipeline_revision}",
            f"- job {order.job}, trace {order.trace_id or 'not recorded'}",
            f"- author {order.author}",
        ]
    )


def _counts(labels: Labels, rows: Rows) -> str:
    counts = np.bincount(labels, minlength=len(rows.classes))
    pairs = [f"{name}: {count}" for name, count in zip(rows.classes, counts, strict=True)]
    return _some(pairs, CLASSES_SHOWN_MAX)


def _some(names: tuple[str, ...] | list[str], most: int) -> str:
    shown = ", ".join(str(name).replace("|", "\\|") for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
