"""Where everything behind the door is, from what the gateway was told and from the policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from libs.common.errors import InvalidInputError
from libs.common.identity import Caller
from libs.common.policy import ROLES, Policy
from services.gateway.core.envoy.inputs import Address, DoorTls, Site

MODEL_INFER = "inference.GRPCInferenceService/ModelInfer"
# What each service serves to people and applications by the door. Health is for the platform
# itself: monitoring asks every service for it and gives one answer.
SERVICES = {
    "basalt.v1.IngestService": "ingest",
    "basalt.v1.TrainerService": "trainer",
    "basalt.v1.ModelService": "inference",
    "basalt.v1.DeploymentService": "inference",
    "basalt.v1.MonitoringService": "monitoring",
    "basalt.v1.IdentityService": "security",
    "basalt.v1.SigningService": "security",
    "basalt.v1.AuditService": "security",
    "basalt.v1.GatewayService": "gateway",
}


def site(
    *,
    listen: str,
    folder: str,
    slow_grpc: str,
    slow_rest: str,
    peers: Mapping[str, str],
    policy: Policy,
    tls: DoorTls | None,
    mutual_tls: str,
) -> Site:
    """Raises InvalidInputError, naming the setting."""
    known = {name: _address(f"BASALT_PEERS[{name}]", at) for name, at in peers.items()}
    own = known.get("gateway")
    return Site(
        listen=_address("BASALT_DOOR_LISTEN", listen),
        folder=folder,
        slow_grpc=_reachable(_address("BASALT_SLOW_GRPC_LISTEN", slow_grpc), own),
        slow_rest=_reachable(_address("BASALT_SLOW_REST_LISTEN", slow_rest), own),
        clusters={name: known[name] for name in sorted(set(SERVICES.values()) & known.keys())},
        services={name: peer for name, peer in SERVICES.items() if peer in known},
        open_methods=tuple(sorted(_open(policy))),
        internal_methods=tuple(sorted(_internal(policy))),
        infer_roles=tuple(_permitted(policy)),
        tls=tls,
        mutual_tls=mutual_tls,
    )


def _open(policy: Policy) -> Iterable[str]:
    """Without the internal ones: nobody comes by the door with a service's credential."""
    for method in policy.methods:
        access = policy.access(method)
        if access.open and not access.internal:
            yield method


def _internal(policy: Policy) -> Iterable[str]:
    return (method for method in policy.methods if policy.access(method).internal)


def _permitted(policy: Policy) -> Iterable[str]:
    """The roles that the policy lets predict, each asked for by itself."""
    for role in ROLES:
        somebody = Caller("tenant", f"a {role}", frozenset({role}), "", 0.0)
        if policy.decide(somebody, MODEL_INFER, None).allowed:
            yield role


def _address(setting: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{setting} is {text!r}, which is neither host:port nor unix:PATH.",
            which=setting,
            next_step="Set it to a host and a port, such as 127.0.0.1:7080.",
        ) from error


def _reachable(listen: Address, own: Address | None) -> Address:
    """Whoever listens everywhere is reached where its peers reach it."""
    if listen.is_wildcard and own is not None and own.host:
        return Address(own.host, listen.port)
    return listen
