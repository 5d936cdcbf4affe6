"""Objects in a directory: written beside, synced, then moved into place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, TypeVar
from uuid import uuid4

from libs.common.errors import DependencyError
from libs.common.files import sync_folder
from libs.common.stores.ports import PART_BYTES, PARTIAL, checked_key, missing

T = TypeVar("T")
# What a killed process left half written is nobody's any more after this long.
PARTIAL_AGE_S_MAX = 24 * 3600.0


class DirectoryObjects:
    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._swept = False

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    async def put(self, key: str, content: bytes) -> None:
        async def whole() -> AsyncIterator[bytes]:
            yield content

        await self.put_stream(key, whole())

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        path = self._path(key)
        partial = path.with_name(f"{uuid4().hex}{PARTIAL}")
        await self._do(self._sweep)
        await self._do(lambda: _make_folders(path.parent))
        file = await self._do(lambda: partial.open("wb"))
        try:
            try:
                async for part in parts:
                    await self._do(file.write, part)
                await self._do(_sync, file)
            finally:
                with contextlib.suppress(OSError):  # What could not be flushed is thrown away.
                    file.close()
            await self._do(_move, partial, path)
        finally:
            partial.unlink(missing_ok=True)

    async def get(self, key: str) -> bytes:
        return await self._do(self._path(key).read_bytes, key=key)

    async def read(self, key: str) -> AsyncIterator[bytes]:
        path = self._path(key)
        file = await self._do(lambda: path.open("rb"), key=key)
        with file:
            while part := await self._do(file.read, PART_BYTES):
                yield part

    async def exists(self, key: str) -> bool:
        return await self._do(self._path(key).is_file)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        for key in await self._do(self._keys, prefix):
            yield key

    def _keys(self, prefix: str) -> list[str]:
        folder = self._root
        if "/" in prefix:
            folder /= checked_key(prefix.rpartition("/")[0])
        found = (path for path in folder.rglob("*") if path.is_file())
        keys = (path.relative_to(self._root).as_posix() for path in found)
        return sorted(key for key in keys if key.startswith(prefix) and not key.endswith(PARTIAL))

    async def delete(self, key: str) -> None:
        path = self._path(key)
        if await self._do(path.is_file):
            await self._do(lambda: path.unlink(missing_ok=True))

    async def ping(self) -> None:
        await self._do(_make_folders, self._root)
        if not await self._do(os.access, self._root, os.W_OK):
            raise DependencyError(
                "The object store cannot be written.",
                which="objects",
                next_step="Check who owns its folder, which BASALT_OBJECTS names.",
                inside=str(self._root),
            )

    async def close(self) -> None:
        """Nothing is held open."""

    async def _do(self, work: Callable[..., T], *arguments: object, key: str = "") -> T:
        """Does blocking work in a thread; its OSError becomes one of ours."""
        try:
            return await asyncio.to_thread(work, *arguments)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            # A store that has gone as a whole is no answer to what was in it.
            if not key or (self._root.exists() and not self._root.is_dir()):
                raise _unavailable(self._root, error) from error
            raise missing(key) from error
        except OSError as error:
            raise _unavailable(self._root, error) from error

    def _sweep(self) -> None:
        if self._swept:
            return
        self._swept = True
        for partial in self._root.rglob(f"*{PARTIAL}"):
            with contextlib.suppress(FileNotFoundError):
                if partial.stat().st_mtime < time.time() - PARTIAL_AGE_S_MAX:
                    partial.unlink()


def _make_folders(folder: Path) -> None:
    """Makes what is missing; each new name is durable once the folder above it is synced."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _move(partial: Path, path: Path) -> None:
    partial.replace(path)
    sync_folder(path.parent)


def _unavailable(root: Path, error: OSError) -> DependencyError:
    return DependencyError(
        f"The object store answers: {error.strerror}.",
        which="objects",
        next_step="Free space on its disk or check who owns its folder; nothing was written.",
        inside=str(root),
    )
