"""A Kafka administered as security does it, and what any client may do there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka.admin

from libs.common.clock import SystemClock
from libs.common.journal import Journal
from libs.common.kafka import ADMINISTRATOR, KafkaAccess
from libs.common.settings import SERVICES
from libs.common.stores.sqlite import SqliteJournal
from libs.common.topics import platform_topics
from services.security.core.source_keys import SourceKeys
from services.security.core.upkeep import Upkeep
from services.security.outbound.kafka_administration import KafkaAdministrator
from services.security.outbound.sealing import AesGcmSeal
from tests.support.servers import ADMINISTRATOR_PASSWORD
from tools.servers.waiting import wait_until

ANSWER_S_MAX = 20.0
PASSWORDS = {service: f"of-{service}" for service in SERVICES}
PASSES = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS")
kafka: Any = confluent_kafka.admin


def administrator(bootstrap: str, ca: Path | None = None) -> KafkaAccess:
    return KafkaAccess(bootstrap, ADMINISTRATOR, ADMINISTRATOR_PASSWORD, ca)


def access(bootstrap: str, service: str) -> KafkaAccess:
    return KafkaAccess(bootstrap, service, PASSWORDS[service])


def upkeep(bootstrap: str, folder: Path, ca: Path | None = None) -> Upkeep:
    clock = SystemClock()
    journal = Journal(SqliteJournal(folder / "security.db"), clock)
    return Upkeep(
        KafkaAdministrator(administrator(bootstrap, ca)),
        clock,
        SourceKeys(journal, clock, AesGcmSeal(os.urandom(32))),
        platform_topics(replication=1),
        PASSWORDS,
    )


@dataclass(frozen=True)
class Seen:
    """What a client may do by the broker's own word: names of operations, by topic and group."""

    topics: Mapping[str, frozenset[str]]
    groups: Mapping[str, frozenset[str]]


def seen_by(who: KafkaAccess, topics: Sequence[str], groups: Sequence[str]) -> Seen:
    with kafka.AdminClient(who.for_librdkafka()) as client:
        asked = client.describe_topics(
            confluent_kafka.TopicCollection(list(topics)),
            include_authorized_operations=True,
            request_timeout=ANSWER_S_MAX,
        )
        return Seen(_answered(asked), {group: _held(client, group) for group in groups})


def _held(client: Any, group: str) -> frozenset[str]:
    """Kafka looks for a group's coordinator first, which it may only just be making."""
    found: list[frozenset[str]] = []

    def answered() -> bool:
        asked = client.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=ANSWER_S_MAX
        )
        try:
            found.append(_operations(asked[group]))
        except confluent_kafka.KafkaException as error:
            if error.args[0].name() not in PASSES:
                raise
        return bool(found)

    assert wait_until(answered, ANSWER_S_MAX), group
    return found[0]


def _answered(asked: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    return {name: _operations(future) for name, future in asked.items()}


def _operations(future: Any) -> frozenset[str]:
    try:
        described = future.result(ANSWER_S_MAX)
    except confluent_kafka.KafkaException as error:
        if "AUTHORIZATION_FAILED" not in error.args[0].name():
            raise
        return frozenset()
    return frozenset(each.name for each in described.authorized_operations or ())
