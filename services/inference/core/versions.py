"""A model version and the stages of its life, as the journal keeps them.

CANDIDATE ──gates──▶ GATED ──approval and signature, one entry──▶ SIGNED
    │                  │
    └──▶ REFUSED       └──▶ REJECTED         (a candidate may be rejected as well)
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from libs.common.errors import IntegrityError, NotFoundError
from libs.common.journal import Journal
from libs.common.stores.ports import Entry
from services.inference.core import names
from services.inference.core.manifest import ClassType, File, Lineage, Tensor, answers


class Stage(StrEnum):
    CANDIDATE = "candidate"
    REFUSED = "refused"
    GATED = "gated"
    REJECTED = "rejected"
    SIGNED = "signed"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class GateResult(_Frozen):
    gate: str
    passed: bool
    value: float
    limit: float
    detail: str


class ReviewRecord(_Frozen):
    reviewer: str
    approved: bool
    comment: str
    at: datetime


class Numbering(_Frozen):
    """The state of a model: how many versions were allotted, and which of them have a name."""

    aliases: dict[str, int] = {}
    latest_version: int = 0


class ModelVersion(_Frozen):
    """`traceparent` is of the event that made it: what is done for it later joins that trace."""

    tenant: str
    model: str
    version: int
    stage: Stage
    manifest_sha256: str
    files: tuple[File, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    class_type: ClassType = ""
    metrics: dict[str, float]
    lineage: Lineage
    author: str
    # Who may not approve it, the author among them; empty from before that was kept.
    responsible: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    reviews: tuple[ReviewRecord, ...] = ()
    signature_sha256: str = ""
    signed_by_key: str = ""
    traceparent: str = ""

    @property
    def internal_name(self) -> str:
        return names.internal_name(self.tenant, self.model, self.version)

    @property
    def aggregate(self) -> str:
        return names.version_aggregate(self.tenant, self.model, self.version)

    @property
    def label(self) -> str:
        """How people say it."""
        return f"{self.model} version {self.version}"

    @property
    def approved_by(self) -> str:
        return next((review.reviewer for review in self.reviews if review.approved), "")

    @property
    def answers(self) -> tuple[Tensor, ...]:
        return answers(self.outputs)


def numbering(entry: Entry | None) -> Numbering:
    return Numbering.model_validate(entry.state) if entry is not None else Numbering()


def of(entry: Entry) -> ModelVersion:
    """Raises IntegrityError when the entry speaks of another version than it is kept for."""
    version = ModelVersion.model_validate(entry.state)
    if version.aggregate != entry.aggregate:
        raise IntegrityError(
            f"The registry's record of {'/'.join(entry.aggregate.split('/')[2:])} is of another"
            " version.",
            which=entry.name,
            next_step="Restore the journal from its backup.",
        )
    return version


async def find(journal: Journal, tenant: str, model: str, version: int) -> Entry:
    """The latest entry of a version. Raises NotFoundError."""
    entry = await journal.latest(names.version_aggregate(tenant, model, version))
    if entry is None:
        raise not_found(model, version)
    return entry


def not_found(model: str, version: int) -> NotFoundError:
    return NotFoundError(
        f"There is no version {version} of the model {model}.",
        which=f"{model}/{version}",
        next_step=f"`basalt model versions {model}` lists those there are.",
    )
