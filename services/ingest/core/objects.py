"""Files between a folder on this machine and the object store, by their digests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from libs.common.errors import IntegrityError
from libs.common.stores.ports import PART_BYTES, ObjectStore
from services.ingest.core.assembly import StoredFile, file_digest


async def store_file(objects: ObjectStore, tenant: str, kind: str, path: Path) -> StoredFile:
    """Puts a file under its digest: to do so again changes nothing."""
    sha256 = await asyncio.to_thread(file_digest, path)
    await objects.put_stream(f"{tenant}/{kind}/{sha256}", _parts(path))
    size_bytes = (await asyncio.to_thread(path.stat)).st_size
    return StoredFile(name=path.name, sha256=sha256, size_bytes=size_bytes)


async def fetch_file(objects: ObjectStore, tenant: str, kind: str, sha256: str, path: Path) -> None:
    """Raises IntegrityError when the object's bytes are not those of its digest."""
    with path.open("wb") as file:
        async for part in verified(objects, tenant, kind, sha256):
            await asyncio.to_thread(file.write, part)


async def verified(
    objects: ObjectStore, tenant: str, kind: str, sha256: str
) -> AsyncIterator[bytes]:
    """An object in parts; IntegrityError at its end when its bytes are not those of its digest."""
    seen = hashlib.sha256()
    async for part in objects.read(f"{tenant}/{kind}/{sha256}"):
        seen.update(part)
        yield part
    if seen.hexdigest() != sha256:
        raise IntegrityError(
            f"The object {sha256[:12]}… no longer has the bytes that it was stored with.",
            which=sha256,
            next_step="Restore it from a backup.",
        )


async def _parts(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while part := await asyncio.to_thread(file.read, PART_BYTES):
            yield part
