"""A version's files, out of the object store and verified at that very moment.

The manifest alone binds: it names every file by its digest and says what tensors there are. What
the registry's record repeats of it is for people to see, and decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.common.errors import IntegrityError, NotFoundError, PreconditionError
from libs.common.stores.ports import ObjectStore
from services.inference.core import manifest, names
from services.inference.core.manifest import CARD, MANIFEST, MODEL, File, Manifest, require_digest
from services.inference.core.registration import verified
from services.inference.core.versions import ModelVersion, Stage
from services.inference.ports import Part, Servable, SignatureVerifier

SIGNATURE = "manifest.sig"
# Rows in one execution. A caller with more of them sends several requests, as the client does.
BATCH_SIZE_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest whose signature held for `name` a moment ago, with the bytes of both."""

    name: str
    version: int
    manifest_sha256: str
    manifest: Manifest
    content: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Artifacts:
    objects: ObjectStore
    verifier: SignatureVerifier

    async def file(self, version: ModelVersion, name: str) -> bytes:
        described = await self.described(version)
        return await self.bytes_of(version, name, described.file(name).sha256)

    async def manifest(self, version: ModelVersion) -> bytes:
        return await self.bytes_of(version, MANIFEST, version.manifest_sha256)

    async def described(self, version: ModelVersion) -> Manifest:
        """What the manifest says. Raises IntegrityError when it is another model's."""
        return _parsed(version, await self.manifest(version))

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

    async def signed(self, version: ModelVersion) -> Signed:
        """The manifest of what is to be served: signed for this very version, for nothing else.

        Raises IntegrityError, PreconditionError for a version without a signature.
        """
        if version.stage is not Stage.SIGNED:
            raise PreconditionError(
                f"{version.label} is not signed.",
                which=version.label,
                next_step="Approve it.",
            )
        content = await self.manifest(version)
        signature = await self.bytes_of(version, SIGNATURE, version.signature_sha256)
        name = version.internal_name
        await self.verifier.verify(content, signature, name)
        parsed = _parsed(version, content)
        return Signed(name, version.version, version.manifest_sha256, parsed, content, signature)

    async def verify_again(self, signed: Signed) -> None:
        """Whether the key that signed it still counts. Raises IntegrityError."""
        await self.verifier.verify(signed.content, signed.signature, signed.name)

    async def servable(self, signed: Signed, version: ModelVersion) -> Servable:
        """What Triton may load: each file of the manifest is what the manifest says.

        Raises IntegrityError naming the file.
        """
        model = b""
        for file in signed.manifest.files:
            content = await self.bytes_of(version, file.name, file.sha256)
            if file.name == MODEL:
                model = content
        return Servable(
            name=signed.name,
            manifest_sha256=signed.manifest_sha256,
            model_sha256=signed.manifest.file(MODEL).sha256,
            model=model,
            inputs=signed.manifest.inputs,
            outputs=signed.manifest.outputs,
            batch_size_max=BATCH_SIZE_MAX,
        )

    async def read(self, version: ModelVersion) -> AsyncIterator[Part]:
        """The manifest, then the files in its order, then the signature if there is one."""
        content = await self.manifest(version)
        yield Part(content, _ref(MANIFEST, version.manifest_sha256, content))
        for file in _parsed(version, content).files:
            yield Part(b"", file)
            stored = self.objects.read(names.object_key(version.tenant, file.sha256))
            async for part in verified(file, stored):
                yield Part(part)
        if version.signature_sha256:
            signature = await self.bytes_of(version, SIGNATURE, version.signature_sha256)
            yield Part(signature, _ref(SIGNATURE, version.signature_sha256, signature))


def require_alike(version: ModelVersion, described: Manifest) -> None:
    """Before people or gates judge by the record: it says what the manifest says.

    Raises IntegrityError.
    """
    for field in (
        *(
            "model",
            "files",
            "inputs",
            "outputs",
            "features",
            "classes",
            "class_type",
            "author",
            "lineage",
        ),
    ):
        if getattr(version, field) != getattr(described, field):
            raise IntegrityError(
                f"The registry's record of {version.label} says other {field} than its manifest.",
                which=version.label,
                next_step="Restore the journal from its backup, or train again.",
            )


def _parsed(version: ModelVersion, content: bytes) -> Manifest:
    parsed = manifest.parse(content, version.manifest_sha256)
    if parsed.model != version.model:
        raise IntegrityError(
            f"The manifest of {version.label} is one of the model {parsed.model}.",
            which=version.label,
            next_step="Restore the journal from its backup, or train again.",
        )
    return parsed


def _ref(name: str, sha256: str, content: bytes) -> File:
    return File(name=name, sha256=sha256, size_bytes=len(content))
