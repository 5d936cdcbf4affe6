"""API keys: long-lived tokens for programs. Only what is said about them is kept.

Whoever makes a key answers for it: it holds as long as they may make keys. What a key costs is a
row in every verifier once it is revoked, until it would have expired; so what is limited, tenant
by tenant, is how many may be made, and never whether one may be revoked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.errors import InvalidInputError, LimitError, NotFoundError
from libs.common.identity import PLATFORM
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import page_size
from libs.common.revocations import Revocation
from libs.common.stores.ports import Entry
from services.security.core.access import Access
from services.security.core.names import is_user, role_names, user_name
from services.security.core.tokens import Tokens

KIND = "key"
DAY_S = 24 * 60 * 60
DAYS_DEFAULT = 90
DAYS_MAX = 365
# Of one tenant, not expired and not revoked; and those together with what was revoked of them.
KEYS_LIVE_MAX = 1_000
KEYS_UNEXPIRED_MAX = 10_000
QUOTA_KIND = "key-quota"
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


class QuotaState(BaseModel):
    """How many keys of a tenant expire on a day (days since 1970), and how many it revoked.

    So a change costs the same however many keys there ever were.
    """

    model_config = ConfigDict(frozen=True)

    made: dict[str, int] = {}
    revoked: dict[str, int] = {}

    def since(self, today: int) -> QuotaState:
        return QuotaState(
            made={day: count for day, count in self.made.items() if int(day) >= today},
            revoked={day: count for day, count in self.revoked.items() if int(day) >= today},
        )

    def with_made(self, day: str) -> QuotaState:
        made = {**self.made, day: self.made.get(day, 0) + 1}
        return self.model_copy(update={"made": made})

    def with_revoked(self, day: str) -> QuotaState:
        revoked = min(self.revoked.get(day, 0) + 1, self.made.get(day, 0))
        return self.model_copy(update={"revoked": {**self.revoked, day: revoked}})

    @property
    def unexpired(self) -> int:
        return sum(self.made.values())

    @property
    def live(self) -> int:
        return self.unexpired - sum(self.revoked.values())


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
        state = KeyState(
            id=self.clock.new_id().lower(),
            name=user_name(name),
            roles=role_names(roles, ROLES),
            expires_at=float(int(now) + (days or DAYS_DEFAULT) * DAY_S),
        )
        # First the count: what ends in between is one key fewer, not one too many.
        await self._count_made(tenant, state, by)
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
        key = _known(await self._latest(tenant, key_id), key_id)
        # First what takes effect, so that a crash in between leaves nothing in force.
        row = Revocation(until=key.state.expires_at, token_id=key.state.id)
        await self.access.revoke(row, by=by)

        async def decide(latest: Entry | None) -> Change | None:
            before = _known(latest, key_id).state
            if before.revoked:
                return None
            return Change("ApiKeyRevoked", before.model_copy(update={"revoked": True}).model_dump())

        cause = self.clock.new_id()
        entry = await self.journal.decide(_key(tenant, key_id), cause, by, decide)
        if entry.cause == cause:
            await self._count_revoked(tenant, key.state, by)
        return ApiKey.of(entry)

    async def revoke_made_by(self, tenant: str, name: str, by: str) -> list[ApiKey]:
        """Those that a user of the tenant made and that would hold still; of the platform's own
        administrators, in every tenant.
        """
        # As entries of the tenant, and of another, know them.
        makers = {(tenant, name)}
        tenants: list[str] = [tenant]
        if tenant == PLATFORM:
            tenants = list(self.access.state.tenants)
            makers |= {(each, f"{PLATFORM}/{name}") for each in tenants if each != PLATFORM}
        now = self.clock.now().timestamp()
        revoked: list[ApiKey] = []
        for each in tenants:
            for entry in await self.journal.heads(KIND, each):
                key = ApiKey.of(entry)
                holds = not key.state.revoked and key.state.expires_at > now
                # Of a key that holds the only entry is the one that made it.
                if holds and (each, entry.by) in makers:
                    revoked.append(await self.revoke(each, key.state.id, by))
        return revoked

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

    async def _count_made(self, tenant: str, key: KeyState, by: str) -> None:
        def count(before: QuotaState) -> QuotaState:
            for made, most, which in (
                (before.live, KEYS_LIVE_MAX, "KEYS_LIVE_MAX"),
                (before.unexpired, KEYS_UNEXPIRED_MAX, "KEYS_UNEXPIRED_MAX"),
            ):
                if made >= most:
                    raise LimitError(
                        f"{tenant} has {most} API keys {_COUNTED[which]}, the most.",
                        which=which,
                        next_step="Revoke those that are not used any more (`basalt key revoke`),"
                        " and make keys for fewer days: a revoked one counts until it would have"
                        " expired.",
                    )
            return before.with_made(_day(key))

        await self._change_quota(tenant, by, count)

    async def _count_revoked(self, tenant: str, key: KeyState, by: str) -> None:
        await self._change_quota(tenant, by, lambda before: before.with_revoked(_day(key)))

    async def _change_quota(
        self, tenant: str, by: str, change: Callable[[QuotaState], QuotaState]
    ) -> None:
        today = int(self.clock.now().timestamp()) // DAY_S

        async def decide(latest: Entry | None) -> Change:
            if latest is not None:
                before = QuotaState.model_validate(latest.state)
            else:
                before = await self._counted(tenant)
            return Change("KeysCounted", change(before.since(today)).model_dump())

        quota = aggregate(tenant, QUOTA_KIND, "state")
        await self.journal.decide(quota, self.clock.new_id(), by, decide)

    async def _counted(self, tenant: str) -> QuotaState:
        """Of the keys from before they were counted."""
        quota = QuotaState()
        for entry in await self.journal.heads(KIND, tenant):
            key = KeyState.model_validate(entry.state)
            quota = quota.with_made(_day(key))
            quota = quota.with_revoked(_day(key)) if key.revoked else quota
        return quota


_COUNTED = {
    "KEYS_LIVE_MAX": "in force",
    "KEYS_UNEXPIRED_MAX": "that have not expired, revoked ones among them",
}


def _day(key: KeyState) -> str:
    """Of its end, in days since 1970."""
    return str(int(key.expires_at) // DAY_S)


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
