"""A second administrator's yes to roles that the first one would give to themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from libs.common.errors import ForbiddenError, PreconditionError
from libs.common.journal import Change
from libs.common.stores.ports import Entry
from services.security.core.accounts import User
from services.security.core.grants import (
    ADMINISTRATOR,
    Grant,
    RolesAsked,
    made_by,
    person,
    with_grant,
)
from services.security.core.names import role_names
from services.security.core.users import Users


@dataclass(frozen=True, slots=True)
class Confirmation:
    users: Users

    async def confirm(self, tenant: str, name: str, roles: Collection[str], by: str) -> User:
        """The roles that were asked for are in force from now on.

        `roles` are named again, so that nobody confirms others than they saw. Raises
        PreconditionError when no such roles are asked for, and ForbiddenError for whoever asked,
        or was made an administrator by them within 24 hours.
        """
        self.users.access.known_tenant(tenant)
        wanted, now = role_names(roles), self.users.clock.now().timestamp()
        before = await self.users.known(tenant, name)
        asked = _asked(before, wanted, now)
        giver = person(tenant, by)
        askers = {person(tenant, name), asked.by}
        own = giver in askers
        if own or await made_by(giver, ADMINISTRATOR, askers, self.users.grants_of, now):
            raise ForbiddenError(
                f"{by} cannot confirm this: "
                + ("they asked for it." if own else "whoever asked made them an administrator."),
                which=name,
                next_step="Ask an administrator of your tenant who has been one for 24 hours, or"
                " the platform's.",
            )

        async def decide(latest: Entry | None) -> Change:
            user = self.users.of(latest, name)
            _asked(user, wanted, now)
            grants = user.grants
            new = tuple(role for role in wanted if role not in user.state.roles)
            for each in (asked.by, giver):
                grants = with_grant(grants, Grant(by=each, at=now, roles=new))
            changes = {"roles": wanted, "grants": grants, "asked": None, "changed": None}
            after = user.state.model_copy(update=changes).next_generation()
            return Change("RolesConfirmed", after.model_dump())

        return await self.users.change(tenant, name, by, decide)


def _asked(user: User, wanted: tuple[str, ...], now: float) -> RolesAsked:
    asked = user.state.asked
    if asked is None or asked.until <= now:
        raise PreconditionError(
            f"No roles of {user.state.name} wait for a second administrator.",
            which=user.state.name,
            next_step="`basalt user list` shows what waits; what nobody confirms lapses after 72"
            " hours.",
        )
    if asked.roles != wanted:
        raise PreconditionError(
            f"{', '.join(asked.roles)} is asked for {user.state.name}, not {', '.join(wanted)}.",
            which=user.state.name,
            next_step="Look again: `basalt user list`.",
        )
    return asked
