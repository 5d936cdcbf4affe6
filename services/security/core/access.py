"""What every verifier has to know: keys, revocations, tenants; one aggregate, so one version.

Private keys lie in it sealed. A retired token key stays published until the last token that it
signed has expired; a signing key stays for ever, as the signatures do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
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
from libs.common.stores.ports import Entry
from services.security.core.names import tenant_name
from services.security.ports import ManifestSigner, Seal, TokenFormat

AGGREGATE = aggregate(PLATFORM, "access", "state")
TENANTS_MAX = 5_000
# The state is one journal entry of at most 1 MiB; a revocation takes about 50 bytes of it.
REVOCATIONS_MAX = 5_000


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
    """The last of the keys is the one that signs. `revoked` maps token ids to their expiry."""

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
    """`on_change` is told of each new version before the change that made it is answered."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        seal: Seal,
        tokens: TokenFormat,
        signer: ManifestSigner,
        on_change: Listener,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._seal = seal
        self._tokens = tokens
        self._signer = signer
        self._on_change = on_change
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

        self._take(await self._journal.decide(AGGREGATE, "first-start", "security", first))
        # A wrong master key shows now, not when somebody logs in.
        self.token_private_key(self.state.token_keys[-1])
        self.signing_private_key(self.state.signing_keys[-1])

    async def refresh(self) -> None:
        """Takes over what another replica changed."""
        latest = await self._journal.latest(AGGREGATE)
        if latest is not None:
            self._take(latest)

    async def watch(self) -> AsyncIterator[Published]:
        """The state now and at each change; versions in between may be left out."""
        seen = 0
        while True:
            news, published = self._news, self.published
            if published.version > seen:
                seen = published.version
                yield published
            else:
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

    async def revoke(self, tokens: Mapping[str, float], by: str) -> None:
        """Token ids with their expiry, in seconds since 1970."""
        if not tokens:
            return

        def alter(state: AccessState) -> AccessState:
            revoked = {**state.revoked, **tokens}
            if len(revoked) > REVOCATIONS_MAX:
                raise LimitError(
                    f"More than {REVOCATIONS_MAX} revoked tokens have not expired yet.",
                    which="REVOCATIONS_MAX",
                    next_step="Rotate the keys, or wait until some expire.",
                )
            return state.model_copy(update={"revoked": revoked})

        await self._alter("TokensRevoked", alter, by)

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

        def alter(state: AccessState) -> AccessState:
            *older, last = state.token_keys
            kept = last.model_copy(
                update={"needed_until": max(last.needed_until, expires_at + CLOCK_SKEW_S)}
            )
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

    def _take(self, entry: Entry) -> None:
        if self._published is not None and entry.version <= self._published.version:
            return
        self._published = Published(entry.version, AccessState.model_validate(entry.state))
        self._on_change(self._published)
        self._news.set()
        self._news = asyncio.Event()

    def _now(self) -> float:
        now: datetime = self._clock.now()
        return now.timestamp()
