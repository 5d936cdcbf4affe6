"""How a program comes to MinIO, or any store that speaks S3: where, as whom, waiting how long."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, ServerError
from urllib3.exceptions import HTTPError

from libs.common.errors import InvalidInputError

# Given, so that the client need not be allowed to ask for it.
REGION = "us-east-1"
# A store that is gone is reported within seconds, well before a caller's deadline.
CONNECT_S_MAX = 2.0
READ_S_MAX = 15.0
TRIES_AGAIN_MAX = 1
TRANSIENT = (500, 502, 503, 504)
# What the client raises when there is no answer of the store's own, which is an S3Error.
UNREACHABLE = (ServerError, InvalidResponseError, HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A blocking client, the bucket that it is for, and whose that is: host:port."""

    client: Minio
    name: str
    host: str


def bucket_at(
    address: str, *, access_key: str, secret_key: str, setting: str, connections: int
) -> Bucket:
    """`address` is http://HOST:PORT/BUCKET, as the setting says it. Raises InvalidInputError."""
    url = urlsplit(address)
    name = url.path.strip("/")
    if url.scheme not in {"http", "https"} or not url.netloc or not name:
        raise InvalidInputError(
            f"{setting} is 's3:{address}'.",
            which=setting,
            next_step="Use s3:http://HOST:PORT/BUCKET.",
        )
    client = Minio(
        url.netloc,
        access_key=access_key,
        secret_key=secret_key,
        secure=url.scheme == "https",
        region=REGION,
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S_MAX, read=READ_S_MAX),
            retries=urllib3.Retry(
                total=TRIES_AGAIN_MAX, backoff_factor=0.2, status_forcelist=TRANSIENT
            ),
            maxsize=connections,
        ),
    )
    return Bucket(client, name, url.netloc)
