"""The files of a candidate: stored by what they contain, read by the job that made them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.common.errors import IntegrityError, PreconditionError
from libs.common.stores.ports import ObjectStore
from services.trainer.core.jobs import Job
from services.trainer.core.order import MANIFEST_FILE
from services.trainer.ports import Place

KIND = "candidates"
MANIFEST_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class CandidateFile:
    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """`file` is set at the start of each file; the first is manifest.json."""

    content: bytes
    file: CandidateFile | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    objects: ObjectStore

    async def keep(self, tenant: str, job: Job, place: Place) -> str:
        """Stores what the training process left; the SHA-256 of its manifest.

        Storing the same again changes nothing. Raises IntegrityError for a file that is not what
        the manifest says, and for a manifest that names others than those who answer for the job.
        """
        manifest = b"".join([part async for part in place.read(MANIFEST_FILE)])
        _require_answering(manifest, job)
        for file in _files(manifest):
            if await place.sha256(file.name) != file.sha256:
                raise IntegrityError(
                    f"{file.name} is not what the manifest says.",
                    which=file.name,
                    next_step="Run the pipeline again, and check the disk under BASALT_WORK.",
                )
            await self.objects.put_stream(_key(tenant, file.sha256), place.read(file.name))
        digest = await place.sha256(MANIFEST_FILE)
        await self.objects.put(_key(tenant, digest), manifest)
        return digest

    async def read(self, tenant: str, job: Job) -> AsyncIterator[Part]:
        """Raises PreconditionError for a job that has made none."""
        if not job.manifest_sha256:
            raise PreconditionError(
                f"The job {job.id} has no candidate: it is {job.state}.",
                which=job.id,
                next_step="Wait until it has completed, or read why it failed.",
            )
        manifest = await self.objects.get(_key(tenant, job.manifest_sha256))
        yield Part(manifest, CandidateFile(MANIFEST_FILE, job.manifest_sha256, len(manifest)))
        for file in _files(manifest):
            first: CandidateFile | None = file
            async for content in self.objects.read(_key(tenant, file.sha256)):
                yield Part(content, first)
                first = None
            if first is not None:  # An empty file has a beginning, too.
                yield Part(b"", first)


def _require_answering(manifest: bytes, job: Job) -> None:
    """Whoever may not approve a model is known from its manifest, so the job decides what it says.

    The process that wrote it also read data from outside.
    """
    said = json.loads(manifest)
    if (said.get("author"), said.get("responsible", [])) != (job.author, list(job.responsible)):
        raise IntegrityError(
            "The manifest names others than those who answer for the job.",
            which=MANIFEST_FILE,
            next_step="Run the pipeline again, and tell the platform's operators.",
        )


def _key(tenant: str, sha256: str) -> str:
    return f"{tenant}/{KIND}/{sha256}"


def _files(manifest: bytes) -> list[CandidateFile]:
    return [
        CandidateFile(each["name"], each["sha256"], each["size_bytes"])
        for each in json.loads(manifest)["files"]
    ]
