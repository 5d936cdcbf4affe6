"""Each service has a bucket of its own in MinIO, and reaches no other one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy import object_users
from deploy.first_start import database, make
from libs.common.errors import DependencyError
from libs.common.settings import SERVICES
from libs.common.stores.minio import MinioObjects
from tools.servers import MinIO

pytestmark = pytest.mark.real
KEY = "acme/dataset/0123abcd"


@pytest.fixture
def passwords(minio: MinIO, tmp_path: Path) -> dict[str, str]:
    """The users of a new installation, made on the real server."""
    make(tmp_path)
    folder = tmp_path / "objects-init"
    (folder / "root_user").write_text(minio.access_key)
    (folder / "root_password").write_text(minio.secret_key)
    object_users.make(folder, minio.address)
    # A second start finds everything as it is.
    object_users.make(folder, minio.address)
    return json.loads((folder / "passwords.json").read_bytes())


def store(minio: MinIO, passwords: dict[str, str], service: str, bucket: str) -> MinioObjects:
    return MinioObjects(
        f"{minio.url}/{bucket}",
        prefix=service,
        access_key=service,
        secret_key=passwords[service],
    )


async def test_a_service_works_in_its_own_bucket(minio: MinIO, passwords: dict[str, str]) -> None:
    for service in SERVICES:
        objects = store(minio, passwords, service, database(service))
        await objects.ping()
        await objects.put(KEY, b"a chunk")
        assert await objects.get(KEY) == b"a chunk"
        assert [key async for key in objects.keys("acme/")] == [KEY]
        await objects.delete(KEY)
        await objects.close()


async def test_a_service_is_refused_elsewhere(minio: MinIO, passwords: dict[str, str]) -> None:
    for bucket in (database("security"), "a-bucket-of-its-own"):
        objects = store(minio, passwords, "ingest", bucket)
        with pytest.raises(DependencyError, match="AccessDenied"):
            await objects.put(KEY, b"not mine")
        await objects.close()


async def test_a_password_that_is_not_the_installations_is_refused(
    minio: MinIO, passwords: dict[str, str]
) -> None:
    objects = store(minio, passwords | {"ingest": "x" * 40}, "ingest", database("ingest"))
    with pytest.raises(DependencyError):
        await objects.ping()
    await objects.close()
