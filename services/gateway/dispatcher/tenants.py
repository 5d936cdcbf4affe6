"""How many calls each tenant has in flight, against its limit."""

from collections.abc import Mapping

from services.gateway.dispatcher.messages import RequestLayout

TENANTS_MAX = 10_000  # Idle tenants beyond this are forgotten; they return with their next call.
LAYOUTS_MAX = 1_024


class Tenant:
    __slots__ = (
        "concurrency_max",
        "held_bytes",
        "in_flight",
        "layouts",
        "message_bytes_max",
        "name",
    )

    def __init__(self, name: str, concurrency_max: int, message_bytes_max: int) -> None:
        self.name = name
        self.concurrency_max = concurrency_max
        self.message_bytes_max = message_bytes_max
        self.in_flight = 0
        self.held_bytes = 0
        # By length of the request: how the last request of that length lay in memory.
        self.layouts: dict[int, RequestLayout] = {}

    def remember(self, length: int, layout: RequestLayout) -> None:
        if len(self.layouts) >= LAYOUTS_MAX:
            self.layouts.clear()
        self.layouts[length] = layout


class Tenants:
    def __init__(self, concurrency_max: int, message_bytes_max: int) -> None:
        self._concurrency_max_default = concurrency_max
        self._message_bytes_max_default = message_bytes_max
        self._concurrency_max: Mapping[str, int] = {}
        self._message_bytes_max: Mapping[str, int] = {}
        self._tenants: dict[str, Tenant] = {}

    def limit(
        self, concurrency_max: Mapping[str, int], message_bytes_max: Mapping[str, int]
    ) -> None:
        self._concurrency_max = concurrency_max
        self._message_bytes_max = message_bytes_max
        for tenant in self._tenants.values():
            tenant.concurrency_max, tenant.message_bytes_max = self._limits_of(tenant.name)

    def get(self, name: str) -> Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= TENANTS_MAX:
                self._tenants = {
                    known: kept for known, kept in self._tenants.items() if kept.in_flight
                }
            tenant = Tenant(name, *self._limits_of(name))
            self._tenants[name] = tenant
        return tenant

    def _limits_of(self, name: str) -> tuple[int, int]:
        return (
            self._concurrency_max.get(name, self._concurrency_max_default),
            self._message_bytes_max.get(name, self._message_bytes_max_default),
        )
