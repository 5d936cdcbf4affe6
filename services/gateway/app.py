"""Puts the gateway's control plane and slow edge together: the only file naming their adapters."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

from libs.common.foundation import Foundation
from libs.common.health import Check
from libs.common.http import HttpServer
from libs.common.pb.basalt.v1 import security_pb2
from libs.common.policy import Policy
from libs.common.rpc import Guard, Server
from libs.common.runtime import Loop, Service
from services.gateway.core.door import Door
from services.gateway.core.doorkeeping import Doorkeeping
from services.gateway.core.envoy.clusters import DISPATCHER_SOCKET
from services.gateway.core.envoy.inputs import Access, DoorTls, Site
from services.gateway.core.envoy.listener import ACCESS_LOG
from services.gateway.core.following import EnvoyFollower, LimitFollower, RouteFollower
from services.gateway.core.limits import TenantLimits
from services.gateway.core.predicting import Predicting
from services.gateway.core.site import SERVICES, site
from services.gateway.inbound.events import event_routes
from services.gateway.inbound.inference import InferenceServicer
from services.gateway.inbound.reflected import reflected
from services.gateway.inbound.rest import Rest
from services.gateway.inbound.rpc import GatewayServicer
from services.gateway.outbound.dispatcher import DispatcherSocket
from services.gateway.outbound.envoy import EnvoyAdmin, EnvoyJudge, envoy_binary
from services.gateway.outbound.folder import DiskDoorFolder
from services.gateway.outbound.inference import InferenceRoutes
from services.gateway.outbound.triton import TritonServer
from services.gateway.settings import Settings

# Limits that another gateway put into a shared journal are in force here within this.
LIMITS_S = 1.0
ENVOY_S = 1.0


def build(settings: Settings) -> Service:
    base = Foundation.lay("gateway", settings)
    policy = Policy.load()
    folder = DiskDoorFolder(settings.door_folder)
    folder.prepare()
    door = Door(_site(settings, policy), EnvoyJudge(envoy_binary()), folder, base.mended)
    envoy = EnvoyAdmin(settings.envoy_admin)
    limits = TenantLimits(base.journal)
    limit_follower = LimitFollower(limits, door)
    routes = RouteFollower(InferenceRoutes(base.peers), door)
    envoy_follower = EnvoyFollower(envoy, folder, ACCESS_LOG)
    gateway = GatewayServicer(Doorkeeping(door, limits, limit_follower, routes, envoy_follower))

    triton = TritonServer(settings.triton, base.tls)
    dispatcher = DispatcherSocket(settings.door_folder / DISPATCHER_SOCKET)
    predicting = Predicting(lambda: door.table, triton, dispatcher)
    inference = InferenceServicer(predicting, _version())
    guard = Guard(base.verifier, policy, base.auditing, base.sharing)
    slow_grpc = Server(
        settings.slow_grpc_listen,
        guard,
        [inference.register],
        [inference.RPC_NAME],
        base.tls,
        reflected(),
        sorted(SERVICES),
    )
    rest = Rest(predicting, base.verifier, policy, _version())

    return base.build(
        router=event_routes(routes, limit_follower),
        register=[gateway.register],
        names=[gateway.RPC_NAME],
        parts=[
            triton,
            dispatcher,
            door,
            routes,
            Loop("limits", limit_follower.look, LIMITS_S),
            Loop("envoy watch", envoy_follower.look, ENVOY_S),
            slow_grpc,
            HttpServer("REST", settings.slow_rest_listen, rest.app(), base.tls),
        ],
        checks=[
            Check("envoy", envoy.status),
            Check("dispatcher", dispatcher.ping),
            Check("triton", triton.ping),
        ],
        writes=[settings.door_folder],
        on_keys=lambda change: door.take_access(_access(change)),
    )


def _site(settings: Settings, policy: Policy) -> Site:
    tls = None
    if settings.door_cert is not None and settings.door_key is not None:
        tls = DoorTls(
            certificate=str(settings.door_cert.absolute()),
            key=str(settings.door_key.absolute()),
            client_ca=str(settings.door_client_ca.absolute()) if settings.door_client_ca else "",
        )
    return site(
        listen=settings.door_listen,
        folder=str(settings.door_folder.absolute()),
        slow_grpc=settings.slow_grpc_listen,
        slow_rest=settings.slow_rest_listen,
        peers={**settings.peers, "gateway": settings.peers.get("gateway", settings.rpc_listen)},
        policy=policy,
        tls=tls,
        mutual_tls=str(settings.tls.absolute()) if settings.tls else "",
    )


def _access(change: security_pb2.FollowAccessResponse) -> Access:
    return Access(
        version=change.access_version,
        keys=tuple(json.loads(change.jwks_json).get("keys", [])),
        tenants=tuple(sorted(change.tenants)),
    )


def _version() -> str:
    try:
        return version("basalt-platform")
    except PackageNotFoundError:
        return "source"
