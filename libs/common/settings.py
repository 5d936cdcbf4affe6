"""What every service is told from outside. A service's own Settings extend these."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from libs.common.files import keep_private

SERVICES = ("ingest", "trainer", "inference", "monitoring", "security", "gateway")

# A folder with a file for each setting that is a secret: <folder>/basalt_service_credential.
SECRETS_FOLDER = "BASALT_SECRETS"

S = TypeVar("S", bound="CommonSettings")


class CommonSettings(BaseSettings):
    """Read from the environment: BASALT_KAFKA, BASALT_JOURNAL... One that is missing stops us.

    What the environment does not say is looked for in the folder that BASALT_SECRETS names.
    """

    # One that is empty is one that nobody set, as Compose says it.
    model_config = SettingsConfigDict(
        env_prefix="BASALT_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    kafka: str = Field(description="Kafka's bootstrap servers: host:port[,host:port]")
    kafka_password: SecretStr = Field(
        SecretStr(""), description="Kafka's for this service, whose name is its user there"
    )
    kafka_ca: Path | None = Field(
        None, description="Who signs Kafka's certificate, as a PEM file: TLS to Kafka"
    )
    journal: str = Field(description="sqlite:FOLDER or mongodb://HOST/DATABASE")
    objects: str = Field(description="directory:FOLDER or s3:http://HOST:PORT/BUCKET")
    s3_access_key: SecretStr = Field(SecretStr(""), description="Of the objects' S3 account")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Of the objects' S3 account")
    rpc_listen: str = Field(
        description="Where this service's gRPC listens: host:port, or unix:PATH"
    )
    peers: dict[str, str] = Field(
        description='Where the services are: {"ingest": "host:port"}, or unix:PATH'
    )
    service_credential: SecretStr = Field(
        description="What this service proves itself to security with; made at the first start"
    )
    otlp: str = Field("", description="Where spans go by OTLP over gRPC: host:port, or unix:PATH")
    otlp_token: SecretStr = Field(
        SecretStr(""), description="What says there whose they are; made at the first start"
    )
    tls: Path | None = Field(
        None, description="Folder with ca.pem, <service>.pem, <service>.key: mTLS between services"
    )
    work: Path | None = Field(
        None,
        description="Folder for what is there only while it works, such as an upload on its way in;"
        " each process has one in it, and removes those of killed ones at its start. Without it the"
        " system's own is used",
    )
    history: Path | None = Field(
        None,
        description="Folder of what happened to the platform, the same for all services:"
        " `basalt status --history`",
    )
    tenant_shares: dict[str, Annotated[float, Field(gt=0, le=1_000)]] = Field(
        default_factory=dict,
        description='Tenants that get more turns than others where they wait: {"acme": 2}; else 1',
    )
    log_level: str = Field("info", description="debug, info, warning or error")


def read(kind: type[S]) -> S:
    """The settings from the environment and the folder of secrets.

    Ends the process with a plain message when some lack. It is the first thing that a service does,
    so from here on nothing that it writes is readable by other users.
    """
    keep_private()
    folder = os.environ.get(SECRETS_FOLDER) or None
    if folder is not None and not Path(folder).is_dir():
        _refuse_secrets(f"{folder} is no folder")
    try:
        return kind(_secrets_dir=folder)  # pyright: ignore[reportCallIssue] - the rest is read.
    except OSError as error:
        _refuse_secrets(f"{error.filename}: {error.strerror}")
    except SettingsError as error:
        # A value that should be JSON and is not; its text may be a secret, so it is not shown.
        print(
            f"This service's settings cannot be read: {error}."
            "\nGive it as JSON: docs/reference/settings.md explains each.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except ValidationError as error:
        lines = [
            f"  BASALT_{'.'.join(str(part) for part in each['loc']).upper()}: {each['msg']}"
            for each in error.errors()
        ]
        print(
            "This service's settings are not complete:\n"
            + "\n".join(lines)
            + "\nSet them in the environment, or secrets as files in the folder that"
            f" {SECRETS_FOLDER} names: docs/reference/settings.md explains each.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def _refuse_secrets(reason: str) -> NoReturn:
    print(
        f"This service's secrets cannot be read: {reason}."
        f"\nGive it what {SECRETS_FOLDER} names: docs/reference/settings.md explains it.",
        file=sys.stderr,
    )
    raise SystemExit(2) from None
