"""What is kept of a user, and what changed it last."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from libs.common.stores.ports import Entry
from services.security.core.grants import Grant, RolesAsked, person


class Changed(BaseModel):
    """`at` is in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    at: float
    by: str
    cause: str


class UserState(BaseModel):
    """`tokens` are the live ones, by id, with their expiry in seconds since 1970.

    `logins` says of each of them when the password was given; without that it is not renewed.

    `salt` belongs to the first administrator's one-time password, which is derived, not stored.

    `changed` is what a login, which is no change, hands on of the last one; None: this is one.

    `grants` say who gave the roles of late; None: from before that was kept. `asked` are roles
    that wait for a second administrator.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    roles: tuple[str, ...]
    password_hash: str
    password_must_change: bool
    disabled: bool = False
    tokens: dict[str, float] = {}
    logins: dict[str, float] = {}
    salt: str = ""
    changed: Changed | None = None
    grants: tuple[Grant, ...] | None = None
    asked: RolesAsked | None = None

    def with_password(self, password_hash: str, *, must_change: bool) -> UserState:
        """Whoever logged in with the one before has to log in again."""
        changes = {
            "password_hash": password_hash,
            "password_must_change": must_change,
            "logins": {},
            "salt": "",
            "changed": None,
        }
        return self.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class User:
    """A user's state with the entry it comes from, and what changed it last, logins aside."""

    state: UserState
    entry: Entry
    changed: Changed

    @classmethod
    def of(cls, entry: Entry) -> User:
        state = UserState.model_validate(entry.state)
        this = Changed(at=entry.at.timestamp(), by=entry.by, cause=entry.cause)
        changed = state.changed or this
        return cls(state.model_copy(update={"changed": changed}), entry, changed)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """Of a state from before they were kept: whoever changed it last gave all of it."""
        if self.state.grants is not None:
            return self.state.grants
        by = person(self.entry.tenant, self.changed.by)
        return (Grant(by=by, at=self.changed.at, roles=self.state.roles),)
