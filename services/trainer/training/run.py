"""Runs the steps of a pipeline, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.trainer.core.order import DATA_FILE, ORDER_FILE, Order
from services.trainer.core.pipeline import Definition
from services.trainer.core.steps import Export, Select, Step, Train
from services.trainer.training import candidate, card, metrics, rows
from services.trainer.training.algorithms import ALGORITHMS
from services.trainer.training.candidate import Result
from services.trainer.training.checkpoints import Checkpoints
from services.trainer.training.export import require_alike
from services.trainer.training.report import Report
from services.trainer.training.rows import Rows
from services.trainer.training.session import Fitted, Session


@dataclass(slots=True)
class Run:
    """What the steps so far have come to."""

    folder: Path
    order: Order
    pipeline: Definition
    rows: Rows
    threads: int
    report: Report
    checkpoints: Checkpoints
    fitted: dict[str, Fitted] = field(default_factory=dict)
    validation_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    kept: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    def progress(self, position: int, name: str, fraction: float) -> bool:
        """`position` of the step among all; each step counts alike."""
        done = (position + fraction) / len(self.pipeline.steps)
        return self.report.progress(name, min(done, 1.0))


def train(folder: Path, threads: int, report: Report) -> None:
    """Raises BasaltError for what cannot be trained: it says what, which and what next."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    order_json = (folder / ORDER_FILE).read_bytes()
    order = Order.model_validate_json(order_json)
    report.progress("reading", 0.0)
    loaded = rows.load(folder / DATA_FILE, order)
    for note in loaded.notes:
        report.log(f"Note: {note}.")
    report.log(
        f"{len(loaded.training)} rows to train, {len(loaded.validation)} to choose,"
        f" {len(loaded.evaluation)} held out; {len(loaded.features)} features,"
        f" {len(loaded.classes)} classes."
    )
    checkpoints = Checkpoints(folder, _digest(order, threads), order.checkpoint_every_s, report)
    run = Run(folder, order, order.pipeline, loaded, threads, report, checkpoints)
    for position, step in enumerate(run.pipeline.steps):
        STEPS[type(step)](run, step, position)
    report.finished(run.metrics)


def _train(run: Run, step: Train, position: int) -> None:
    run.progress(position, step.name, 0.0)
    session = Session(
        step=step.name,
        rows=run.rows,
        seed=run.pipeline.data.seed,
        checkpoints=run.checkpoints,
        report=run.report,
        progress=partial(run.progress, position, step.name),
    )
    fitted = ALGORITHMS[step.train](step.parameters, session)
    validation = run.rows.validation
    measured = metrics.measure(fitted.probabilities(validation.features), validation.labels)
    run.fitted[step.name], run.validation_metrics[step.name] = fitted, measured
    run.kept = run.kept or step.name
    run.report.log(f"{step.name}: on validation rows {_shown(measured)}")


def _select(run: Run, step: Select, position: int) -> None:
    """Keeps the best; of equals the one that comes first, which is the simpler by custom."""
    run.progress(position, "select", 0.0)
    for name, measured in run.validation_metrics.items():
        if metrics.better(step.select, measured, run.validation_metrics[run.kept]):
            run.kept = name
    run.report.log(f"Kept by {step.select}: {run.kept}.")


def _export(run: Run, _step: Export, position: int) -> None:
    run.progress(position, "export", 0.0)
    file = run.folder / candidate.MODEL_FILE
    kept, held_out = run.fitted[run.kept], run.rows.evaluation
    kept.export(file)
    run.progress(position, "compare", 0.7)
    difference = max(
        require_alike(file, part.features, kept.probabilities(part.features), run.threads)
        for part in (run.rows.training, run.rows.validation, held_out)
    )
    baseline = run.pipeline.baseline.name
    compared = run.fitted[baseline].probabilities(held_out.features)
    measured = metrics.measure(kept.probabilities(held_out.features), held_out.labels)
    run.metrics = {**measured, candidate.ROWS_USED: run.rows.used}
    result = Result(
        kept=run.kept,
        metrics=measured,
        baseline=baseline,
        baseline_metrics=metrics.measure(compared, held_out.labels),
        validation_metrics=run.validation_metrics,
        probability_difference=difference,
    )
    run.report.log(f"{run.kept}: on held-out rows {_shown(result.metrics)}")
    run.report.log(f"ONNX answers alike: at most {difference:.1e} apart in a probability.")
    training = run.rows.training.features
    candidate.write_reference(run.folder, run.rows, kept.probabilities(training))
    candidate.write_evaluation(run.folder, run.rows)
    (run.folder / candidate.CARD_FILE).write_text(card.write(run.order, run.rows, result))
    candidate.write_manifest(run.folder, run.order, run.rows, result)
    run.progress(position, "export", 1.0)


# What runs each kind of step of core/steps.py.
STEPS: dict[type[Step], Callable[[Run, Any, int], None]] = {
    Train: _train,
    Select: _select,
    Export: _export,
}


def _digest(order: Order, threads: int) -> str:
    """Of everything that weights depend on: checkpoints of another order are not used."""
    about = order.model_dump_json(include={"definition", "dataset_manifest_sha256"})
    return hashlib.sha256(f"{about}\n{threads}".encode()).hexdigest()


def _shown(measured: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
