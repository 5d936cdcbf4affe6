"""Which internal model answers a tenant's call: an immutable table, replaced as a whole."""

import random
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from services.gateway.dispatcher.headers import STATUS_200, literal
from services.gateway.dispatcher.messages import MODEL_NAME, MODEL_VERSION, PARAMETERS
from services.gateway.dispatcher.wire import delimited

BATCH_SIZE_MAX_DEFAULT = 64
# One merged request in Triton at a time is fastest for a model of one instance: the longer the
# queue behind it, the larger the next. A model of several instances wants one for each.
OUTSTANDING_MAX_DEFAULT = 1
TENANT_CONCURRENCY_MAX_DEFAULT = 256

SeriesKey = tuple[str, str, str]  # Tenant, model, version.


class RoutingError(Exception):
    """The table cannot be made; the text says which route is wrong."""


class NotDeployedError(Exception):
    """The tenant has no such model or version; the text tells the caller what there is."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One version of a model, as Triton knows it."""

    internal_name: str
    version: str
    digest: str
    weight: int
    internal_version: str = ""  # Empty: the one version that Triton serves under that name.


@dataclass(frozen=True, slots=True)
class Route:
    """A tenant's public model and the versions that answer for it."""

    tenant: str
    model: str
    variants: tuple[Variant, ...]
    batch_size_max: int = BATCH_SIZE_MAX_DEFAULT
    merge: bool = True
    sample: float = 0.0  # The share of answered requests that is sampled, 0 to 1.
    outstanding_max: int = OUTSTANDING_MAX_DEFAULT  # Merged requests in Triton at a time.

    @property
    def named(self) -> str:
        return f"{self.tenant}/model/{self.model}"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A variant with everything that a request to it needs, made ready once."""

    route: Route
    variant: Variant
    key: tuple[str, str]
    series: SeriesKey
    rewriting: bytes  # Appended to a request: its last model_name and model_version win.
    identity: bytes  # Appended to an answer: the public name, the version and the digest.
    answer_headers: bytes  # The header block before an answer.
    merge_rows_max: int  # 1 where requests are not merged.


@dataclass(frozen=True, slots=True, eq=False)
class RoutedModel:
    targets: tuple[Target, ...]
    bounds: tuple[int, ...]  # Running sums of the weights.
    by_version: Mapping[str, Target]

    def choose(self, version: str, request_id: bytes) -> Target:
        """The version asked for, else one by weight: equal request ids get equal versions."""
        if version:
            target = self.by_version.get(version)
            if target is None:
                model = self.targets[0].route.model
                raise NotDeployedError(
                    f"version '{version}' of model '{model}' is not deployed for this tenant; "
                    f"deployed: {', '.join(self.by_version)}"
                )
            return target
        if len(self.targets) == 1:
            return self.targets[0]
        total = self.bounds[-1]
        # A share of traffic is no secret, so the quick generator will do.
        hashed = zlib.crc32(request_id) if request_id else random.getrandbits(32)
        point = hashed % total
        for target, bound in zip(self.targets, self.bounds, strict=True):
            if point < bound:
                return target
        return self.targets[-1]


@dataclass(frozen=True, slots=True, eq=False)
class RoutingTable:
    """All routes. The two mappings hold the tenants whose limits are not the defaults."""

    models: Mapping[tuple[str, str], RoutedModel] = field(
        default_factory=lambda: MappingProxyType({})
    )
    tenant_concurrency_max: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    tenant_message_bytes_max: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({})
    )

    @classmethod
    def of(
        cls,
        routes: Iterable[Route],
        tenant_concurrency_max: Mapping[str, int] | None = None,
        tenant_message_bytes_max: Mapping[str, int] | None = None,
    ) -> "RoutingTable":
        """Raises RoutingError."""
        models: dict[tuple[str, str], RoutedModel] = {}
        for route in routes:
            key = (route.tenant, route.model)
            if key in models:
                raise RoutingError(f"{route.named} has two routes")
            models[key] = _routed(route)
        return cls(
            MappingProxyType(models),
            MappingProxyType(dict(tenant_concurrency_max or {})),
            MappingProxyType(dict(tenant_message_bytes_max or {})),
        )

    def internal_keys(self) -> set[tuple[str, str]]:
        return {target.key for model in self.models.values() for target in model.targets}


def _routed(route: Route) -> RoutedModel:
    weights = [variant.weight for variant in route.variants]
    if not weights or min(weights) < 0 or sum(weights) == 0:
        raise RoutingError(f"{route.named} needs a positive weight")
    if not 0.0 <= route.sample <= 1.0 or route.batch_size_max < 0 or route.outstanding_max < 1:
        raise RoutingError(f"{route.named} has a number that is out of range")
    targets = tuple(_target(route, variant) for variant in route.variants)
    by_version = {target.variant.version: target for target in targets}
    if len(by_version) != len(targets):
        raise RoutingError(f"{route.named} is routed twice to one version")
    bounds = tuple(sum(weights[: count + 1]) for count in range(len(weights)))
    return RoutedModel(targets, bounds, MappingProxyType(by_version))


def _target(route: Route, variant: Variant) -> Target:
    digest = delimited(0x0A, b"basalt_digest") + delimited(
        0x12, delimited(0x1A, variant.digest.encode())
    )
    return Target(
        route=route,
        variant=variant,
        key=(variant.internal_name, variant.internal_version),
        series=(route.tenant, route.model, variant.version),
        rewriting=delimited(MODEL_NAME, variant.internal_name.encode())
        + delimited(MODEL_VERSION, variant.internal_version.encode()),
        identity=delimited(MODEL_NAME, route.model.encode())
        + delimited(MODEL_VERSION, variant.version.encode())
        + delimited(PARAMETERS, digest),
        answer_headers=STATUS_200
        + literal(b"content-type", b"application/grpc")
        + literal(b"basalt-model-version", variant.version.encode())
        + literal(b"basalt-model-digest", variant.digest.encode()),
        merge_rows_max=route.batch_size_max if route.merge and route.batch_size_max > 1 else 1,
    )
