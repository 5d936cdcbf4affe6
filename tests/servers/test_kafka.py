import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError

from libs.common.kafka import KafkaAccess
from tests.support.secured_kafka import administrator
from tests.support.servers import ADMINISTRATOR_PASSWORD
from tools.servers import Kafka, KafkaIdentity, ServerError
from tools.servers.child import Child
from tools.servers.kafka import locked_jars


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True
    ) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def consume(
    bootstrap: str, topic: str, count: int, who: KafkaAccess | None = None
) -> list[bytes]:
    async with AIOKafkaConsumer(
        topic,
        **(who or KafkaAccess(bootstrap)).for_aiokafka(),
        auto_offset_reset="earliest",
    ) as consumer:
        async with asyncio.timeout(30):
            return [(await consumer.getone()).value for _ in range(count)]


async def test_what_is_produced_is_consumed(kafka: Kafka) -> None:
    await produce(kafka.bootstrap, "greetings", [b"hello", b"world"])

    assert await consume(kafka.bootstrap, "greetings", 2) == [b"hello", b"world"]


async def test_a_killed_broker_comes_back_with_its_records_at_its_address(tmp_path: Path) -> None:
    values = [f"{number}".encode() for number in range(100)]
    broker = await asyncio.to_thread(Kafka(tmp_path).start)
    try:
        await produce(broker.bootstrap, "numbers", values)
        await asyncio.to_thread(broker.kill)
        assert not broker.alive
        await asyncio.to_thread(broker.start)

        assert await consume(broker.bootstrap, "numbers", 100) == values
    finally:
        await asyncio.to_thread(broker.stop)

    assert Kafka(tmp_path).bootstrap == broker.bootstrap


def test_a_broker_that_cannot_start_says_why(kafka: Kafka, tmp_path: Path) -> None:
    second = Kafka(tmp_path)
    second._records.mkdir()
    (second._records / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=7\n")

    with pytest.raises(ServerError, match="before it was ready") as refusal:
        second.start()

    assert "node" in str(refusal.value)
    assert str(second.log) in refusal.value.next_step
    assert not second.alive


def test_a_port_in_use_is_refused(kafka: Kafka, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tools.servers.ports.FREED_S_MAX", 0.0)

    with pytest.raises(ServerError, match=rf"port {kafka.ports['broker']} is in use"):
        Kafka(tmp_path, kafka.ports["broker"]).start()


def test_the_lock_pins_every_jar_by_its_sha256() -> None:
    jars = locked_jars()

    assert "org.apache.kafka:kafka_2.13:4.1.0" in jars
    assert all(len(sha256) == 64 for sha256 in jars.values())


IDENTITY = KafkaIdentity("of-the-broker", ADMINISTRATOR_PASSWORD)


def test_an_older_broker_asks_who_comes_from_its_next_start_on_and_keeps_its_records(
    tmp_path: Path,
) -> None:
    with Kafka(tmp_path) as bare:
        asyncio.run(produce(bare.bootstrap, "older", [b"kept"]))
    with Kafka(tmp_path, identity=IDENTITY) as secured:
        with pytest.raises(KafkaConnectionError):
            asyncio.run(consume(secured.bootstrap, "older", 1))
        known = administrator(secured.bootstrap)
        assert asyncio.run(consume(secured.bootstrap, "older", 1, known)) == [b"kept"]


def test_its_passwords_are_in_a_file_of_its_user_alone(secured_kafka: Kafka) -> None:
    told = secured_kafka.directory / "server.properties"

    assert told.stat().st_mode & 0o777 == 0o600
    words = psutil.Process(secured_kafka.pid).cmdline()
    assert not [word for word in words if "of-the-" in word]


def test_a_stranger_on_its_port_is_not_told_a_password(tmp_path: Path) -> None:
    """Whoever took the port first hears nothing from the probe, nor from who starts it."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        broker = Kafka(tmp_path, stranger.getsockname()[1], identity=IDENTITY)
        broker._child = cast(Child, SimpleNamespace(pid=os.getpid(), alive=True))
        assert broker._has_its_port()
        broker._child = cast(Child, SimpleNamespace(pid=os.getppid(), alive=True))
        assert not broker._ready()
        stranger.settimeout(0)
        with pytest.raises(BlockingIOError):
            stranger.accept()
