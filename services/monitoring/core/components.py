"""What the platform is made of, and how each part is."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.identity import PLATFORM

# How a tenant's source, model or aggregate is named where all tenants' work is done.
_OF_A_TENANT = re.compile(
    r"\bupstream\.(?P<source>[\w-]+)\."
    r"|\b(?P<model>[a-z0-9]+(?:-[a-z0-9]+)*)--[a-z0-9-]+--v\d"
    r"|\b(?P<aggregate>[\w-]+)/(?:source|stream|dataset|model|version|deployment|job|pipeline)/"
    r"|\baudit log of (?P<log>[\w-]+)"
)
ANOTHERS = "Something of another tenant's waits here; the platform's administrator sees what."


class State(enum.IntEnum):
    """The numbers of the contract's HealthState: the greater, the worse."""

    SERVING = 1
    DEGRADED = 2
    NOT_SERVING = 3


@dataclass(frozen=True, slots=True)
class Component:
    """A service or a dependency; `problem` says what is wrong and what next."""

    name: str
    state: State
    problem: str
    checked_at: datetime
    reported_by: str

    def told_to(self, tenant: str) -> Component:
        return replace(self, problem=told(self.problem, tenant))


def told(what: str, tenant: str) -> str:
    """What members of a tenant are told: what another has, and how much, is not for them."""
    named = {found[found.lastgroup or 0] for found in _OF_A_TENANT.finditer(what)}
    return what if tenant == PLATFORM or named <= {tenant} else ANOTHERS
