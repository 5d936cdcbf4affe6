"""What an algorithm is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.trainer.training.checkpoints import Checkpoints
from services.trainer.training.report import Report
from services.trainer.training.rows import Features, Rows


@dataclass(frozen=True, slots=True)
class Session:
    """`progress` takes the fraction of the step that is done, and says whether it was told on."""

    step: str
    rows: Rows
    seed: int
    checkpoints: Checkpoints
    report: Report
    progress: Callable[[float], bool]


class Fitted(Protocol):
    """A model that has learned, whatever it is made of."""

    def probabilities(self, features: Features) -> NDArray[np.floating]:
        """[rows, classes], as the library that fitted it computes them."""
        ...

    def export(self, file: Path) -> None:
        """Writes ONNX: features FP32 [batch, n] → label INT64 [batch], probabilities FP32."""
        ...
