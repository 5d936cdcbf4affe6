"""What Envoy's configuration is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.common.unix import path_of
from services.gateway.core.limits import Effective


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """ "host:port", or "unix:PATH". Raises ValueError."""
        if path := path_of(text):
            return cls("", 0, str(path))
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ValueError(f"{text!r} is neither host:port nor unix:PATH.")
        return cls(host.strip("[]"), int(port))

    @property
    def is_wildcard(self) -> bool:
        return self.host in ("0.0.0.0", "::", "*")  # noqa: S104 - recognised, not listened on.


@dataclass(frozen=True, slots=True)
class DoorTls:
    """Files of the door's own certificate; with `client_ca` callers must have one too."""

    certificate: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What stays the same while the gateway runs: addresses, files, and the policy.

    `services` maps each gRPC service's full name to the cluster that serves it.
    `internal_methods` are for services among each other: the door refuses them to everybody.
    `mutual_tls` is the folder of the certificates with which services prove themselves.
    """

    listen: Address
    folder: str
    slow_grpc: Address
    slow_rest: Address
    clusters: Mapping[str, Address]
    services: Mapping[str, str]
    open_methods: tuple[str, ...]
    internal_methods: tuple[str, ...]
    infer_roles: tuple[str, ...]
    tls: DoorTls | None = None
    mutual_tls: str = ""

    def file(self, name: str) -> str:
        return f"{self.folder}/{name}"


@dataclass(frozen=True, slots=True)
class Access:
    """What security publishes: who may come in. Without `keys` nobody's token can be verified."""

    version: int = 0
    keys: tuple[Mapping[str, str], ...] = ()
    tenants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """`limits` holds the tenants that have limits of their own."""

    site: Site
    access: Access = field(default_factory=Access)
    limits: Mapping[str, Effective] = field(default_factory=dict[str, Effective])
