"""A pipeline's definition: data → steps → model, written in YAML by an engineer.

docs/reference/pipeline.md explains each field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from libs.common import yaml_text
from libs.common.errors import InvalidInputError
from services.trainer.core.steps import VERBS, Export, Select, Step, Strict, Train

DEFINITION_BYTES_MAX = 64 * 1024
DEFINITION_DEPTH_MAX = 16
STEPS_MAX = 32
FEATURES_MAX = 1_000
ERRORS_SHOWN_MAX = 5
COLUMNS_SHOWN_CHARACTERS_MAX = 500
MIB = 1024 * 1024
# Of `data`: a run names another dataset by itself, and another label is another pipeline.
FIXED = frozenset({"dataset", "label"})
# The data contract's types that a model can learn from.
NUMBERS = frozenset({"float", "integer", "boolean"})
REFERENCE = "docs/reference/pipeline.md"

# As Triton, Kafka and file systems all take it.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")]
Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Trigger = Literal["dataset_versioned", "drift_detected"]


class Data(Strict):
    dataset: Name
    label: Column
    # "all": every numeric column that is not the label, a key or ignored by the data contract.
    features: Literal["all"] | tuple[Column, ...] = "all"
    exclude: tuple[Column, ...] = Field(default=(), max_length=FEATURES_MAX)
    # Held-out rows evaluate the model that is kept; validation rows choose it.
    holdout_fraction: float = Field(default=0.2, ge=0.01, le=0.9)
    validation_fraction: float = Field(default=0.2, ge=0.01, le=0.9)
    seed: int = Field(default=7, ge=0, lt=2**32)

    @field_validator("features")
    @classmethod
    def _named_once(cls, features: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if features == "all":
            return features
        if not 1 <= len(features) <= FEATURES_MAX:
            raise ValueError(f"name 1 to {FEATURES_MAX} columns, or all")
        if len(set(features)) != len(features):
            raise ValueError("a column is named twice")
        return features

    @model_validator(mode="after")
    def _label_apart(self) -> Data:
        if self.label in self.named_features:
            raise ValueError(f"the label {self.label!r} is among the features: take it out of them")
        return self

    @property
    def named_features(self) -> tuple[str, ...]:
        return () if self.features == "all" else self.features

    def require_in(self, columns: Collection[str], dataset: str) -> None:
        """Raises InvalidInputError for a column to learn from that the dataset lacks."""
        for field, names in (("label", (self.label,)), ("features", self.named_features)):
            _require_columns(field, names, columns, dataset)

    def require_excluded_in(self, columns: Collection[str]) -> None:
        """Raises InvalidInputError for a column left out that the pipeline's dataset lacks."""
        _require_columns("exclude", self.exclude, columns, self.dataset)

    def require_types(self, types: Mapping[str, str], dataset: str) -> None:
        """As `require_in`, and for a column whose type in the data contract cannot be used."""
        self.require_in(types, dataset)
        if types[self.label] == "float":
            raise float_label(self.label)
        for column in self.named_features:
            if types[column] not in NUMBERS:
                raise not_a_number(column, types[column])


def _require_columns(
    field: str, names: Iterable[str], columns: Collection[str], dataset: str
) -> None:
    for column in names:
        if column not in columns:
            raise InvalidInputError(
                f"The dataset {dataset} has no column {column!r}.",
                which=column,
                next_step=f"Name one that it has in data.{field}:"
                f" {', '.join(columns)[:COLUMNS_SHOWN_CHARACTERS_MAX]}.",
            )


def float_label(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"The label {name!r} is a float; a classification's label is a string, an integer"
        " or a boolean.",
        which=name,
        next_step="Name another column in data.label, or change its type in the contract.",
    )


def not_a_number(feature: str, is_of: str) -> InvalidInputError:
    return InvalidInputError(
        f"The feature {feature!r} is not a number: its type is {is_of}.",
        which=feature,
        next_step="Leave it out of data.features, or ingest it as a number.",
    )


class ModelOutput(Strict):
    name: Name
    task: Literal["classification"] = "classification"


class Fairness(Strict):
    """A limit on how differently the groups of a column are answered."""

    column: Column
    selection_rate_difference_max: float = Field(default=0.1, ge=0, le=1)


class Gates(Strict):
    """What `inference` measures again before anyone may approve."""

    accuracy_min: float = Field(default=0.0, ge=0, le=1)
    accuracy_drop_max: float = Field(default=0.02, ge=0, le=1)
    latency_ms_p99_max: float = Field(default=100.0, gt=0)
    # Of the dataset's rows, those that lack no value.
    rows_used_min: float = Field(default=0.5, ge=0, le=1)
    fairness: Fairness | None = None


class Limits(Strict):
    """What a job may use at the most; beyond it the job ends as failed."""

    time_s: float = Field(default=3_600.0, ge=1, le=7 * 24 * 3_600)
    # Resident memory of the training process, libraries included (torch alone holds some 400 MiB).
    memory_bytes: int = Field(default=4_096 * MIB, ge=256 * MIB)
    # Also part of the result: floating-point sums differ with the number of threads.
    threads: int = Field(default=1, ge=1, le=256)


class Definition(Strict):
    name: Name
    description: str = Field(default="", max_length=4_000)
    data: Data
    steps: tuple[SerializeAsAny[Step], ...] = Field(min_length=1, max_length=STEPS_MAX)
    model: ModelOutput
    gates: Gates = Gates()
    triggers: tuple[Trigger, ...] = ()
    limits: Limits = Limits()

    @field_validator("steps", mode="before")
    @classmethod
    def _by_verb(cls, steps: object) -> object:
        if not isinstance(steps, list | tuple):
            raise ValueError("steps is a list")
        return tuple(_step(position, each) for position, each in enumerate(steps))

    @model_validator(mode="after")
    def _in_order(self) -> Definition:
        trained = [step.name for step in self.trains]
        if not trained:
            raise ValueError("steps need at least one `train`")
        if len(set(trained)) != len(trained):
            raise ValueError("two `train` steps have the same name: tell them apart with `as`")
        kinds = [type(step) for step in self.steps]
        if len(trained) > 1 and Select not in kinds:
            raise ValueError("several `train` steps need a `select` that chooses between them")
        if kinds.count(Select) > 1 or kinds.count(Export) != 1 or kinds[-1] is not Export:
            raise ValueError("steps have at most one `select` and end with their one `export`")
        if Select in kinds and Train in kinds[kinds.index(Select) :]:
            raise ValueError("`select` comes after every `train`")
        return self

    @property
    def trains(self) -> list[Train]:
        return [step for step in self.steps if isinstance(step, Train)]

    @property
    def baseline(self) -> Train:
        """What the model is compared with: the step called `baseline`, or else the first."""
        named = [step for step in self.trains if step.name == "baseline"]
        return (named or self.trains)[0]

    def document(self) -> dict[str, Any]:
        """The definition as `parse` and `from_document` take it, with every default written out."""
        return self.model_dump(mode="json", by_alias=True)


def _step(position: int, value: object) -> Step:
    if isinstance(value, Step):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"step {position} is no mapping; write `- train: mlp`, for example")
    verbs = [verb for verb in VERBS if verb in value]
    if len(verbs) != 1:
        raise ValueError(f"step {position} needs one of {', '.join(VERBS)}")
    try:
        return VERBS[verbs[0]].read(value)
    except ValidationError as error:
        raise ValueError(f"step {position} ({verbs[0]}): {'; '.join(_lines(error))}") from error
    except ValueError as error:
        raise ValueError(f"step {position}: {error}") from error


def parse(definition_yaml: str) -> Definition:
    """Raises InvalidInputError naming each field that cannot be taken."""
    if len(definition_yaml.encode()) > DEFINITION_BYTES_MAX:
        raise InvalidInputError(
            f"The pipeline's definition is over {DEFINITION_BYTES_MAX} bytes.",
            which="definition_yaml",
            next_step="Keep data out of it: it names a dataset.",
        )
    try:
        document = yaml_text.load(definition_yaml, DEFINITION_DEPTH_MAX)
    except yaml_text.YamlError as error:
        raise InvalidInputError(
            f"The pipeline's definition cannot be read: {error}.",
            which="definition_yaml",
            next_step=f"Mend that line; {REFERENCE} shows an example.",
        ) from error
    return from_document(document)


def from_document(document: object) -> Definition:
    if not isinstance(document, Mapping):
        raise InvalidInputError(
            "The pipeline's definition is not a mapping of fields.",
            which="definition_yaml",
            next_step=f"Begin with `name:`; {REFERENCE} shows an example.",
        )
    try:
        return Definition.model_validate(dict(document))
    except ValidationError as error:
        raise _invalid(error) from error


def with_parameters(definition: Definition, parameters: Mapping[str, str]) -> Definition:
    """The definition with `mlp.epochs` or `data.seed` replaced; values are read as YAML.

    The first part is a `train` step's name, `data` or `limits`.
    """
    if not parameters:
        return definition
    document = definition.document()
    for path, text in parameters.items():
        part, _, field = path.partition(".")
        target = _overridable(document, part)
        if field not in target or field in FIXED:
            places = [*(step.name for step in definition.trains), "data", "limits"]
            there = [f"{part}.{each}" for each in target if each not in FIXED]
            raise InvalidInputError(
                f"The pipeline {definition.name} has no parameter {path!r}.",
                which=path,
                next_step=f"Name one of {', '.join(there)}."
                if there
                else f"Write <step>.<parameter>, where step is one of {', '.join(places)}.",
            )
        try:
            target[field] = yaml_text.load(text, DEFINITION_DEPTH_MAX)
        except yaml_text.YamlError as error:
            raise InvalidInputError(
                f"The value of the parameter {path!r} cannot be read.",
                which=path,
                next_step="Write it as in YAML: 60, 0.01, [64, 32].",
            ) from error
    return from_document(document)


def _overridable(document: dict[str, Any], part: str) -> dict[str, Any]:
    """The parameters of that name; none where there is nothing of the name."""
    for step in document["steps"]:
        if step.get("as") == part:
            return step["parameters"]
    return document[part] if part in {"data", "limits"} else {}


def _invalid(error: ValidationError) -> InvalidInputError:
    return InvalidInputError(
        f"The pipeline's definition cannot be taken: {'; '.join(_lines(error))}.",
        which=_path(error.errors()[0]["loc"]) or "steps",
        next_step=f"Mend what is named; {REFERENCE} explains each field.",
    )


def _lines(error: ValidationError) -> Iterable[str]:
    errors = error.errors(include_url=False, include_input=False)
    for each in errors[:ERRORS_SHOWN_MAX]:
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            message = "no such field"
        path = _path(each["loc"])
        yield f"{path}: {message}" if path else message
    if len(errors) > ERRORS_SHOWN_MAX:
        yield f"and {len(errors) - ERRORS_SHOWN_MAX} more"


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


class PipelineState(BaseModel):
    """What the journal keeps of a pipeline; its version there is the pipeline's revision."""

    name: str
    definition_yaml: str
    dataset: str
    model: str
    triggers: tuple[Trigger, ...]
    owner: str
    # Who wrote this revision or one before it; none: from before that was kept.
    writers: tuple[str, ...] = ()
