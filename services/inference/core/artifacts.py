"""A version's files, out of the object store and verified at that very moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.common.errors import IntegrityError, NotFoundError, PreconditionError
from libs.common.stores.ports import ObjectStore
from services.inference.core import names
from services.inference.core.manifest import CARD, MANIFEST, MODEL, File, require_digest
from services.inference.core.registration import verified
from services.inference.core.versions import ModelVersion, Stage
from services.inference.ports import Part, Servable, SignatureVerifier

SIGNATURE = "manifest.sig"
# Rows in one execution. A caller with more of them sends several requests, as the client does.
BATCH_SIZE_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Artifacts:
    objects: ObjectStore
    verifier: SignatureVerifier

    async def file(self, version: ModelVersion, name: str) -> bytes:
        return await self.bytes_of(version, name, version.file(name).sha256)

    async def manifest(self, version: ModelVersion) -> bytes:
        return await self.bytes_of(version, MANIFEST, version.manifest_sha256)

    async def card(self, version: ModelVersion) -> str:
        return (await self.file(version, CARD)).decode(errors="replace")

    async def bytes_of(self, version: ModelVersion, name: str, sha256: str) -> bytes:
        """Raises IntegrityError when it is missing or not what its digest says."""
        try:
            content = await self.objects.get(names.object_key(version.tenant, sha256))
        except NotFoundError as error:
            raise IntegrityError(
                f"{name} of {version.label} is missing where it should be kept.",
                which=name,
                next_step="Restore the object store from its backup, or train again.",
            ) from error
        require_digest(f"{name} of {version.label}", content, sha256)
        return content

    async def servable(self, version: ModelVersion) -> Servable:
        """What Triton may load: every file's digest and the signature held just now.

        Raises IntegrityError naming the file, PreconditionError for a version without a signature.
        """
        if version.stage is not Stage.SIGNED:
            raise PreconditionError(
                f"{version.label} is not signed.",
                which=version.label,
                next_step="Approve it.",
            )
        manifest = await self.manifest(version)
        signature = await self.bytes_of(version, SIGNATURE, version.signature_sha256)
        await self.verifier.verify(manifest, signature, version.internal_name)
        model = b""
        for file in version.files:
            content = await self.file(version, file.name)
            if file.name == MODEL:
                model = content
        return Servable(
            name=version.internal_name,
            manifest_sha256=version.manifest_sha256,
            model_sha256=version.file(MODEL).sha256,
            model=model,
            inputs=version.inputs,
            outputs=version.outputs,
            batch_size_max=BATCH_SIZE_MAX,
        )

    async def read(self, version: ModelVersion) -> AsyncIterator[Part]:
        """The manifest, then the files in its order, then the signature if there is one."""
        manifest = await self.manifest(version)
        yield Part(manifest, _ref(MANIFEST, version.manifest_sha256, manifest))
        for file in version.files:
            yield Part(b"", file)
            stored = self.objects.read(names.object_key(version.tenant, file.sha256))
            async for content in verified(file, stored):
                yield Part(content)
        if version.signature_sha256:
            signature = await self.bytes_of(version, SIGNATURE, version.signature_sha256)
            yield Part(signature, _ref(SIGNATURE, version.signature_sha256, signature))


def _ref(name: str, sha256: str, content: bytes) -> File:
    return File(name=name, sha256=sha256, size_bytes=len(content))
