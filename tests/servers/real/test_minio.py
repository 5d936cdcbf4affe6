import io
from pathlib import Path

import pytest
from minio import Minio

from libs.common.stores.s3 import REGION
from tools.servers import MinIO

pytestmark = pytest.mark.real


def client(server: MinIO) -> Minio:
    return Minio(
        server.address,
        access_key=server.access_key,
        secret_key=server.secret_key,
        secure=False,
        region=REGION,
    )


def get(store: Minio, bucket: str, name: str) -> bytes:
    answer = store.get_object(bucket_name=bucket, object_name=name)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def put(store: Minio, bucket: str, name: str, content: bytes) -> None:
    store.make_bucket(bucket_name=bucket)
    store.put_object(
        bucket_name=bucket, object_name=name, data=io.BytesIO(content), length=len(content)
    )


def test_an_object_is_stored_and_read(minio: MinIO) -> None:
    store = client(minio)
    put(store, "models", "a/weights", b"1 2 3")

    assert get(store, "models", "a/weights") == b"1 2 3"


def test_a_killed_server_comes_back_with_its_objects(tmp_path: Path) -> None:
    server = MinIO(tmp_path).start()
    try:
        put(client(server), "models", "a/weights", b"1 2 3")
        server.kill()
        assert not server.alive
        server.start()

        assert get(client(server), "models", "a/weights") == b"1 2 3"
        assert MinIO(tmp_path).secret_key == server.secret_key
    finally:
        server.stop()
