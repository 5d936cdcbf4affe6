"""The processes of the edition: the very commands that the containers run, with their settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.common import unix
from libs.common.files import private_folder
from libs.common.settings import SERVICES
from standalone.chosen import chosen_of
from standalone.home import Home, address
from tools.servers import Envoy, Kafka, KafkaIdentity, Triton
from tools.servers.child import Child
from tools.servers.server import Server, answers_ok, plain_environment

READY_S_MAX = 60.0
STOP_S_MAX = 8.0
PROBE_S_MAX = 2.0
SERVER_LIVE = "/inference.GRPCInferenceService/ServerLive"
# A channel of its own for each look: one that waits to connect again would tell of the past. And
# what is on this machine is not asked by way of the environment's proxies.
ALONE = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
# The sockets that a service has besides its own.
LISTENS_TOO = {"gateway": ("slow-grpc", "slow-rest"), "monitoring": ("otlp",)}
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class ServiceProcess:
    """A Python process of ours: `python -m <module>` with its settings in the environment."""

    name: str
    module: str
    environment: dict[str, str]
    log: Path
    ready: Callable[[], bool]
    # What it finds when it starts, whatever became of them.
    folders: tuple[Path, ...] = ()
    _child: Child | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    def is_halted(self) -> bool:
        """Whether it is there and was stopped (SIGSTOP)."""
        return self._child is not None and self._child.is_halted()

    def start(self) -> None:
        for folder in self.folders:
            private_folder(folder)
        self._child = Child(
            self.name,
            [sys.executable, "-m", self.module],
            log=self.log,
            environment={**plain_environment(), **self.environment},
            directory=REPOSITORY,
        )
        self._child.wait_until_ready(self.ready, READY_S_MAX)

    def answers(self) -> bool:
        """Whether it serves at this moment, whoever started it."""
        return self.ready()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(STOP_S_MAX)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()


# What the supervisor starts, watches and stops.
Process = Server | ServiceProcess


@dataclass(frozen=True)
class Edition:
    """Every process, in the stages in which they start; each stage starts side by side."""

    stages: tuple[tuple[Process, ...], ...]
    door: str
    kafka: str
    # By the name of the listener; to be remembered once they are found free.
    ports: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def processes(self) -> tuple[Process, ...]:
        return tuple(process for stage in self.stages for process in stage)

    def door_is_open(self) -> bool:
        """Whether Envoy has its routes and takes calls: it answers /ready by itself."""
        return answers_ok(self.door, "/ready")


@dataclass(frozen=True)
class Stores:
    """Where the services keep their state, and the servers that it takes."""

    settings: dict[str, str]
    servers: tuple[Server, ...] = ()

    @classmethod
    def in_folder(cls, root: Path) -> Stores:
        return cls(
            {
                "BASALT_JOURNAL": f"sqlite:{root / 'journals'}",
                "BASALT_OBJECTS": f"directory:{root / 'objects'}",
                "BASALT_CHECKPOINTS": f"directory:{root / 'checkpoints'}",
            }
        )


def lay_out(
    home: Home,
    door_port: int | None = None,
    kafka_port: int | None = None,
    stores: Stores | None = None,
) -> Edition:
    """The edition of an installation. Nothing is started, and its ports are not remembered.

    Raises ServerError when its secrets are lost, or its ports cannot be told or are not different.
    """
    stores = stores or Stores.in_folder(home.root)
    ports = home.ports(door_port, kafka_port)
    identity = KafkaIdentity(
        home.secrets.kafka_broker_password, home.secrets.kafka_administrator_password
    )
    kafka = Kafka(home.root / "kafka", ports["kafka"], identity=identity)
    triton = Triton(
        home.root / "triton",
        traces_url=f"http://{address(ports['otlp_http'])}/v1/traces",
        traces_token=home.otlp_token(Triton.name),
    )
    envoy = Envoy(home.door / "envoy.json", home.root / "envoy")
    settings = _Settings(home, ports, kafka.bootstrap, triton, envoy, stores)
    services = tuple(
        ServiceProcess(
            name=service,
            module=f"services.{service}",
            environment=settings.of(service),
            log=home.logs / f"{service}.log",
            ready=lambda service=service: _all_serving(home, service),
            folders=home.shared,
        )
        for service in SERVICES
    )
    dispatcher = ServiceProcess(
        name="dispatcher",
        module="services.gateway.dispatcher",
        environment=settings.of("gateway"),
        log=home.logs / "dispatcher.log",
        ready=lambda: _dispatching(home.door / "dispatcher.sock"),
        folders=home.shared,
    )
    return Edition(
        stages=((kafka, triton, *stores.servers), services, (dispatcher, envoy)),
        door=address(ports["door"]),
        kafka=kafka.bootstrap,
        ports=ports,
    )


@dataclass(frozen=True)
class _Settings:
    """What each service is told; docs/reference/settings.md explains the names."""

    home: Home
    ports: dict[str, int]
    kafka: str
    triton: Triton
    envoy: Envoy
    stores: Stores

    def of(self, service: str) -> dict[str, str]:
        secrets = self.home.secrets
        common = {
            "BASALT_KAFKA": self.kafka,
            "BASALT_KAFKA_PASSWORD": secrets.kafka_passwords[service],
            **self.stores.settings,
            "BASALT_RPC_LISTEN": self.home.socket(service),
            "BASALT_PEERS": json.dumps({peer: self.home.socket(peer) for peer in SERVICES}),
            "BASALT_SERVICE_CREDENTIAL": secrets.service_credentials[service],
            "BASALT_HISTORY": str(self.home.history),
            "BASALT_WORK": str(self.home.root / "work" / service),
            "BASALT_OTLP": self.home.otlp,
            "BASALT_OTLP_TOKEN": self.home.otlp_token(service),
        }
        return chosen_of(service) | common | getattr(self, service, dict)()

    def security(self) -> dict[str, str]:
        return {
            "BASALT_SERVICE_CREDENTIALS": json.dumps(self.home.secrets.service_credentials),
            "BASALT_KAFKA_ADMINISTRATOR_PASSWORD": self.home.secrets.kafka_administrator_password,
            "BASALT_KAFKA_PASSWORDS": json.dumps(self.home.secrets.kafka_passwords),
            "BASALT_MASTER_KEY": self.home.secrets.master_key,
            "BASALT_FIRST_LOGIN_FILE": str(self.home.first_login),
        }

    def inference(self) -> dict[str, str]:
        return {
            "BASALT_TRITON": self.triton.grpc_address,
            "BASALT_TRITON_BACKEND": "python",
        }

    def monitoring(self) -> dict[str, str]:
        return {
            "BASALT_METRICS_LISTEN": address(self.ports["metrics"]),
            "BASALT_METRICS_KEY": self.home.secrets.metrics_key,
            "BASALT_OTLP_KEY": self.home.secrets.otlp_key,
            "BASALT_OTLP_LISTEN": self.home.otlp,
            "BASALT_OTLP_HTTP_LISTEN": address(self.ports["otlp_http"]),
            "BASALT_TRACES": f"sqlite:{self.home.root / 'traces'}",
        }

    def gateway(self) -> dict[str, str]:
        return {
            "BASALT_TRITON": self.triton.grpc_address,
            "BASALT_DOOR_LISTEN": address(self.ports["door"]),
            "BASALT_DOOR_FOLDER": str(self.home.door),
            "BASALT_SLOW_GRPC_LISTEN": self.home.socket("slow-grpc"),
            "BASALT_SLOW_REST_LISTEN": self.home.socket("slow-rest"),
            "BASALT_ENVOY_ADMIN": self.envoy.admin_address,
        }


def _all_serving(home: Home, service: str) -> bool:
    """Whether it serves, and still has all that it listens on."""
    # gRPC is asked only where somebody listens: it need not try, and fail, again and again.
    sockets = map(home.socket, (service, *LISTENS_TOO.get(service, ())))
    return all(unix.answers(socket) for socket in sockets) and _serving(home.socket(service))


def _serving(listen: str) -> bool:
    """Whether a service says of itself, by gRPC's health protocol, that it serves."""
    with grpc.insecure_channel(listen, options=ALONE) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=PROBE_S_MAX
            )
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def _dispatching(path: Path) -> bool:
    """Whether the dispatcher answers a call on its Unix socket, whatever it answers.

    The kernel takes connections for a process that hangs, so that somebody accepts says little.
    """
    with grpc.insecure_channel(f"unix:{path}", options=ALONE) as channel:
        ask = channel.unary_unary(SERVER_LIVE, request_serializer=None, response_deserializer=None)
        try:
            ask(b"", timeout=PROBE_S_MAX)
        except grpc.RpcError as error:
            code = error.code()  # pyright: ignore[reportAttributeAccessIssue] - a call's error.
            return code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return True
