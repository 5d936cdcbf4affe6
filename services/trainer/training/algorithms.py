"""The algorithms that `train` may name, one function each: see core/steps.py for parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.trainer.training import logistic, mlp
from services.trainer.training.session import Fitted, Session

# Parameters are an instance of the class that core/steps.py has under the same name.
ALGORITHMS: dict[str, Callable[[Any, Session], Fitted]] = {
    "logistic_regression": logistic.fit,
    "mlp": mlp.fit,
}
