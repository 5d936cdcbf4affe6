"""Source keys: what an upstream system logs in to Kafka with, to publish to its one topic.

A key is a user of Kafka, named after the topic so that it can be no service's. Its password is
derived from the master key, so it lies nowhere, and a Kafka that was set up anew is told it again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from libs.common import flow
from libs.common.clock import Clock
from libs.common.errors import InvalidInputError, LimitError, NotFoundError
from libs.common.journal import Change, Decide, Journal, aggregate
from libs.common.kafka_rights import Right, rights_of_source
from libs.common.paging import page_size
from libs.common.stores.ports import Entry
from services.security.core.names import is_user
from services.security.ports import Seal

KIND = "source-key"
# In force: enough for one key to follow another, and for a few systems that share a source.
KEYS_LIVE_OF_SOURCE_MAX = 10
KEYS_LIVE_OF_TENANT_MAX = 1_000


class SourceKeyState(BaseModel):
    """`salt` makes its password, with the master key; another one with each rotation."""

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    salt: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class SourceKey:
    state: SourceKeyState
    # The entry that made it, or that changed it last.
    entry: Entry

    @classmethod
    def of(cls, entry: Entry) -> SourceKey:
        return cls(SourceKeyState.model_validate(entry.state), entry)

    @property
    def topic(self) -> str:
        return flow.upstream_topic(self.entry.tenant, self.state.source)

    @property
    def user(self) -> str:
        """Its user in Kafka: no service's name has a dot."""
        return f"{self.topic}.{self.state.id}"

    @property
    def rights(self) -> tuple[Right, ...]:
        return () if self.state.revoked else rights_of_source(self.user, self.topic)


def is_source_user(user: str) -> bool:
    return user.startswith(flow.UPSTREAM_PREFIX)


@dataclass(frozen=True, slots=True)
class SourceKeys:
    journal: Journal
    clock: Clock
    seal: Seal

    async def create(self, tenant: str, source: str, by: str) -> SourceKey:
        """`source` is one that `ingest` knows."""
        if not is_user(source):
            raise InvalidInputError(f"{source[:64]!r} is no source's name.", which="source")
        live = [key.state for key in await self._of(tenant) if not key.state.revoked]
        of_source = [each for each in live if each.source == source]
        if len(of_source) >= KEYS_LIVE_OF_SOURCE_MAX or len(live) >= KEYS_LIVE_OF_TENANT_MAX:
            raise LimitError(
                f"{source} has {len(of_source)} keys in force and {tenant} {len(live)}; the most"
                f" are {KEYS_LIVE_OF_SOURCE_MAX} and {KEYS_LIVE_OF_TENANT_MAX}.",
                which="KEYS_LIVE_OF_SOURCE_MAX",
                next_step="Revoke those that are not used any more: `basalt source key revoke`.",
            )
        state = SourceKeyState(
            id=self.clock.new_id().lower(), source=source, salt=self.clock.new_id()
        )

        async def decide(_latest: Entry | None) -> Change:
            return Change("SourceKeyCreated", state.model_dump())

        return await self._decide(tenant, state.id, by, decide)

    async def rotate(self, tenant: str, source: str, key_id: str, by: str) -> SourceKey:
        """Another password for the same user."""
        await self._require(tenant, source, key_id)

        async def decide(latest: Entry | None) -> Change:
            before = _known(latest, source, key_id)
            if before.state.revoked:
                raise _unknown(key_id)
            state = before.state.model_copy(update={"salt": self.clock.new_id()})
            return Change("SourceKeyRotated", state.model_dump())

        return await self._decide(tenant, key_id, by, decide)

    async def revoke(self, tenant: str, source: str, key_id: str, by: str) -> SourceKey:
        """For good. Again: the same answer."""
        await self._require(tenant, source, key_id)

        async def decide(latest: Entry | None) -> Change | None:
            before = _known(latest, source, key_id)
            if before.state.revoked:
                return None
            state = before.state.model_copy(update={"revoked": True})
            return Change("SourceKeyRevoked", state.model_dump())

        return await self._decide(tenant, key_id, by, decide)

    async def page(
        self, tenant: str, source: str, size: int, token: str
    ) -> tuple[list[SourceKey], str]:
        """A source's keys by id, which is by age, and the token of the next page."""
        size = page_size(size)
        found = [
            key
            for key in await self._of(tenant)
            if key.state.source == source and key.state.id > token
        ]
        found.sort(key=lambda key: key.state.id)
        return found[:size], found[size - 1].state.id if len(found) > size else ""

    async def in_force(self) -> list[SourceKey]:
        """Of every tenant."""
        keys = [SourceKey.of(entry) for entry in await self.journal.heads(KIND)]
        return [key for key in keys if not key.state.revoked]

    def password(self, key: SourceKey) -> str:
        purpose = f"source-key/{key.entry.tenant}/{key.state.id}"
        derived = self.seal.derive(purpose, key.state.salt)
        return base64.urlsafe_b64encode(derived).decode().rstrip("=")

    def passwords(self, keys: Iterable[SourceKey]) -> dict[str, str]:
        """By user."""
        return {key.user: self.password(key) for key in keys}

    async def _of(self, tenant: str) -> list[SourceKey]:
        return [SourceKey.of(entry) for entry in await self.journal.heads(KIND, tenant)]

    async def _require(self, tenant: str, source: str, key_id: str) -> None:
        latest = None
        if is_user(key_id):
            latest = await self.journal.latest(_name(tenant, key_id))
        _known(latest, source, key_id)

    async def _decide(self, tenant: str, key_id: str, by: str, decide: Decide) -> SourceKey:
        name = _name(tenant, key_id)
        entry = await self.journal.decide(name, self.clock.new_id(), by, decide)
        return SourceKey.of(entry)


def _name(tenant: str, key_id: str) -> str:
    return aggregate(tenant, KIND, key_id)


def _known(entry: Entry | None, source: str, key_id: str) -> SourceKey:
    if entry is None or (key := SourceKey.of(entry)).state.source != source:
        raise _unknown(key_id)
    return key


def _unknown(key_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no such key in force: {key_id[:64]!r}.",
        which="id",
        next_step="`basalt source key list` shows the keys of a source.",
    )
