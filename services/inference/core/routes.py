"""The table of routes that the gateway follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.inference.core.artifacts import BATCH_SIZE_MAX, Signed
from services.inference.core.deployments import Revision
from services.inference.core.manifest import Tensor, answers


@dataclass(frozen=True, slots=True)
class RouteVariant:
    internal_name: str
    version: int
    manifest_sha256: str
    weight: int


@dataclass(frozen=True, slots=True)
class Route:
    """`inputs` and `outputs` as callers see them, rows first."""

    tenant: str
    model: str
    revision: int
    variants: tuple[RouteVariant, ...]
    batch_size_max: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """`version` grows with each change, over restarts too: it is the time of the change in ms."""

    version: int
    routes: tuple[Route, ...]


def route(revision: Revision, signed: Mapping[int, Signed]) -> Route:
    """`signed` are those of the revision by number; one without variants has no route.

    What is served is what was signed, whatever the deployment says of it.
    """
    stable = signed[revision.variants[0].version].manifest
    return Route(
        tenant=revision.tenant,
        model=revision.model,
        revision=revision.revision,
        variants=tuple(
            RouteVariant(
                internal_name=signed[each.version].name,
                version=each.version,
                manifest_sha256=signed[each.version].manifest_sha256,
                weight=each.weight,
            )
            for each in revision.variants
        ),
        batch_size_max=BATCH_SIZE_MAX,
        inputs=stable.inputs,
        outputs=answers(stable.outputs),
        features=stable.features,
        classes=stable.classes,
    )


def next_table(current: Table | None, routes: tuple[Route, ...], now_ms: int) -> Table:
    """The same table when nothing changed."""
    if current is not None and current.routes == routes:
        return current
    return Table(max(now_ms, current.version + 1 if current else 0), routes)
