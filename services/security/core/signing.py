"""Signs the manifest of a model version once a review has approved it: one manifest a version."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.errors import (
    AlreadyExistsError,
    IntegrityError,
    InvalidInputError,
    PreconditionError,
)
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry
from services.security.core.access import Access
from services.security.core.four_eyes import FourEyes
from services.security.ports import ManifestSigner

KIND = "signature"
MANIFEST_BYTES_MAX = 1024 * 1024
VERSION_MAX = 1_000_000_000


class Signature(BaseModel):
    """`bundle` is the OpenSSF model-signing bundle in base64."""

    model_config = ConfigDict(frozen=True)

    manifest_sha256: str
    approved_by: str
    key_id: str
    bundle: str

    def content(self) -> bytes:
        return base64.b64decode(self.bundle)


@dataclass(frozen=True, slots=True)
class Verdict:
    valid: bool
    detail: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Signing:
    journal: Journal
    clock: Clock
    access: Access
    signer: ManifestSigner
    eyes: FourEyes

    async def sign(
        self, tenant: str, model: str, version: int, manifest: bytes, approved_by: str, by: str
    ) -> Signature:
        """Asked again for the same manifest it answers the signature that was made.

        Raises ForbiddenError when `approved_by` may not approve it.
        """
        content = _read(manifest)
        _refuse_unreviewed(content, model, version, approved_by)
        # `inference` judges this first; a signature is worth a second look, by who knows more.
        await self.eyes.require_reviewer(tenant, approved_by)
        await self.eyes.require_others(tenant, _responsible(content), approved_by)
        # Also refuses a model whose name could be mistaken for a path.
        name = aggregate(tenant, KIND, model, f"v{version}")
        digest = hashlib.sha256(manifest).hexdigest()
        key = self.access.state.signing_keys[-1]
        bundle = await self.signer.sign(
            self.access.signing_private_key(key), tenant, model, version, manifest
        )
        signature = Signature(
            manifest_sha256=digest,
            approved_by=approved_by,
            key_id=key.key_id,
            bundle=base64.b64encode(bundle).decode(),
        )

        async def decide(latest: Entry | None) -> Change | None:
            if latest is None:
                return Change("ManifestSigned", signature.model_dump())
            if Signature.model_validate(latest.state).manifest_sha256 != digest:
                raise AlreadyExistsError(
                    f"Another manifest of {model} version {version} is signed already.",
                    which=f"{model}/{version}",
                    next_step="A version never changes: register the new files as a new version.",
                )
            return None

        entry = await self.journal.decide(name, self.clock.new_id(), by, decide)
        return Signature.model_validate(entry.state)

    async def verify(self, manifest: bytes, signature: bytes) -> Verdict:
        try:
            key_id = await self.signer.verify(manifest, signature, self.access.state.signing_pems())
        except IntegrityError as error:
            return Verdict(False, str(error), "")
        return Verdict(True, "", key_id)


def _read(manifest: bytes) -> dict[str, Any]:
    if len(manifest) > MANIFEST_BYTES_MAX:
        raise InvalidInputError(
            f"The manifest is larger than {MANIFEST_BYTES_MAX} bytes.", which="manifest"
        )
    try:
        content = json.loads(manifest)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InvalidInputError(
            "The manifest is not a JSON object.",
            which="manifest",
            next_step="Send manifest.json as it was registered.",
        )
    return content


def _responsible(manifest: dict[str, Any]) -> list[str]:
    """Nobody for a model from before that was kept: then its author alone does not approve."""
    given: Any = manifest.get("responsible", [])
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidInputError(
            "The manifest's `responsible` is no list of names.",
            which="manifest",
            next_step="Send manifest.json as it was registered.",
        )
    return given


def _refuse_unreviewed(
    manifest: dict[str, Any], model: str, version: int, approved_by: str
) -> None:
    if not approved_by:
        raise PreconditionError(
            "Nothing is signed that nobody approved.",
            which="approved_by",
            next_step="Have somebody other than the author review it: `basalt model approve`.",
        )
    if manifest.get("author") == approved_by:
        raise PreconditionError(
            f"{approved_by} is the author: four eyes have to see a model before it is signed.",
            which="approved_by",
            next_step="Have somebody else review it: `basalt model approve`.",
        )
    if manifest.get("model") != model or not 0 < version <= VERSION_MAX:
        raise InvalidInputError(
            f"The manifest is not one of {model} version {version}.",
            which="manifest",
            next_step="Send the model's own manifest, and its version from 1 on.",
        )
