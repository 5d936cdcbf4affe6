"""Rights follow from the columns of `flow.py`, settings of topics from the number of brokers."""

from __future__ import annotations

import pytest

from libs.common import flow, topics
from libs.common.kafka_rights import (
    Operation,
    Resource,
    Right,
    may,
    rights_of,
    rights_of_services,
    rights_of_source,
)
from libs.common.settings import SERVICES

RIGHTS = rights_of_services()


@pytest.mark.parametrize("row", flow.TOPICS, ids=lambda row: row.name)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_what_its_columns_say(row: flow.Topic, service: str) -> None:
    undertaker = service == flow.UNDERTAKER
    consumes = service in row.consumers

    def allowed(name: str, operation: Operation) -> bool:
        return may(RIGHTS, service, Resource.TOPIC, name, operation)

    reads = consumes or service == row.producer
    assert allowed(row.name, Operation.READ) == reads
    assert allowed(row.name, Operation.WRITE) == (service == row.producer)
    assert allowed(row.dead_letters, Operation.WRITE) == consumes
    assert allowed(row.dead_letters, Operation.READ) == (consumes or undertaker)


@pytest.mark.parametrize("service", SERVICES)
def test_a_group_is_of_the_service_that_its_name_begins_with(service: str) -> None:
    for other in SERVICES:
        group = flow.consumer_group(other, "any.topic.v1")
        consumes = any(right.resource is Resource.GROUP for right in rights_of(service))
        holds = may(RIGHTS, service, Resource.GROUP, group, Operation.READ)
        assert holds == (service == other and consumes and service != flow.UPSTREAM_READER)


def test_upstream_topics_are_read_by_one_service_and_written_by_none() -> None:
    topic = flow.upstream_topic("acme", "scans")

    readers = [s for s in SERVICES if may(RIGHTS, s, Resource.TOPIC, topic, Operation.READ)]
    writers = [s for s in SERVICES if may(RIGHTS, s, Resource.TOPIC, topic, Operation.WRITE)]
    assert (readers, writers) == ([flow.UPSTREAM_READER], [])


def test_a_source_writes_its_topic_alone() -> None:
    topic = flow.upstream_topic("acme", "scans")
    user = f"{topic}.01k5"

    assert rights_of_source(user, topic) == (
        Right(user, Resource.TOPIC, topic, Operation.WRITE, prefixed=False),
    )


def test_groups_are_granted_before_topics() -> None:
    """Who waits until it sees its topics can then join its groups."""
    for service in SERVICES:
        kinds = [right.resource for right in rights_of(service)]
        assert kinds == sorted(kinds)


def test_one_broker_syncs_and_three_tell_each_other() -> None:
    for spec in topics.platform_topics(replication=1):
        assert spec.settings["flush.messages"] == "1", spec.name
    for spec in topics.platform_topics(replication=3):
        assert spec.settings["min.insync.replicas"] == "2", spec.name
        assert "flush.messages" not in spec.settings


def test_a_source_chooses_what_a_power_cut_may_cost() -> None:
    usual = topics.upstream_topic("acme", "scans", 1, durable=False)
    durable = topics.upstream_topic("acme", "scans", 1, durable=True)

    assert int(usual.settings["flush.messages"]) > 10**18
    assert durable.settings["flush.messages"] == "1"
    assert {**usual.settings, "flush.messages": "1"} == durable.settings
