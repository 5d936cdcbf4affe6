"""Checkpoints in MinIO, or any S3 with object lock: until they expire nobody can change them.

COMPLIANCE is the mode that not even the store's root may shorten. Whoever writes a name again only
adds a version, and whoever deletes one only hides it: the oldest version is read, hidden or not.
"""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime, timedelta
from typing import Any

from minio.commonconfig import COMPLIANCE
from minio.error import S3Error
from minio.retention import Retention

from libs.common.errors import DependencyError
from libs.common.stores.s3 import UNREACHABLE, bucket_at

ENDING = ".checkpoint"
# Names count down from here, so that the newest checkpoint is the first of a listing.
SIZE_MAX = 10**15


class LockedCheckpoints:
    def __init__(self, address: str, *, access_key: str, secret_key: str, days: int) -> None:
        """`address` is http://HOST:PORT/BUCKET, a bucket with object lock."""
        bucket = bucket_at(
            address,
            access_key=access_key,
            secret_key=secret_key,
            setting="BASALT_CHECKPOINTS",
            connections=1,
        )
        self._client, self._bucket = bucket.client, bucket.name
        self._days = days
        self._bucket_made = False

    async def keep(self, tenant: str, size: int, note: str) -> None:
        await self._do(self._keep, tenant, size, note)

    async def newest(self, tenant: str) -> str | None:
        return await self._do(self._newest, tenant)

    def _make_bucket(self) -> None:
        """Where the account may; `deploy.object_users` makes it with the root's."""
        if not self._bucket_made:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket, object_lock=True)
            self._bucket_made = True

    def _keep(self, tenant: str, size: int, note: str) -> None:
        name, content = _name(tenant, size), note.encode()
        if self._oldest(name) is not None:
            return
        until = datetime.now(UTC) + timedelta(days=self._days)
        self._client.put_object(
            self._bucket,
            name,
            io.BytesIO(content),
            len(content),
            content_type="text/plain",
            retention=Retention(COMPLIANCE, until),
        )

    def _newest(self, tenant: str) -> str | None:
        for each in self._versions(f"{tenant}/"):
            if not each.is_delete_marker:
                return self._oldest(str(each.object_name))
        return None

    def _oldest(self, name: str) -> str | None:
        found = [
            each
            for each in self._versions(name)
            if each.object_name == name and not each.is_delete_marker
        ]
        if not found:
            return None
        first = min(found, key=lambda each: each.last_modified)
        answer = self._client.get_object(self._bucket, name, version_id=first.version_id)
        try:
            return answer.read().decode()
        finally:
            answer.close()
            answer.release_conn()

    def _versions(self, prefix: str) -> Any:
        return self._client.list_objects(self._bucket, prefix, recursive=True, include_version=True)

    async def _do(self, what: Any, *given: Any) -> Any:
        try:
            await asyncio.to_thread(self._make_bucket)
            return await asyncio.to_thread(what, *given)
        except (S3Error, *UNREACHABLE) as error:
            said = error.code if isinstance(error, S3Error) else str(error)
            raise DependencyError(
                f"Checkpoints cannot be kept in {self._bucket}: {said}.",
                which="checkpoints",
                next_step="Look whether MinIO serves, and the bucket of BASALT_CHECKPOINTS has"
                " object lock: `python -m deploy.object_users` makes it.",
            ) from error


def _name(tenant: str, size: int) -> str:
    return f"{tenant}/{SIZE_MAX - size:015d}-{size}{ENDING}"
