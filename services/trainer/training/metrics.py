"""How well probabilities fit labels; scikit-learn's definitions."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from services.trainer.core.steps import LESS_IS_BETTER
from services.trainer.training.rows import Labels

DIGITS = 6


def measure(probabilities: NDArray[np.floating], labels: Labels) -> dict[str, float]:
    """accuracy, balanced_accuracy, f1_macro, log_loss, and roc_auc where every class occurs."""
    answers = probabilities.argmax(axis=1)
    classes = np.arange(probabilities.shape[1])
    present = np.unique(labels)
    recalls = [float((answers[labels == each] == each).mean()) for each in present]
    # scikit-learn wants rows that sum to one in 64 bits.
    wide = probabilities.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    measured = {
        "accuracy": float((answers == labels).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "f1_macro": float(
            metrics.f1_score(labels, answers, average="macro", zero_division=cast("Any", 0))
        ),
        "log_loss": float(metrics.log_loss(labels, wide, labels=classes)),
    }
    if len(present) == len(classes):
        scores = cast("Any", wide[:, 1] if len(classes) == 2 else wide)
        measured["roc_auc"] = float(metrics.roc_auc_score(labels, scores, multi_class="ovr"))
    return {name: round(value, DIGITS) for name, value in measured.items()}


def better(metric: str, one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether `one` is strictly better. A metric that could not be measured is the worst."""
    if metric not in one or metric not in other:
        return metric in one
    return one[metric] < other[metric] if metric in LESS_IS_BETTER else one[metric] > other[metric]
