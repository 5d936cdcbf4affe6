"""What a tenant may ask of the door: its own limits, or the platform's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from libs.common import journal
from libs.common.errors import InvalidInputError
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry

KIND = "limits"
REQUESTS_PER_SECOND_DEFAULT = 50_000
REQUESTS_PER_SECOND_MAX = 1_000_000
REQUESTS_IN_FLIGHT_DEFAULT = 256
REQUESTS_IN_FLIGHT_MAX = 4_096
# Of one inference request; the other services take at most 16 MiB a message.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
MESSAGE_BYTES_DEFAULT = MESSAGE_BYTES_MAX
# Every prediction may be looked at for drift; how many are is bounded by what the dispatcher keeps.
SAMPLE_FRACTION_DEFAULT = 1.0


class Limits(BaseModel):
    """0 stands for the platform's default; so does None for the fraction, where 0 means none."""

    model_config = ConfigDict(frozen=True)

    requests_per_second: int = 0
    requests_in_flight_max: int = 0
    message_bytes_max: int = 0
    sample_fraction: float | None = None

    def effective(self) -> Effective:
        fraction = self.sample_fraction
        return Effective(
            requests_per_second=self.requests_per_second or REQUESTS_PER_SECOND_DEFAULT,
            requests_in_flight_max=self.requests_in_flight_max or REQUESTS_IN_FLIGHT_DEFAULT,
            message_bytes_max=self.message_bytes_max or MESSAGE_BYTES_DEFAULT,
            sample_fraction=SAMPLE_FRACTION_DEFAULT if fraction is None else fraction,
        )

    def checked(self) -> Limits:
        """Itself. Raises InvalidInputError, naming the limit and its range."""
        for name, highest in _HIGHEST.items():
            value = getattr(self, name)
            # `not ... <= ...` refuses a fraction that is no number, too.
            if value is not None and not 0 <= value <= highest:
                raise InvalidInputError(
                    f"{name} cannot be {value}.",
                    which=name,
                    next_step=f"Give a number from 0 to {highest}; 0 means the default."
                    if name != "sample_fraction"
                    else "Give a number from 0 (none) to 1 (every prediction).",
                )
        return self


_HIGHEST: dict[str, float] = {
    "requests_per_second": REQUESTS_PER_SECOND_MAX,
    "requests_in_flight_max": REQUESTS_IN_FLIGHT_MAX,
    "message_bytes_max": MESSAGE_BYTES_MAX,
    "sample_fraction": 1.0,
}


@dataclass(frozen=True, slots=True)
class Effective:
    """What is in force, defaults filled in."""

    requests_per_second: int
    requests_in_flight_max: int
    message_bytes_max: int
    sample_fraction: float


@dataclass(frozen=True, slots=True)
class Noted:
    """A tenant's limits as they were put; never put: no version, no time."""

    tenant: str
    limits: Limits
    version: int = 0
    at: datetime | None = None
    by: str = ""
    cause: str = ""


class TenantLimits:
    """The limits of every tenant, an append-only history each."""

    def __init__(self, own: Journal) -> None:
        self._journal = own

    async def put(self, tenant: str, limits: Limits, by: str) -> Noted:
        wanted = limits.checked()

        async def decide(latest: Entry | None) -> Change | None:
            if latest is not None and Limits.model_validate(latest.state) == wanted:
                return None
            return Change("LimitsPut", _state(wanted))

        return _noted(await self._journal.decide(_aggregate(tenant), None, by, decide))

    async def get(self, tenant: str) -> Noted:
        entry = await self._journal.latest(_aggregate(tenant))
        return Noted(tenant, Limits()) if entry is None else _noted(entry)

    async def all(self) -> dict[str, Limits]:
        """Of the tenants that have their own."""
        entries = await self._journal.heads(KIND)
        return {entry.tenant: Limits.model_validate(entry.state) for entry in entries}


def _aggregate(tenant: str) -> str:
    return journal.aggregate(tenant, KIND, "current")


def _state(limits: Limits) -> dict[str, Any]:
    return limits.model_dump()


def _noted(entry: Entry) -> Noted:
    return Noted(
        tenant=entry.tenant,
        limits=Limits.model_validate(entry.state),
        version=entry.version,
        at=entry.at,
        by=entry.by,
        cause=entry.cause,
    )
