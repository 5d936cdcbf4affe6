"""Which versions answer for a model: an append-only history of revisions.

A revision is an entry of "<tenant>/deployment/<model>"; its number is the entry's version. Its
first variant is the stable one, a second one the canary. It carries lineage and approval of what
it serves, so that the history answers for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from libs.common.errors import InvalidInputError, NotFoundError, PreconditionError
from libs.common.stores.ports import Entry
from services.inference.core import names
from services.inference.core.manifest import Lineage
from services.inference.core.versions import ModelVersion, Stage

Action = Literal["deploy", "canary", "promote", "rollback", "undeploy"]
WEIGHT_ALL = 100


class Variant(BaseModel):
    """`weight` in percent; those of a revision add up to 100."""

    model_config = ConfigDict(frozen=True)

    version: int
    manifest_sha256: str
    weight: int
    lineage: Lineage
    approved_by: str


class Deployed(BaseModel):
    """The state of a deployment: what was decided. Who and when stands in the entry."""

    model_config = ConfigDict(frozen=True)

    action: Action
    reason: str
    variants: tuple[Variant, ...]


class Revision(BaseModel):
    model_config = ConfigDict(frozen=True)

    tenant: str
    model: str
    revision: int
    action: Action
    reason: str
    variants: tuple[Variant, ...]
    at: datetime
    by: str
    cause: str

    @property
    def versions(self) -> frozenset[int]:
        return frozenset(variant.version for variant in self.variants)

    @property
    def internal_names(self) -> frozenset[str]:
        return frozenset(
            names.internal_name(self.tenant, self.model, version) for version in self.versions
        )


def of(entry: Entry) -> Revision:
    decided = Deployed.model_validate(entry.state)
    return Revision(
        tenant=entry.tenant,
        model=entry.name,
        revision=entry.version,
        at=entry.at,
        by=entry.by,
        cause=entry.cause,
        action=decided.action,
        reason=decided.reason,
        variants=decided.variants,
    )


def variant(version: ModelVersion, weight: int) -> Variant:
    return Variant(
        version=version.version,
        manifest_sha256=version.manifest_sha256,
        weight=weight,
        lineage=version.lineage,
        approved_by=version.approved_by,
    )


def deployed(
    current: Revision | None, version: ModelVersion, stable: ModelVersion | None, weight: int
) -> tuple[Action, tuple[Variant, ...]]:
    """`version` with `weight` percent of the traffic, the rest staying with `stable`.

    `stable` is the first variant in force. Raises PreconditionError.
    """
    require_signed(version)
    if weight == WEIGHT_ALL:
        return "deploy", (variant(version, WEIGHT_ALL),)
    if current is None or stable is None:
        raise PreconditionError(
            f"Nothing of {version.model} is in service that could keep {WEIGHT_ALL - weight} %.",
            which=version.label,
            next_step="Deploy it with all of the traffic.",
        )
    if stable.version == version.version:
        raise PreconditionError(
            f"{version.label} is the stable one in service and cannot be its own canary.",
            which=version.label,
            next_step="Deploy another version as the canary, or this one with all of the traffic.",
        )
    if _face(stable) != _face(version):
        raise PreconditionError(
            f"{version.label} takes or gives other tensors than {stable.label}, so callers could "
            "not talk to both.",
            which=version.label,
            next_step="Deploy it with all of the traffic, under a model name of its own.",
        )
    rest = current.variants[0].model_copy(update={"weight": WEIGHT_ALL - weight})
    return "canary", (rest, variant(version, weight))


def _face(version: ModelVersion) -> object:
    return version.inputs, version.outputs, version.features, version.classes


def promoted(current: Revision) -> tuple[Variant, ...] | None:
    """The canary with all of the traffic; None when that is what a promotion did already."""
    if len(current.variants) < 2:
        if current.action == "promote":
            return None
        raise PreconditionError(
            f"{current.model} has no canary that could be promoted.",
            which=current.model,
            next_step="Deploy a version with a weight under 100 first.",
        )
    return (current.variants[-1].model_copy(update={"weight": WEIGHT_ALL}),)


def rollback_target(history: Sequence[Revision], to_revision: int = 0) -> Revision:
    """The revision to go back to; `history` is oldest first and ends with the one in force.

    Without a number: the last one that served without what came last, that is without the canary
    if there is one, else without the version in force. So a rollback after a promotion goes back
    to the version before, not to the split that tried the promoted one. A second rollback goes
    further back: never to a version that was rolled back from, unless it was deployed again.
    Raises NotFoundError or PreconditionError.
    """
    current, earlier = history[-1], history[:-1]
    if to_revision:
        target = next((each for each in earlier if each.revision == to_revision), None)
        if target is None:
            raise NotFoundError(
                f"{current.model} has no revision {to_revision} before {current.revision}.",
                which=f"{current.model}/{to_revision}",
                next_step=f"`basalt history {current.model}` lists them.",
            )
        if not target.variants:
            raise PreconditionError(
                f"Revision {to_revision} of {current.model} served nothing.",
                which=f"{current.model}/{to_revision}",
                next_step="Name another revision, or take the model out of service:"
                f" `basalt deploy remove {current.model}`.",
            )
        return target
    withdrawn = _withdrawn(history)
    suspects = withdrawn | {each.version for each in current.variants[-1:]}
    for target in reversed(earlier):
        if target.variants and not suspects & target.versions:
            return target
    besides = (
        f", besides version {', '.join(map(str, sorted(withdrawn)))}, which was rolled back from"
        if withdrawn
        else ""
    )
    raise PreconditionError(
        f"{current.model} has no earlier revision that served something else{besides}.",
        which=current.model,
        next_step=f"Put another in service: `basalt deploy put {current.model} VERSION`; or take it"
        f" out: `basalt deploy remove {current.model}`.",
    )


def _withdrawn(history: Sequence[Revision]) -> frozenset[int]:
    """The versions that were rolled back from and not put in service since."""
    withdrawn: frozenset[int] = frozenset()
    for number, revision in enumerate(history):
        if revision.action == "rollback":
            # All that served since the revision that it went back to.
            for since in reversed(history[:number]):
                if since.variants == revision.variants:
                    break
                withdrawn |= since.versions
        withdrawn -= revision.versions
    return withdrawn


def kept(history: Sequence[Revision], keep: int, broken: frozenset[int] = frozenset()) -> list[int]:
    """The versions to hold loaded: those in force, then the latest others, `keep` in all.

    So the target of a rollback is there already. What is `broken` cannot serve and does not count.
    Nothing is held for a model that was taken out of service.
    """
    if not history or not history[-1].variants:
        return []
    held: list[int] = []
    for revision in reversed(history):
        for each in revision.variants:
            usable = [version for version in held if version not in broken]
            if each.version not in held and (revision is history[-1] or len(usable) < keep):
                held.append(each.version)
    return held


def routed(history: Sequence[Revision], ready: frozenset[str], since: int = 0) -> Revision | None:
    """The revision that traffic follows: the last one of which everything is ready.

    Never one before `since`, which traffic follows already, nor one from before an undeployment.
    """
    for revision in reversed(history):
        if revision.revision <= since and since:
            return revision
        if revision.internal_names <= ready:
            return revision
    return None


def require_signed(version: ModelVersion) -> None:
    if version.stage is not Stage.SIGNED:
        raise PreconditionError(
            f"{version.label} is {version.stage}; only signed versions are deployed.",
            which=version.label,
            next_step=_towards_service(version),
        )


def _towards_service(version: ModelVersion) -> str:
    name = f"{version.model} {version.version}"
    return {
        Stage.CANDIDATE: "Its gates are being measured: try again shortly.",
        Stage.REFUSED: f"`basalt model show {name}` says which gate refused it: train a better"
        " one.",
        Stage.GATED: f"Have a reviewer approve it, which signs it: `basalt model approve {name}`.",
        Stage.REJECTED: f"It stays rejected: `basalt model versions {version.model}` says which"
        " are signed.",
    }.get(version.stage, "")


def checked_weight(weight: int) -> int:
    """1 to 100; 0 stands for 100. Raises InvalidInputError."""
    if not 0 <= weight <= WEIGHT_ALL:
        raise InvalidInputError(
            f"A weight of {weight} is not possible.",
            which="weight",
            next_step="Give 1 to 100 percent; 0 means 100.",
        )
    return weight or WEIGHT_ALL


def never_deployed(model: str) -> NotFoundError:
    return NotFoundError(
        f"The model {model} was never deployed.",
        which=model,
        next_step=f"`basalt deploy put {model} VERSION` puts a signed version in service.",
    )
