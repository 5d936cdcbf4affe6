"""Every service and dependency in one answer, the wrong ones first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from libs.common.clock import Clock
from libs.common.errors import BasaltError
from libs.common.identity import PLATFORM
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.components import Component, State
from services.monitoring.ports import HealthProbe, Meters


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
    """Looks at the platform again and again: for the meters, and for an alert when a part is down.

    A component is alerted once for each time that it goes down, after two looks: one that is only
    being restarted is not worth waking anybody.
    """

    def __init__(self, health: PlatformHealth, meters: Meters, alerts: Alerts) -> None:
        self._health = health
        self._meters = meters
        self._alerts = alerts
        self._down: dict[str, int] = {}

    async def look(self) -> None:
        components = await self._health.look()
        self._meters.components(components)
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
