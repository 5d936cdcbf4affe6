"""Who may do what on Kafka: computed from the producer and consumers columns of `flow.py`.

    producer    writes its topic, and reads it: what the log lost, it publishes again
    consumer    reads the topic in a group of its own, buries in <topic>.dlq and reads it there
    undertaker  reads every <topic>.dlq
    upstream    `ingest` alone reads upstream.*; an upstream system writes to its one topic

What is not listed is refused: creating, altering and deleting topics, others' groups, settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from libs.common import flow
from libs.common.flow import TOPICS, UNDERTAKER, UPSTREAM_READER
from libs.common.settings import SERVICES


class Resource(StrEnum):
    GROUP = "group"
    TOPIC = "topic"


class Operation(StrEnum):
    """Either lets its holder describe the topic or group as well, as Kafka has it."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """Kafka's word is an ACL that allows; `prefixed`: on all whose names begin so."""

    user: str
    # Groups sort before topics, and so are granted first: who sees its topics can join its groups.
    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False

    def covers(self, resource: Resource, name: str, operation: Operation) -> bool:
        named = name.startswith(self.name) if self.prefixed else name == self.name
        return named and (self.resource, self.operation) == (resource, operation)


def rights_of(service: str) -> tuple[Right, ...]:
    """Of one service, in the order to grant them."""
    consumed = [topic for topic in TOPICS if service in topic.consumers]
    written = {topic.name for topic in TOPICS if topic.producer == service}
    letters = {topic.dead_letters for topic in consumed}
    written |= letters
    consumes = {topic.name for topic in consumed}
    if service == UNDERTAKER:
        consumes |= {topic.dead_letters for topic in TOPICS}
    read = consumes | letters | {topic.name for topic in TOPICS if topic.producer == service}
    rights = [
        *(Right(service, Resource.TOPIC, name, Operation.READ) for name in read),
        *(Right(service, Resource.TOPIC, name, Operation.WRITE) for name in written),
    ]
    if consumes:
        groups = flow.consumer_group(service, "")
        rights.append(Right(service, Resource.GROUP, groups, Operation.READ, prefixed=True))
    if service == UPSTREAM_READER:
        prefix = flow.UPSTREAM_PREFIX
        rights += [
            Right(service, Resource.TOPIC, prefix, Operation.READ, prefixed=True),
            Right(service, Resource.GROUP, flow.UPSTREAM_GROUP, Operation.READ),
        ]
    return tuple(sorted(rights))


def rights_of_services() -> tuple[Right, ...]:
    return tuple(right for service in SERVICES for right in rights_of(service))


def rights_of_source(user: str, topic: str) -> tuple[Right, ...]:
    """Of an upstream system: it publishes to its topic, and reads nothing, not even that."""
    return (Right(user, Resource.TOPIC, topic, Operation.WRITE),)


def may(
    rights: Iterable[Right], user: str, resource: Resource, name: str, operation: Operation
) -> bool:
    return any(right.user == user and right.covers(resource, name, operation) for right in rights)
