"""The steps a pipeline may have. A new one is a class here and a function in `training/`.

train    fits a model; the parameters are those of its algorithm
select   keeps the fitted model that does best on the validation rows
export   writes the model that is kept
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, StringConstraints

LAYERS_MAX = 8
LAYER_WIDTH_MAX = 4_096
EPOCHS_MAX = 100_000
BATCH_ROWS_MAX = 65_536

StepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Metric = Literal["accuracy", "balanced_accuracy", "f1_macro", "roc_auc", "log_loss"]
# Of every other metric more is better.
LESS_IS_BETTER = frozenset({"log_loss"})


class Strict(BaseModel):
    """A piece of the definition; a field that it does not know is an error, not a surprise."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class LogisticRegression(Strict):
    # The inverse of the strength of L2 regularisation, as scikit-learn's C.
    c: float = Field(default=1.0, gt=0, le=1e6)
    iterations_max: int = Field(default=1_000, ge=1, le=100_000)
    class_weight: Literal["none", "balanced"] = "none"


class Mlp(Strict):
    """A multi-layer perceptron with ReLU, fitted by AdamW."""

    hidden: tuple[Annotated[int, Field(ge=1, le=LAYER_WIDTH_MAX)], ...] = Field(
        default=(64,), min_length=1, max_length=LAYERS_MAX
    )
    epochs: int = Field(default=60, ge=1, le=EPOCHS_MAX)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    batch_rows: int = Field(default=32, ge=1, le=BATCH_ROWS_MAX)
    weight_decay: float = Field(default=1e-2, ge=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    class_weight: Literal["none", "balanced"] = "none"


# What `train` may name; `training/algorithms.py` holds the function of each.
PARAMETERS: dict[str, type[Strict]] = {
    "logistic_regression": LogisticRegression,
    "mlp": Mlp,
}


class Step(Strict):
    """One step; its verb is the field of that name."""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Step:
        """Raises pydantic's ValidationError, or ValueError in our own words."""
        return cls.model_validate(dict(document))


class Train(Step):
    train: str
    parameters: SerializeAsAny[Strict]
    # What metrics, overrides and the card call it; the algorithm's name if not given.
    name: StepName = Field(alias="as")

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Step:
        algorithm = document["train"]
        if not isinstance(algorithm, str) or algorithm not in PARAMETERS:
            raise ValueError(f"train knows {', '.join(sorted(PARAMETERS))}, not {algorithm!r}")
        given = document.get("parameters") or {}
        if not isinstance(given, Mapping):
            raise ValueError("parameters is a mapping, such as {epochs: 60}")
        parameters = PARAMETERS[algorithm].model_validate(dict(given))
        return cls.model_validate({"as": algorithm, **document, "parameters": parameters})


class Select(Step):
    select: Metric


class Export(Step):
    export: Literal["onnx"]


VERBS: dict[str, type[Step]] = {"train": Train, "select": Select, "export": Export}


def verb_of(step: Step) -> str:
    return next(verb for verb, kind in VERBS.items() if isinstance(step, kind))
