"""Dense networks with their standardisation inside, so that callers send raw values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.trainer.training.export import write_dense
from services.trainer.training.rows import Features, Part

# Rows that go through a network at once when it only answers.
ANSWER_ROWS = 16_384


class DenseNetwork(nn.Module):
    """features FP32 [batch, columns] → logits FP32 [batch, classes]."""

    mean: Tensor
    scale: Tensor

    def __init__(self, widths: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(widths[0]))
        self.register_buffer("scale", torch.ones(widths[0]))
        layers: list[nn.Module] = []
        for position, (inner, outer) in enumerate(pairwise(widths)):
            if position:
                layers.append(nn.ReLU())
                if dropout:
                    layers.append(nn.Dropout(dropout))
            layers.append(nn.Linear(inner, outer))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.scale)

    def standardise(self, features: Features) -> None:
        """Learns mean and standard deviation, in 64 bits; a constant column keeps its scale."""
        wide = features.astype(np.float64)
        deviation = wide.std(axis=0).astype(np.float32)
        deviation[deviation == 0.0] = 1.0
        self.mean.copy_(torch.from_numpy(wide.mean(axis=0)))
        self.scale.copy_(torch.from_numpy(deviation))


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    network: DenseNetwork

    def probabilities(self, features: Features) -> NDArray[np.floating]:
        self.network.eval()
        with torch.no_grad():
            answers = [
                torch.softmax(self.network(torch.from_numpy(some)), dim=1).numpy()
                for some in np.split(features, range(ANSWER_ROWS, len(features), ANSWER_ROWS))
            ]
        return np.concatenate(answers)

    def export(self, file: Path) -> None:
        layers = [
            (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            for layer in self.network.layers
            if isinstance(layer, nn.Linear)
        ]
        write_dense(self.network.mean.numpy(), self.network.scale.numpy(), layers, file)


def class_weights(part: Part, classes: int, kind: str) -> NDArray[np.float64] | None:
    """Weights that make every class count alike: n / (classes · n_c), as scikit-learn's."""
    if kind == "none":
        return None
    return len(part) / (classes * np.bincount(part.labels, minlength=classes))
