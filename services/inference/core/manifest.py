"""A candidate's manifest: the list of its files, and what it says of itself.

The files' names and digests bind; its metrics are claims, which the gates measure again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from libs.common.errors import IntegrityError, InvalidInputError
from services.inference.core import names

FORMAT = "basalt.model/1"
MANIFEST = "manifest.json"
MODEL = "model.onnx"
EVALUATION = "evaluation.parquet"
CARD = "card.md"
# What a model may be made of. Nothing here runs code when it is read.
ENDINGS = frozenset({".onnx", ".safetensors", ".parquet", ".md", ".json"})

MANIFEST_BYTES_MAX = 256 * 1024
FILE_BYTES_MAX = 512 * 1024 * 1024
FILES_BYTES_MAX = 1024 * 1024 * 1024
FILES_MAX = 64
CARD_BYTES_MAX = 64 * 1024
COLUMNS_MAX = 2_000
RESPONSIBLE_MAX = 256

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]

# A person, or "key:<name>/<id>".
Answerable = Annotated[str, StringConstraints(min_length=1, max_length=256)]


ClassType = Literal["", "string", "integer", "boolean"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class File(_Frozen):
    name: FileName
    sha256: Sha256
    size_bytes: int = Field(ge=0, le=FILE_BYTES_MAX)


class Tensor(_Frozen):
    """`shape` counts rows first; -1 where any size goes."""

    name: str = Field(min_length=1, max_length=128)
    datatype: Literal["BOOL", "FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8"]
    shape: tuple[int, ...] = Field(min_length=1, max_length=8)


class Lineage(_Frozen):
    dataset: str = ""
    dataset_version: int = 0
    dataset_manifest_sha256: str = ""
    pipeline: str = ""
    pipeline_revision: int = 0
    job: str = ""
    trace_id: str = ""


class FairnessLimit(_Frozen):
    """Groups are the values of `column` in the evaluation rows: at most a handful."""

    column: str
    # Between the groups, in the share of rows answered with the positive (the last) class.
    selection_rate_difference_max: Annotated[float, Field(ge=0, le=1)] = 0.1


class GateLimits(_Frozen):
    accuracy_min: Annotated[float, Field(ge=0, le=1)] = 0.0
    accuracy_drop_max: Annotated[float, Field(ge=0, le=1)] = 0.02
    latency_ms_p99_max: Annotated[float, Field(gt=0)] = 100.0
    # Manifests of before this was kept do not say what they used.
    rows_used_min: Annotated[float, Field(ge=0, le=1)] = 0.0
    fairness: FairnessLimit | None = None


class Manifest(_Frozen):
    format: Literal["basalt.model/1"]
    model: str
    files: tuple[File, ...] = Field(min_length=1, max_length=FILES_MAX)
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=16)
    outputs: tuple[Tensor, ...] = Field(min_length=1, max_length=16)
    features: tuple[str, ...] = Field(min_length=1, max_length=COLUMNS_MAX)
    classes: tuple[str, ...] = Field((), max_length=COLUMNS_MAX)
    # Of the column that they are values of; empty in models from before it was kept.
    class_type: ClassType = ""
    metrics: dict[str, float] = {}
    baseline_metrics: dict[str, float] = {}
    lineage: Lineage = Lineage()
    author: str = Field(min_length=1, max_length=256)
    # The author, and everyone who wrote the pipeline; empty in models from before that was kept.
    responsible: tuple[Answerable, ...] = Field((), max_length=RESPONSIBLE_MAX)
    gates: GateLimits = GateLimits()

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        listed = [file.name for file in self.files]
        if len(set(listed)) != len(listed) or MANIFEST in listed:
            raise ValueError("files must be named once each, and the manifest not at all")
        for wanted in (MODEL, EVALUATION, CARD):
            if wanted not in listed:
                raise ValueError(f"files lack {wanted}")
        for name in listed:
            if PurePosixPath(name).suffix not in ENDINGS:
                allowed = ", ".join(sorted(ENDINGS))
                raise ValueError(f"{name} is none of {allowed}: nothing else may be in a model")
        if sum(file.size_bytes for file in self.files) > FILES_BYTES_MAX:
            raise ValueError(f"files are over {FILES_BYTES_MAX} bytes together")
        if self.file(CARD).size_bytes > CARD_BYTES_MAX:
            raise ValueError(f"{CARD} is over {CARD_BYTES_MAX} bytes")
        return self

    def file(self, name: str) -> File:
        return next(file for file in self.files if file.name == name)


def answers(outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs as callers get them: Triton gives each row at least one dimension."""
    return tuple(
        output if len(output.shape) > 1 else output.model_copy(update={"shape": (-1, 1)})
        for output in outputs
    )


def parse(content: bytes, sha256: str) -> Manifest:
    """Raises IntegrityError for another digest, InvalidInputError for what it says."""
    require_digest(MANIFEST, content, sha256)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "files"
        raise InvalidInputError(
            f"The manifest {sha256[:12]} cannot be taken: {where}: {first['msg']}.",
            which=MANIFEST,
            next_step="Mend what made it; docs/reference/model.md describes the format.",
        ) from error
    names.model_name(manifest.model)
    return manifest


def require_digest(name: str, content: bytes, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise IntegrityError(
            f"{name} is not what was promised: its SHA-256 is {found[:12]}…, not {sha256[:12]}….",
            which=name,
            next_step="It was changed or damaged where it is kept: restore it, or train again.",
        )
