"""Users: who they are, which roles they have, and how they prove it."""

from __future__ import annotations

import base64
import secrets
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
)
from libs.common.identity import CLOCK_SKEW_S, PLATFORM
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import page_size
from libs.common.stores.ports import Entry
from services.security.core.access import Access
from services.security.core.accounts import User, UserState
from services.security.core.audit import PERMITTED, REFUSED, AuditLog, Happening
from services.security.core.grants import (
    ADMINISTRATOR,
    Grant,
    RolesAsked,
    made_by,
    person,
    with_grant,
)
from services.security.core.names import is_tenant, is_user, role_names, user_name
from services.security.core.throttle import Throttle
from services.security.core.tokens import Issued, LoggedIn, Tokens
from services.security.ports import FirstLoginNote, Passwords, Seal

KIND = "user"
FIRST_USER = "admin"
PASSWORD_CHARACTERS_MIN = 12
PASSWORD_CHARACTERS_MAX = 256
ONE_TIME_PASSWORD_BYTES = 15
# Tokens of one user that have not expired; each is remembered so that it can be revoked.
TOKENS_LIVE_MAX = 500
# Tokens are renewed for so long, then the password is asked for again; and at once after a token's
# life without a call. NIST SP 800-63B (rev. 3), 4.2.3, allows 12 h, and 30 minutes of idleness.
LOGIN_S_MAX = 12 * 3_600

LOGIN = "basalt.v1.IdentityService/Login"
CHANGE_PASSWORD = "basalt.v1.IdentityService/ChangePassword"  # noqa: S105 - an RPC's name.


@dataclass(frozen=True, slots=True)
class Users:
    journal: Journal
    clock: Clock
    access: Access
    tokens: Tokens
    passwords: Passwords
    throttle: Throttle
    audit: AuditLog
    seal: Seal
    note: FirstLoginNote

    # The first administrator.

    async def begin(self) -> None:
        """Makes the platform's administrator unless there is one; notes their one-time password.

        The password is derived from the master key and a stored salt, so that a crash between the
        two steps loses nothing: the note is written again until the password has been changed.
        """
        first = await self.find(PLATFORM, FIRST_USER)
        salt = first.state.salt if first is not None else secrets.token_hex(16)
        password = _readable(self.seal.derive("first-login", salt)[:ONE_TIME_PASSWORD_BYTES])
        if first is None:
            state = UserState(
                name=FIRST_USER,
                roles=(ADMINISTRATOR,),
                password_hash=await self.passwords.hash(password),
                password_must_change=True,
                salt=salt,
            )

            async def make(latest: Entry | None) -> Change | None:
                return None if latest else Change("UserCreated", state.model_dump())

            await self.journal.decide(_user(PLATFORM, FIRST_USER), "first-start", "security", make)
            await self.begin()
        elif first.state.password_must_change and first.state.salt:
            await self.note.write(PLATFORM, FIRST_USER, password)
        else:
            await self.note.remove()

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

        entry = await self._decide(tenant, name, by, decide)
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
            changes = {"roles": wanted, "disabled": disabled, "logins": {}, "changed": None}
            if new:
                given = grant.model_copy(update={"roles": new})
                changes["grants"] = with_grant(user.grants, given)
            after = before.model_copy(update={**changes, "asked": None})
            return Change("UserSet", after.model_dump())

        return await self.change(tenant, user_name(name), by, decide)

    async def change(self, tenant: str, name: str, by: str, decide: Any) -> User:
        """Decides about a user; tokens that say something else than they do now are revoked."""
        before = await self.known(tenant, name)
        after = User.of(await self._decide(tenant, name, by, decide))
        if after.state.disabled or before.state.roles != after.state.roles:
            await self.access.revoke(self._live(after.state), by)
        return after

    async def reset_password(self, tenant: str, name: str, by: str) -> tuple[User, str]:
        """A new one-time password; the old one and its tokens hold no longer."""
        self.access.known_tenant(tenant)
        password = _readable(secrets.token_bytes(ONE_TIME_PASSWORD_BYTES))
        password_hash = await self.passwords.hash(password)

        async def decide(latest: Entry | None) -> Change:
            user = self.of(latest, name)
            after = user.state.with_password(password_hash, must_change=True)
            # Whoever sees a one-time password can be its user, with all of their roles.
            grants = with_grant(user.grants, self._grant(tenant, after.roles, by))
            after = after.model_copy(update={"grants": grants})
            return Change("PasswordReset", after.model_dump())

        entry = await self._decide(tenant, user_name(name), by, decide)
        await self.access.revoke(self._live(User.of(entry).state), by)
        self.throttle.forget(tenant, name)
        return User.of(entry), password

    async def page(self, tenant: str, size: int, token: str) -> tuple[list[User], str]:
        """Users by name, and the token of the next page ("" after the last)."""
        self.access.known_tenant(tenant)
        size = page_size(size)
        after = _user(tenant, token) if token else ""
        entries = await self.journal.store.heads(KIND, tenant, after, size + 1)
        users = [User.of(entry) for entry in entries[:size]]
        return users, users[-1].state.name if len(entries) > size else ""

    # What users do themselves.

    async def login(self, tenant: str, name: str, password: str) -> LoggedIn:
        """A short token. A wrong tenant, name or password is answered alike and as slowly."""
        user = await self._proven(tenant, name, password, LOGIN)
        if user.state.password_must_change:
            raise PreconditionError(
                "This is a one-time password: it has to be changed before it gives a token.",
                which="password",
                next_step="Choose your own password: `basalt login` asks for it.",
            )
        await self._record(tenant, name, LOGIN, PERMITTED)
        began = self.clock.now().timestamp()
        issued = self.tokens.short(tenant, name, user.state.roles, "user")

        async def decide(latest: Entry | None) -> Change:
            now = self.of(latest, name).state
            # The roles may have changed since they were read: then the token says the wrong thing.
            same = (now.password_hash, now.roles) == (user.state.password_hash, user.state.roles)
            if now.disabled or not same:
                raise _unproven()
            return Change("LoggedIn", self._with_token(now, issued, began).model_dump())

        await self._decide(tenant, name, name, decide)
        return LoggedIn(issued, began + LOGIN_S_MAX)

    async def renew(self, tenant: str, name: str, token_id: str) -> LoggedIn:
        """The next token for one that holds; it ends with the login at the latest.

        The old one holds until it expires: another command may be using it at this moment.
        """
        user = await self._logged_in(tenant, name)
        began = self._login_of(user.state, token_id)
        ends_at = began + LOGIN_S_MAX
        issued = self.tokens.short(tenant, name, user.state.roles, "user", until=ends_at)

        async def decide(latest: Entry | None) -> Change:
            now = self.of(latest, name).state
            # Roles, password or the user themselves may have been changed meanwhile.
            self._login_of(now, token_id)
            if now.roles != user.state.roles:
                raise _login_over()
            return Change("TokenRenewed", self._with_token(now, issued, began).model_dump())

        await self._decide(tenant, name, name, decide)
        return LoggedIn(issued, ends_at)

    async def log_out(self, tenant: str, name: str, token_id: str) -> None:
        """Every token of this login is refused from now on; the user's other logins go on."""
        user = await self._logged_in(tenant, name)
        began = self._login_of(user.state, token_id)

        async def decide(latest: Entry | None) -> Change:
            # Renewing races with this: a login that is ended gives no token any more.
            now = self.of(latest, name).state
            logins = {token: at for token, at in now.logins.items() if at != began}
            return Change("LoggedOut", now.model_copy(update={"logins": logins}).model_dump())

        entry = await self._decide(tenant, name, name, decide)
        live = self._live(User.of(entry).state)
        kept = User.of(entry).state.logins
        ended = {token: until for token, until in live.items() if token not in kept}
        await self.access.revoke(ended, name)

    async def _logged_in(self, tenant: str, name: str) -> User:
        if not is_user(name):
            raise PreconditionError(
                f"{name} is no person, and has no login.",
                which="token",
                next_step="An API key holds until it expires or is revoked: `basalt key revoke`.",
            )
        return self.of(await self.journal.latest(_user(tenant, name)), name)

    def _login_of(self, state: UserState, token_id: str) -> float:
        """When the password was given that this token goes back to, in seconds since 1970."""
        began = state.logins.get(token_id)
        over = began is None or began + LOGIN_S_MAX <= self.clock.now().timestamp()
        if over or state.disabled or state.password_must_change or began is None:
            raise _login_over()
        return began

    def _with_token(self, state: UserState, issued: Issued, began: float) -> UserState:
        live = self._live(state)
        if len(live) >= TOKENS_LIVE_MAX:
            raise LimitError(
                f"{state.name} has {TOKENS_LIVE_MAX} tokens that have not expired, the most.",
                which="TOKENS_LIVE_MAX",
                next_step="Use a token until it expires, 15 minutes after it was issued.",
            )
        live[issued.token_id] = issued.expires_at
        logins = {token: at for token, at in state.logins.items() if token in live}
        logins[issued.token_id] = began
        return state.model_copy(update={"tokens": live, "logins": logins})

    async def change_password(self, tenant: str, name: str, password: str, new: str) -> None:
        """Tokens that the old password gave are revoked."""
        _acceptable(name, password, new)
        user = await self._proven(tenant, name, password, CHANGE_PASSWORD)
        await self._record(tenant, name, CHANGE_PASSWORD, PERMITTED)
        password_hash = await self.passwords.hash(_normal(new))

        async def decide(latest: Entry | None) -> Change:
            now = self.of(latest, name).state
            if now.password_hash != user.state.password_hash:
                raise _unproven()
            after = now.with_password(password_hash, must_change=False)
            return Change("PasswordChanged", after.model_dump())

        entry = await self._decide(tenant, name, name, decide)
        await self.access.revoke(self._live(User.of(entry).state), name)
        if (tenant, name) == (PLATFORM, FIRST_USER):
            await self.note.remove()

    async def _proven(self, tenant: str, name: str, password: str, action: str) -> User:
        """The user that this password belongs to. Raises UnauthenticatedError or LimitError."""
        self.throttle.admit(tenant, name)
        self.throttle.count(tenant, name)
        user = await self.find(tenant, name)
        known_hash = user.state.password_hash if user else None
        matches = await self.passwords.match(known_hash, _normal(password))
        if user is None:
            raise _unproven()
        if not matches or user.state.disabled:
            await self._record(tenant, name, action, REFUSED)
            raise _unproven()
        self.throttle.forget(tenant, name)
        return user

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

    async def _decide(self, tenant: str, name: str, by: str, decide: Any) -> Entry:
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

    def _live(self, state: UserState) -> dict[str, float]:
        now = self.clock.now().timestamp() - CLOCK_SKEW_S
        return {token: until for token, until in state.tokens.items() if until > now}

    async def _record(self, tenant: str, name: str, action: str, decision: str) -> None:
        trace_id = telemetry.trace_id()
        await self.audit.before(
            Happening(tenant, name, action, f"name/{name}", decision, "{}", trace_id)
        )


def _user(tenant: str, name: str) -> str:
    return aggregate(tenant, KIND, name)


def _unproven() -> UnauthenticatedError:
    return UnauthenticatedError(
        "The tenant, the name or the password is wrong.",
        which="password",
        next_step="Check all three; an administrator of the tenant knows whether you are enabled.",
    )


def _login_over() -> UnauthenticatedError:
    return UnauthenticatedError(
        "The login that this token goes back to is over.",
        which="token",
        next_step="Log in again: `basalt login`.",
    )


def _normal(password: str) -> str:
    """NFKC, as NIST SP 800-63B asks: the same characters typed on another keyboard are the same."""
    return unicodedata.normalize("NFKC", password)[:PASSWORD_CHARACTERS_MAX]


def _acceptable(name: str, old: str, new: str) -> None:
    normal = unicodedata.normalize("NFKC", new)
    if not PASSWORD_CHARACTERS_MIN <= len(normal) <= PASSWORD_CHARACTERS_MAX:
        raise InvalidInputError(
            f"A password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters.",
            which="new_password",
            next_step="Choose a longer one: a few words will do.",
        )
    if normal == _normal(old) or normal.lower() == name.lower():
        raise InvalidInputError(
            "The new password is the old one, or the user's name.",
            which="new_password",
            next_step="Choose another.",
        )


def _readable(secret: bytes) -> str:
    """24 letters and digits in groups of six; 120 bits for 15 bytes."""
    text = base64.b32encode(secret).decode().lower()
    return "-".join(text[start : start + 6] for start in range(0, len(text), 6))
