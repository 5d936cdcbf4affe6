"""Envoy's files, rendered whole: the same inputs make the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from services.gateway.core.envoy import guards, routes
from services.gateway.core.envoy.clusters import clusters
from services.gateway.core.envoy.inputs import Inputs, Site
from services.gateway.core.envoy.listener import (
    ROUTES_FILE,
    guard_file,
    listener,
    whole_listener,
)
from services.gateway.core.envoy.parts import Json, from_file, seconds, typed

BOOTSTRAP_FILE = "envoy.json"
LISTENERS_FILE = "lds.json"
CLUSTERS_FILE = "cds.json"
HEAP_BYTES_MAX = 768 * 1024 * 1024
# Many more than callers need: what shows no token is gone in seconds, and until then it shall not
# stand in the way of others. It is memory that ends a flood of them: see `_process_limits`.
CONNECTIONS_MAX = 16_384
# Between these shares of the heap, connections without a call are given less and less time.
CROWDED_FROM = 0.25
CROWDED_AT = 0.6
CROWDED_IDLE_S = 2.0

_LISTENER = "config.listener.v3.Listener"
_CLUSTER = "config.cluster.v3.Cluster"
_ROUTES = "config.route.v3.RouteConfiguration"
_EXTENSION = "config.core.v3.TypedExtensionConfig"


@dataclass(frozen=True, slots=True)
class Configuration:
    """`files` in the order in which they are to be moved into place: names and contents.

    `whole` is all of it as one static bootstrap, for Envoy to judge before any file is moved.
    """

    files: tuple[tuple[str, str], ...]
    whole: str

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name, content in self.files:
            digest.update(f"{name}\0{content}\0".encode())
        return digest.hexdigest()


def render(inputs: Inputs) -> Configuration:
    site = inputs.site
    found = [
        # Clusters before the routes that name them; the keys before the routes that need them.
        (CLUSTERS_FILE, _discovered(_CLUSTER, clusters(inputs))),
        *(
            (guard_file(name), _discovered(_EXTENSION, [{"name": name, "typed_config": config}]))
            for name, config in guards.guards(inputs).items()
        ),
        (ROUTES_FILE, _discovered(_ROUTES, [routes.routes(inputs)])),
        (LISTENERS_FILE, _discovered(_LISTENER, [listener(inputs)])),
        (BOOTSTRAP_FILE, _bootstrap(site)),
    ]
    return Configuration(
        files=tuple((name, _text(content)) for name, content in found),
        whole=_text(_whole(inputs)),
    )


def _discovered(kind: str, resources: list[Json]) -> Json:
    """A DiscoveryResponse, as Envoy reads one from a file."""
    return {"resources": [typed(kind, **resource) for resource in resources]}


def _bootstrap(site: Site) -> Json:
    """What Envoy starts with. Whoever starts it adds the admin listener."""
    return {
        "node": {"id": "door", "cluster": "basalt"},
        "dynamic_resources": {
            "lds_config": from_file(site.file(LISTENERS_FILE)),
            "cds_config": from_file(site.file(CLUSTERS_FILE)),
        },
        **_process_limits(),
    }


def _whole(inputs: Inputs) -> Json:
    return {
        "node": {"id": "door", "cluster": "basalt"},
        "static_resources": {
            "listeners": [whole_listener(inputs)],
            "clusters": clusters(inputs),
        },
        **_process_limits(),
    }


def _process_limits() -> Json:
    heap = typed(
        "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=HEAP_BYTES_MAX,
    )
    connections = typed(
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=CONNECTIONS_MAX,
    )
    return {
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                {"name": _HEAP, "typed_config": heap},
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": connections,
                },
            ],
            "actions": [
                _crowded(),
                _at("envoy.overload_actions.shrink_heap", 0.9),
                _at("envoy.overload_actions.stop_accepting_requests", 0.95),
                _at("envoy.overload_actions.stop_accepting_connections", 0.98),
            ],
        },
    }


_HEAP = "envoy.resource_monitors.fixed_heap"


def _crowded() -> Json:
    kind = "config.overload.v3.ScaleTimersOverloadActionConfig"
    scaled = {"scaling_threshold": CROWDED_FROM, "saturation_threshold": CROWDED_AT}
    return {
        "name": "envoy.overload_actions.reduce_timeouts",
        "triggers": [{"name": _HEAP, "scaled": scaled}],
        "typed_config": typed(
            kind,
            timer_scale_factors=[
                {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": seconds(CROWDED_IDLE_S)}
            ],
        ),
    }


def _at(action: str, share: float) -> Json:
    """Does `action` while the heap is fuller than this share of its limit."""
    return {"name": action, "triggers": [{"name": _HEAP, "threshold": {"value": share}}]}


def _text(content: Json) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
