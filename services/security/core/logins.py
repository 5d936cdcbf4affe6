"""What people do themselves: log in, renew, log out, change their password."""

from __future__ import annotations

from dataclasses import dataclass

from libs.common import telemetry
from libs.common.auditing import PERMITTED, Happening
from libs.common.clock import Clock
from libs.common.errors import PreconditionError, UnauthenticatedError
from libs.common.identity import PLATFORM, Caller, caller_address
from libs.common.journal import Change
from libs.common.revocations import Revocation
from libs.common.stores.ports import Entry
from services.security.core.accounts import ONE_TIME_PASSWORD_S, User, UserState
from services.security.core.audit import AuditLog
from services.security.core.names import is_user
from services.security.core.passwords import PasswordRules, normal
from services.security.core.throttle import Throttle
from services.security.core.tokens import LoggedIn, Login, Tokens
from services.security.core.users import FIRST_USER, REVOKED_S, Users
from services.security.ports import Passwords

# Of one user, at a time; of more the oldest cannot be renewed any more.
LOGINS_MAX = 500
# Tokens are renewed for so long, then the password is asked for again; and at once after a token's
# life without a call. NIST SP 800-63B (rev. 3), 4.2.3, allows 12 h, and 30 minutes of idleness.
LOGIN_S_MAX = 12 * 3_600

LOGIN = "basalt.v1.IdentityService/Login"
CHANGE_PASSWORD = "basalt.v1.IdentityService/ChangePassword"  # noqa: S105 - an RPC's name.


@dataclass(frozen=True, slots=True)
class Logins:
    users: Users
    clock: Clock
    tokens: Tokens
    passwords: Passwords
    rules: PasswordRules
    throttle: Throttle
    audit: AuditLog

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
        began, login_id = self.clock.now().timestamp(), self.clock.new_id().lower()

        async def decide(latest: Entry | None) -> Change:
            now = self.users.of(latest, name)
            # Whatever ended the logins of before has ended this one, too, if it came meanwhile.
            if now.state.disabled or now.state.password_hash != user.state.password_hash:
                raise _unproven()
            going_on = [
                (at, each) for each, at in now.state.sessions.items() if at + LOGIN_S_MAX > began
            ]
            newest = sorted(going_on, reverse=True)[: LOGINS_MAX - 1]
            sessions = {login_id: began, **{each: at for at, each in newest}}
            changes = {"sessions": sessions, "changed": now.changed}
            return Change("LoggedIn", now.state.model_copy(update=changes).model_dump())

        state = User.of(await self.users.decide(tenant, name, name, decide)).state
        return self._token_of(tenant, state, login_id, began)

    async def renew(self, tenant: str, name: str, login_id: str) -> LoggedIn:
        """The next token for one that holds; it ends with the login at the latest.

        The old one holds until it expires: another command may be using it at this moment. If the
        user is changed meanwhile, the new token is of an older generation, and refused.
        """
        state = (await self._logged_in(tenant, name)).state
        return self._token_of(tenant, state, login_id, self._began(state, login_id))

    async def log_out(self, who: Caller) -> None:
        """Every token of this login is refused from now on; the user's other logins go on."""
        await self._logged_in(who.tenant, who.subject)
        access = self.users.access
        if not who.login_id:
            # Of a release whose tokens did not say their login: this one, the others expire.
            row = Revocation(until=who.expires_at, token_id=who.token_id)
            await access.revoke(row, by=who.subject)
            return
        until = self.clock.now().timestamp() + REVOKED_S
        # First what takes effect, so that a crash in between leaves nothing in force.
        await access.revoke(Revocation(until=until, login_id=who.login_id), by=who.subject)

        async def decide(latest: Entry | None) -> Change | None:
            user = self.users.of(latest, who.subject)
            if who.login_id not in user.state.sessions:
                return None
            sessions = {
                each: at for each, at in user.state.sessions.items() if each != who.login_id
            }
            changes = {"sessions": sessions, "changed": user.changed}
            return Change("LoggedOut", user.state.model_copy(update=changes).model_dump())

        await self.users.decide(who.tenant, who.subject, who.subject, decide)

    async def change_password(self, tenant: str, name: str, password: str, new: str) -> None:
        """Tokens that the old password gave are revoked."""
        user = await self._proven(tenant, name, password, CHANGE_PASSWORD)
        # Judged for those alone who proved who they are: it takes time, and tells of the rules.
        await self.rules.require_acceptable(tenant, name, password, new)
        await self._record(tenant, name, CHANGE_PASSWORD, PERMITTED)
        password_hash = await self.passwords.hash(normal(new), caller_address())

        async def decide(latest: Entry | None) -> Change:
            now = self.users.of(latest, name).state
            if now.password_hash != user.state.password_hash:
                raise _unproven()
            return Change("PasswordChanged", now.with_password(password_hash).model_dump())

        changed = User.of(await self.users.decide(tenant, name, name, decide))
        await self.users.end_tokens(changed, name)
        if (tenant, name) == (PLATFORM, FIRST_USER):
            await self.users.note.remove()

    async def _proven(self, tenant: str, name: str, password: str, action: str) -> User:
        """The user that this password belongs to. Raises UnauthenticatedError or LimitError."""
        address = caller_address()
        with self.throttle.attempt(address, tenant, name) as attempt:
            user = await self.users.find(tenant, name)
            known_hash = user.state.password_hash if user else None
            matches = await self.passwords.match(known_hash, normal(password), address)
            attempt.judged(right=user is not None and matches and not user.state.disabled)
        if user is None:
            raise _unproven()
        if not matches or user.state.disabled:
            raise _unproven()
        if user.state.password_must_change:
            self._require_not_expired(user)
        return user

    def _require_not_expired(self, user: User) -> None:
        if user.one_time_until > self.clock.now().timestamp():
            return
        raise PreconditionError(
            f"This one-time password has expired: it held for {ONE_TIME_PASSWORD_S / 3_600:.0f} h.",
            which="password",
            next_step=(
                "Restart security: it notes another one."
                if user.awaits_first_login
                else "Ask an administrator of your tenant for another:"
                f" `basalt user reset-password {user.state.name}`."
            ),
        )

    async def _logged_in(self, tenant: str, name: str) -> User:
        if not is_user(name):
            raise PreconditionError(
                f"{name} is no person, and has no login.",
                which="token",
                next_step="An API key holds until it expires or is revoked: `basalt key revoke`.",
            )
        return await self.users.known(tenant, name)

    def _began(self, state: UserState, login_id: str) -> float:
        """When the password was given for this login, in seconds since 1970."""
        began = state.sessions.get(login_id)
        over = began is None or began + LOGIN_S_MAX <= self.clock.now().timestamp()
        if over or state.disabled or state.password_must_change or began is None:
            raise _login_over()
        return began

    def _token_of(self, tenant: str, state: UserState, login_id: str, began: float) -> LoggedIn:
        login, ends_at = Login(login_id, state.generation), began + LOGIN_S_MAX
        issued = self.tokens.short(
            tenant, state.name, state.roles, "user", until=ends_at, login=login
        )
        return LoggedIn(issued, login, ends_at)

    async def _record(self, tenant: str, name: str, action: str, decision: str) -> None:
        trace_id = telemetry.trace_id()
        await self.audit.before(
            Happening(
                tenant,
                name,
                action,
                f"name/{name}",
                decision,
                "{}",
                trace_id,
                address=caller_address(),
            )
        )


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
