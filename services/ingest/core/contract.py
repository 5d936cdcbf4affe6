"""A source's data contract: the columns, types, units and ranges that its records keep to.

Written as YAML by people (docs/reference/data-contract.md); an error names line, field and what to
do about it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from libs.common import yaml_text
from libs.common.errors import InvalidInputError
from services.ingest.core.moments import zone_of

CONTRACT_BYTES_MAX = 256 * 1024
CONTRACT_DEPTH_MAX = 8
COLUMNS_MAX = 500
ALLOWED_VALUES_MAX = 1_000
ERRORS_SHOWN_MAX = 10
NEXT_STEP = "Correct the contract and put it again; docs/reference/data-contract.md shows one."

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")]
# Names that begin with an underscore are Basalt's own columns.
ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_ .:/()%-]{0,127}$")]
Type = Literal["float", "integer", "string", "boolean", "timestamp"]
Scalar = bool | int | float | str


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Column(_Strict):
    name: ColumnName
    type: Type
    unit: str = Field("", max_length=32)
    minimum: float | None = None
    maximum: float | None = None
    allowed: list[Scalar] | None = Field(None, min_length=1, max_length=ALLOWED_VALUES_MAX)
    required: bool = True
    # Texts in CSV may have lines that look like rows.
    line_ends: bool = False
    # Of times that say no offset: an IANA name, such as Europe/Berlin.
    timezone: str = ""
    role: Literal["feature", "label", "key", "ignored"] = "feature"
    description: str = ""

    @property
    def numeric(self) -> bool:
        return self.type in ("float", "integer")

    @model_validator(mode="after")
    def _consistent(self) -> Column:
        least, most = self.minimum, self.maximum
        if not self.numeric and (least is not None or most is not None):
            raise ValueError(f"a {self.type} column has no minimum and no maximum")
        if least is not None and most is not None and least > most:
            raise ValueError(f"minimum {least} is above maximum {most}")
        if self.line_ends and self.type != "string":
            raise ValueError(f"a {self.type} column has no line ends")
        if self.timezone and self.type != "timestamp":
            raise ValueError(f"a {self.type} column has no timezone")
        if self.timezone and zone_of(self.timezone) is None:
            raise ValueError(f"timezone {self.timezone!r} is not known: write Europe/Berlin or UTC")
        if self.type == "timestamp" and self.allowed is not None:
            raise ValueError("a timestamp column has no list of allowed values")
        for value in self.allowed or ():
            if type(value) not in PLAIN_TYPES[self.type]:
                raise ValueError(f"allowed value {value!r} is not of type {self.type}")
        return self


# The Python types, as JSON gives them, of each column type.
PLAIN_TYPES: dict[str, frozenset[type]] = {
    "float": frozenset({float, int}),
    "integer": frozenset({int}),
    "string": frozenset({str}),
    "boolean": frozenset({bool}),
    "timestamp": frozenset({str}),
}


class Versioning(_Strict):
    every_rows: int | None = Field(default=None, ge=1)


class Contract(_Strict):
    name: Name
    description: str = ""
    key: list[str] = Field(default_factory=list)
    columns: list[Column] = Field(min_length=1, max_length=COLUMNS_MAX)
    label: str | None = None
    # Kafka has each record on disk before it acknowledges it: slower, and proof to a power cut.
    durable: bool = False
    versioning: Versioning = Versioning()

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that tell one business object from another; none: every event is one."""
        return tuple(self.key) or tuple(each.name for each in self.columns if each.role == "key")

    @property
    def label_column(self) -> str | None:
        labels = [each.name for each in self.columns if each.role == "label"]
        return self.label or (labels[0] if labels else None)

    def column(self, name: str) -> Column | None:
        return next((each for each in self.columns if each.name == name), None)

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        names = [each.name for each in self.columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"column {name!r} is named twice")
        labels = {each.name for each in self.columns if each.role == "label"}
        if len(labels | ({self.label} if self.label else set())) > 1:
            raise ValueError("there is more than one label")
        for name in (*self.keys, *([self.label] if self.label else [])):
            if name not in names:
                raise ValueError(f"{name!r} is not one of the columns")
        for name in self.keys:
            column = self.column(name)
            if column is not None and (not column.required or column.type == "float"):
                raise ValueError(f"key column {name!r} must be required, and no float")
        return self


def parse(text: str) -> Contract:
    """Raises InvalidInputError that names the line and the field of each fault."""
    if len(text.encode()) > CONTRACT_BYTES_MAX:
        raise InvalidInputError(
            f"The contract is over {CONTRACT_BYTES_MAX} bytes.",
            which="contract_yaml",
            next_step="Describe fewer columns, or give fewer `allowed` values.",
        )
    try:
        raw, root = yaml_text.read(text, CONTRACT_DEPTH_MAX)
    except yaml_text.YamlError as error:
        raise _refusal([str(error)]) from error
    if not isinstance(raw, dict):
        raise _refusal(["line 1: a contract is a mapping with `name` and `columns`"])
    try:
        return Contract.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(root, each["loc"], each["msg"]) for each in error.errors()]
        raise _refusal(faults) from error


def _refusal(faults: list[str]) -> InvalidInputError:
    shown = "; ".join(faults[:ERRORS_SHOWN_MAX])
    more = len(faults) - ERRORS_SHOWN_MAX
    rest = f"; and {more} more" if more > 0 else ""
    return InvalidInputError(
        f"The contract does not hold: {shown}{rest}.", which="contract_yaml", next_step=NEXT_STEP
    )


def _fault(root: yaml.Node | None, location: tuple[int | str, ...], message: str) -> str:
    """A fault with the line of the innermost thing in the file that it is about."""
    node, field = root, ""
    for part in location:
        found = _child(node, part)
        if isinstance(part, int):
            field += f"[{part}]"
        elif found is not None or node is None or isinstance(node, yaml.MappingNode):
            field += f".{part}" if field else part
        if found is None:
            break
        node = found
    line = node.start_mark.line + 1 if node is not None else 1
    text = message.removeprefix("Value error, ")
    return f"line {line}: {field or 'contract'}: {text[0].lower()}{text[1:]}"


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def check_change(old: Contract, new: Contract, *, rows_accepted: bool) -> None:
    """Whether the rows accepted so far can live under the new contract.

    Raises InvalidInputError: types and units of a column stay, since nothing is converted silently.
    """
    faults: list[str] = []
    for column in new.columns:
        before = old.column(column.name)
        if before is None:
            if column.required and rows_accepted:
                faults.append(
                    f"column {column.name!r} is new and required, but accepted rows lack it:"
                    " make it `required: false`"
                )
            continue
        if before.type != column.type and (before.type, column.type) != ("integer", "float"):
            faults.append(f"column {column.name!r} was {before.type} and would be {column.type}")
        if before.unit != column.unit:
            faults.append(
                f"column {column.name!r} was in {before.unit or 'no unit'} and would be in"
                f" {column.unit or 'no unit'}"
            )
        if before.timezone and before.timezone != column.timezone:
            faults.append(
                f"column {column.name!r} had times of {before.timezone} and would have times of"
                f" {column.timezone or 'no zone'}"
            )
        if column.required and not before.required and rows_accepted:
            faults.append(f"column {column.name!r} was optional: accepted rows may lack it")
    if rows_accepted and faults:
        raise InvalidInputError(
            f"The contract of {new.name} cannot change like this: {'; '.join(faults)}.",
            which=new.name,
            next_step="Make a new source for records of another meaning.",
        )
