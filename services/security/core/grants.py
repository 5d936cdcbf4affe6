"""Who gave whom which role, and when: for a day a role is its giver's work, too.

A person here is "<tenant>/<name>", whichever tenant's log or user list they are met in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict

ADMINISTRATOR = "administrator"
REVIEWER = "reviewer"
# So long a reviewer does not approve what whoever gave them the role answers for, and an
# administrator does not confirm what whoever made them one asked for.
FRESH = timedelta(hours=24)
# Asked again after that: what nobody confirmed in three days was not urgent.
ASKED = timedelta(hours=72)
# Of one user, the latest of each giver.
GRANTS_MAX = 100
# People whose roles are looked at before a chain of gifts is held for one.
PEOPLE_MAX = 100


class Grant(BaseModel):
    """`by` is a person; `at` is in seconds since 1970; `roles` are those that were new."""

    model_config = ConfigDict(frozen=True)

    by: str
    at: float
    roles: tuple[str, ...]


class RolesAsked(BaseModel):
    """What a second administrator has to confirm; `at` is in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    roles: tuple[str, ...]
    by: str
    at: float

    @property
    def until(self) -> float:
        return self.at + ASKED.total_seconds()


GrantsOf = Callable[[str], Awaitable[Sequence[Grant]]]


def person(tenant: str, by: str) -> str:
    """Who `by` is in an entry of a tenant: its own user, or "<tenant>/<name>" of another."""
    return by if "/" in by else f"{tenant}/{by}"


def with_grant(grants: Sequence[Grant], new: Grant) -> tuple[Grant, ...]:
    """Those that still matter, and the new one; of one giver and role the latest."""
    kept = [
        each.model_copy(update={"roles": left})
        for each in grants
        if each.at > new.at - FRESH.total_seconds()
        and (
            left := tuple(role for role in each.roles if each.by != new.by or role not in new.roles)
        )
    ]
    return (*kept, new)[-GRANTS_MAX:]


async def made_by(
    who: str, role: str, makers: Collection[str], grants_of: GrantsOf, now: float
) -> bool:
    """Whether one of `makers` made `who` a `role` within FRESH: themselves, or by another account.

    A chain counts: whoever they made an administrator a moment ago gives roles for them.
    """
    seen: set[str] = set()
    waiting = [(who, role)]
    while waiting:
        current, sought = waiting.pop()
        seen.add(current)
        if len(seen) > PEOPLE_MAX:
            return True
        for grant in await grants_of(current):
            if sought not in grant.roles or grant.at <= now - FRESH.total_seconds():
                continue
            if grant.by in makers:
                return True
            if grant.by not in seen:
                waiting.append((grant.by, ADMINISTRATOR))
    return False
