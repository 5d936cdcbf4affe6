"""Names of models and aliases, and the one name under which Triton knows a version."""

from __future__ import annotations

import re

from libs.common import journal
from libs.common.errors import InvalidInputError

NAME_CHARACTERS_MAX = 63
OWN_BY = "service:inference"

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_INTERNAL = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*--[a-z0-9]+(?:-[a-z0-9]+)*--v[1-9]\d*")


def model_name(name: str) -> str:
    """`name` itself. Raises InvalidInputError."""
    return _checked(name, "a model")


def alias_name(name: str) -> str:
    """`name` itself; digits alone would read like a version. Raises InvalidInputError."""
    if name.isdigit():
        raise InvalidInputError(
            f"{name!r} cannot be an alias, since it reads like a version.",
            which=name,
            next_step='Use a word, such as "champion".',
        )
    return _checked(name, "an alias")


def internal_name(tenant: str, model: str, version: int) -> str:
    """ "<tenant>--<model>--v<version>". Neither part may hold "--": then two could be mistaken."""
    return f"{_checked(tenant, 'a tenant')}--{_checked(model, 'a model')}--v{version}"


def is_internal(name: str) -> bool:
    return _INTERNAL.fullmatch(name) is not None


def parts_of_internal(name: str) -> tuple[str, str, int]:
    """The tenant, model and version: the inverse of `internal_name`."""
    tenant, model, version = name.split("--")
    return tenant, model, int(version.removeprefix("v"))


def model_aggregate(tenant: str, model: str) -> str:
    return journal.aggregate(tenant, "model", model)


def version_aggregate(tenant: str, model: str, version: int) -> str:
    return journal.aggregate(tenant, "version", model, str(version))


def deployment_aggregate(tenant: str, model: str) -> str:
    return journal.aggregate(tenant, "deployment", model)


def object_key(tenant: str, sha256: str) -> str:
    return f"{tenant}/models/{sha256}"


def _checked(name: str, kind: str) -> str:
    if not _NAME.fullmatch(name) or "--" in name:
        raise InvalidInputError(
            f"{name!r} cannot be the name of {kind}.",
            which=name,
            next_step=f"Use 1 to {NAME_CHARACTERS_MAX} small letters, digits and single dashes, "
            "with a letter or digit at both ends.",
        )
    return name
