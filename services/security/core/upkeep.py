"""Brings Kafka to what it should be: topics, users, rights. Nobody else administers it.

It looks again and again, so a Kafka that is away, was set up anew or was changed by hand is as it
should be soon after. Users and rights that are not Basalt's own are left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.errors import DependencyError
from libs.common.kafka_rights import rights_of_services
from libs.common.topics import TopicSpec
from services.security.core.source_keys import SourceKey, SourceKeys, is_source_user
from services.security.ports import KafkaAdministration

# How often Kafka is compared with what should be, once it was found right.
LOOK_S = 60.0


@dataclass(slots=True)
class Upkeep:
    """`passwords` are the services'; without any Kafka asks nobody, and only gets its topics."""

    administration: KafkaAdministration
    clock: Clock
    keys: SourceKeys
    topics: Sequence[TopicSpec]
    passwords: Mapping[str, str]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _look_at: float = 0.0
    _introduced: bool = False

    async def look(self) -> None:
        """Compares, and mends what differs. Raises DependencyError while Kafka is away."""
        if self.clock.monotonic() < self._look_at:
            return
        async with self._turn:
            if self.passwords:
                await self._settle()
            else:
                await self.administration.ensure_topics(self.topics)
        self._look_at = self.clock.monotonic() + LOOK_S

    async def _settle(self) -> None:
        keys = await self.keys.in_force()
        wanted = (*rights_of_services(), *(right for key in keys for right in key.rights))
        present = await self.administration.rights()
        users = await self.administration.users()
        passwords = {**self.passwords, **self.keys.passwords(keys)}
        # First what nobody should be able to do any more.
        await self.administration.withdraw(
            sorted(each for each in present - set(wanted) if self._ours(each.user))
        )
        await self.administration.remove_users(
            sorted(each for each in users - set(passwords) if is_source_user(each))
        )
        # Whether a user has the right password cannot be asked, so each start says it again.
        told = users if self._introduced else users - set(self.passwords)
        await self.administration.put_users(
            {user: word for user, word in passwords.items() if user not in told}
        )
        self._introduced = True
        await self.administration.ensure_topics(self.topics)
        await self.administration.grant([each for each in wanted if each not in present])

    def _ours(self, user: str) -> bool:
        return user in self.passwords or is_source_user(user)

    # Of sources, as `ingest` asks for them.

    async def put_topic(self, topic: TopicSpec) -> None:
        await self.administration.ensure_topics([topic])

    async def create_key(self, tenant: str, source: str, by: str) -> tuple[SourceKey, str]:
        """The key and its password, both known to Kafka. Raises DependencyError without it."""
        async with self._turn:
            key = await self.keys.create(tenant, source, by)
            try:
                await self.administration.put_users(self.keys.passwords([key]))
                await self.administration.grant(key.rights)
            except DependencyError:
                # Nobody was told its password, so it shall not stay.
                await self.keys.revoke(tenant, source, key.state.id, by)
                self._look_at = 0.0
                raise
        return key, self.keys.password(key)

    async def rotate_key(
        self, tenant: str, source: str, key_id: str, by: str
    ) -> tuple[SourceKey, str]:
        async with self._turn:
            key = await self.keys.rotate(tenant, source, key_id, by)
            await self.administration.put_users(self.keys.passwords([key]))
        return key, self.keys.password(key)

    async def revoke_key(self, tenant: str, source: str, key_id: str, by: str) -> SourceKey:
        """Kafka refuses it from now on, or DependencyError: it does as soon as it answers."""
        async with self._turn:
            key = await self.keys.revoke(tenant, source, key_id, by)
            # If what follows fails, the next look does it.
            self._look_at = 0.0
            present = await self.administration.rights(key.user)
            await self.administration.withdraw(sorted(present))
            await self.administration.remove_users([key.user])
        return key
