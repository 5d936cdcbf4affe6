"""Administers Kafka by confluent-kafka: aiokafka has no calls for users and rights."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import confluent_kafka.admin
from confluent_kafka import KafkaException

from libs.common.errors import DependencyError
from libs.common.kafka import MECHANISM, KafkaAccess
from libs.common.kafka_rights import Operation, Resource, Right
from libs.common.topics import TopicSpec

REQUEST_S_MAX = 5.0
# The first question of a call: its caller is to hear that Kafka is away while it still waits.
THERE_S_MAX = 3.0
IN_FORCE_S_MAX = 5.0
LOOK_AGAIN_S = 0.02
# Kafka refuses a request of 12,000 rights; so many take a tenth of a second.
AT_ONCE_MAX = 250
# Passwords are random, so iterations protect nothing: the least that Kafka takes.
SCRAM_ITERATIONS = 4_096
RECONNECT_MS_MAX = 2_000
# By librdkafka: a topic that exists, what is not there (any more).
DONE_ALREADY = frozenset({36, 91})
PRINCIPAL = "User:"
# Its types leave out most of what it exports.
kafka: Any = confluent_kafka.admin

# Until they are closed. librdkafka aborts the process when the last reference to a client goes in
# its own thread, and Python collects garbage in whichever thread it likes.
_OPEN: list[Any] = []

T = TypeVar("T")
log = logging.getLogger(__name__)


class KafkaAdministrator:
    """Connects with the first call, and again by itself, until it is closed."""

    def __init__(self, access: KafkaAccess) -> None:
        self._access = access
        self._made: Any = None

    async def close(self) -> None:
        client, self._made = self._made, None
        if client is not None:
            await asyncio.to_thread(client.__exit__, None, None, None)
            _OPEN.remove(client)

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        client = self._client()
        there = await self._asked(asyncio.to_thread(client.list_topics, timeout=THERE_S_MAX))
        missing = [each for each in topics if each.name not in there.topics]
        if missing:
            await self._all(
                client.create_topics(
                    [
                        kafka.NewTopic(
                            each.name,
                            num_partitions=each.partitions,
                            replication_factor=each.replication,
                            config=dict(each.settings),
                        )
                        for each in missing
                    ],
                    request_timeout=REQUEST_S_MAX,
                )
            )
        await self._set([each for each in topics if each.name in there.topics])

    async def _set(self, topics: Sequence[TopicSpec]) -> None:
        """Gives topics that are there the settings that they should have."""
        for part in _parts(topics):
            if changes := await self._changes(part):
                await self._all(
                    self._client().incremental_alter_configs(changes, request_timeout=REQUEST_S_MAX)
                )
                await self._in_force(lambda part=part: self._changes(part), lambda left: not left)

    async def _changes(self, topics: Sequence[TopicSpec]) -> list[Any]:
        asked = [kafka.ConfigResource(kafka.ResourceType.TOPIC, each.name) for each in topics]
        described = await self._all(
            self._client().describe_configs(asked, request_timeout=REQUEST_S_MAX)
        )
        found = {resource.name: entries for resource, entries in described.items()}
        changes = [_change(each, found[each.name]) for each in topics]
        # One without settings to replace all others is empty, and so false.
        return [each for each in changes if each is not None]

    async def users(self) -> frozenset[str]:
        asked = self._client().describe_user_scram_credentials(request_timeout=REQUEST_S_MAX)
        return frozenset(await self._asked(asyncio.wrap_future(asked)))

    async def put_users(self, passwords: Mapping[str, str]) -> None:
        if not passwords:
            return
        how = kafka.ScramCredentialInfo(kafka.ScramMechanism.SCRAM_SHA_256, SCRAM_ITERATIONS)
        await self._alter_users(
            kafka.UserScramCredentialUpsertion(user, how, password.encode())
            for user, password in passwords.items()
        )
        await self._in_force(self.users, lambda known: known.issuperset(passwords))

    async def remove_users(self, users: Sequence[str]) -> None:
        if not users:
            return
        how = kafka.ScramMechanism.SCRAM_SHA_256
        await self._alter_users(kafka.UserScramCredentialDeletion(user, how) for user in users)
        await self._in_force(self.users, lambda known: known.isdisjoint(users))

    async def _alter_users(self, alterations: Iterable[Any]) -> None:
        for part in _parts(list(alterations)):
            await self._all(
                self._client().alter_user_scram_credentials(part, request_timeout=REQUEST_S_MAX)
            )

    async def rights(self, user: str = "") -> frozenset[Right]:
        wanted = kafka.AclBindingFilter(
            kafka.ResourceType.ANY,
            None,
            kafka.ResourcePatternType.ANY,
            PRINCIPAL + user if user else None,
            None,
            kafka.AclOperation.ANY,
            kafka.AclPermissionType.ANY,
        )
        asked = self._client().describe_acls(wanted, request_timeout=REQUEST_S_MAX)
        bindings = await self._asked(asyncio.wrap_future(asked))
        return frozenset(right for each in bindings if (right := _right(each)) is not None)

    async def grant(self, rights: Sequence[Right]) -> None:
        if not rights:
            return
        for part in _parts(rights):
            bindings = [kafka.AclBinding(*_terms(right)) for right in part]
            await self._all(self._client().create_acls(bindings, request_timeout=REQUEST_S_MAX))

        await self._in_force(self.rights, lambda granted: granted.issuperset(rights))

    async def withdraw(self, rights: Sequence[Right]) -> None:
        if not rights:
            return
        for part in _parts(rights):
            bindings = [kafka.AclBindingFilter(*_terms(right)) for right in part]
            await self._all(self._client().delete_acls(bindings, request_timeout=REQUEST_S_MAX))

        await self._in_force(self.rights, lambda granted: granted.isdisjoint(rights))

    async def _in_force(
        self,
        ask: Callable[[], Awaitable[T]],
        holds: Callable[[T], bool],
    ) -> None:
        """The controller answers first; the broker, whom clients ask, hears of it later."""
        give_up_at = time.monotonic() + IN_FORCE_S_MAX
        while not holds(await ask()):
            if time.monotonic() > give_up_at:
                raise self._away(TimeoutError("what was changed is not in force yet"))
            await asyncio.sleep(LOOK_AGAIN_S)

    # The client.

    def _client(self) -> Any:
        if self._made is None:
            # A password in the clear is for the end of a TLS connection alone. Without TLS the
            # server is to prove that it knows the password too, so nobody in its place learns it.
            mechanism = "PLAIN" if self._access.ca else MECHANISM
            settings: dict[str, Any] = {
                **self._access.for_librdkafka(mechanism),
                "client.id": "security-administration",
                "reconnect.backoff.max.ms": RECONNECT_MS_MAX,
            }
            self._made = kafka.AdminClient(settings, logger=log)
            _OPEN.append(self._made)
        return self._made

    async def _all(self, futures: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
        """What each answered; raises the first error that says something was not done."""
        answers = await asyncio.gather(
            *(asyncio.wrap_future(each) for each in futures.values()), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, KafkaException) and answer.args[0].code() in DONE_ALREADY:
                continue
            if isinstance(answer, BaseException):
                raise self._away(answer) from answer
        return dict(zip(futures, answers, strict=True))

    async def _asked(self, answer: Any) -> Any:
        try:
            return await answer
        except KafkaException as error:
            raise self._away(error) from error

    def _away(self, error: BaseException) -> DependencyError:
        reason = error.args[0].str() if isinstance(error, KafkaException) else repr(error)
        return DependencyError(
            "Kafka cannot be administered.",
            which="kafka",
            next_step="`basalt status` shows whether it serves; what is left undone is done then.",
            inside=f"{self._access.bootstrap}: {reason}",
        )


def _parts(items: Sequence[Any]) -> Iterable[list[Any]]:
    return (list(items[at : at + AT_ONCE_MAX]) for at in range(0, len(items), AT_ONCE_MAX))


def _change(topic: TopicSpec, found: Mapping[str, Any]) -> Any:
    wrong = {
        name: value
        for name, value in topic.settings.items()
        if name not in found or found[name].value != value
    }
    if not wrong:
        return None
    entries = [
        kafka.ConfigEntry(name, value, incremental_operation=kafka.AlterConfigOpType.SET)
        for name, value in wrong.items()
    ]
    return kafka.ConfigResource(kafka.ResourceType.TOPIC, topic.name, incremental_configs=entries)


def _terms(right: Right) -> tuple[Any, ...]:
    pattern = (
        kafka.ResourcePatternType.PREFIXED if right.prefixed else kafka.ResourcePatternType.LITERAL
    )
    return (
        kafka.ResourceType[right.resource.name],
        right.name,
        pattern,
        PRINCIPAL + right.user,
        "*",
        kafka.AclOperation[right.operation.name],
        kafka.AclPermissionType.ALLOW,
    )


def _right(binding: Any) -> Right | None:
    """None for what is of no kind that Basalt grants, such as a refusal or another host."""
    try:
        right = Right(
            binding.principal.removeprefix(PRINCIPAL),
            Resource[binding.restype.name],
            binding.name,
            Operation[binding.operation.name],
            prefixed=binding.resource_pattern_type == kafka.ResourcePatternType.PREFIXED,
        )
    except KeyError:
        return None
    plain = binding.host == "*" and binding.permission_type == kafka.AclPermissionType.ALLOW
    return right if plain else None
