"""Gives each service a bucket and a user of its own in MinIO, which may reach nothing else.

`security` gets a second one with object lock, to which it adds the audit logs' checkpoints.

`python -m deploy.object_users --secrets FOLDER --address HOST:PORT`; safe to repeat. FOLDER holds
root_user, root_password and passwords.json, as `deploy.first_start` makes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException
from minio.minioadmin import MinioAdmin
from urllib3.exceptions import HTTPError

from deploy.first_start import database
from libs.common.stores.s3 import REGION

# docker-compose.yml names it to security.
CHECKPOINTS = "basalt-checkpoints"


def make(folder: Path, address: str) -> None:
    """Raises OSError, MinioException, MinioAdminException or urllib3's HTTPError."""
    user, password = ((folder / name).read_text() for name in ("root_user", "root_password"))
    passwords: dict[str, str] = json.loads((folder / "passwords.json").read_bytes())
    client = Minio(address, access_key=user, secret_key=password, secure=False, region=REGION)
    admin = MinioAdmin(
        endpoint=address,
        credentials=StaticProvider(user, password),
        secure=False,
        region=REGION,
    )
    for service, secret_key in passwords.items():
        bucket = database(service)
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
        admin.policy_add(bucket, policy=own_bucket(bucket))
        admin.user_add(service, secret_key)
        _attach(admin, bucket, service)
    if not client.bucket_exists(CHECKPOINTS):
        client.make_bucket(CHECKPOINTS, object_lock=True)
    admin.policy_add(CHECKPOINTS, policy=adding_only(CHECKPOINTS))
    _attach(admin, CHECKPOINTS, "security")


def _attach(admin: MinioAdmin, policy: str, user: str) -> None:
    attached = json.loads(admin.user_info(user)).get("policyName", "")
    if policy not in attached.split(","):
        admin.attach_policy([policy], user=user)


def adding_only(bucket: str) -> dict[str, object]:
    """A policy: what is in the bucket can be read and added to, not deleted or let go."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketVersions"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            },
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:GetObjectVersion",
                    "s3:PutObject",
                    "s3:PutObjectRetention",
                ],
                "Resource": [f"arn:aws:s3:::{bucket}/*"],
            },
        ],
    }


def own_bucket(bucket: str) -> dict[str, object]:
    """A policy: all of one bucket's objects, and nothing else."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetBucketLocation",
                    "s3:ListBucket",
                    "s3:ListBucketMultipartUploads",
                ],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            },
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": [f"arn:aws:s3:::{bucket}/*"],
            },
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.object_users", description=__doc__)
    parser.add_argument("--secrets", type=Path, required=True, help="what first_start made")
    parser.add_argument("--address", required=True, help="MinIO's host:port")
    options = parser.parse_args()
    try:
        make(options.secrets, options.address)
    except (OSError, HTTPError, MinioException, MinioAdminException) as error:
        print(
            f"The buckets and users at {options.address} cannot be made: {error}"
            "\nLook whether MinIO serves and has the root password of this installation.",
            file=sys.stderr,
        )
        return 1
    print(f"Each service has a bucket and a user of its own at {options.address}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
