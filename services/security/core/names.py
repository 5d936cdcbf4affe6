"""What may be a name and a role."""

from __future__ import annotations

import re
from collections.abc import Iterable

from libs.common.errors import InvalidInputError
from libs.common.policy import ROLES

TENANT_CHARACTERS_MAX = 32
USER_CHARACTERS_MAX = 64

# No double dash: the model's name in Triton is "<tenant>--<model>--v<version>".
_TENANT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# No colon: "service:" and "key:" begin the subjects that are not users.
_USER = re.compile(r"[a-z0-9][a-z0-9._@-]*")


def is_tenant(name: str) -> bool:
    return len(name) <= TENANT_CHARACTERS_MAX and _TENANT.fullmatch(name) is not None


def is_user(name: str) -> bool:
    return len(name) <= USER_CHARACTERS_MAX and _USER.fullmatch(name) is not None


def tenant_name(name: str) -> str:
    if not is_tenant(name):
        raise InvalidInputError(
            f"{name[:TENANT_CHARACTERS_MAX]!r} cannot be a tenant's name.",
            which="tenant",
            next_step=f"Use 1 to {TENANT_CHARACTERS_MAX} lower-case letters and digits, with single"
            " dashes between them.",
        )
    return name


def user_name(name: str) -> str:
    """Of a user or an API key."""
    if not is_user(name):
        raise InvalidInputError(
            f"{name[:USER_CHARACTERS_MAX]!r} cannot be a name.",
            which="name",
            next_step=f"Use 1 to {USER_CHARACTERS_MAX} lower-case letters, digits, dots, dashes,"
            " underscores and @, beginning with a letter or digit.",
        )
    return name


def role_names(roles: Iterable[str], allowed: tuple[str, ...] = ROLES) -> tuple[str, ...]:
    """Each once, in the policy's order."""
    asked = set(roles)
    if unknown := sorted(asked - set(allowed)):
        raise InvalidInputError(
            f"{unknown[0][:USER_CHARACTERS_MAX]!r} is not a role that can be given here.",
            which="roles",
            next_step=f"Use some of: {', '.join(allowed)}.",
        )
    return tuple(role for role in allowed if role in asked)
