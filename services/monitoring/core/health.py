"""Every service and dependency in one answer, the wrong ones first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from libs.common.clock import Clock
from libs.common.errors import BasaltError, PreconditionError
from libs.common.history import Happening
from libs.common.identity import PLATFORM
from libs.common.paging import token_number
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.components import Component, State, told
from services.monitoring.ports import HealthProbe, History, Meters


@dataclass(frozen=True, slots=True)
class PlatformHealth:
    services: Sequence[str]
    probe: HealthProbe
    clock: Clock

    async def look(self) -> list[Component]:
        answers = await asyncio.gather(*(self._ask(service) for service in self.services))
        return merged(component for answer in answers for component in answer)

    async def _ask(self, service: str) -> Sequence[Component]:
        try:
            return await self.probe.ask(service)
        except BasaltError as error:
            # Its own next step would be to ask for this very answer.
            problem = f"{error.what} Look at its log, and start it again if it does not run."
            return [Component(service, State.NOT_SERVING, problem, self.clock.now(), "monitoring")]


def merged(components: Iterable[Component]) -> list[Component]:
    """One component a name: the worst that anybody reports, and by whom. The wrong ones first."""
    worst: dict[str, Component] = {}
    for component in components:
        known = worst.get(component.name)
        if known is None or component.state > known.state:
            worst[component.name] = component
        elif component.state == known.state and component.reported_by != known.reported_by:
            reporters = f"{known.reported_by}, {component.reported_by}"
            problem = known.problem or component.problem
            worst[component.name] = replace(known, reported_by=reporters, problem=problem)
    return sorted(worst.values(), key=lambda component: (-component.state, component.name))


def overall(components: Sequence[Component]) -> State:
    return max((component.state for component in components), default=State.SERVING)


class HealthWatch:
    """Looks at the platform again and again: for the meters, for an alert when a part is down, and
    for the history, which has a line for each change.

    A component is alerted once for each time that it goes down, after two looks: one that is only
    being restarted is not worth waking anybody.
    """

    def __init__(
        self, health: PlatformHealth, meters: Meters, alerts: Alerts, changes: Changes | None = None
    ) -> None:
        self._health = health
        self._meters = meters
        self._alerts = alerts
        self._changes = changes
        self._down: dict[str, int] = {}
        self._low: dict[str, int] = {}

    async def look(self) -> None:
        components = await self._health.look()
        self._meters.components(components)
        if self._changes is not None:
            self._changes.see(components)
        await self._tell_of_the_low(components)
        down = {each.name: each for each in components if each.state is State.NOT_SERVING}
        self._down = {name: self._down.get(name, 0) + 1 for name in down}
        for name, looks in self._down.items():
            if looks == 2:
                component = down[name]
                # Several monitors see the same: within one minute they raise it once.
                cause = f"down/{name}/{component.checked_at:%Y-%m-%dT%H:%M}"
                await self._alerts.raise_once(
                    PLATFORM, cause, "critical", "component.down", name, component.problem
                )

    async def _tell_of_the_low(self, components: Sequence[Component]) -> None:
        """Of what is wrong while everything still serves, such as a disk with little room or a
        partition that cannot be read: later it is too late, and nobody may look by themselves.
        """
        low = {each.name: each for each in components if each.state is State.DEGRADED}
        self._low = {name: self._low.get(name, 0) + 1 for name in low}
        for name, looks in self._low.items():
            if looks == 2:
                component = low[name]
                cause = f"low/{name}/{component.checked_at:%Y-%m-%dT%H:%M}"
                await self._alerts.raise_once(
                    PLATFORM, cause, "warning", "component.low", name, component.problem
                )


class Changes:
    """Notes when a component stops serving well, and when it does again."""

    def __init__(self, history: History, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self._wrong: dict[str, tuple[State, float]] = {}

    def see(self, components: Sequence[Component]) -> None:
        for each in components:
            known = self._wrong.get(each.name)
            if each.state is State.SERVING:
                if known is not None:
                    self._note(each, "serves again", self._clock.monotonic() - known[1])
                    del self._wrong[each.name]
            elif known is None or known[0] is not each.state:
                since = known[1] if known else self._clock.monotonic()
                self._wrong[each.name] = (each.state, since)
                self._note(each, each.state.name.lower().replace("_", " "))

    def _note(self, component: Component, kind: str, took_s: float = 0.0) -> None:
        self._history.note(
            Happening(self._clock.now(), component.name, kind, component.problem, "", took_s)
        )


def page_of(
    history: History | None, tenant: str, size: int, token: str
) -> tuple[list[Happening], str]:
    """A page of what happened, as the tenant is told it, and the token of the next one.

    The token's number is of what came before.

    Raises PreconditionError where nobody keeps a history.
    """
    if history is None:
        raise PreconditionError(
            "This installation keeps no history of the platform.",
            which="history",
            next_step="Set BASALT_HISTORY to a folder for monitoring.",
        )
    before = token_number(token) if token else 0
    found = history.newest(before + size + 1)[before:]
    page = [replace(each, detail=told(each.detail, tenant)) for each in found[:size]]
    return page, str(before + size) if len(found) > size else ""
