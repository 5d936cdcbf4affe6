"""API keys: long-lived tokens for programs. Only what is said about them is kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.errors import InvalidInputError, LimitError, NotFoundError
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import page_size
from libs.common.stores.ports import Entry
from services.security.core.access import Access
from services.security.core.names import is_user, role_names, user_name
from services.security.core.tokens import Tokens

KIND = "key"
DAY_S = 24 * 60 * 60
DAYS_DEFAULT = 90
DAYS_MAX = 365
# Of one tenant, not expired and not revoked.
KEYS_LIVE_MAX = 1_000
# A review is a person's, and so is deciding who may do what.
ROLES = ("engineer", "operator", "application", "auditor")


class KeyState(BaseModel):
    """`expires_at` is in seconds since 1970; `id` is the `jti` of the token."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    roles: tuple[str, ...]
    expires_at: float
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class ApiKey:
    state: KeyState
    # The entry that made it, or that revoked it.
    entry: Entry

    @classmethod
    def of(cls, entry: Entry) -> ApiKey:
        return cls(KeyState.model_validate(entry.state), entry)


@dataclass(frozen=True, slots=True)
class ApiKeys:
    journal: Journal
    clock: Clock
    access: Access
    tokens: Tokens

    async def create(
        self, tenant: str, name: str, roles: Collection[str], days: int, by: str
    ) -> tuple[ApiKey, str]:
        """The key and its secret, which is a token with the subject "key:<name>"."""
        if not 0 <= days <= DAYS_MAX:
            raise InvalidInputError(
                f"An API key cannot hold for {days} days.",
                which="days",
                next_step=f"Ask for 1 to {DAYS_MAX}, or 0 for {DAYS_DEFAULT}.",
            )
        now = self.clock.now().timestamp()
        await self._refuse_too_many(tenant, now)
        state = KeyState(
            id=self.clock.new_id().lower(),
            name=user_name(name),
            roles=role_names(roles, ROLES),
            expires_at=float(int(now) + (days or DAYS_DEFAULT) * DAY_S),
        )
        key = await self.access.keep_key_until(state.expires_at, by)

        async def decide(_latest: Entry | None) -> Change:
            return Change("ApiKeyCreated", state.model_dump())

        entry = await self.journal.decide(_key(tenant, state.id), state.id, by, decide)
        issued = self.tokens.signed(
            key, state.id, int(state.expires_at), tenant, f"key:{name}", state.roles, "key"
        )
        return ApiKey.of(entry), issued.token

    async def revoke(self, tenant: str, key_id: str, by: str) -> ApiKey:
        """Refused by every verifier from now on. Again: the same answer."""
        state = _known(await self._latest(tenant, key_id), key_id).state
        # First what takes effect, so that a crash in between leaves nothing in force.
        await self.access.revoke({state.id: state.expires_at}, by)

        async def decide(latest: Entry | None) -> Change | None:
            before = _known(latest, key_id).state
            if before.revoked:
                return None
            return Change("ApiKeyRevoked", before.model_copy(update={"revoked": True}).model_dump())

        entry = await self.journal.decide(_key(tenant, key_id), self.clock.new_id(), by, decide)
        return ApiKey.of(entry)

    async def page(self, tenant: str, size: int, token: str) -> tuple[list[ApiKey], str]:
        """Keys by id, which is by age, and the token of the next page ("" after the last)."""
        size = page_size(size)
        after = _key(tenant, token) if token else ""
        entries = await self.journal.store.heads(KIND, tenant, after, size + 1)
        keys = [ApiKey.of(entry) for entry in entries[:size]]
        return keys, keys[-1].state.id if len(entries) > size else ""

    async def _latest(self, tenant: str, key_id: str) -> Entry | None:
        if not is_user(key_id):
            return None
        return await self.journal.latest(_key(tenant, key_id))

    async def _refuse_too_many(self, tenant: str, now: float) -> None:
        keys = [ApiKey.of(entry).state for entry in await self.journal.heads(KIND, tenant)]
        live = [key for key in keys if not key.revoked and key.expires_at > now]
        if len(live) >= KEYS_LIVE_MAX:
            raise LimitError(
                f"{tenant} has {KEYS_LIVE_MAX} API keys in force, the most.",
                which="KEYS_LIVE_MAX",
                next_step="Revoke those that are not used any more: `basalt key revoke`.",
            )


def _key(tenant: str, key_id: str) -> str:
    return aggregate(tenant, KIND, key_id)


def _known(entry: Entry | None, key_id: str) -> ApiKey:
    if entry is None:
        raise NotFoundError(
            f"There is no API key {key_id[:64]!r}.",
            which="id",
            next_step="`basalt key list` shows the keys of your tenant.",
        )
    return ApiKey.of(entry)
