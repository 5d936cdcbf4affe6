"""Checkpoints under object lock, on the real MinIO: nobody deletes or changes them."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from minio import Minio
from minio.commonconfig import GOVERNANCE
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.retention import Retention

from deploy import object_users
from deploy.first_start import make
from deploy.object_users import CHECKPOINTS
from libs.common.errors import DependencyError, InvalidInputError
from services.security.outbound.locked_checkpoints import LockedCheckpoints
from tools.servers import MinIO

pytestmark = pytest.mark.real


@pytest.fixture
def password(minio: MinIO, tmp_path: Path) -> str:
    """security's, of a new installation on the real server."""
    make(tmp_path)
    folder = tmp_path / "objects-init"
    (folder / "root_user").write_text(minio.access_key)
    (folder / "root_password").write_text(minio.secret_key)
    object_users.make(folder, minio.address)
    object_users.make(folder, minio.address)
    return str(json.loads((folder / "passwords.json").read_bytes())["security"])


def store(minio: MinIO, user: str, password: str) -> LockedCheckpoints:
    return LockedCheckpoints(
        f"{minio.url}/{CHECKPOINTS}", access_key=user, secret_key=password, days=1
    )


def client(minio: MinIO, user: str, password: str) -> Minio:
    return Minio(
        minio.address, access_key=user, secret_key=password, secure=False, region="us-east-1"
    )


async def test_what_is_kept_stays_whatever_is_done(minio: MinIO, password: str) -> None:
    kept = store(minio, "security", password)
    tenant = f"t{int(datetime.now(UTC).timestamp() * 1_000)}"
    assert await kept.newest(tenant) is None
    for size in (9, 10, 1_000):
        await kept.keep(tenant, size, f"of {size}")
    await kept.keep(tenant, 1_000, "another of that size")
    assert await kept.newest(tenant) == "of 1000"

    # The root of the store has more rights than anybody.
    root = client(minio, minio.access_key, minio.secret_key)
    versions = [
        each
        for each in root.list_objects(CHECKPOINTS, f"{tenant}/", True, include_version=True)
        if not each.is_delete_marker
    ]
    assert len(versions) == 3
    for each in versions:
        name, version = str(each.object_name), each.version_id
        with pytest.raises(S3Error):
            root.remove_object(CHECKPOINTS, name, version_id=version)
        sooner = Retention(GOVERNANCE, datetime.now(UTC) + timedelta(seconds=1))
        with pytest.raises(S3Error):
            root.set_object_retention(CHECKPOINTS, name, sooner, version_id=version)
        # A deletion only hides it, and what is written over it comes beside it.
        root.remove_object(CHECKPOINTS, name)
        root.put_object(CHECKPOINTS, name, io.BytesIO(b"forged"), 6)
        root.remove_object(CHECKPOINTS, name)
    assert await kept.newest(tenant) == "of 1000"
    with pytest.raises(S3Error):
        root.remove_bucket(CHECKPOINTS)


async def test_security_itself_cannot_delete_and_others_cannot_even_read(
    minio: MinIO, password: str, tmp_path: Path
) -> None:
    kept = store(minio, "security", password)
    await kept.keep("acme", 3, "of 3")
    own = client(minio, "security", password)
    name = next(iter(own.list_objects(CHECKPOINTS, "acme/", True))).object_name
    errors = list(own.remove_objects(CHECKPOINTS, [DeleteObject(str(name))]))
    assert [each.code for each in errors] == ["AccessDenied"]
    other = json.loads((tmp_path / "objects-init" / "passwords.json").read_bytes())["ingest"]
    with pytest.raises(DependencyError, match="AccessDenied"):
        await store(minio, "ingest", other).newest("acme")


async def test_a_bucket_without_lock_is_said(minio: MinIO) -> None:
    root = client(minio, minio.access_key, minio.secret_key)
    if not root.bucket_exists("without-lock"):
        root.make_bucket("without-lock")
    unlocked = LockedCheckpoints(
        f"{minio.url}/without-lock",
        access_key=minio.access_key,
        secret_key=minio.secret_key,
        days=1,
    )
    with pytest.raises(DependencyError, match=r"object lock") as refusal:
        await unlocked.keep("acme", 1, "of 1")
    assert refusal.value.which == "checkpoints"


@pytest.mark.parametrize("address", ["", "ftp://host/bucket", "http://host", "http:///bucket"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidInputError, match="BASALT_CHECKPOINTS"):
        LockedCheckpoints(address, access_key="a", secret_key="b", days=1)
