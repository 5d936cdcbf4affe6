"""Approval by another person than those who answer for it, and the signature that follows.

Who made a key, and who gave a reviewer their role, is known to security: it judges again before
it signs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.errors import ForbiddenError, PreconditionError
from libs.common.events import ModelSigned
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry, ObjectStore
from services.inference.core import names, versions
from services.inference.core.artifacts import Artifacts, require_alike
from services.inference.core.versions import ModelVersion, ReviewRecord, Stage
from services.inference.ports import Signature, Signer


@dataclass(frozen=True, slots=True)
class Review:
    """Approval and signature are one entry, written once the signature is here.

    So without security nothing is half done: the version stays gated and the approval can be
    repeated. A process that dies in between leaves at most a signature that nothing names.
    """

    journal: Journal
    clock: Clock
    objects: ObjectStore
    artifacts: Artifacts
    signer: Signer

    async def approve(
        self, tenant: str, model: str, number: int, reviewer: str, comment: str
    ) -> tuple[Entry, bool]:
        """The version, and whether another call approved it before: then it is left as it is.

        Raises ForbiddenError for those who answer for it, PreconditionError unless its gates
        passed.
        """
        cause = self.journal.this_call()
        entry = await versions.find(self.journal, tenant, model, number)
        version = versions.of(entry)
        _require_other_eyes(version, reviewer)
        if version.stage is Stage.SIGNED:
            return entry, entry.cause != cause
        _require_gated(version)
        require_alike(version, await self.artifacts.described(version))
        manifest = await self.artifacts.manifest(version)
        signature = await self.signer.sign(model, number, manifest, reviewer)
        sha256 = hashlib.sha256(signature.content).hexdigest()
        await self.objects.put(names.object_key(tenant, sha256), signature.content)

        async def signed(latest: Entry | None) -> Change | None:
            current = versions.of(latest) if latest else version
            if current.stage is Stage.SIGNED:
                return None
            _require_gated(current)
            number_of_entry = latest.version + 1 if latest else 1
            return self._signed(current, number_of_entry, reviewer, comment, signature, sha256)

        entry = await self.journal.decide(version.aggregate, cause, reviewer, signed)
        return entry, entry.cause != cause

    def _signed(
        self,
        version: ModelVersion,
        entry_version: int,
        reviewer: str,
        comment: str,
        signature: Signature,
        sha256: str,
    ) -> Change:
        review = ReviewRecord(
            reviewer=reviewer, approved=True, comment=comment, at=self.clock.now()
        )
        state = version.model_copy(
            update={
                "stage": Stage.SIGNED,
                "reviews": (*version.reviews, review),
                "signature_sha256": sha256,
                "signed_by_key": signature.key_id,
            }
        )
        event = ModelSigned(
            id=f"{version.aggregate}/{entry_version}",
            tenant=version.tenant,
            at=review.at,
            model=version.model,
            version=version.version,
            manifest_sha256=version.manifest_sha256,
            approved_by=reviewer,
            key_id=signature.key_id,
        )
        return Change("VersionSigned", state.model_dump(mode="json"), [event])

    async def reject(
        self, tenant: str, model: str, number: int, reviewer: str, comment: str
    ) -> tuple[Entry, bool]:
        """The version, and whether another call rejected it before: then it is left as it is.

        Raises PreconditionError for a signed version.
        """
        cause = self.journal.this_call()
        version = versions.of(await versions.find(self.journal, tenant, model, number))

        async def rejected(latest: Entry | None) -> Change | None:
            current = versions.of(latest) if latest else version
            if current.stage is Stage.REJECTED:
                return None
            if current.stage not in (Stage.CANDIDATE, Stage.GATED):
                raise PreconditionError(
                    f"{current.label} is {current.stage} and cannot be rejected any more.",
                    which=current.label,
                    next_step="If it is in service, take it out: `basalt deploy rollback`.",
                )
            review = ReviewRecord(
                reviewer=reviewer, approved=False, comment=comment, at=self.clock.now()
            )
            state = current.model_copy(
                update={"stage": Stage.REJECTED, "reviews": (*current.reviews, review)}
            )
            return Change("VersionRejected", state.model_dump(mode="json"))

        entry = await self.journal.decide(version.aggregate, cause, reviewer, rejected)
        return entry, entry.cause != cause


def _require_other_eyes(version: ModelVersion, reviewer: str) -> None:
    if reviewer == version.author:
        what = f"{reviewer} is the author of {version.label}"
    elif reviewer in version.responsible:
        what = f"{reviewer} wrote the pipeline of {version.label}"
    else:
        return
    raise ForbiddenError(
        f"{what}, and nobody approves their own work.",
        which=version.label,
        next_step="Ask another reviewer of your tenant to approve it.",
    )


def _require_gated(version: ModelVersion) -> None:
    if version.stage is Stage.GATED:
        return
    next_step = {
        Stage.CANDIDATE: "Its gates are being measured: try again shortly.",
        Stage.REFUSED: "`basalt model show` says which gate refused it: train a better one.",
        Stage.REJECTED: "A reviewer rejected it: train another.",
    }.get(version.stage, "")
    raise PreconditionError(
        f"{version.label} is {version.stage}, not gated.", which=version.label, next_step=next_step
    )
