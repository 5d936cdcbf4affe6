"""What is kept of a user, and what changed it last."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from libs.common.stores.ports import Entry
from services.security.core.grants import Grant, RolesAsked, person

ONE_TIME_PASSWORD_S = 72 * 3_600.0


class Changed(BaseModel):
    """`at` is in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    at: float
    by: str
    cause: str


class UserState(BaseModel):
    """`sessions` are logins that may be renewed: by id, when the password was given.

    `generation` counts the changes after which no token of before holds: tokens say it, too.

    `one_time_until`: when a one-time password expires, in seconds since 1970; 0 where that was not
    kept, or the password is their own.

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
    sessions: dict[str, float] = {}
    generation: int = 0
    one_time_until: float = 0.0
    salt: str = ""
    changed: Changed | None = None
    grants: tuple[Grant, ...] | None = None
    asked: RolesAsked | None = None

    def with_password(self, password_hash: str, *, one_time_until: float = 0.0) -> UserState:
        """Whoever logged in with the one before has to log in again."""
        changes = {
            "password_hash": password_hash,
            "password_must_change": one_time_until > 0,
            "one_time_until": one_time_until,
            "salt": "",
            "changed": None,
        }
        return self.model_copy(update=changes).next_generation()

    def next_generation(self) -> UserState:
        """The tokens of before hold no longer, and no login of before is renewed."""
        return self.model_copy(update={"sessions": {}, "generation": self.generation + 1})


@dataclass(frozen=True, slots=True)
class User:
    """A user's state with the entry it comes from, and what changed it last, logins aside."""

    state: UserState
    entry: Entry
    changed: Changed
    # API keys that the change which made this took with it, by id.
    revoked_keys: tuple[str, ...] = ()

    @property
    def one_time_until(self) -> float:
        """Where it was not kept: as long after it was given."""
        return self.state.one_time_until or self.changed.at + ONE_TIME_PASSWORD_S

    @property
    def awaits_first_login(self) -> bool:
        return self.state.password_must_change and bool(self.state.salt)

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
