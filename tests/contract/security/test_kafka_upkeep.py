"""Kafka as it should be: found so, made so again, and keys in force when they are answered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError

from deploy.first_start import make
from libs.common import flow, topics
from libs.common.errors import DependencyError, LimitError, NotFoundError
from libs.common.kafka import KafkaAccess
from libs.common.kafka_rights import Operation, Resource, Right, rights_of_services
from services.security.core import source_keys
from services.security.core.upkeep import Upkeep
from tests.support.secured_kafka import access, kafka, upkeep
from tools.servers import Kafka, KafkaIdentity
from tools.servers.ports import free_ports

REPOSITORY = Path(__file__).parents[3]
ANSWER_S_MAX = 20.0
TENANT, SOURCE = "acme", "scans"
TOPIC = topics.upstream_topic(TENANT, SOURCE, 1, durable=False)


@pytest.fixture
async def settled(secured_kafka: Kafka, tmp_path: Path) -> Upkeep:
    made = upkeep(secured_kafka.bootstrap, tmp_path)
    await made.look()
    await made.put_topic(TOPIC)
    return made


async def publish(who: KafkaAccess, topic: str = TOPIC.name) -> None:
    producer = AIOKafkaProducer(**who.for_aiokafka())
    try:
        await asyncio.wait_for(producer.start(), ANSWER_S_MAX)
        await asyncio.wait_for(producer.send_and_wait(topic, b"{}"), ANSWER_S_MAX)
    finally:
        await producer.stop()


async def settings_of(made: Upkeep, topic: str) -> dict[str, str]:
    client = made.administration._client()  # pyright: ignore[reportAttributeAccessIssue]
    asked = client.describe_configs([kafka.ConfigResource(kafka.ResourceType.TOPIC, topic)])
    (found,) = [each.result(ANSWER_S_MAX) for each in asked.values()]
    return {name: entry.value for name, entry in found.items()}


async def test_a_key_publishes_until_it_is_revoked_and_open_sessions_end_too(
    secured_kafka: Kafka, settled: Upkeep
) -> None:
    key, password = await settled.create_key(TENANT, SOURCE, "ada")
    who = KafkaAccess(secured_kafka.bootstrap, key.user, password)
    async with AIOKafkaProducer(**who.for_aiokafka()) as producer:
        await asyncio.wait_for(producer.send_and_wait(TOPIC.name, b"{}"), ANSWER_S_MAX)

        revoked = await settled.revoke_key(TENANT, SOURCE, key.state.id, "ada")

        assert revoked.state.revoked
        with pytest.raises(TopicAuthorizationFailedError):
            await asyncio.wait_for(producer.send_and_wait(TOPIC.name, b"{}"), ANSWER_S_MAX)
    with pytest.raises(KafkaConnectionError):
        await publish(who)
    again = await settled.revoke_key(TENANT, SOURCE, key.state.id, "eve")
    assert again.entry == revoked.entry
    with pytest.raises(NotFoundError):
        await settled.rotate_key(TENANT, SOURCE, key.state.id, "ada")


async def test_a_rotated_key_has_another_password(secured_kafka: Kafka, settled: Upkeep) -> None:
    key, old = await settled.create_key(TENANT, SOURCE, "ada")
    _, new = await settled.rotate_key(TENANT, SOURCE, key.state.id, "ada")

    with pytest.raises(KafkaConnectionError):
        await publish(KafkaAccess(secured_kafka.bootstrap, key.user, old))
    await publish(KafkaAccess(secured_kafka.bootstrap, key.user, new))


async def test_keys_are_their_tenants_and_their_sources(settled: Upkeep) -> None:
    key, _ = await settled.create_key(TENANT, SOURCE, "ada")

    for tenant, source in (("globex", SOURCE), (TENANT, "other")):
        for change in (settled.rotate_key, settled.revoke_key):
            with pytest.raises(NotFoundError):
                await change(tenant, source, key.state.id, "eve")
        assert await settled.keys.page(tenant, source, 0, "") == ([], "")
    (found,), _ = await settled.keys.page(TENANT, SOURCE, 0, "")
    assert found == key


async def test_keys_are_limited_and_revoked_ones_do_not_count(
    settled: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_keys, "KEYS_LIVE_OF_SOURCE_MAX", 1)
    key, _ = await settled.create_key(TENANT, SOURCE, "ada")

    with pytest.raises(LimitError, match="source key revoke"):
        await settled.create_key(TENANT, SOURCE, "ada")
    await settled.revoke_key(TENANT, SOURCE, key.state.id, "ada")
    await settled.create_key(TENANT, SOURCE, "ada")


async def test_what_was_changed_by_hand_is_as_it_should_be_again(
    secured_kafka: Kafka, settled: Upkeep
) -> None:
    """Rights taken away or given, users removed or left over, settings changed; not others'."""
    hand = settled.administration
    key, password = await settled.create_key(TENANT, SOURCE, "ada")
    too_much = Right("gateway", Resource.TOPIC, flow.DRIFT_DETECTED.name, Operation.WRITE)
    foreign = Right("somebody-else", Resource.TOPIC, "their-own", Operation.READ)
    left_over = f"{TOPIC.name}.left-over"
    await hand.withdraw([*key.rights, rights_of_services()[0]])
    await hand.grant([too_much, foreign])
    await hand.remove_users([key.user, "trainer"])
    await hand.put_users({left_over: "a password", "somebody-else": "a password"})
    wrong = topics.TopicSpec(flow.MODEL_SIGNED.name, 4, 1, {"flush.messages": "1000"})
    await hand.ensure_topics([wrong])
    assert (await settings_of(settled, flow.MODEL_SIGNED.name))["flush.messages"] == "1000"

    settled._look_at = 0.0
    await settled.look()

    rights, users = await hand.rights(), await hand.users()
    assert rights.issuperset({*rights_of_services(), *key.rights, foreign})
    assert too_much not in rights
    assert {"trainer", key.user, "somebody-else"} <= users
    assert left_over not in users
    assert (await settings_of(settled, flow.MODEL_SIGNED.name))["flush.messages"] == "1"
    await publish(KafkaAccess(secured_kafka.bootstrap, key.user, password))
    await hand.withdraw([foreign])
    await hand.remove_users(["somebody-else"])


async def test_a_sources_topic_is_changed_to_be_durable(settled: Upkeep) -> None:
    await settled.put_topic(topics.upstream_topic(TENANT, SOURCE, 1, durable=True))

    assert (await settings_of(settled, TOPIC.name))["flush.messages"] == "1"


async def test_without_kafka_no_key_is_made_and_a_revoked_one_is_revoked_later(
    tmp_path: Path,
) -> None:
    broker = Kafka(tmp_path / "kafka", identity=KafkaIdentity("b", "of-the-administrator"))
    await asyncio.to_thread(broker.start)
    try:
        made = upkeep(broker.bootstrap, tmp_path)
        await made.look()
        await made.put_topic(TOPIC)
        key, password = await made.create_key(TENANT, SOURCE, "ada")
        await asyncio.to_thread(broker.kill)

        with pytest.raises(DependencyError):
            await made.create_key(TENANT, SOURCE, "ada")
        with pytest.raises(DependencyError):
            await made.revoke_key(TENANT, SOURCE, key.state.id, "ada")
        assert await made.keys.in_force() == []

        await asyncio.to_thread(broker.start)
        await made.look()
        with pytest.raises(KafkaError):
            await publish(KafkaAccess(broker.bootstrap, key.user, password))
    finally:
        await asyncio.to_thread(broker.stop)


async def test_security_looks_on_until_kafka_is_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    made = upkeep(f"127.0.0.1:{port}", tmp_path)

    with pytest.raises(DependencyError) as away:
        await made.look()

    assert away.value.which == "kafka"


async def test_with_tls_all_come_by_the_same_ways(tmp_path: Path) -> None:
    """What the containers are given, on a broker that runs here."""
    await asyncio.to_thread(make, tmp_path / "secrets")
    folder = tmp_path / "secrets/kafka/tls"
    identity = KafkaIdentity(
        "b", "of-the-administrator", folder / "keystore.pem", folder / "ca.pem"
    )
    broker = Kafka(tmp_path / "kafka", identity=identity)
    await asyncio.to_thread(broker.start)
    try:
        made = upkeep(broker.bootstrap, tmp_path, ca=folder / "ca.pem")
        await made.look()
        security = access(broker.bootstrap, "security")
        with pytest.raises(KafkaConnectionError):
            await publish(security, flow.ACCESS_CHANGED.name)
        trusting = KafkaAccess(
            security.bootstrap, security.user, security.password, folder / "ca.pem"
        )
        await publish(trusting, flow.ACCESS_CHANGED.name)
    finally:
        await asyncio.to_thread(broker.stop)


# In a process of its own: clients of other tests have threads, too.
CLOSING = """
import asyncio, gc, sys
from pathlib import Path
from services.security.outbound.kafka_administration import KafkaAdministrator
from tests.support.secured_kafka import administrator

def threads():
    names = [each.read_text() for each in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("rdk:") for name in names)

async def used():
    made = KafkaAdministrator(administrator(sys.argv[1]))
    assert await made.users()
    return made

async def main():
    closed = await used()
    assert threads() > 0
    await closed.close()
    await closed.close()
    assert threads() == 0
    assert await closed.users(), "It connects again."
    await closed.close()
    left = await used()
    del left
    gc.collect()
    assert threads() > 0

asyncio.run(main())
"""


async def test_a_closed_administrator_leaves_no_thread_and_one_that_is_not_is_never_collected(
    secured_kafka: Kafka, settled: Upkeep
) -> None:
    """librdkafka aborts the process when a collection in its own thread lets go of a client."""
    command = [sys.executable, "-c", CLOSING, secured_kafka.bootstrap]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
