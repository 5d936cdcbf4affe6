"""Makes every secret of an installation at its first start; later starts find them all.

`python -m deploy.first_start --secrets FOLDER [--volumes FOLDER]`

    FOLDER/platform.json     what was drawn at random: the one file to keep safe, with authority/
    FOLDER/authority/        the key and certificate that sign the services' certificates
    FOLDER/<container>/      what that container alone is given, made from the above at each start

Files are readable by the user of their container and nobody else. There is no default for any of
them. A service reads `basalt_...` files as settings (BASALT_SECRETS) and tls/ as BASALT_TLS.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deploy.certificates import Pair, new_authority, new_certificate
from libs.common import senders
from libs.common.files import PRIVATE, keep_private, write_durably
from libs.common.kafka_broker import identity_properties, tls_properties
from libs.common.settings import SERVICES

# The users that the containers run as; docker-compose.yml says the same.
SERVICE_UID = 10001
OURS = (*SERVICES, "door", "history", "objects-init", "collector")
OWNERS: Mapping[str, int] = dict.fromkeys(OURS, SERVICE_UID) | {
    "kafka": 1000,
    "mongodb": 999,
    "minio": 1000,
    "triton": 1000,
    "prometheus": 65534,
    "grafana": 472,
}

MASTER_KEY_BYTES = 32
SECRET_BYTES = 32
# S3 secret keys have 40 characters at the most.
S3_SECRET_BYTES = 20
FOLDER_MODE = 0o700
ROOT_USER = "root"
# Where Kafka's container sees its folder: its image takes `server.properties` from there.
KAFKA_SECRETS = "/mnt/shared/config"
SENDERS = (*SERVICES, "triton")
MONGODB = "mongodb:27017"

Files = dict[str, bytes]


def _one_each(length: int) -> dict[str, str]:
    return {service: secrets.token_hex(length) for service in SERVICES}


@dataclass(frozen=True)
class Platform:
    """What is drawn at random, once."""

    master_key: str = field(
        default_factory=lambda: base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)).decode()
    )
    triton_control_key: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    mongodb_root_password: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    minio_root_password: str = field(default_factory=lambda: secrets.token_hex(S3_SECRET_BYTES))
    otlp_key: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    metrics_key: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    grafana_password: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    service_credentials: dict[str, str] = field(default_factory=lambda: _one_each(SECRET_BYTES))
    kafka_broker_password: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    kafka_administrator_password: str = field(
        default_factory=lambda: secrets.token_hex(SECRET_BYTES)
    )
    kafka_passwords: dict[str, str] = field(default_factory=lambda: _one_each(SECRET_BYTES))
    mongodb_passwords: dict[str, str] = field(default_factory=lambda: _one_each(SECRET_BYTES))
    minio_passwords: dict[str, str] = field(default_factory=lambda: _one_each(S3_SECRET_BYTES))


def make(folder: Path, mongodb: str = MONGODB) -> None:
    """Makes what is missing in `folder`; what is there stays as it is.

    `mongodb` is where the services find their databases: host:port. Raises OSError when the
    folder cannot be written, and ValueError when its platform.json is not ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    platform = _platform(folder / "platform.json")
    authority = _authority(folder / "authority")
    for container, files in _given(platform, mongodb).items():
        owner = OWNERS[container]
        place = _private_folder(folder / container, owner)
        for name, content in files.items():
            _write(place / name, content, owner)
    for service in (*SERVICES, "kafka", "triton"):
        _certify(folder / service / "tls", authority, service)
    _write_keystore(folder / "kafka/tls")


def hand_over(volumes: Path) -> None:
    """Gives each container's volume, volumes/<container>, to the user that it runs as."""
    for volume in sorted(volumes.iterdir()):
        if volume.name not in OWNERS:
            raise ValueError(f"{volume} belongs to no container: {', '.join(OWNERS)} do.")
        _private_folder(volume, OWNERS[volume.name])


def _given(platform: Platform, mongodb: str) -> dict[str, Files]:
    """What each container is given, by file."""
    given = {
        "kafka": {"server.properties": _kafka_properties(platform).encode()},
        "mongodb": {
            "root_user": ROOT_USER.encode(),
            "root_password": platform.mongodb_root_password.encode(),
            "users.js": _mongodb_users(platform).encode(),
        },
        "minio": _minio_root(platform),
        "objects-init": _minio_root(platform) | {"passwords.json": _json(platform.minio_passwords)},
        "triton": {
            "control_key": platform.triton_control_key.encode(),
            "otlp_token": otlp_token(platform, "triton"),
        },
        "grafana": {"admin_password": platform.grafana_password.encode()},
        "prometheus": {"metrics_key": platform.metrics_key.encode()},
        "collector": {
            "otlp_token": otlp_token(platform, senders.COLLECTOR),
            # One a line: whose spans it takes in.
            "otlp_tokens": b"\n".join(otlp_token(platform, each) for each in SENDERS),
        },
    }
    for service in SERVICES:
        password = platform.mongodb_passwords[service]
        journal = f"mongodb://{service}:{password}@{mongodb}/{database(service)}"
        given[service] = {
            "basalt_service_credential": platform.service_credentials[service].encode(),
            "basalt_otlp_token": otlp_token(platform, service),
            "basalt_kafka_password": platform.kafka_passwords[service].encode(),
            "basalt_journal": journal.encode(),
            "basalt_s3_access_key": service.encode(),
            "basalt_s3_secret_key": platform.minio_passwords[service].encode(),
        }
    given["security"] |= {
        "basalt_master_key": platform.master_key.encode(),
        "basalt_service_credentials": _json(platform.service_credentials),
        "basalt_kafka_passwords": _json(platform.kafka_passwords),
        "basalt_kafka_administrator_password": platform.kafka_administrator_password.encode(),
    }
    given["monitoring"] |= {
        "basalt_otlp_key": platform.otlp_key.encode(),
        "basalt_metrics_key": platform.metrics_key.encode(),
    }
    given["inference"]["basalt_triton_control_key"] = platform.triton_control_key.encode()
    return given


def otlp_token(platform: Platform, sender: str) -> bytes:
    """What says to whoever takes in spans that they are the sender's own."""
    return senders.token(platform.otlp_key, sender).encode()


def _kafka_properties(platform: Platform) -> str:
    """What Kafka's image adds its environment to: who is asked for what, and its certificate."""
    return identity_properties(
        platform.kafka_broker_password, platform.kafka_administrator_password
    ) + tls_properties(f"{KAFKA_SECRETS}/tls/keystore.pem", f"{KAFKA_SECRETS}/tls/ca.pem")


def _write_keystore(folder: Path) -> None:
    """Kafka wants key and certificate in one file."""
    content = (folder / "kafka.key").read_bytes() + (folder / "kafka.pem").read_bytes()
    _write(folder / "keystore.pem", content, OWNERS["kafka"])


def database(service: str) -> str:
    """A service's own database in MongoDB, and its own bucket's name in the object store."""
    return f"basalt-{service}"


def _minio_root(platform: Platform) -> Files:
    return {
        "root_user": ROOT_USER.encode(),
        "root_password": platform.minio_root_password.encode(),
    }


def _mongodb_users(platform: Platform) -> str:
    """A script for mongosh, which MongoDB's image runs when its database is new."""
    lines = [
        f"db.getSiblingDB({json.dumps(database(service))}).createUser("
        + json.dumps(
            {
                "user": service,
                "pwd": password,
                "roles": [{"role": "readWrite", "db": database(service)}],
            }
        )
        + ");\n"
        for service, password in platform.mongodb_passwords.items()
    ]
    return "".join(lines)


def _platform(file: Path) -> Platform:
    known = json.loads(file.read_bytes()) if file.exists() else {}
    try:
        platform = Platform(**known)
    except TypeError as error:
        raise ValueError(f"{file} was not written by this program: {error}.") from error
    _write(file, _json(asdict(platform)), os.geteuid())
    return platform


def _authority(folder: Path) -> Pair:
    certificate, key = folder / "ca.pem", folder / "ca.key"
    owner = os.geteuid()
    _private_folder(folder, owner)
    if key.exists() and certificate.exists():
        known = Pair(certificate.read_bytes(), key.read_bytes())
        if not known.outdated(datetime.now(UTC)):
            return known
    made = new_authority()
    _write(key, made.key, owner)
    _write(certificate, made.certificate, owner)
    return made


def _certify(folder: Path, authority: Pair, service: str) -> None:
    """ca.pem, <service>.pem and <service>.key, as BASALT_TLS wants them."""
    owner = OWNERS[service]
    _private_folder(folder, owner)
    files = [folder / name for name in ("ca.pem", f"{service}.pem", f"{service}.key")]
    if all(file.exists() for file in files):
        known_authority, certificate, key = (file.read_bytes() for file in files)
        fresh = not Pair(certificate, key).outdated(datetime.now(UTC))
        if fresh and known_authority == authority.certificate:
            return
    made = new_certificate(authority, service)
    for file, content in zip(
        files, (authority.certificate, made.certificate, made.key), strict=True
    ):
        _write(file, content, owner)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def _private_folder(folder: Path, owner: int) -> Path:
    folder.mkdir(exist_ok=True)
    folder.chmod(FOLDER_MODE)
    _own(folder, owner)
    return folder


def _write(file: Path, content: bytes, owner: int) -> None:
    """Whole or not at all; a container that runs does not see its file vanish for nothing."""
    if not (file.exists() and file.read_bytes() == content):
        write_durably(file, content)
    file.chmod(PRIVATE)
    _own(file, owner)


def _own(path: Path, owner: int) -> None:
    # Only root may give files away; for anybody else they are their own.
    if os.geteuid() == 0 and (path.stat().st_uid, path.stat().st_gid) != (owner, owner):
        os.chown(path, owner, owner)


def main() -> int:
    keep_private()
    parser = argparse.ArgumentParser(prog="python -m deploy.first_start", description=__doc__)
    parser.add_argument("--secrets", type=Path, required=True, help="the installation's secrets")
    parser.add_argument("--volumes", type=Path, help="a folder with a volume for each container")
    options = parser.parse_args()
    try:
        make(options.secrets)
        if options.volumes is not None:
            hand_over(options.volumes)
    except (OSError, ValueError) as error:
        print(
            f"The secrets in {options.secrets} cannot be made: {error}"
            "\nMend what is said, then start again; nothing that was there is changed.",
            file=sys.stderr,
        )
        return 1
    print(f"The secrets are in {options.secrets}: keep platform.json and authority/ safe.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
