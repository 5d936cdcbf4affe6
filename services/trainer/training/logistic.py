"""Logistic regression by scikit-learn: the baseline that a larger model has to beat."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Solver
from torch import nn

from services.trainer.core.steps import LogisticRegression
from services.trainer.training.network import DenseNetwork, FittedNetwork
from services.trainer.training.rows import Features
from services.trainer.training.session import Session


@dataclass(frozen=True, slots=True)
class FittedRegression:
    """`network` is the same function as one dense layer, in the form that is exported."""

    solver: Solver
    network: DenseNetwork

    def probabilities(self, features: Features) -> NDArray[np.floating]:
        return self.solver.predict_proba(_standardised(self.network, features))

    def export(self, file: Path) -> None:
        FittedNetwork(self.network).export(file)


def fit(parameters: LogisticRegression, session: Session) -> FittedRegression:
    part, classes = session.rows.training, len(session.rows.classes)
    network = DenseNetwork([part.features.shape[1], classes])
    network.standardise(part.features)
    solver = Solver(
        C=parameters.c,
        max_iter=parameters.iterations_max,
        class_weight=None if parameters.class_weight == "none" else "balanced",
        random_state=session.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            solver.fit(_standardised(network, part.features), part.labels)
        except ConvergenceWarning:
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(_standardised(network, part.features), part.labels)
            session.report.log(
                f"{session.step}: not converged after {parameters.iterations_max} iterations;"
                " raise iterations_max."
            )
    _copy(solver, network)
    session.progress(1.0)
    return FittedRegression(solver, network)


def _standardised(network: DenseNetwork, features: Features) -> NDArray[np.float64]:
    mean, scale = network.mean.numpy(), network.scale.numpy()
    return (features.astype(np.float64) - mean) / scale


def _copy(solver: Solver, network: DenseNetwork) -> None:
    """The solver's coefficients as the logits of every class."""
    weight, bias = np.atleast_2d(solver.coef_), np.atleast_1d(solver.intercept_)
    if len(weight) == 1:
        # Of two classes the solver keeps one logit: softmax of (0, z) is the sigmoid of z.
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    layer = network.layers[0]
    assert isinstance(layer, nn.Linear)  # noqa: S101 - the constructor made it so.
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
