"""What every verifier has to know: keys and tenants in one aggregate, so with one version; and
revocations, which are rows of their own (`revoking.py`).

Private keys lie in it sealed. A retired token key stays published until the last token that it
signed has expired; a signing key stays for ever, as the signatures do.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.errors import AlreadyExistsError, LimitError, NotFoundError, PreconditionError
from libs.common.events import AccessChanged
from libs.common.identity import CLOCK_SKEW_S, PLATFORM
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import page_size
from libs.common.revocations import Revocation, Revocations
from libs.common.stores.ports import Entry
from services.security.core.followers import Follower, Followers, InForce, Keys, News
from services.security.core.names import tenant_name
from services.security.core.revoking import RevocationLog
from services.security.ports import ManifestSigner, Seal, TokenFormat

AGGREGATE = aggregate(PLATFORM, "access", "state")
TENANTS_MAX = 5_000
# A key for long-lived tokens stays published in steps of this, so that making one rarely says so.
NEEDED_STEP_S = 7 * 24 * 3_600.0


class TokenKey(BaseModel):
    """`needed_until` (seconds since 1970): when the last token that it signed expires."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    public: dict[str, str]
    sealed: str
    retired: bool = False
    needed_until: float = 0.0


class SigningKey(BaseModel):
    model_config = ConfigDict(frozen=True)

    key_id: str
    public_pem: str
    sealed: str


class AccessState(BaseModel):
    """The last of the keys is the one that signs.

    `revoked` maps token ids to their expiry: those that were revoked before each had a row.
    """

    model_config = ConfigDict(frozen=True)

    token_keys: tuple[TokenKey, ...]
    signing_keys: tuple[SigningKey, ...]
    revoked: dict[str, float] = {}
    tenants: tuple[str, ...] = (PLATFORM,)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.public for key in self.token_keys]}

    def signing_pems(self) -> dict[str, str]:
        return {key.key_id: key.public_pem for key in self.signing_keys}


@dataclass(frozen=True, slots=True)
class Published:
    """The state at a version of it."""

    version: int
    state: AccessState


Alter = Callable[[AccessState], AccessState]
Listener = Callable[[Published], None]


class Access:
    """`on_change` is told of each new version before the change that made it is answered.

    `revocations` are in force in this process as soon as they are in it.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        seal: Seal,
        tokens: TokenFormat,
        signer: ManifestSigner,
        on_change: Listener,
        revocations: Revocations,
        followers: Followers,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._seal = seal
        self._tokens = tokens
        self._signer = signer
        self._on_change = on_change
        self._revocations = revocations
        self._followers = followers
        self._log = RevocationLog(journal, clock)
        self._published: Published | None = None
        self._news = asyncio.Event()

    @property
    def published(self) -> Published:
        if self._published is None:
            raise PreconditionError("security has not started.", next_step="Try again shortly.")
        return self._published

    @property
    def state(self) -> AccessState:
        return self.published.state

    async def begin(self) -> None:
        """Makes the first keys and the platform's tenant, unless they are there."""

        async def first(latest: Entry | None) -> Change | None:
            if latest is not None:
                return None
            state = AccessState(
                token_keys=(self._new_token_key(),), signing_keys=(self._new_signing_key(),)
            )
            return self._change("AccessBegun", state, 1)

        await self._journal.decide(AGGREGATE, "first-start", "security", first)
        # Not the entry that this answers with, which is the first one: the newest counts.
        await self.refresh()
        # A wrong master key shows now, not when somebody logs in.
        self.token_private_key(self.state.token_keys[-1])
        self.signing_private_key(self.state.signing_keys[-1])

    async def refresh(self) -> None:
        """Takes over what another replica changed."""
        latest = await self._journal.latest(AGGREGATE)
        if latest is not None:
            self._take(latest)
        await self._take_revocations()

    def following(self, name: str) -> AbstractContextManager[Follower]:
        """What there is and what changes, for one part of the platform: `news` gives it."""
        return self._followers.following(name, self.keys(), lambda: list(self._revocations))

    def news(self, follower: Follower) -> AsyncIterator[News]:
        return self._followers.news(follower)

    def confirm(self, follower: Follower, sequence: int) -> None:
        self._followers.confirm(follower, sequence)

    def revoked_tokens(self) -> list[str]:
        """Ids of tokens and keys that were revoked one by one."""
        return [row.token_id for row in self._revocations if row.token_id]

    async def watch(self) -> AsyncIterator[Published]:
        """The state now and at each change, revocations too; those in between may be left out."""
        while True:
            news = self._news
            yield self.published
            await news.wait()

    # Changes.

    async def add_tenant(self, tenant: str, by: str) -> None:
        tenant_name(tenant)

        def alter(state: AccessState) -> AccessState:
            if tenant in state.tenants:
                raise AlreadyExistsError(
                    f"There is a tenant {tenant} already.",
                    which=tenant,
                    next_step="Choose another name.",
                )
            if len(state.tenants) >= TENANTS_MAX:
                raise LimitError(f"There are {TENANTS_MAX} tenants, the most.", which="TENANTS_MAX")
            return state.model_copy(update={"tenants": (*state.tenants, tenant)})

        await self._alter("TenantCreated", alter, by)

    def page(self, size: int, token: str) -> tuple[list[str], str]:
        """Tenants by name, and the token of the next page ("" after the last)."""
        size = page_size(size)
        rest = sorted(tenant for tenant in self.state.tenants if tenant > token)
        return rest[:size], rest[size - 1] if len(rest) > size else ""

    def known_tenant(self, tenant: str) -> str:
        if tenant not in self.state.tenants:
            raise NotFoundError(
                f"There is no tenant {tenant[:64]!r}.",
                which="tenant",
                next_step="`basalt tenant list` shows the platform's administrator those there are,"
                " and `basalt tenant create` makes one.",
            )
        return tenant

    async def revoke(self, *revocations: Revocation, by: str) -> None:
        """In force here when it returns, and on its way to all others: `settled` waits for them.

        Those that are known already cost nothing, so a repeat is one.
        """
        new = [each for each in revocations if self._revocations.is_news(each)]
        if new:
            await self._log.append(new, self.published.version, by)
            self._tell(None, self._revocations.add(*new))

    async def settled(self) -> InForce:
        """Whether everything that was changed so far is in force everywhere."""
        return await self._followers.settled()

    async def rotate(self, token_life_s: float, by: str) -> str:
        """New keys sign from now on; the new token key's id."""

        def alter(state: AccessState) -> AccessState:
            *older, last = state.token_keys
            needed_until = max(last.needed_until, self._now() + token_life_s + CLOCK_SKEW_S)
            # What signs nothing any more needs no private half.
            retired = last.model_copy(
                update={"retired": True, "sealed": "", "needed_until": needed_until}
            )
            signing = [key.model_copy(update={"sealed": ""}) for key in state.signing_keys]
            return state.model_copy(
                update={
                    "token_keys": (*older, retired, self._new_token_key()),
                    "signing_keys": (*signing, self._new_signing_key()),
                }
            )

        state = await self._alter("KeysRotated", alter, by)
        return state.token_keys[-1].key_id

    async def keep_key_until(self, expires_at: float, by: str) -> TokenKey:
        """The key for a token that lives so long; it stays published as long, rotated or not."""
        needed_until = expires_at + CLOCK_SKEW_S
        if (current := self.state.token_keys[-1]).needed_until >= needed_until:
            # Another replica may have rotated it; then that one keeps it published as long.
            return current
        needed_until = math.ceil(needed_until / NEEDED_STEP_S) * NEEDED_STEP_S

        def alter(state: AccessState) -> AccessState:
            *older, last = state.token_keys
            kept = last.model_copy(update={"needed_until": max(last.needed_until, needed_until)})
            return state.model_copy(update={"token_keys": (*older, kept)})

        state = await self._alter("KeyNeededLonger", alter, by)
        return state.token_keys[-1]

    # Private keys: opened where they are used, and nowhere kept.

    def token_private_key(self, key: TokenKey) -> bytes:
        return self._seal.open(f"token-key/{key.key_id}", key.sealed)

    def signing_private_key(self, key: SigningKey) -> bytes:
        return self._seal.open(f"signing-key/{key.key_id}", key.sealed)

    def _new_token_key(self) -> TokenKey:
        new = self._tokens.new_key(self._clock.new_id().lower())
        sealed = self._seal.close(f"token-key/{new.key_id}", new.private)
        return TokenKey(key_id=new.key_id, public=dict(new.public), sealed=sealed)

    def _new_signing_key(self) -> SigningKey:
        new = self._signer.new_key()
        sealed = self._seal.close(f"signing-key/{new.key_id}", new.private)
        return SigningKey(key_id=new.key_id, public_pem=new.public_pem, sealed=sealed)

    # The aggregate.

    async def _alter(self, type_: str, alter: Alter, by: str) -> AccessState:
        async def decide(latest: Entry | None) -> Change:
            assert latest is not None, "begin() comes first"  # noqa: S101 - a fault of ours.
            before = AccessState.model_validate(latest.state)
            return self._change(type_, alter(self._without_expired(before)), latest.version + 1)

        entry = await self._journal.decide(AGGREGATE, self._clock.new_id(), by, decide)
        self._take(entry)
        return AccessState.model_validate(entry.state)

    def _change(self, type_: str, state: AccessState, version: int) -> Change:
        event = AccessChanged(
            id=f"{AGGREGATE}/{version}",
            tenant=PLATFORM,
            at=self._clock.now(),
            access_version=version,
        )
        return Change(type_, state.model_dump(), (event,))

    def _without_expired(self, state: AccessState) -> AccessState:
        now = self._now()
        keys = tuple(key for key in state.token_keys if not key.retired or key.needed_until > now)
        revoked = {
            token: until for token, until in state.revoked.items() if until + CLOCK_SKEW_S > now
        }
        return state.model_copy(update={"token_keys": keys, "revoked": revoked})

    def keys(self) -> Keys:
        published = self.published
        return Keys(json.dumps(published.state.jwks()), published.state.tenants, published.version)

    async def _take_revocations(self) -> None:
        """Those that another replica made, and at the start all of them."""
        if new := self._revocations.add(*await self._log.news()):
            self._tell(None, new)

    def _take(self, entry: Entry) -> None:
        if self._published is not None and entry.version <= self._published.version:
            return
        self._published = Published(entry.version, AccessState.model_validate(entry.state))
        of_old = self._published.state.revoked
        self._revocations.add(
            *(Revocation(until=until, token_id=token) for token, until in of_old.items())
        )
        self._on_change(self._published)
        self._tell(self.keys())

    def _tell(self, keys: Keys | None, revocations: Sequence[Revocation] = ()) -> None:
        self._followers.publish(keys, revocations)
        self._news.set()
        self._news = asyncio.Event()

    def _now(self) -> float:
        now: datetime = self._clock.now()
        return now.timestamp()
