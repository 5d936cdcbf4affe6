"""The folders in which training processes work."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from libs.common.errors import DependencyError, NotFoundError
from libs.common.stores.ports import PART_BYTES

WRITING = ".writing"
SNAPSHOT = "snapshot-"


@dataclass(frozen=True, slots=True)
class FolderPlace:
    path: Path

    async def write(self, name: str, parts: AsyncIterator[bytes]) -> str:
        digest = hashlib.sha256()
        partial = self.path / f"{name}{WRITING}"
        try:
            with await asyncio.to_thread(partial.open, "wb") as file:
                async for part in parts:
                    digest.update(part)
                    await asyncio.to_thread(file.write, part)
            await asyncio.to_thread(partial.replace, self.path / name)
        except OSError as error:
            raise _unavailable(self.path, error) from error
        return digest.hexdigest()

    async def read(self, name: str) -> AsyncIterator[bytes]:
        try:
            file = await asyncio.to_thread((self.path / name).open, "rb")
        except FileNotFoundError as error:
            raise _missing(name) from error
        with file:
            while part := await asyncio.to_thread(file.read, PART_BYTES):
                yield part

    async def sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        async for part in self.read(name):
            digest.update(part)
        return digest.hexdigest()

    async def snapshot(self, name: str) -> str:
        """A second name of the file: a newer one is moved into the place of the first."""
        taken = f"{SNAPSHOT}{name}"
        try:
            (self.path / taken).unlink(missing_ok=True)
            os.link(self.path / name, self.path / taken)
        except FileNotFoundError as error:
            raise _missing(name) from error
        except OSError as error:
            raise _unavailable(self.path, error) from error
        return taken

    async def remove(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # Another attempt may be at work beside.
            self.path.parent.rmdir()


@dataclass(frozen=True, slots=True)
class FolderWorkplace:
    """`root`/<tenant>/<job>/<attempt>; on a disk of this machine."""

    root: Path

    async def prepare(self, tenant: str, job: str, attempt: int) -> FolderPlace:
        folder = self.root / tenant / job
        path = folder / str(attempt)
        try:
            # What is left of earlier attempts is of no use: their claims are lost.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await asyncio.to_thread(path.mkdir, parents=True, mode=0o700)
        except OSError as error:
            raise _unavailable(self.root, error) from error
        return FolderPlace(path)

    async def ping(self) -> None:
        """Raises DependencyError when nothing can be written there."""
        try:
            await asyncio.to_thread(self.root.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise _unavailable(self.root, error) from error
        if not os.access(self.root, os.W_OK):
            raise _unavailable(self.root, PermissionError(13, "Permission denied"))


def _missing(name: str) -> NotFoundError:
    return NotFoundError(
        f"The training process left no {name}.",
        which=name,
        next_step="Read the job's log: `basalt train log`.",
    )


def _unavailable(path: Path, error: OSError) -> DependencyError:
    return DependencyError(
        f"The folder for training answers: {error.strerror}.",
        which="work",
        next_step="Free space on its disk, or set BASALT_WORK to another folder.",
        inside=str(path),
    )
