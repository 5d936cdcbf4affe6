"""What the gateway's core needs from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from services.gateway.core.table import Table


class ConfigurationJudge(Protocol):
    async def judge(self, configuration: str) -> None:
        """Returns when Envoy would take it. Raises InvalidInputError with Envoy's own words."""
        ...


class DoorFolder(Protocol):
    """Where Envoy and the dispatcher look for what they go by."""

    def read(self, name: str) -> str | None:
        """None where there is no such file."""
        ...

    def replace(self, name: str, content: str) -> None:
        """Moves the content into place, whole. Raises DependencyError."""
        ...

    def trim(self, name: str, bytes_max: int) -> None:
        """Sets a log that has grown beyond this aside, in place of the one set aside before."""
        ...


class RouteFeed(Protocol):
    """What inference has deployed. DependencyError: it cannot be reached."""

    def tables(self) -> AsyncIterator[Table | None]:
        """The whole table, now and at each change; None while inference has none to give yet."""
        ...


@dataclass(frozen=True, slots=True)
class EnvoyStatus:
    """`refused` counts the configurations that Envoy itself did not take since it started."""

    uptime_s: int
    refused: int


class EnvoyWatch(Protocol):
    async def status(self) -> EnvoyStatus:
        """Raises DependencyError when Envoy is not there, or not ready."""
        ...
