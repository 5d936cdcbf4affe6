"""The whole door for tests: control plane, dispatcher, Envoy and Triton, each the real process.

Its neighbours, security and inference, are answered for by the test over real gRPC, so that a test
can sign any token, revoke any key and route any model.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import InferenceServerClient

from libs.common.pb.basalt.v1 import health_pb2 as own_health_pb2
from libs.common.pb.basalt.v1 import inference_pb2, security_pb2
from libs.common.pb.basalt.v1.health_pb2_grpc import HealthServiceStub
from libs.common.pb.basalt.v1.inference_pb2_grpc import (
    DeploymentServiceServicer,
    add_DeploymentServiceServicer_to_server,
)
from libs.common.pb.basalt.v1.security_pb2_grpc import (
    AuditServiceServicer,
    IdentityServiceServicer,
    add_AuditServiceServicer_to_server,
    add_IdentityServiceServicer_to_server,
)
from libs.common.pb.inference.grpc_inference_service_pb2 import ModelInferRequest
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from libs.common.rpc import ServerTls
from standalone.processes import ServiceProcess
from tests.support.eventually import eventually
from tests.support.servers import TRITON_CONTROL_KEY
from tests.support.tokens import KeyRing
from tools.servers import Envoy, Triton
from tools.servers.ports import free_ports

LOOPBACK = "127.0.0.1"
FEATURES = ("a", "b")
READY_S_MAX = 30.0

# y = FACTOR * x; a negative value is an error of the model's own.
MODEL = """
import time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(r) for r in requests]

    def answer(self, request):
        x = pb.get_input_tensor_by_name(request, "x").as_numpy()
        if (x < 0).any():
            return pb.InferenceResponse(error=pb.TritonError("a value is negative"))
        time.sleep(SECONDS)
        return pb.InferenceResponse([pb.Tensor("y", x * FACTOR)])
"""
CONFIG = {
    "backend": "python",
    "max_batch_size": 64,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    "dynamic_batching": {},
}


class Neighbours(IdentityServiceServicer, AuditServiceServicer, DeploymentServiceServicer):
    """security and inference, as far as the gateway asks them."""

    def __init__(self, tls: ServerTls | None = None) -> None:
        self.tls = tls
        self.ring = KeyRing("one")
        self.revocations: list[security_pb2.Revocation] = []
        # By follower: what they last said is in force there.
        self.in_force: dict[str, int] = {}
        self.tenants = ["platform", "acme", "globex"]
        self.routes: dict[tuple[str, str], inference_pb2.Route] = {}
        self.port = free_ports(1)[0]
        self.audited: list[str] = []
        # What came with each call of GetJwks, which needs no token.
        self.headers: list[dict[str, str]] = []
        self._version = 1
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        server = self._server = grpc.aio.server()
        add_IdentityServiceServicer_to_server(self, server)
        add_AuditServiceServicer_to_server(self, server)
        add_DeploymentServiceServicer_to_server(self, server)
        if self.tls is None:
            server.add_insecure_port(self.address)
        else:
            server.add_secure_port(self.address, self.tls.credentials())
        await server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def tell(self) -> int:
        """What was changed is published to whoever follows; the sequence of it."""
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()
        return self._version

    def route(self, tenant: str, model: str, weights: Mapping[int, int], **fields: Any) -> None:
        """Of models that `load_model` loaded: internal names are the platform's."""
        self.routes[(tenant, model)] = inference_pb2.Route(
            tenant=tenant,
            model=model,
            revision=1,
            variants=[
                inference_pb2.RouteVariant(
                    internal_name=fields.get("internal") or f"{tenant}--{model}--v{version}",
                    version=version,
                    manifest_sha256=digest(version),
                    weight=weight,
                )
                for version, weight in weights.items()
            ],
            batch_size_max=fields.get("batch_size_max", 64),
            features=FEATURES,
        )
        self.tell()

    async def IssueServiceToken(  # noqa: N802
        self, request: security_pb2.IssueServiceTokenRequest, context: Any
    ) -> security_pb2.IssueServiceTokenResponse:
        tenant = request.tenant or "platform"
        token = self.ring.token(sub=f"service:{request.service}", tenant=tenant, roles=["service"])
        answer = security_pb2.IssueServiceTokenResponse(token=token)
        answer.expires_at.GetCurrentTime()
        answer.expires_at.seconds += 600
        return answer

    async def GetJwks(  # noqa: N802
        self, request: security_pb2.GetJwksRequest, context: Any
    ) -> security_pb2.GetJwksResponse:
        self.headers.append(dict(context.invocation_metadata()))
        return security_pb2.GetJwksResponse(jwks_json=json.dumps(self.ring.jwks()))

    async def FollowAccess(  # noqa: N802
        self, requests: AsyncIterator[security_pb2.FollowAccessRequest], context: Any
    ) -> AsyncIterator[security_pb2.FollowAccessResponse]:
        first = await anext(aiter(requests))

        async def hear() -> None:
            async for said in requests:
                self.in_force[first.follower] = said.in_force

        hearing = asyncio.create_task(hear())
        try:
            while True:
                changed = self._changed
                yield security_pb2.FollowAccessResponse(
                    sequence=self._version,
                    jwks_json=json.dumps(self.ring.jwks()),
                    tenants=self.tenants,
                    access_version=self._version,
                    revocations=self.revocations,
                )
                await changed.wait()
        finally:
            hearing.cancel()

    def revoke(self, **row: Any) -> int:
        """For ten minutes, of a token, a login or a subject; the sequence of it."""
        self.revocations.append(security_pb2.Revocation(until_s=time.time() + 600, **row))
        return self.tell()

    async def AppendAudit(  # noqa: N802
        self, request: security_pb2.AppendAuditRequest, context: Any
    ) -> security_pb2.AppendAuditResponse:
        self.audited.append(request.action)
        return security_pb2.AppendAuditResponse()

    async def WatchRoutes(  # noqa: N802
        self, request: inference_pb2.WatchRoutesRequest, context: Any
    ) -> AsyncIterator[inference_pb2.WatchRoutesResponse]:
        while True:
            changed = self._changed
            yield inference_pb2.WatchRoutesResponse(
                routes=self.routes.values(), table_version=self._version
            )
            await changed.wait()


def digest(version: int) -> str:
    return f"{version:064x}"


def load_model(triton: Triton, name: str, factor: float, seconds: float = 0.0) -> None:
    code = MODEL.replace("FACTOR", repr(factor)).replace("SECONDS", repr(seconds))
    with InferenceServerClient(triton.grpc_address) as client:
        client.load_model(
            name,
            headers={Triton.control_header: TRITON_CONTROL_KEY},
            config=json.dumps(CONFIG),
            files={"file:1/model.py": code.encode()},
        )


def request(
    rows: Sequence[Sequence[float]], model: str = "double", **fields: Any
) -> ModelInferRequest:
    x = np.array(rows, np.float32)
    made = ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()], **fields)
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return made


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    """OK, or with which status and message a call was refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def health(door: Door) -> dict[str, tuple[int, str]]:
    """What the gateway says of itself and of what it depends on: state and problem."""
    token = door.neighbours.ring.token(
        sub="service:monitoring", tenant="platform", roles=["service"]
    )
    async with grpc.aio.insecure_channel(door.at("rpc")) as channel:
        answer = await HealthServiceStub(channel).GetServiceHealth(
            own_health_pb2.GetServiceHealthRequest(),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=10,
        )
    return {each.component: (each.state, each.problem) for each in answer.components}


def serving(listen: str, tls: ServerTls | None) -> Callable[[], bool]:
    def look() -> bool:
        opened = (
            grpc.insecure_channel(listen)
            if tls is None
            else grpc.secure_channel(listen, tls.channel_credentials())
        )
        with opened as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=2
                )
            except grpc.RpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    return look


@dataclass
class Door:
    """`listen` is where callers come in."""

    folder: Path
    kafka: str
    neighbours: Neighbours
    triton: Triton
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    tenant: str = "acme"

    def __post_init__(self) -> None:
        self.ports = dict(zip(("door", "rpc", "grpc", "rest"), free_ports(4), strict=True))
        self.home = self.folder / "door"
        self.home.mkdir(exist_ok=True)
        self.envoy = Envoy(self.home / "envoy.json", self.folder / "envoy")
        self.gateway = self._process(
            "gateway", "services.gateway", serving(self.at("rpc"), self.neighbours.tls)
        )
        self.dispatcher = self._process(
            "dispatcher",
            "services.gateway.dispatcher",
            (self.home / "dispatcher.sock").exists,
        )

    def at(self, port: str) -> str:
        return f"{LOOPBACK}:{self.ports[port]}"

    @property
    def listen(self) -> str:
        return self.at("door")

    def environment(self) -> dict[str, str]:
        peers = dict.fromkeys(("security", "inference"), self.neighbours.address)
        return {
            "BASALT_KAFKA": self.kafka,
            "BASALT_JOURNAL": f"sqlite:{self.folder / 'journal'}",
            "BASALT_OBJECTS": f"directory:{self.folder / 'objects'}",
            "BASALT_RPC_LISTEN": self.at("rpc"),
            "BASALT_PEERS": json.dumps({**peers, "gateway": self.at("rpc")}),
            "BASALT_SERVICE_CREDENTIAL": "the gateway's own",
            "BASALT_TRITON": self.triton.grpc_address,
            "BASALT_DOOR_LISTEN": self.listen,
            "BASALT_DOOR_FOLDER": str(self.home),
            "BASALT_SLOW_GRPC_LISTEN": self.at("grpc"),
            "BASALT_SLOW_REST_LISTEN": self.at("rest"),
            "BASALT_ENVOY_ADMIN": self.envoy.admin_address,
            **self.extra,
        }

    def _process(self, name: str, module: str, ready: Callable[[], bool]) -> ServiceProcess:
        return ServiceProcess(name, module, self.environment(), self.folder / f"{name}.log", ready)

    async def start(self) -> None:
        await asyncio.gather(
            asyncio.to_thread(self.gateway.start), asyncio.to_thread(self.dispatcher.start)
        )
        await asyncio.to_thread(self.envoy.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self.envoy.stop)
        await asyncio.gather(
            asyncio.to_thread(self.gateway.stop), asyncio.to_thread(self.dispatcher.stop)
        )

    async def routed(self) -> None:
        """Routes what the `models` fixture loaded; returns when the door answers for it."""
        self.neighbours.route("acme", "double", {1: 100})
        self.neighbours.route("acme", "canary", {1: 80, 2: 20})
        self.neighbours.route("globex", "double", {1: 100})
        await eventually(self.answers, within_s=20, what="the door answers")

    async def answers(self, model: str = "double", **claims: Any) -> bool:
        code, _ = await self.ask(model=model, **claims)
        return code is grpc.StatusCode.OK

    async def ask(
        self, model: str = "double", timeout_s: float = 5.0, **claims: Any
    ) -> tuple[grpc.StatusCode, str]:
        """How one prediction on a connection of its own ends."""
        async with self.inference() as stub:
            return await outcome(
                stub.ModelInfer(
                    request([[1, 2]], model), metadata=self.bearer(**claims), timeout=timeout_s
                )
            )

    def token(self, **claims: Any) -> str:
        """An application's of the tenant, unless said otherwise."""
        said = {"sub": "app", "tenant": self.tenant, "roles": ["application"], **claims}
        return self.neighbours.ring.token(**said)

    def bearer(self, **claims: Any) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token(**claims)}"),)

    @asynccontextmanager
    async def channel(self, credentials: Any = None) -> AsyncIterator[grpc.aio.Channel]:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
        async with (
            grpc.aio.insecure_channel(self.listen, options)
            if credentials is None
            else grpc.aio.secure_channel(self.listen, credentials, options)
        ) as channel:
            yield channel

    @asynccontextmanager
    async def inference(self) -> AsyncIterator[GRPCInferenceServiceStub]:
        async with self.channel() as channel:
            yield GRPCInferenceServiceStub(channel)


@asynccontextmanager
async def open_door(
    folder: Path, kafka: str, triton: Triton, tls: Path | None = None, **extra: str
) -> AsyncIterator[Door]:
    """`tls` is a folder of the services' certificates; security and inference use theirs."""
    neighbours = Neighbours(ServerTls(tls, "security") if tls else None)
    if tls is not None:
        extra["BASALT_TLS"] = str(tls)
    await neighbours.start()
    door = Door(folder, kafka, neighbours, triton, extra)
    try:
        await door.start()
        yield door
    finally:
        await door.stop()
        await neighbours.stop()
