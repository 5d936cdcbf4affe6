"""What security is told from outside."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator

from libs.common.settings import SERVICES, CommonSettings

MASTER_KEY_BYTES = 32


class Settings(CommonSettings):
    master_key: SecretStr = Field(
        description="32 bytes in base64: seals the private keys; made at the first start, kept safe"
    )
    service_credentials: dict[str, SecretStr] = Field(
        description='What each service proves itself with: {"ingest": "secret", ...}'
    )
    kafka_passwords: dict[str, SecretStr] = Field(
        {}, description='What each service logs in to Kafka with: {"ingest": "secret", ...}'
    )
    kafka_administrator_password: SecretStr = Field(
        SecretStr(""), description="Of Kafka's user `administrator`, whom security alone is"
    )
    replication: int = Field(1, ge=1, description="Replicas of each Kafka topic")
    first_login_file: Path = Field(
        description="Where the first administrator's one-time password is written, mode 0600"
    )
    checkpoints: str = Field(
        description="Where heads of the audit logs are kept: directory:FOLDER, or"
        " s3:http://HOST:PORT/BUCKET with object lock"
    )
    checkpoint_days: int = Field(
        400, ge=1, le=36_500, description="How long object lock keeps each of them from changes"
    )

    @model_validator(mode="after")
    def _knows_every_service(self) -> Settings:
        known = set(self.kafka_passwords)
        if self.kafka_administrator_password.get_secret_value() and known != set(SERVICES):
            raise ValueError(f"kafka_passwords must name {', '.join(SERVICES)}")
        return self

    @field_validator("master_key")
    @classmethod
    def _is_32_bytes(cls, value: SecretStr) -> SecretStr:
        try:
            size = len(base64.b64decode(value.get_secret_value(), validate=True))
        except binascii.Error:
            size = 0
        if size != MASTER_KEY_BYTES:
            raise ValueError(f"must be {MASTER_KEY_BYTES} bytes in base64")
        return value

    def master_key_bytes(self) -> bytes:
        return base64.b64decode(self.master_key.get_secret_value())
