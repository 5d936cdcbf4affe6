"""Objects in MinIO, or any store that speaks S3, through the client `minio`.

The client blocks, so its calls run in threads: readers and writers in pools of their own, since a
writer's thread waits for parts that may come out of a reader's.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from minio.error import S3Error

from libs.common.errors import DependencyError, NotFoundError
from libs.common.stores.ports import PART_BYTES, checked_key, missing
from libs.common.stores.s3 import UNREACHABLE, bucket_at

T = TypeVar("T")
# S3's smallest part of an upload is 5 MiB; one is held in memory for each upload under way.
UPLOAD_PART_BYTES = 8 * 1024 * 1024
UPLOADS_AT_ONCE = 4
READS_AT_ONCE = 8
KEYS_PAGE = 1_000
MISSING = frozenset({"NoSuchKey", "NoSuchObject"})
BUCKET_EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


class MinioObjects:
    """Objects under `prefix` in the bucket that `address` (http://HOST:PORT/BUCKET) names."""

    def __init__(self, address: str, *, prefix: str, access_key: str, secret_key: str) -> None:
        bucket = bucket_at(
            address,
            access_key=access_key,
            secret_key=secret_key,
            setting="BASALT_OBJECTS",
            connections=UPLOADS_AT_ONCE + READS_AT_ONCE,
        )
        self._client, self._bucket, self._host = bucket.client, bucket.name, bucket.host
        self._prefix = f"{prefix}/"
        self._uploads = ThreadPoolExecutor(UPLOADS_AT_ONCE, "objects-upload")
        self._reads = ThreadPoolExecutor(READS_AT_ONCE, "objects-read")
        self._bucket_made = False
        self._closed = False

    async def put(self, key: str, content: bytes) -> None:
        name = self._name(key)
        await self._make_bucket()
        await self._do(
            self._uploads,
            lambda: self._client.put_object(
                self._bucket, name, io.BytesIO(content), len(content), part_size=UPLOAD_PART_BYTES
            ),
        )

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        name = self._name(key)
        await self._make_bucket()
        source: Any = _Parts(parts, asyncio.get_running_loop())
        try:
            # An error while reading ends the upload, and S3 forgets what it had.
            await self._do(
                self._uploads,
                lambda: self._client.put_object(
                    self._bucket,
                    name,
                    source,
                    -1,
                    part_size=UPLOAD_PART_BYTES,
                    num_parallel_uploads=1,
                ),
            )
        except DependencyError:
            if source.failure is not None:
                raise source.failure from None
            raise
        finally:
            source.abandon()

    async def get(self, key: str) -> bytes:
        return b"".join([part async for part in self.read(key)])

    async def read(self, key: str) -> AsyncIterator[bytes]:
        name = self._name(key)
        await self._make_bucket()
        answer = await self._do(
            self._reads, lambda: self._client.get_object(self._bucket, name), key=key
        )
        try:
            while part := await self._do(self._reads, lambda: answer.read(PART_BYTES)):
                yield part
        finally:
            answer.close()
            answer.release_conn()

    async def exists(self, key: str) -> bool:
        name = self._name(key)
        await self._make_bucket()
        try:
            await self._do(
                self._reads, lambda: self._client.stat_object(self._bucket, name), key=key
            )
        except NotFoundError:
            return False
        return True

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        if "/" in prefix:
            checked_key(prefix.rpartition("/")[0])
        await self._make_bucket()
        found = self._client.list_objects(self._bucket, self._prefix + prefix, recursive=True)
        while page := await self._do(self._reads, lambda: list(islice(found, KEYS_PAGE))):
            for each in page:
                yield str(each.object_name).removeprefix(self._prefix)

    async def delete(self, key: str) -> None:
        name = self._name(key)
        await self._make_bucket()
        await self._do(self._reads, lambda: self._client.remove_object(self._bucket, name))

    async def ping(self) -> None:
        await self._make_bucket()
        await self._do(self._reads, lambda: self._client.bucket_exists(self._bucket))

    async def close(self) -> None:
        self._closed = True
        for pool in (self._uploads, self._reads):
            pool.shutdown(wait=False, cancel_futures=True)

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    async def _make_bucket(self) -> None:
        if not self._bucket_made:
            await self._do(self._reads, self._make_bucket_now)
            self._bucket_made = True

    def _make_bucket_now(self) -> None:
        if self._client.bucket_exists(self._bucket):
            return
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            # Another service was first.
            if error.code not in BUCKET_EXISTS:
                raise

    async def _do(self, pool: Executor, work: Callable[[], T], key: str = "") -> T:
        """Does blocking work in a thread; what the store refuses becomes one of our errors."""
        if self._closed:
            raise self._unavailable("this service is stopping")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except S3Error as error:
            if key and error.code in MISSING:
                raise missing(key) from error
            raise self._unavailable(f"{error.code}", error.message or "") from error
        except UNREACHABLE as error:
            raise self._unavailable("it cannot be reached", _reason(error)) from error

    def _unavailable(self, reason: str, inside: str = "") -> DependencyError:
        return DependencyError(
            f"The object store fails: {reason}.",
            which="objects",
            next_step="Start it, or check BASALT_OBJECTS and the keys; nothing was written.",
            inside=f"{self._host}: {inside}".rstrip(": "),
        )


class _Parts(io.RawIOBase):
    """What the blocking client reads from, in its thread: asks the event loop for the next part."""

    def __init__(self, parts: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._parts = parts
        self._loop = loop
        self._rest = b""
        self._abandoned = False
        self._asked: Future[bytes | None] | None = None
        # What `parts` itself raised, as opposed to the store.
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At least one byte of what is left, `size` at the most; nothing at the end."""
        while not self._rest:
            part = self._ask()
            if part is None:
                return b""
            self._rest = part
        size = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def _ask(self) -> bytes | None:
        if self._abandoned:
            raise OSError("the upload was given up")
        self._asked = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            return self._asked.result()
        except Exception as error:
            self.failure = error
            raise OSError("the source of the upload failed") from error

    async def _next(self) -> bytes | None:
        return await anext(self._parts, None)

    def abandon(self) -> None:
        """The upload is over, or its caller is gone: the thread must not wait for the loop."""
        self._abandoned = True
        if self._asked is not None:
            self._asked.cancel()


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).partition(" object at 0x")[0]
