"""Users: who they are, which roles they have, and how they prove it."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from libs.common.clock import Clock
from libs.common.errors import (
    AlreadyExistsError,
    NotFoundError,
    PreconditionError,
)
from libs.common.identity import PLATFORM
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import page_size
from libs.common.revocations import CLOCK_SKEW_S, Revocation
from libs.common.stores.ports import Entry
from services.security.core.access import Access
from services.security.core.accounts import ONE_TIME_PASSWORD_S, User, UserState
from services.security.core.api_keys import ApiKeys
from services.security.core.grants import (
    ADMINISTRATOR,
    Grant,
    RolesAsked,
    made_by,
    person,
    with_grant,
)
from services.security.core.names import is_tenant, is_user, role_names, user_name
from services.security.core.tokens import TOKEN_LIFE_S
from services.security.ports import FirstLoginNote, Passwords, Seal

KIND = "user"
FIRST_USER = "admin"
ONE_TIME_PASSWORD_BYTES = 15
# After this the last token that was made a moment ago has expired, whatever came in between.
REVOKED_S = TOKEN_LIFE_S + 2 * CLOCK_SKEW_S


@dataclass(frozen=True, slots=True)
class Users:
    journal: Journal
    clock: Clock
    access: Access
    passwords: Passwords
    seal: Seal
    note: FirstLoginNote
    keys: ApiKeys

    # The first administrator.

    async def begin(self) -> None:
        """Makes the platform's administrator unless there is one; notes their one-time password.

        The password is derived from the master key and a stored salt, so that a crash between the
        two steps loses nothing: the note is written again until the password has been changed. One
        that expired is replaced at the next start.
        """
        first = await self.find(PLATFORM, FIRST_USER)
        if first is None or (first.awaits_first_login and self._expired(first)):
            await self._make_first(secrets.token_hex(16))
            first = await self.known(PLATFORM, FIRST_USER)
        if first.awaits_first_login:
            await self.note.write(PLATFORM, FIRST_USER, self._first_password(first.state.salt))
        else:
            await self.note.remove()

    async def _make_first(self, salt: str) -> None:
        """Or gives them another one-time password, where nobody used the one before in time."""
        password_hash = await self.passwords.hash(self._first_password(salt))

        async def decide(latest: Entry | None) -> Change | None:
            until = self._one_time_until()
            if latest is None:
                state = UserState(
                    name=FIRST_USER,
                    roles=(ADMINISTRATOR,),
                    password_hash=password_hash,
                    password_must_change=True,
                    one_time_until=until,
                    salt=salt,
                )
                return Change("UserCreated", state.model_dump())
            before = User.of(latest)
            if not (before.awaits_first_login and self._expired(before)):
                return None
            state = before.state.with_password(password_hash, one_time_until=until)
            return Change("PasswordReset", state.model_copy(update={"salt": salt}).model_dump())

        await self.decide(PLATFORM, FIRST_USER, "security", decide)

    def _first_password(self, salt: str) -> str:
        return _readable(self.seal.derive("first-login", salt)[:ONE_TIME_PASSWORD_BYTES])

    def _expired(self, user: User) -> bool:
        return user.one_time_until <= self.clock.now().timestamp()

    # What administrators do.

    async def create(
        self, tenant: str, name: str, roles: Collection[str], by: str
    ) -> tuple[User, str]:
        """The user, and the one-time password that is shown to nobody again."""
        self.access.known_tenant(tenant)
        user_name(name)
        password = _readable(secrets.token_bytes(ONE_TIME_PASSWORD_BYTES))
        wanted = role_names(roles)
        state = UserState(
            name=name,
            roles=wanted,
            password_hash=await self.passwords.hash(password),
            password_must_change=True,
            one_time_until=self._one_time_until(),
            grants=(self._grant(tenant, wanted, by),),
        )

        async def decide(latest: Entry | None) -> Change:
            if latest is not None:
                raise AlreadyExistsError(
                    f"There is a user {name} in {tenant} already.",
                    which=name,
                    next_step="Choose another name, or change this user: `basalt user set`.",
                )
            return Change("UserCreated", state.model_dump())

        entry = await self.decide(tenant, name, by, decide)
        return User.of(entry), password

    async def set(
        self, tenant: str, name: str, roles: Collection[str], disabled: bool, by: str
    ) -> User:
        """Tokens that say something else are revoked at once.

        Roles that somebody would give to themselves are only asked for: a second administrator
        confirms them. An account that they made an administrator a moment ago is no second one.
        """
        self.access.known_tenant(tenant)
        wanted = role_names(roles)
        grant = self._grant(tenant, wanted, by)
        receiver = person(tenant, name)
        own = grant.by == receiver or await made_by(
            grant.by, ADMINISTRATOR, {receiver}, self.grants_of, grant.at
        )
        if disabled or ADMINISTRATOR not in wanted:
            await self._refuse_last_administrator(tenant, name)

        async def decide(latest: Entry | None) -> Change | None:
            user = self.of(latest, name)
            before = user.state
            if (before.roles, before.disabled) == (wanted, disabled):
                return None
            held = () if before.disabled else before.roles
            new = () if disabled else tuple(role for role in wanted if role not in held)
            if new and own:
                asked = RolesAsked(roles=wanted, by=grant.by, at=grant.at)
                return Change("RolesAsked", before.model_copy(update={"asked": asked}).model_dump())
            changes = {"roles": wanted, "disabled": disabled, "changed": None}
            if new:
                given = grant.model_copy(update={"roles": new})
                changes["grants"] = with_grant(user.grants, given)
            after = before.model_copy(update={**changes, "asked": None})
            return Change("UserSet", after.next_generation().model_dump())

        return await self.change(tenant, user_name(name), by, decide)

    async def change(self, tenant: str, name: str, by: str, decide: Any) -> User:
        """Decides about a user. Tokens from before a change hold no longer, nor do API keys that
        they made and may make no more.

        A repeat does again what may have been left out when the first try ended in between.
        """
        user_name(name)
        user = User.of(await self.decide(tenant, name, by, decide))
        await self.end_tokens(user, by)
        if user.state.disabled or ADMINISTRATOR not in user.state.roles:
            revoked = await self.keys.revoke_made_by(tenant, name, by)
            user = replace(user, revoked_keys=tuple(key.state.id for key in revoked))
        return user

    async def end_tokens(self, user: User, by: str) -> None:
        """Those that say an older generation than the user's."""
        if user.state.generation:
            row = Revocation(
                until=self.clock.now().timestamp() + REVOKED_S,
                subject=f"{user.entry.tenant}/{user.state.name}",
                generation=user.state.generation,
            )
            await self.access.revoke(row, by=by)

    async def reset_password(self, tenant: str, name: str, by: str) -> tuple[User, str]:
        """A new one-time password; the old one and its tokens hold no longer."""
        self.access.known_tenant(tenant)
        password = _readable(secrets.token_bytes(ONE_TIME_PASSWORD_BYTES))
        password_hash = await self.passwords.hash(password)

        async def decide(latest: Entry | None) -> Change:
            user = self.of(latest, name)
            after = user.state.with_password(password_hash, one_time_until=self._one_time_until())
            # Whoever sees a one-time password can be its user, with all of their roles.
            grants = with_grant(user.grants, self._grant(tenant, after.roles, by))
            after = after.model_copy(update={"grants": grants})
            return Change("PasswordReset", after.model_dump())

        user = User.of(await self.decide(tenant, user_name(name), by, decide))
        await self.end_tokens(user, by)
        return user, password

    async def page(self, tenant: str, size: int, token: str) -> tuple[list[User], str]:
        """Users by name, and the token of the next page ("" after the last)."""
        self.access.known_tenant(tenant)
        size = page_size(size)
        after = _user(tenant, token) if token else ""
        entries = await self.journal.store.heads(KIND, tenant, after, size + 1)
        users = [User.of(entry) for entry in entries[:size]]
        return users, users[-1].state.name if len(entries) > size else ""

    # The aggregate.

    async def known(self, tenant: str, name: str) -> User:
        """Raises NotFoundError."""
        return self.of(await self.journal.latest(_user(tenant, user_name(name))), name)

    async def grants_of(self, who: str) -> tuple[Grant, ...]:
        """Of a person, "<tenant>/<name>"; none of somebody who is no user."""
        tenant, _, name = who.partition("/")
        found = await self.find(tenant, name)
        return found.grants if found is not None else ()

    def _grant(self, tenant: str, roles: tuple[str, ...], by: str) -> Grant:
        return Grant(by=person(tenant, by), at=self.clock.now().timestamp(), roles=roles)

    async def find(self, tenant: str, name: str) -> User | None:
        if not (is_tenant(tenant) and is_user(name)):
            return None
        entry = await self.journal.latest(_user(tenant, name))
        return User.of(entry) if entry is not None else None

    def of(self, entry: Entry | None, name: str) -> User:
        if entry is None:
            raise NotFoundError(
                f"There is no user {name[:64]!r}.",
                which="name",
                next_step="`basalt user list` shows the users of your tenant.",
            )
        return User.of(entry)

    async def decide(self, tenant: str, name: str, by: str, decide: Any) -> Entry:
        return await self.journal.decide(_user(tenant, name), self.clock.new_id(), by, decide)

    async def _refuse_last_administrator(self, tenant: str, name: str) -> None:
        users = [User.of(entry).state for entry in await self.journal.heads(KIND, tenant)]
        rest = [
            user
            for user in users
            if ADMINISTRATOR in user.roles and not user.disabled and user.name != name
        ]
        if not rest and any(ADMINISTRATOR in user.roles and user.name == name for user in users):
            raise PreconditionError(
                f"{name} is the last administrator of {tenant}.",
                which=name,
                next_step="Make somebody else an administrator first.",
            )

    def _one_time_until(self) -> float:
        return self.clock.now().timestamp() + ONE_TIME_PASSWORD_S


def _user(tenant: str, name: str) -> str:
    return aggregate(tenant, KIND, name)


def _readable(secret: bytes) -> str:
    """24 letters and digits in groups of six; 120 bits for 15 bytes."""
    text = base64.b32encode(secret).decode().lower()
    return "-".join(text[start : start + 6] for start in range(0, len(text), 6))
