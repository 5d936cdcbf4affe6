"""Takes a candidate in: one version for each completed training, whoever delivers the fact again.

Two aggregates take part. "<tenant>/model/<model>" allots the version numbers: the entry that
allots one has the event's id as its cause, so an event gets one number, and two that race get
two. "<tenant>/version/<model>/<n>" then begins with the same cause. A process that dies between
the two leaves a number without a version; the event comes again, finds its number by its cause and
goes on. One aggregate for both would have to carry every version in each entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from libs.common import telemetry
from libs.common.errors import IntegrityError, InvalidInputError
from libs.common.events import TrainingCompleted
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry, ObjectStore
from services.inference.core import names, versions
from services.inference.core.manifest import MANIFEST, MANIFEST_BYTES_MAX, File, Manifest, parse
from services.inference.core.versions import ModelVersion, Stage
from services.inference.ports import Candidates, Part


@dataclass(frozen=True, slots=True)
class Registration:
    journal: Journal
    objects: ObjectStore
    candidates: Candidates

    async def take(self, event: TrainingCompleted) -> None:
        """Raises IntegrityError and InvalidInputError for a candidate that cannot be taken."""
        # Also refuses a tenant or model whose name could be mistaken for a path.
        names.internal_name(event.tenant, event.model, 1)
        manifest = await self._files(event)
        if manifest.model != event.model:
            raise InvalidInputError(
                f"The candidate of job {event.job} is a model {manifest.model}, not {event.model}.",
                which=event.job,
                next_step="Mend the pipeline that made it.",
            )
        number = await self._allot(event)
        await self._begin(event, manifest, number)

    async def _files(self, event: TrainingCompleted) -> Manifest:
        """The candidate's files, each verified on its way into the object store."""
        shelf = _Shelf(self.objects, event)
        parts = _Parts(self.candidates.read(event.job))
        while (file := await parts.next_file()) is not None:
            await shelf.put(file, parts)
        return shelf.manifest_of_all()

    async def _allot(self, event: TrainingCompleted) -> int:
        async def next_number(latest: Entry | None) -> Change:
            before = versions.numbering(latest)
            after = before.model_copy(update={"latest_version": before.latest_version + 1})
            return Change("VersionAllotted", after.model_dump())

        aggregate = names.model_aggregate(event.tenant, event.model)
        entry = await self.journal.decide(aggregate, event.id, event.author, next_number)
        return versions.numbering(entry).latest_version

    async def _begin(self, event: TrainingCompleted, manifest: Manifest, number: int) -> None:
        version = ModelVersion(
            tenant=event.tenant,
            model=event.model,
            version=number,
            stage=Stage.CANDIDATE,
            manifest_sha256=event.manifest_sha256,
            files=manifest.files,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            features=manifest.features,
            classes=manifest.classes,
            class_type=manifest.class_type,
            metrics=manifest.metrics,
            lineage=manifest.lineage,
            # The manifest came by a call that proved who answers; the event did not.
            author=manifest.author,
            responsible=manifest.responsible,
            traceparent=telemetry.traceparent(),
        )

        async def begin(latest: Entry | None) -> Change | None:
            if latest is not None:
                return None
            return Change("CandidateRegistered", version.model_dump(mode="json"))

        await self.journal.decide(version.aggregate, event.id, event.author, begin)


@dataclass(slots=True)
class _Parts:
    """The parts of a stream, file by file."""

    stream: AsyncIterator[Part]
    _waiting: Part | None = None

    async def next_file(self) -> File | None:
        """What begins next; what was left unread of the file before is an error of ours."""
        part = self._waiting or await anext(self.stream, None)
        if part is None:
            return None
        if part.file is None:
            raise InvalidInputError(
                "The candidate's stream begins in the middle of a file.",
                which=MANIFEST,
                next_step="Mend the trainer's answer.",
            )
        self._waiting = part
        return part.file

    async def contents(self) -> AsyncIterator[bytes]:
        first, self._waiting = self._waiting, None
        if first is not None:
            yield first.content
        async for part in self.stream:
            if part.file is not None:
                self._waiting = part
                return
            yield part.content


@dataclass(slots=True)
class _Shelf:
    """Puts files where their digests say, and only what the manifest lists."""

    objects: ObjectStore
    event: TrainingCompleted
    _manifest: Manifest | None = None
    _stored: set[str] = field(default_factory=set)

    async def put(self, file: File, parts: _Parts) -> None:
        if self._manifest is None:
            await self._put_manifest(file, parts)
            return
        listed = next((each for each in self._manifest.files if each.name == file.name), None)
        if listed is None or listed.name in self._stored:
            raise InvalidInputError(
                f"The candidate of job {self.event.job} brings {file.name}, which its manifest "
                "does not list, or brings it twice.",
                which=file.name,
                next_step="Mend what made it.",
            )
        key = names.object_key(self.event.tenant, listed.sha256)
        await self.objects.put_stream(key, verified(listed, parts.contents()))
        self._stored.add(listed.name)

    async def _put_manifest(self, file: File, parts: _Parts) -> None:
        if file.name != MANIFEST:
            raise InvalidInputError(
                f"The candidate of job {self.event.job} begins with {file.name}.",
                which=self.event.job,
                next_step=f"The first file has to be {MANIFEST}.",
            )
        content = bytearray()
        async for part in parts.contents():
            content += part
            if len(content) > MANIFEST_BYTES_MAX:
                raise InvalidInputError(
                    f"The manifest of job {self.event.job} is over {MANIFEST_BYTES_MAX} bytes.",
                    which=MANIFEST,
                    next_step="List fewer files or features.",
                )
        self._manifest = parse(bytes(content), self.event.manifest_sha256)
        key = names.object_key(self.event.tenant, self.event.manifest_sha256)
        await self.objects.put(key, bytes(content))

    def manifest_of_all(self) -> Manifest:
        missing = [file.name for file in self._manifest.files] if self._manifest else [MANIFEST]
        missing = [name for name in missing if name not in self._stored]
        if self._manifest is None or missing:
            raise InvalidInputError(
                f"The candidate of job {self.event.job} lacks {', '.join(missing)}.",
                which=self.event.job,
                next_step="Train it again.",
            )
        return self._manifest


async def verified(file: File, contents: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes; raises IntegrityError before the end when they are not what `file` says.

    A store keeps nothing of a stream that raises.
    """
    digest, size_bytes = hashlib.sha256(), 0
    async for part in contents:
        digest.update(part)
        size_bytes += len(part)
        if size_bytes > file.size_bytes:
            break
        yield part
    if size_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
        raise IntegrityError(
            f"{file.name} is not what its manifest says: {file.size_bytes} bytes with the SHA-256 "
            f"{file.sha256[:12]}….",
            which=file.name,
            next_step="It was damaged on its way or where it is kept: train it again.",
        )
