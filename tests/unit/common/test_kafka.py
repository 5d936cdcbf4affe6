"""What each client library is told about how to come to Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest
from faststream.kafka.security import parse_security
from pydantic import SecretStr

from deploy.certificates import new_authority
from libs.common.kafka import KafkaAccess
from libs.common.settings import CommonSettings


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(new_authority().certificate)
    return file


def settings(**more: object) -> CommonSettings:
    told = {
        "kafka": "one:9092,two:9092",
        "journal": "sqlite:x",
        "objects": "directory:x",
        "rpc_listen": "127.0.0.1:1",
        "peers": {},
        "service_credential": SecretStr("x"),
    }
    return CommonSettings(**(told | more))  # pyright: ignore[reportArgumentType]


def test_a_service_is_itself_at_kafka_once_it_has_a_password() -> None:
    bare = KafkaAccess.of(settings(), "trainer")
    known = KafkaAccess.of(settings(kafka_password=SecretStr("secret")), "trainer")

    assert (bare.user, bare.protocol) == ("", "PLAINTEXT")
    assert (known.user, known.password, known.protocol) == ("trainer", "secret", "SASL_PLAINTEXT")
    assert known.servers == ["one:9092", "two:9092"]


def test_its_password_is_in_no_representation() -> None:
    assert "secret" not in repr(KafkaAccess("kafka:9092", "trainer", "secret"))


@pytest.mark.parametrize("user", ["", "trainer"])
@pytest.mark.parametrize("tls", [False, True])
def test_all_three_libraries_are_told_the_same(ca: Path, user: str, tls: bool) -> None:
    access = KafkaAccess("one:9092", user, "secret", ca if tls else None)

    aiokafka, librdkafka = access.for_aiokafka(), access.for_librdkafka()
    faststream = parse_security(access.for_faststream())

    assert aiokafka["security_protocol"] == librdkafka["security.protocol"] == access.protocol
    assert faststream.get("security_protocol", "PLAINTEXT") == access.protocol
    assert (aiokafka.get("ssl_context") is not None) == tls
    assert (faststream.get("ssl_context") is not None) == tls
    assert librdkafka.get("ssl.ca.location") == (str(ca) if tls else None)
    for told in (aiokafka, faststream):
        assert told.get("sasl_plain_username") == (user or None)
        assert told.get("sasl_plain_password") == ("secret" if user else None)
        assert told.get("sasl_mechanism") == ("SCRAM-SHA-256" if user else None)
    assert librdkafka.get("sasl.username") == (user or None)
    assert librdkafka.get("sasl.password") == ("secret" if user else None)
