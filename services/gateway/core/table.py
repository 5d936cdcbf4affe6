"""The table of routes: what inference publishes, with each tenant's limits, as the door follows it.

It travels as one JSON file, moved into place whole. The dispatcher and the slow edge read the same
file, so both see a tenant's models alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.errors import InvalidInputError, NotFoundError
from services.gateway.core.limits import SAMPLE_FRACTION_DEFAULT, Effective
from services.gateway.dispatcher.routing import Route, RoutingError, RoutingTable, Variant


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RoutedVariant(_Frozen):
    """`internal_name` is Triton's; callers never see it."""

    internal_name: str
    version: int
    manifest_sha256: str
    weight: int


class RoutedModel(_Frozen):
    """A tenant's model under its public name, and the versions that answer for it."""

    tenant: str
    model: str
    revision: int
    variants: tuple[RoutedVariant, ...]
    batch_size_max: int = 0
    features: tuple[str, ...] = ()

    @property
    def versions(self) -> list[str]:
        return [str(variant.version) for variant in self.variants]

    def variant(self, version: str) -> RoutedVariant:
        """The version asked for; without one, the one with the most traffic."""
        if not version:
            return max(self.variants, key=lambda each: each.weight)
        for each in self.variants:
            if str(each.version) == version:
                return each
        raise NotFoundError(
            f"Version {version} of the model {self.model} is not deployed.",
            which=f"model/{self.model}",
            next_step=f"Deployed: {', '.join(self.versions)}.",
        )


class TenantRules(_Frozen):
    """A tenant's own limits, as far as the dispatcher keeps them."""

    requests_in_flight_max: int
    message_bytes_max: int
    sample_fraction: float


class Table(_Frozen):
    """`version` is of the deployments and grows."""

    version: int = 0
    routes: tuple[RoutedModel, ...] = ()
    tenants: dict[str, TenantRules] = {}

    @classmethod
    def read(cls, text: str) -> Table:
        """Raises InvalidInputError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidInputError(
                f"The table of routes cannot be read: {error.errors()[0]['msg']}.",
                which="routes.json",
                next_step="The gateway writes it anew with the next deployment.",
            ) from error

    def text(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def limited(self, limits: Mapping[str, Effective]) -> Table:
        """The same routes under these limits."""
        rules = {tenant: TenantRules(**_kept(each)) for tenant, each in sorted(limits.items())}
        return self.model_copy(update={"tenants": rules})

    def model(self, tenant: str, model: str) -> RoutedModel:
        """Raises NotFoundError: another tenant's model is as unknown as one that never was."""
        for route in self.routes:
            if route.tenant == tenant and route.model == model:
                return route
        raise NotFoundError(
            f"The model {model} is not deployed in your tenant.",
            which=f"model/{model}",
            next_step="`basalt deploy list` shows what is.",
        )

    def routing(self) -> RoutingTable:
        """What the dispatcher decides by. Raises InvalidInputError: no such table may be used."""
        rules = self.tenants
        try:
            return RoutingTable.of(
                (_route(each, rules.get(each.tenant)) for each in self.routes),
                {tenant: each.requests_in_flight_max for tenant, each in rules.items()},
                {tenant: each.message_bytes_max for tenant, each in rules.items()},
            )
        except RoutingError as error:
            raise InvalidInputError(
                f"The table of routes cannot be used: {error}.",
                which="routes.json",
                next_step="Look at the deployment with `basalt deploy list`.",
            ) from error


def _kept(limits: Effective) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in TenantRules.model_fields}


def _route(routed: RoutedModel, rules: TenantRules | None) -> Route:
    return Route(
        tenant=routed.tenant,
        model=routed.model,
        variants=tuple(
            Variant(
                internal_name=each.internal_name,
                version=str(each.version),
                digest=each.manifest_sha256,
                weight=each.weight,
            )
            for each in routed.variants
        ),
        batch_size_max=routed.batch_size_max,
        merge=routed.batch_size_max > 1,
        sample=SAMPLE_FRACTION_DEFAULT if rules is None else rules.sample_fraction,
    )
